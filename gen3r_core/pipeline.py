"""Gen3R from images to a scene: condition, denoise, decode.

The steps carry the names of the method section of arXiv 2601.04090 and run top to bottom in
:meth:`Gen3RPipeline.generate_batch`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from gen3r_core.checkpoint.folder import Checkpoint, open_checkpoint
from gen3r_core.checkpoint.loading import Progress as LoadingProgress
from gen3r_core.checkpoint.loading import load_component
from gen3r_core.conditioning import (
    LatentShape,
    Task,
    camera_rays,
    choose_images,
    control_latents,
    control_video,
    pack_cameras,
    thin_path,
)
from gen3r_core.errors import CheckpointError, InputError
from gen3r_core.geometry.cameras import decode_pose_encoding
from gen3r_core.geometry.images import resize_and_crop
from gen3r_core.geometry.rigid import homogeneous
from gen3r_core.geometry.trajectories import BUILT_IN_PATHS, built_in_path
from gen3r_core.geometry.unprojection import depth_mask, unproject_depth
from gen3r_core.models.attention import AttentionKernel, kernel_scope
from gen3r_core.models.geometry_adapter import GeometryAdapter
from gen3r_core.models.image_encoder import ImageEncoder, quantize_like_upstream
from gen3r_core.models.text_encoder import TextEncoder, Tokenizer
from gen3r_core.models.transformer import CameraTransformer
from gen3r_core.models.vggt import VGGT, VGGTPrediction
from gen3r_core.models.vggt.tokens import unpack_tokens
from gen3r_core.models.video_vae import decode_video, encode_video, sample_latents
from gen3r_core.progress import Callback, JobMonitor
from gen3r_core.prompts import DEFAULT_NEGATIVE, PromptCache, embed_prompts
from gen3r_core.scene import CameraPath, Scene
from gen3r_core.schedulers import FlowSolver

SCENE_SCALE = 0.8
"""Length of the zoom paths in units of the median depth (upstream's choice)."""

SMALLEST_FOV = 1e-3
"""Radians; predicted fields of view are kept this far from 0 and from a half turn."""


@dataclass(frozen=True)
class Job:
    """What to generate.

    Attributes:
        images: ``[N, 3, H, W]`` float in [0, 1], any size; see :class:`Task` for which are used.
        task: which frames the images are.
        prompt: text, or its embedding ``[length, text_dim]``.
        cameras: "free" (no camera condition), the name of a built-in path, or a path. Ignored
            for allview.
        seed: for latents and for the draw from the VAE's posterior.
    """

    images: Tensor
    task: Task
    prompt: str | Tensor = ""
    cameras: str | CameraPath = "free"
    seed: int = 42


@dataclass(frozen=True)
class Sampling:
    """How to generate.

    Attributes:
        num_frames: frames of the result, 4k+1; None takes the model's (for allview, no more than
            there are images).
        size: ``(height, width)`` in pixels, multiples of 112; None takes the model's.
        steps: network evaluations (each on two prompts where guided).
        guidance: weight of the prompt against the negative prompt; 1 or less runs unguided.
        negative_prompt: text, or its embedding ``[length, text_dim]``.
        scheduler: "euler", "unipc" or "dpm++".
        shift: of the noise levels; None takes the checkpoint's or the solver's.
        limit_depth: only depths between the 0.1 and the 98 percentile of a frame (and at most 50
            units) are valid; otherwise all positive ones.
        attention: kernel, see :class:`AttentionKernel`.
    """

    num_frames: int | None = None
    size: tuple[int, int] | None = None
    steps: int = 50
    guidance: float = 5.0
    negative_prompt: str | Tensor = DEFAULT_NEGATIVE
    scheduler: str = "euler"
    shift: float | None = None
    limit_depth: bool = True
    attention: AttentionKernel | str = AttentionKernel.AUTO


@dataclass(frozen=True)
class Noise:
    """Random draws of a job, standard normal.

    Attributes:
        latents: ``[16, f, h, 2w]`` float32.
        posterior: ``[16, f, h, w]`` float32.
    """

    latents: Tensor
    posterior: Tensor

    @classmethod
    def draw(cls, seed: int, channels: int, shape: LatentShape) -> Noise:
        """Draw both from one generator on the host, so that every device gives the same result."""
        generator = torch.Generator().manual_seed(seed)
        frames, rows, columns = shape.latent
        return cls(
            torch.randn(channels, frames, rows, columns, generator=generator),
            torch.randn(channels, frames, rows, columns // 2, generator=generator),
        )


@dataclass(frozen=True)
class Conditions:
    """Everything the transformer is conditioned on, for B jobs.

    Attributes:
        text: ``[B, text_len, text_dim]`` zero-padded.
        negative_text: the same for the negative prompt; None where unguided.
        image_tokens: ``[B, N, image_dim]``.
        control_latents: ``[B, 20, f, h, 2w]`` float32.
        camera_tokens: ``[B, dim, f, h/2, w]`` output of the camera adapter.
    """

    text: Tensor
    negative_text: Tensor | None
    image_tokens: Tensor
    control_latents: Tensor
    camera_tokens: Tensor | None


class Gen3RPipeline:
    """The six networks together.

    Args:
        transformer, video_vae, geometry_adapter, vggt, image_encoder: networks on one device.
        text_encoder, tokenizer: needed for prompts that are given as text and are not in ``prompts``.
        prompts: cached prompt embeddings.
        scheduler: configuration of the flow-matching Euler scheduler.
        num_frames: frames the model was trained for.
        image_size: ``(height, width)`` the model was trained for.

    Raises:
        CheckpointError: the networks do not belong together.
    """

    def __init__(  # noqa: PLR0913 - six networks and what goes with them
        self,
        *,
        transformer: CameraTransformer,
        video_vae: AutoencoderKLWan,
        geometry_adapter: GeometryAdapter,
        vggt: VGGT,
        image_encoder: ImageEncoder,
        text_encoder: TextEncoder | None = None,
        tokenizer: Tokenizer | None = None,
        prompts: PromptCache | None = None,
        scheduler: Mapping[str, Any] | None = None,
        num_frames: int = 49,
        image_size: tuple[int, int] = (560, 560),
    ) -> None:
        self.transformer = transformer
        self.video_vae = video_vae
        self.geometry_adapter = geometry_adapter
        self.vggt = vggt
        self.image_encoder = image_encoder
        self.text_encoder = text_encoder
        self.tokenizer = tokenizer
        self.prompts = prompts or PromptCache()
        self.scheduler = dict(scheduler or {})
        self.num_frames = num_frames
        self.image_size = image_size
        self._check_fit()

    @classmethod
    def from_pretrained(
        cls,
        folder: Path | str | Checkpoint,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        prompts: PromptCache | None = None,
        progress: LoadingProgress | None = None,
    ) -> Gen3RPipeline:
        """Load a checkpoint of our layout or the published one.

        Args:
            folder: checkpoint folder, or one that is already open.
            device: where the networks go.
            dtype: floating dtype of the weights; None keeps the files'.
            prompts: cached embeddings; with them the text encoder is not loaded.
            progress: told how many bytes of each component are loaded.

        Raises:
            CheckpointError: something is missing, damaged or does not fit.
        """
        checkpoint = folder if isinstance(folder, Checkpoint) else open_checkpoint(folder)
        names = ["transformer", "video_vae", "geometry_adapter", "vggt", "image_encoder"]
        if prompts is None:
            names.append("text_encoder")
        files = {name: checkpoint.component(name) for name in names}
        loaded: dict[str, Any] = {
            name: load_component(part, device=device, dtype=dtype, progress=progress) for name, part in files.items()
        }
        tokenizer = None
        if prompts is None and checkpoint.tokenizer is not None:
            tokenizer = Tokenizer.from_folder(checkpoint.tokenizer)
        height, width = checkpoint.defaults["image_size"]
        return cls(
            **loaded,
            tokenizer=tokenizer,
            prompts=prompts,
            scheduler=checkpoint.scheduler,
            num_frames=checkpoint.defaults["num_frames"],
            image_size=(height, width),
        )

    def _check_fit(self) -> None:
        transformer, adapter, vggt = self.transformer.config, self.geometry_adapter.config, self.vggt.config
        latent = int(self.video_vae.config.z_dim)
        tokens = (len(vggt.layers) + 1) * 2 * vggt.embed_dim
        facts = {
            "latent channels of transformer and video VAE": (transformer.out_channels, latent),
            "latent channels of geometry adapter and video VAE": (adapter.latent_channels, latent),
            "input channels of the transformer (latents, control latents, mask)": (
                transformer.in_channels,
                2 * latent + 4,
            ),
            "image tokens of transformer and image encoder": (
                transformer.image_dim,
                self.image_encoder.config.hidden_size,
            ),
            "tokens of geometry adapter and VGGT": (adapter.token_channels, tokens),
        }
        if self.text_encoder is not None:
            facts["text of transformer and text encoder"] = (
                transformer.text_dim,
                self.text_encoder.config.hidden_size,
            )
        wrong = [f"{what}: {a} and {b}" for what, (a, b) in facts.items() if a != b]
        if wrong:
            raise CheckpointError(
                f"the components do not belong together ({'; '.join(wrong)}). Take all of them from one checkpoint"
            )

    @property
    def device(self) -> torch.device:
        """Where the transformer lies, and with it the job."""
        device: torch.device = self.transformer.patch_embedding.weight.device
        return device

    # ------------------------------------------------------------------ the public jobs

    def generate(
        self,
        job: Job,
        sampling: Sampling | None = None,
        *,
        callback: Callback | None = None,
        monitor: JobMonitor | None = None,
        noise: Noise | None = None,
    ) -> Scene:
        """Generate one scene; see :meth:`generate_batch`."""
        noises = None if noise is None else [noise]
        return self.generate_batch([job], sampling, callback=callback, monitor=monitor, noise=noises)[0]

    @torch.no_grad()
    def generate_batch(
        self,
        jobs: Sequence[Job],
        sampling: Sampling | None = None,
        *,
        callback: Callback | None = None,
        monitor: JobMonitor | None = None,
        noise: Sequence[Noise] | None = None,
    ) -> list[Scene]:
        """Generate scenes of one task, frame count and size together.

        Args:
            jobs: all of the same task.
            sampling: common to all.
            callback: told after each step, and may cancel.
            monitor: in place of ``callback``, to read the seconds per stage afterwards.
            noise: random draws to use instead of the jobs' seeds.

        Returns:
            one scene a job, on the pipeline's device.

        Raises:
            InputError: images, cameras, prompts or options cannot be used.
            CancelledError: the callback asked for it.
        """
        sampling = sampling or Sampling()
        monitor = monitor or JobMonitor(callback, self.device)
        shape, jobs = self._resolve(jobs, sampling)
        task = jobs[0].task
        solver = FlowSolver(sampling.scheduler, sampling.steps, shift=sampling.shift, euler=self.scheduler)
        if noise is None:
            noise = [Noise.draw(job.seed, self.geometry_adapter.config.latent_channels, shape) for job in jobs]
        with kernel_scope(sampling.attention):
            images = torch.stack([self._prepare_images(job, shape) for job in jobs])
            conditions = self._condition(jobs, images, shape, sampling, noise, monitor)
            latents = torch.stack([draw.latents for draw in noise]).to(self.device)
            latents = self._denoise(latents, conditions, solver, sampling.guidance, monitor)
            del conditions
            observed = torch.zeros(shape.num_frames, dtype=torch.bool, device=self.device)
            observed[task.known_frames(shape.num_frames)] = True
            scales = [job.cameras.metres_per_unit if isinstance(job.cameras, CameraPath) else None for job in jobs]
            return self._decode(latents, shape, observed, scales, sampling.limit_depth, monitor)

    @torch.no_grad()
    def reconstruct(
        self,
        images: Tensor,
        *,
        limit_depth: bool = True,
        attention: AttentionKernel | str = AttentionKernel.AUTO,
        callback: Callback | None = None,
        monitor: JobMonitor | None = None,
    ) -> Scene:
        """Feed-forward VGGT reconstruction of images, without any generation.

        Args:
            images: ``[N, 3, H, W]`` float in [0, 1]; H and W multiples of 14 (see
                :func:`gen3r_core.geometry.images.fit_to_multiple`), any aspect ratio.
            limit_depth: as in :class:`Sampling`.
            attention: kernel.
            callback: told before and after.
            monitor: in place of ``callback``.

        Raises:
            InputError: the size is not a multiple of the patch size.
            CancelledError: the callback asked for it.
        """
        monitor = monitor or JobMonitor(callback, self.device)
        if images.ndim != 4 or images.shape[1] != 3 or not len(images):
            raise InputError(f"images must have shape [N, 3, H, W] with N at least 1, got {tuple(images.shape)}")
        images = images.to(device=self.device, dtype=torch.float32)
        size = (images.shape[2], images.shape[3])
        with kernel_scope(attention), monitor.stage("vggt"):
            prediction = self.vggt(images[None])
            observed = torch.ones(len(images), dtype=torch.bool, device=self.device)
            colors = images.permute(0, 2, 3, 1)
            return _scene(prediction, 0, colors, size, observed, None, limit_depth)

    def embed(self, texts: Sequence[str | Tensor]) -> list[Tensor]:
        """Embeddings of prompts: from the cache, or by the text encoder.

        Returns:
            one ``[length, text_dim]`` tensor a prompt, on the pipeline's device.

        Raises:
            InputError: a text is not cached and there is no text encoder.
        """
        if self.text_encoder is not None and self.tokenizer is not None:
            new = [text for text in texts if isinstance(text, str) and text not in self.prompts]
            if new:
                cache = embed_prompts(new, self.tokenizer, self.text_encoder, self.transformer.config.text_len)
                self.prompts = self.prompts.merged(cache)
        found = [self.prompts.get(text) if isinstance(text, str) else text for text in texts]
        return [embedding.to(self.device) for embedding in found]

    # ------------------------------------------------------------------ the steps

    def _resolve(self, jobs: Sequence[Job], sampling: Sampling) -> tuple[LatentShape, list[Job]]:
        """Check that jobs go together and fix the frame count and size."""
        if not jobs:
            raise InputError("no job was given")
        tasks = {Task(job.task) for job in jobs}
        if len(tasks) > 1:
            raise InputError(f"jobs of a batch must have one task, got {', '.join(sorted(t.value for t in tasks))}")
        task = tasks.pop()
        for index, job in enumerate(jobs):
            if job.images.ndim != 4 or job.images.shape[1] != 3 or not len(job.images):
                raise InputError(
                    f"images of job {index} must have shape [N, 3, H, W], N at least 1, got {tuple(job.images.shape)}"
                )
        frames = sampling.num_frames
        if frames is None:
            frames = self.num_frames
            if task is Task.ALL_VIEW:
                frames = min(frames, *((len(job.images) - 1) // 4 * 4 + 1 for job in jobs))
        height, width = sampling.size or self.image_size
        shape = LatentShape(frames, height, width)
        resolved = []
        for job in jobs:
            cameras = job.cameras
            if task is Task.ALL_VIEW:
                cameras = "free"
            elif isinstance(cameras, CameraPath):
                cameras = thin_path(cameras, frames)
            elif cameras not in BUILT_IN_PATHS:
                raise InputError(f"camera path {cameras!r} is unknown; choose one of: {', '.join(BUILT_IN_PATHS)}")
            resolved.append(replace(job, task=task, images=choose_images(job.images, task, frames), cameras=cameras))
        return shape, resolved

    def _prepare_images(self, job: Job, shape: LatentShape) -> Tensor:
        """``[n, 3, H, W]`` float32 on the device: short side resized, centre cropped."""
        images = job.images.to(device=self.device, dtype=torch.float32)
        return resize_and_crop(images, shape.size)[0]

    def _condition(
        self,
        jobs: Sequence[Job],
        images: Tensor,
        shape: LatentShape,
        sampling: Sampling,
        noise: Sequence[Noise],
        monitor: JobMonitor,
    ) -> Conditions:
        """Encode prompts, first images, cameras and known frames."""
        with monitor.stage("text"):
            guided = sampling.guidance > 1
            embeddings = self.embed([job.prompt for job in jobs])
            text = self.transformer.pad_text(embeddings)
            negative = None
            if guided:
                negative = self.transformer.pad_text(self.embed([sampling.negative_prompt])).expand(len(jobs), -1, -1)
        with monitor.stage("image"):
            image_tokens = self.image_encoder(quantize_like_upstream(images[:, 0]))
        with monitor.stage("cameras"):
            camera_tokens = self._embed_cameras(jobs, images, shape)
        with monitor.stage("video_encode"):
            video = control_video(images, jobs[0].task, shape.num_frames)
            latents = []
            for clip, draw in zip(video, noise, strict=True):  # one by one: encoding a clip fills the memory
                mean, logvar = encode_video(self.video_vae, clip[None])
                latents.append(sample_latents(mean, logvar, draw.posterior.to(self.device)[None]))
            control = control_latents(torch.cat(latents), jobs[0].task, shape.num_frames)
        return Conditions(text, negative, image_tokens, control, camera_tokens)

    def _embed_cameras(self, jobs: Sequence[Job], images: Tensor, shape: LatentShape) -> Tensor | None:
        if self.transformer.camera_adapter is None:
            return None
        dtype = self.transformer.patch_embedding.weight.dtype
        tokens = []
        for job, own_images in zip(jobs, images, strict=True):
            rays = self.rays(job.cameras, own_images, shape)
            tokens.append(self.transformer.embed_cameras(pack_cameras(rays.to(dtype)[None])))
        return torch.cat(tokens)

    def rays(self, cameras: str | CameraPath, images: Tensor, shape: LatentShape) -> Tensor:
        """Plücker rays of a job ``[F, 6, H, W]``; zeros for free cameras.

        Args:
            cameras: "free", the name of a built-in path, or a path with one camera a frame.
            images: ``[n, 3, H, W]`` the job's images at the job's size, from which VGGT takes
                intrinsics and scale of a built-in path.
            shape: of the job.
        """
        if cameras == "free":
            return torch.zeros(shape.num_frames, 6, *shape.size, device=self.device)
        if isinstance(cameras, str):
            cameras = self.built_in_cameras(cameras, images, shape)
        return camera_rays(cameras, shape, self.device)

    def built_in_cameras(self, name: str, images: Tensor, shape: LatentShape) -> CameraPath:
        """A built-in path with the first image's intrinsics and the scale of its depth, both from VGGT."""
        tokens = self.vggt.aggregate(images[None])
        encoding = _plausible(self.vggt.predict_cameras(tokens)[-1])
        _, intrinsics = decode_pose_encoding(encoding, shape.size)
        depth, _ = self.vggt.predict_depth(tokens, shape.size)
        poses = built_in_path(name, shape.num_frames, float(SCENE_SCALE * depth.median()))
        return CameraPath(poses, intrinsics[0, :1].expand(shape.num_frames, -1, -1).cpu(), shape.size)

    def _denoise(
        self, latents: Tensor, conditions: Conditions, solver: FlowSolver, guidance: float, monitor: JobMonitor
    ) -> Tensor:
        """Integrate the flow from noise to latents, unconditional and conditional text as one batch."""
        text, image_tokens, cameras = conditions.text, conditions.image_tokens, conditions.camera_tokens
        copies = 1 if conditions.negative_text is None else 2
        if conditions.negative_text is not None:
            text = torch.cat((conditions.negative_text, text))
        image_tokens = image_tokens.repeat(copies, 1, 1)
        if cameras is not None and len(latents) > 1:
            cameras = cameras.repeat(copies, 1, 1, 1, 1)  # a single job's broadcast
        timesteps = solver.timesteps.to(device=self.device)
        with monitor.stage("denoise", len(solver)):
            for index in range(len(solver)):
                hidden = torch.cat((latents, conditions.control_latents), dim=1).repeat(copies, 1, 1, 1, 1)
                flow = self.transformer(
                    hidden, timesteps[index].expand(len(hidden)), text, image_tokens, camera_tokens=cameras
                )
                if copies == 2:
                    unconditional, conditional = flow.chunk(2)
                    flow = unconditional + guidance * (conditional - unconditional)
                latents = solver.step(flow, index, latents)
                monitor.report("denoise", index + 1, len(solver))
        return latents

    def _decode(
        self,
        latents: Tensor,
        shape: LatentShape,
        observed: Tensor,
        scales: Sequence[float | None],
        limit_depth: bool,
        monitor: JobMonitor,
    ) -> list[Scene]:
        """Right half to tokens, cameras, depth and points; left half to colours."""
        appearance, geometry = latents.chunk(2, dim=-1)
        scenes = []
        for index, scale in enumerate(scales):
            with monitor.stage("geometry"):
                tokens = self.geometry_adapter.decode(geometry[index : index + 1])
                layers = unpack_tokens(tokens, self.vggt.special_tokens, num_layers=len(self.vggt.config.layers))
                prediction = self.vggt.decode(layers, shape.size)
                del tokens, layers
            with monitor.stage("video_decode"):
                video = decode_video(self.video_vae, appearance[index : index + 1])[0]
                colors = (video / 2 + 0.5).clamp(0, 1).permute(1, 2, 3, 0)
            scenes.append(_scene(prediction, 0, colors, shape.size, observed, scale, limit_depth))
        return scenes


def _plausible(encoding: Tensor) -> Tensor:
    """Pose encoding whose fields of view give finite, positive focal lengths (the head may say 0)."""
    fov = encoding[..., 7:].clamp(SMALLEST_FOV, math.pi - SMALLEST_FOV)
    return torch.cat((encoding[..., :7], fov), dim=-1)


def _scene(
    prediction: VGGTPrediction,
    index: int,
    colors: Tensor,
    size: tuple[int, int],
    observed: Tensor,
    metres_per_unit: float | None,
    limit_depth: bool,
) -> Scene:
    """Assemble a scene: cameras from their encoding, points from depth, in float32 on the device."""
    poses, intrinsics = decode_pose_encoding(_plausible(prediction.pose_encoding[index]), size)
    depth = prediction.depth[index]
    return Scene(
        colors=colors,
        depth=depth,
        depth_confidence=prediction.depth_confidence[index],
        points=unproject_depth(depth, poses, intrinsics),
        point_map=prediction.points[index],
        point_map_confidence=prediction.points_confidence[index],
        valid=depth_mask(depth, limit_range=limit_depth),
        intrinsics=intrinsics,
        T_cam_world=homogeneous(poses),
        observed=observed,
        metres_per_unit=metres_per_unit,
    )
