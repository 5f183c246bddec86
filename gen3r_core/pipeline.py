"""Gen3R from images to a scene: condition, denoise, decode.

The steps carry the names of the method section of arXiv 2601.04090 and run top to bottom in
:meth:`Gen3RPipeline.generate_batch`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from gen3r_core.checkpoint.folder import Checkpoint, open_checkpoint
from gen3r_core.checkpoint.loading import Progress as LoadingProgress
from gen3r_core.checkpoint.loading import load_component
from gen3r_core.conditioning import (
    Conditions,
    LatentShape,
    camera_rays,
    control_latents,
    control_video,
    pack_cameras,
)
from gen3r_core.decoding import assemble_scene
from gen3r_core.devices import memory_errors
from gen3r_core.errors import InputError
from gen3r_core.fit import check_fit
from gen3r_core.geometry.images import resize_and_crop
from gen3r_core.jobs import Job, Noise, Sampling, check_images, check_noise, resolve_jobs
from gen3r_core.models.attention import AttentionKernel, kernel_scope
from gen3r_core.models.geometry_adapter import GeometryAdapter
from gen3r_core.models.image_encoder import ImageEncoder, quantize_like_upstream
from gen3r_core.models.text_encoder import TextEncoder, Tokenizer
from gen3r_core.models.transformer import CameraTransformer
from gen3r_core.models.vggt import VGGT
from gen3r_core.models.vggt.tokens import unpack_tokens
from gen3r_core.models.video_vae import decode_video, encode_video, sample_latents
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
    ) -> Gen3RPipeline:
        """Load a checkpoint of our layout or the published one.

        Args:
            folder: checkpoint folder, or one that is already open; None or "gen3r-small" for the model in this
                package.
            device: where the networks go.
            dtype: floating dtype of the weights; None keeps the files'.
            prompts: cached embeddings; with them the text encoder is not loaded.
            progress: told how many bytes of each component are loaded.

        Raises:
            CheckpointError: something is missing, damaged or does not fit.
            DeviceError: memory runs out.
        """
        checkpoint = folder if isinstance(folder, Checkpoint) else open_checkpoint(folder)
        names = ["transformer", "video_vae", "geometry_adapter", "vggt", "image_encoder"]
        if prompts is None:
            names.append("text_encoder")
        files = {name: checkpoint.component(name) for name in names}
        with memory_errors():
            loaded: dict[str, Any] = {
                name: load_component(part, device=device, dtype=dtype, progress=progress)
                for name, part in files.items()
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
            sampling=Sampling(steps=checkpoint.defaults["steps"], guidance=checkpoint.defaults["guidance"]),
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
        task = jobs[0].task
        solver = FlowSolver(sampling.scheduler, sampling.steps, shift=sampling.shift, euler=self.scheduler)
        channels = self.geometry_adapter.config.latent_channels
        if noise is None:
            noise = [Noise.draw(job.seed, channels, shape) for job in jobs]
        check_noise(noise, len(jobs), channels, shape)
        with memory_errors(), kernel_scope(sampling.attention):
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
            DeviceError: memory runs out, or the attention kernel cannot run here.
            CancelledError: the callback asked for it.
        """
        monitor = monitor or JobMonitor(callback, self.device)
        check_images(images)
        images = images.to(device=self.device, dtype=torch.float32)
        with memory_errors(), kernel_scope(attention), monitor.stage("vggt"):
            prediction = self.vggt(images[None])
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
            asked = [job.cameras for job in jobs if job.cameras != "free"]
            if asked:
                name = repr(asked[0]) if isinstance(asked[0], str) else "a camera path"
                raise InputError(f"this transformer has no camera adapter: it cannot follow {name}; use 'free' cameras")
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
        return scaled_path(self.vggt, name, images, shape)

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
            scenes.append(assemble_scene(prediction, colors, observed, limit_depth=limit_depth, metres_per_unit=scale))
        return scenes
