"""Gen3R from images to a scene: condition, denoise, decode.

The steps carry the names of the method section of arXiv 2601.04090 and run top to bottom in
:meth:`Gen3RPipeline.generate_batch`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from gen3r_core.checkpoint.folder import GENERATION, Checkpoint, open_checkpoint
from gen3r_core.checkpoint.loading import Progress as LoadingProgress
from gen3r_core.checkpoint.loading import load_components
from gen3r_core.conditioning import (
    Conditions,
    LatentShape,
    camera_rays,
    pack_cameras,
)
from gen3r_core.decoding import Decoder, assemble_scene, predict_geometry
from gen3r_core.denoising import Guidance, LatentsWatch, SharedBranches, StepCache, denoise
from gen3r_core.devices import memory_errors
from gen3r_core.encoding import encode_first_images, encode_known_frames
from gen3r_core.errors import InputError
from gen3r_core.execution.levels import LEVELS, NETWORKS, Level
from gen3r_core.execution.placement import Placement, device_of
from gen3r_core.execution.stages import run_stage
from gen3r_core.fit import check_fit
from gen3r_core.geometry.images import resize_and_crop
from gen3r_core.geometry_source import geometry_source
from gen3r_core.jobs import Job, Noise, Sampling, check_images, check_noise, resolve_jobs
from gen3r_core.models.attention import AttentionKernel, kernel_preferred
from gen3r_core.models.geometry_adapter import GeometryAdapter
from gen3r_core.models.image_encoder import ImageEncoder
from gen3r_core.models.text_encoder import TextEncoder, Tokenizer
from gen3r_core.models.transformer import CameraTransformer
from gen3r_core.models.vggt import VGGT
from gen3r_core.progress import Callback, JobMonitor
from gen3r_core.prompts import PromptCache, embed_prompts
from gen3r_core.scaled_path import SCENE_SCALE, scaled_path
from gen3r_core.scene import CameraPath, Scene
from gen3r_core.schedulers import FlowSolver

__all__ = ["SCENE_SCALE", "Gen3RPipeline", "Job", "Noise", "Sampling"]

MOST_PROMPTS = 64
"""Embeddings that a pipeline with a text encoder keeps (up to 4 MiB each), the newest."""


class Gen3RPipeline:
    """The six networks together.

    Args:
        transformer, video_vae, geometry_adapter, vggt, image_encoder: networks on one device.
        text_encoder, tokenizer: needed for prompts that are given as text and are not in ``prompts``.
        prompts: cached prompt embeddings.
        scheduler: configuration of the flow-matching Euler scheduler.
        num_frames: frames the model was trained for.
        image_size: ``(height, width)`` the model was trained for.
        sampling: how to generate where a call says nothing; ``dataclasses.replace`` gives variants of it.
        device: where to compute; None takes the device on which the transformer lies.
        level: how sparing with the device's memory; a job that runs out of it goes on at the next.

    Attributes:
        placement: brings networks to the device; see :class:`gen3r_core.execution.placement.Placement`.
        cache: spares steps the transformer's blocks, at a price; None spares none.
        watch: sees the latents of each step; None looks at none.
        shared: another process that computes a branch of guidance; None has none.

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
        sampling: Sampling | None = None,
        device: torch.device | str | None = None,
        level: Level = LEVELS[0],
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
        self.sampling = sampling or Sampling()
        networks = {name: getattr(self, name) for name in NETWORKS}
        where = device_of(transformer) if device is None else torch.device(device)
        self.placement = Placement(where, level, networks)
        self.cache: StepCache | None = None
        self.watch: LatentsWatch | None = None
        self.shared: SharedBranches | None = None
        check_fit(transformer, video_vae, geometry_adapter, vggt, image_encoder, text_encoder)

    @classmethod
    def from_pretrained(
        cls,
        folder: Path | str | Checkpoint | None = None,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        prompts: PromptCache | None = None,
        progress: LoadingProgress | None = None,
        level: Level = LEVELS[0],
    ) -> Gen3RPipeline:
        """Load a checkpoint of our layout or the published one.

        Args:
            folder: checkpoint folder, or one that is already open; None or "gen3r-small" for the model in this
                package.
            device: where the networks go.
            dtype: floating dtype of the weights; None keeps the files'.
            prompts: cached embeddings; with them the text encoder is not loaded.
            progress: told how many bytes of each component are loaded.
            level: how sparing with the device's memory; what it wants away is loaded to the host.

        Raises:
            CheckpointError: something is missing, damaged or does not fit.
            DeviceError: memory runs out.
        """
        checkpoint = folder if isinstance(folder, Checkpoint) else open_checkpoint(folder)
        places = dict.fromkeys(level.away, "cpu")
        left_out = () if prompts is None else ("text_encoder",)
        loaded = load_components(checkpoint, device, places, leave_out=left_out, dtype=dtype, progress=progress)
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
            device=device,
            level=level,
            sampling=Sampling(**{name: checkpoint.defaults[name] for name in GENERATION}),
        )

    @property
    def device(self) -> torch.device:
        """Where jobs are computed, whatever lies elsewhere in between."""
        return self.placement.device

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
            sampling: common to all; None takes what suits the checkpoint.
            callback: told after each step, and may cancel.
            monitor: in place of ``callback``, to read the seconds per stage afterwards.
            noise: random draws to use instead of the jobs' seeds.

        Returns:
            one scene a job, on the pipeline's device.

        Raises:
            InputError: images, cameras, prompts or options cannot be used.
            DeviceError: memory runs out, or the attention kernel cannot run here.
            CancelledError: the callback asked for it.
        """
        sampling = sampling or self.sampling
        monitor = monitor or JobMonitor(callback, self.device)
        shape, jobs = resolve_jobs(jobs, sampling, num_frames=self.num_frames, image_size=self.image_size)
        geometry_source(sampling.geometry)
        FlowSolver(sampling.scheduler, sampling.steps, shift=sampling.shift, euler=self.scheduler)  # finds mistakes now
        channels = self.geometry_adapter.config.latent_channels
        if noise is None:
            noise = [Noise.draw(job.seed, channels, shape) for job in jobs]
        check_noise(noise, len(jobs), channels, shape)
        Guidance(sampling.guidance, *sampling.guided_share)
        with memory_errors(), kernel_preferred(sampling.attention, self.device):
            images = torch.stack([self._prepare_images(job, shape) for job in jobs])
            conditions = self._condition(jobs, images, shape, sampling, noise, monitor)
            integrate = partial(self._denoise, noise, conditions, sampling, monitor)
            latents = run_stage(self.placement, monitor, "denoise", integrate, total=sampling.steps)
            del conditions, integrate
            return self._decode(latents, jobs, images, sampling, monitor)

    @torch.no_grad()
    def reconstruct(
        self,
        images: Tensor,
        *,
        limit_depth: bool = True,
        point_map: bool = False,
        attention: AttentionKernel | str = AttentionKernel.AUTO,
        callback: Callback | None = None,
        monitor: JobMonitor | None = None,
    ) -> Scene:
        """Feed-forward VGGT reconstruction of images, without any generation.

        Args:
            images: ``[N, 3, H, W]`` float in [0, 1]; H and W multiples of 14 (see
                :func:`gen3r_core.geometry.images.fit_to_multiple`), any aspect ratio.
            limit_depth: as in :class:`Sampling`.
            point_map: as in :class:`Sampling`.
            attention: kernel.
            callback: told before and after.
            monitor: in place of ``callback``.

        Raises:
            InputError: the size is not a multiple of the patch size.
            DeviceError: memory runs out, or the attention kernel cannot run here.
            CancelledError: the callback asked for it.
        """
        monitor = monitor or JobMonitor(callback, self.device)
        check_images(images)
        images = images.to(device=self.device, dtype=torch.float32)
        with memory_errors(), kernel_preferred(attention, self.device):
            predict = partial(predict_geometry, self.placement, self.vggt, images, points=point_map)
            prediction = run_stage(self.placement, monitor, "vggt", predict)
            observed = torch.ones(len(images), dtype=torch.bool, device=self.device)
            colors = images.permute(0, 2, 3, 1)
            return assemble_scene(prediction, colors, observed, limit_depth=limit_depth)

    def embed(self, texts: Sequence[str | Tensor]) -> list[Tensor]:
        """Embeddings of prompts: from the cache, or by the text encoder.

        Returns:
            one ``[length, text_dim]`` tensor a prompt, on the pipeline's device.

        Raises:
            InputError: a text is not cached and there is no text encoder, or no tokenizer.
        """
        known = self.prompts
        if self.text_encoder is not None:
            new = [text for text in texts if isinstance(text, str) and text not in self.prompts]
            if new and self.tokenizer is None:
                raise InputError(
                    f"prompt {new[0]!r} cannot be embedded: the checkpoint has no tokenizer folder; add it, or give "
                    f"cached embeddings"
                )
            if new and self.tokenizer is not None:
                with self.placement.using(text_encoder=self.text_encoder):
                    cache = embed_prompts(new, self.tokenizer, self.text_encoder, self.transformer.config.text_len)
                known = self.prompts.merged(cache)
                self.prompts = known.newest(MOST_PROMPTS)
        found = [known.get(text) if isinstance(text, str) else text for text in texts]
        return [embedding.to(self.device) for embedding in found]

    # ------------------------------------------------------------------ the steps

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

        def texts() -> tuple[Tensor, Tensor | None]:
            guided = [sampling.negative_prompt] if sampling.guidance > 1 else []
            embedded = self.transformer.pad_text(self.embed([*(job.prompt for job in jobs), *guided]))
            text, negative = embedded[: len(jobs)], embedded[len(jobs) :]
            return text, negative.expand(len(jobs), -1, -1) if guided else None

        place, task = self.placement, jobs[0].task
        first = partial(encode_first_images, place, self.image_encoder, images)
        draws = [draw.posterior for draw in noise]
        known = partial(encode_known_frames, place, self.video_vae, images, task, shape.num_frames, draws)
        text, negative = run_stage(place, monitor, "text", texts)
        image_tokens = run_stage(place, monitor, "image", first)
        cameras = run_stage(place, monitor, "cameras", lambda: self._embed_cameras(jobs, images, shape))
        control = run_stage(place, monitor, "video_encode", known)
        return Conditions(text, negative, image_tokens, control, cameras)

    def _embed_cameras(self, jobs: Sequence[Job], images: Tensor, shape: LatentShape) -> Tensor | None:
        if self.transformer.camera_adapter is None:
            asked = [job.cameras for job in jobs if job.cameras != "free"]
            if asked:
                name = repr(asked[0]) if isinstance(asked[0], str) else "a camera path"
                raise InputError(f"this transformer has no camera adapter: it cannot follow {name}; use 'free' cameras")
            return None
        dtype = self.transformer.patch_embedding.weight.dtype
        tokens = []
        for job, own_images in zip(jobs, images, strict=True):
            rays = self.rays(job.cameras, own_images, shape)
            with self.placement.using(camera_adapter=self.transformer.camera_adapter):
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
        with self.placement.using(vggt=self.vggt):
            return scaled_path(self.vggt, name, images, shape)

    def _denoise(
        self, noise: Sequence[Noise], conditions: Conditions, sampling: Sampling, monitor: JobMonitor
    ) -> Tensor:
        """From the start, also where memory ran out on the way: a solver remembers its last steps."""
        level = self.placement.level
        self.transformer.split_feed_forward(level.feed_forward_parts)
        with self.placement.using(transformer=self.transformer):
            return denoise(
                self.transformer,
                torch.stack([draw.latents for draw in noise]).to(self.device),
                conditions,
                FlowSolver(sampling.scheduler, sampling.steps, shift=sampling.shift, euler=self.scheduler),
                Guidance(sampling.guidance, *sampling.guided_share),
                monitor,
                together=level.branches_together,
                cache=self.cache,
                watch=self.watch,
                shared=self.shared,
            )

    def _decode(
        self, latents: Tensor, jobs: Sequence[Job], images: Tensor, sampling: Sampling, monitor: JobMonitor
    ) -> list[Scene]:
        """Job by job: decoding a clip fills the memory."""
        networks = (self.video_vae, self.geometry_adapter, self.vggt)
        source = geometry_source(sampling.geometry)
        decoder = Decoder(self.placement, *networks, source, sampling.limit_depth, sampling.point_map)
        return [
            decoder.scene(own_latents[None], own_images, job.task, job.cameras, monitor)
            for job, own_latents, own_images in zip(jobs, latents, images, strict=True)
        ]
