"""What can be measured: the video VAE, the geometry adapter, VGGT, and the whole model at its three tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Protocol, cast

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from gen3r_core.checkpoint.folder import Checkpoint
from gen3r_core.checkpoint.loading import Progress as LoadingProgress
from gen3r_core.checkpoint.loading import load_component
from gen3r_core.conditioning import LatentShape, Task
from gen3r_core.devices import memory_errors
from gen3r_core.errors import InputError
from gen3r_core.evaluation.predictions import Geometry, Prediction, Stopwatch, geometries
from gen3r_core.evaluation.refined import RefinedTask
from gen3r_core.evaluation.scenes import TrueScene
from gen3r_core.execution.calibration import Calibration
from gen3r_core.execution.profiles import PROFILES, Profile
from gen3r_core.execution.thinned_keys import ThinnedKeys
from gen3r_core.jobs import Job, Sampling
from gen3r_core.models.attention import kernel_preferred
from gen3r_core.models.geometry_adapter import GeometryAdapter
from gen3r_core.models.vggt import VGGT
from gen3r_core.models.vggt.dinov2 import patch_grid
from gen3r_core.models.vggt.tokens import pack_tokens, unpack_tokens
from gen3r_core.models.video_vae import decode_video, encode_video
from gen3r_core.multiples import FOLD
from gen3r_core.pipeline import Gen3RPipeline
from gen3r_core.progress import Callback
from gen3r_core.scene import CameraPath
from gen3r_core.training.scene_units import metres_per_unit

__all__ = [
    "PARTS",
    "AdapterTask",
    "Evaluated",
    "FeedForwardTask",
    "GenerationTask",
    "VideoVAETask",
    "check_shape",
    "load_task",
]

PARTS: dict[str, tuple[str, ...]] = {
    "vae": ("video_vae",),
    "adapter": ("vggt", "geometry_adapter"),
    "feedforward": ("vggt",),
    "refined": ("vggt",),
} | {
    task.value: ("transformer", "video_vae", "geometry_adapter", "vggt", "image_encoder", "text_encoder")
    for task in Task
}
"""The networks that each task needs."""

_WARM_UP_STEPS = 2


class Evaluated(Protocol):
    """Something that makes predictions."""

    @property
    def task(self) -> Task | None:
        """What it is asked to generate; None where it generates nothing."""
        ...

    def predict(
        self, scenes: Sequence[TrueScene], *, warm_up: bool = False, callback: Callback | None = None
    ) -> list[Prediction]:
        """Predictions of clips of one shape, as one batch.

        Args:
            scenes: the clips.
            warm_up: nobody looks at the result: do each kind of work once, not more.
            callback: told about steps, where there are several.

        Raises:
            InputError: the clips do not suit the networks.
            DeviceError: memory runs out.
        """
        ...


class VideoVAETask:
    """The video VAE's reconstruction, latents at their mean, through the class that the pipeline runs.

    Args:
        vae: the network.
    """

    task = None

    def __init__(self, vae: AutoencoderKLWan) -> None:
        self.vae = vae

    @torch.no_grad()
    def predict(
        self,
        scenes: Sequence[TrueScene],
        *,
        warm_up: bool = False,  # noqa: ARG002
        callback: Callback | None = None,  # noqa: ARG002
    ) -> list[Prediction]:
        """See :class:`Evaluated`."""
        colors = _frames(scenes)
        watch = Stopwatch(colors.device)
        with memory_errors(), watch.running():
            mean, _ = encode_video(self.vae, (colors * 2 - 1).clamp(-1, 1).transpose(1, 2))
            decoded = (decode_video(self.vae, mean) / 2 + 0.5).clamp(0, 1).transpose(1, 2)
        return [Prediction(clip, None, None, watch.seconds / len(scenes)) for clip in decoded]


class FeedForwardTask:
    """VGGT on all frames.

    Args:
        vggt: the network.
        attention: kernel.
        key_squares: see :class:`gen3r_core.execution.profiles.Profile`.
    """

    task = None

    def __init__(self, vggt: VGGT, attention: str = "auto", key_squares: int = 1) -> None:
        self.vggt, self.attention, self.key_squares = vggt, attention, key_squares

    @torch.no_grad()
    def predict(
        self,
        scenes: Sequence[TrueScene],
        *,
        warm_up: bool = False,  # noqa: ARG002
        callback: Callback | None = None,  # noqa: ARG002
    ) -> list[Prediction]:
        """See :class:`Evaluated`."""
        colors = _frames(scenes)
        watch = Stopwatch(colors.device)
        thinned = ThinnedKeys(self.vggt, self.key_squares) if self.key_squares > 1 else nullcontext()
        with memory_errors(), kernel_preferred(self.attention, colors.device), thinned, watch.running():
            found = geometries(self.vggt(colors, points=False), scenes[0].size)
        return [Prediction(None, own, None, watch.seconds / len(scenes)) for own in found]


class AdapterTask:
    """VGGT's tokens through the geometry adapter and back, at the posterior's mean; and VGGT without it.

    Args:
        vggt: the network.
        adapter: the network.
        attention: kernel.
    """

    task = None

    def __init__(self, vggt: VGGT, adapter: GeometryAdapter, attention: str = "auto") -> None:
        self.vggt, self.adapter, self.attention = vggt, adapter, attention

    @torch.no_grad()
    def predict(
        self,
        scenes: Sequence[TrueScene],
        *,
        warm_up: bool = False,  # noqa: ARG002
        callback: Callback | None = None,  # noqa: ARG002
    ) -> list[Prediction]:
        """See :class:`Evaluated`."""
        colors, size, vggt = _frames(scenes), scenes[0].size, self.vggt
        before, after = Stopwatch(colors.device), Stopwatch(colors.device)
        with memory_errors(), kernel_preferred(self.attention, colors.device):
            grid = patch_grid(size, vggt.patch_size)
            with before.running(), after.running():
                tokens = vggt.aggregate(colors)
            with before.running():
                direct = geometries(vggt.decode(tokens, size, points=False), size)
            with after.running():
                mean, _ = self.adapter.encode(pack_tokens(tokens, grid))
                del tokens
                returned = self.adapter.decode(mean, grid)
                layers = unpack_tokens(returned, vggt.special_tokens, num_layers=len(vggt.config.layers))
                found = geometries(vggt.decode(layers, size, points=False), size)
        count = len(scenes)
        return [
            Prediction(None, own, plain, after.seconds / count, before.seconds / count)
            for own, plain in zip(found, direct, strict=True)
        ]


class GenerationTask:
    """The whole model: frames, depth and cameras from the frames that a task is given.

    Cameras are asked for as in training: the clip's own path in metres, with the metres that one unit of VGGT's
    prediction for the whole true clip stands for (:func:`gen3r_core.training.scene_units.metres_per_unit`). Clips
    without cameras get none.

    Args:
        pipeline: the model.
        task: which frames are given.
        sampling: how to generate; frames and size are the clips'.
        prompt_of: what to ask for, by scene.
        seed: a clip is drawn with this plus its place.
        profile: under which the clips are generated; the cameras asked for stay those of the exact VGGT.
        calibration: of the profile.
    """

    def __init__(
        self,
        pipeline: Gen3RPipeline,
        task: Task,
        sampling: Sampling,
        prompt_of: Callable[[TrueScene], str],
        *,
        seed: int = 0,
        profile: Profile = PROFILES["exact"],
        calibration: Calibration | None = None,
    ) -> None:
        self.pipeline, self.task, self.sampling = pipeline, task, sampling
        self.prompt_of, self.seed = prompt_of, seed
        self.profile, self.calibration = profile, calibration
        self._vggt = FeedForwardTask(pipeline.vggt, str(sampling.attention))

    @torch.no_grad()
    def predict(
        self, scenes: Sequence[TrueScene], *, warm_up: bool = False, callback: Callback | None = None
    ) -> list[Prediction]:
        """See :class:`Evaluated`."""
        sampling = replace(self.sampling, num_frames=len(scenes[0].colors), size=scenes[0].size)
        if warm_up and self.calibration is None:  # which is for one schedule
            sampling = replace(sampling, steps=min(sampling.steps, _WARM_UP_STEPS))
        feed_forward = self._vggt.predict(scenes)
        jobs = [
            Job(
                scene.colors,
                self.task,
                self.prompt_of(scene),
                self._cameras(scene, cast(Geometry, own.geometry)),
                self.seed + scene.place,
            )
            for scene, own in zip(scenes, feed_forward, strict=True)
        ]
        watch = Stopwatch(self.pipeline.device)
        with self.profile.apply(self.pipeline, self.calibration), watch.running():
            made = self.pipeline.generate_batch(jobs, sampling, callback=callback)
        return [
            Prediction(
                result.colors.movedim(-1, 1),
                Geometry.of_scene(result),
                plain.geometry,
                watch.seconds / len(scenes),
                plain.seconds,
                str(job.prompt),
            )
            for result, plain, job in zip(made, feed_forward, jobs, strict=True)
        ]

    def _cameras(self, scene: TrueScene, geometry: Geometry) -> str | CameraPath:
        if self.task is Task.ALL_VIEW or scene.T_world_cam is None or scene.intrinsics is None:
            return "free"
        scale = metres_per_unit(geometry.depth[None], scene.batch(), geometry.T_cam_world[None])
        return CameraPath(scene.T_world_cam.cpu(), scene.intrinsics.cpu(), scene.size, float(scale))


def load_task(
    name: str,
    checkpoint: Checkpoint,
    sampling: Sampling,
    prompt_of: Callable[[TrueScene], str],
    *,
    device: torch.device,
    dtype: torch.dtype | None,
    seed: int = 0,
    profile: Profile = PROFILES["exact"],
    calibration: Calibration | None = None,
    progress: LoadingProgress | None = None,
) -> Evaluated:
    """Load the networks that a task needs, and no others.

    Args:
        name: one of :data:`PARTS`.
        checkpoint: it may lack what is not needed.
        sampling: of generations; its attention kernel is everybody's.
        prompt_of: see :class:`GenerationTask`.
        device: where the networks go.
        dtype: of their weights; None keeps the files'.
        seed: see :class:`GenerationTask`.
        profile: likewise; of VGGT alone only its thinned keys matter, of the other parts nothing.
        calibration: likewise.
        progress: told how many bytes of each network are loaded.

    Raises:
        CheckpointError: something is missing, damaged or does not fit.
        DeviceError: memory runs out.
    """
    if name in tuple(Task):
        pipeline = Gen3RPipeline.from_pretrained(checkpoint, device=device, dtype=dtype, progress=progress)
        return GenerationTask(
            pipeline, Task(name), sampling, prompt_of, seed=seed, profile=profile, calibration=calibration
        )
    files = [checkpoint.component(part) for part in PARTS[name]]
    with memory_errors():
        parts: list[Any] = [load_component(part, device=device, dtype=dtype, progress=progress) for part in files]
    kernel = str(sampling.attention)
    if name == "vae":
        return VideoVAETask(parts[0])
    if name == "feedforward":
        return FeedForwardTask(parts[0], kernel, profile.key_squares)
    if name == "refined":
        return RefinedTask(parts[0], kernel, profile.key_squares)
    return AdapterTask(parts[0], parts[1], kernel)


def check_shape(name: str, num_frames: int, size: tuple[int, int]) -> None:
    """Refuse clips that a task cannot take, before anything is loaded or rendered.

    Raises:
        InputError: the frame count or the size does not suit the networks.
    """
    if name in tuple(Task):
        LatentShape(num_frames, *size)
    elif name not in ("feedforward", "refined") and num_frames % FOLD != 1:
        raise InputError(f"task {name} takes clips of 4k+1 frames (1, 5, 9, ...), got {num_frames}")


def _frames(scenes: Sequence[TrueScene]) -> Tensor:
    """``[B, F, 3, H, W]``."""
    return torch.stack([scene.colors for scene in scenes])
