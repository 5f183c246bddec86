"""The transformer's stage: flow matching on the latents of both halves.

The published recipe (Gen3R, arXiv 2601.04090): latents from the video VAE's and the geometry adapter's posteriors,
``noise - latents`` to predict, noise levels uniform over the shifted schedule, the task drawn for each clip, text
dropped with probability 0.2 and cameras with 0.5. Cameras are given as Plücker rays in scene units: the clip's true
path divided by the metres that one unit of VGGT's prediction for the whole clip stands for
(:func:`gen3r_core.training.scene_units.metres_per_unit`), as the generated geometry will be in VGGT's units.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gen3r_core.conditioning import Task, known_frame_mask
from gen3r_core.io.atomic import OutputFolder
from gen3r_core.jobs import Job, Sampling
from gen3r_core.metrics.images import frame_psnr
from gen3r_core.models.image_encoder import ImageEncoder
from gen3r_core.models.text_encoder import TextEncoder
from gen3r_core.models.transformer import CameraAdapter
from gen3r_core.models.video_vae import sample_latents
from gen3r_core.pipeline import Gen3RPipeline
from gen3r_core.scene import CameraPath
from gen3r_core.schedulers import FlowSolver
from gen3r_core.training.batch import ClipBatch, ClipSource
from gen3r_core.training.clip_pool import EncodedBatch, PooledClips
from gen3r_core.training.components import complete_state
from gen3r_core.training.export import export_component
from gen3r_core.training.flow_clips import ClipEncoder, EncodedClips, clip_rays, image_tokens, text_embeddings
from gen3r_core.training.flow_parts import FlowNetworks, TransformerOptions, build_networks
from gen3r_core.training.losses import add_noise, flow_target, masked_mean
from gen3r_core.training.options import read_options
from gen3r_core.training.teachers import mixed_precision

__all__ = ["TransformerStage", "camera_tokens", "from_config"]

TASKS = tuple(Task)
"""In the order of ``tasks`` in the options and of control latents: 1view, 2view, allview."""

_VALIDATION_SEED = 20260104
_VALIDATION_LEVELS = 4


class TransformerStage:
    """Trains :class:`gen3r_core.models.transformer.CameraTransformer`, and small encoders with it.

    Args:
        module: what is trained, float32, on its device.
        encoder: encodes clips.
        text_encoder: trained or frozen.
        image_encoder: trained or frozen.
        options: see :class:`gen3r_core.training.flow_parts.TransformerOptions`.
    """

    name = "transformer"

    def __init__(
        self,
        module: FlowNetworks,
        encoder: ClipEncoder,
        text_encoder: TextEncoder,
        image_encoder: ImageEncoder,
        options: TransformerOptions,
    ) -> None:
        self.module, self.encoder, self.options = module, encoder, options
        self.text_encoder, self.image_encoder = text_encoder, image_encoder
        self._scheduler = {"num_train_timesteps": 1000, "shift": options.shift, "use_dynamic_shifting": False}
        device = module.transformer.patch_embedding.weight.device
        self._sigmas = FlowSolver("euler", 1, euler=self._scheduler).training_sigmas.to(device)
        chances = torch.tensor(options.tasks, dtype=torch.float32)
        self._task_edges = (chances / chances.sum()).cumsum(0)[:-1].to(device)
        self._empty_text = encoder.texts([""], device)
        self._masks: dict[tuple[int, int, int], Tensor] = {}
        network = module.transformer
        self._flow = torch.compile(network.forward) if options.compile else network.forward

    def wrap_source(self, source: ClipSource) -> ClipSource:
        """The source to train from: with ``pool_clips``, one that encodes clips once and gives them out often."""
        options = self.options
        if options.pool_clips == 0:
            return source
        return PooledClips(
            source,
            self.encoder,
            clips=options.pool_clips,
            batch=options.pool_batch,
            every=options.pool_every,
            seed=options.seed,
        )

    def loss(self, batch: ClipBatch, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Flow-matching loss, one noise level, task and choice of conditions a clip.

        Args:
            batch: clips, or encoded ones from :meth:`wrap_source`'s source.
            step: not used.
            generator: for all draws.

        Raises:
            InputError: the clips do not have 4k+1 frames, or their size does not suit the networks.
        """
        del step
        options, device = self.options, batch.device
        clips = self._encoded(batch)

        def draw() -> Tensor:
            return torch.rand(len(clips), generator=generator, device=device)

        task = (draw()[:, None] >= self._task_edges).sum(dim=1)
        keep_text, keep_cameras = draw() >= options.drop_text, draw() >= options.drop_cameras
        level = torch.randint(len(self._sigmas), (len(clips),), generator=generator, device=device)
        error = self._errors(clips, task, self._sigmas[level], keep_text, keep_cameras, generator)
        appearance, geometry = error.unbind(dim=1)
        total = (appearance.mean() + options.geometry_weight * geometry.mean()) / 2
        figures = {"appearance": appearance.mean(), "geometry": geometry.mean()}
        for index, kind in enumerate(TASKS):
            figures[f"flow_{kind.value}"] = masked_mean(error.mean(dim=1), task == index)
        return total, {name: value.detach() for name, value in figures.items()}

    def _encoded(self, batch: ClipBatch) -> EncodedClips:
        if isinstance(batch, EncodedBatch) and batch.clips is not None:
            return batch.clips
        return self.encoder.encode(batch)

    def _errors(
        self,
        clips: EncodedClips,
        task: Tensor,
        sigma: Tensor,
        keep_text: Tensor,
        keep_cameras: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """Mean squared error of the flow of each clip's two halves ``[B, 2]``, for given tasks and noise levels."""

        def sample(posterior: Tensor) -> Tensor:
            noise = torch.randn(posterior[:, 0].shape, generator=generator, device=posterior.device)
            return sample_latents(posterior[:, 0], posterior[:, 1], noise)

        latents = torch.cat((sample(clips.appearance), sample(clips.geometry)), dim=-1)
        noise = torch.randn(latents.shape, generator=generator, device=latents.device)
        control = self._control(clips, task, sample)
        rays = clip_rays(clips, keep_cameras)
        flow = self._flow(
            torch.cat((add_noise(latents, noise, sigma), control), dim=1),
            sigma * self._scheduler["num_train_timesteps"],
            self._text(clips, keep_text),
            self._image(clips),
            camera_tokens=camera_tokens(self.module.transformer.camera_adapter, rays),
        )
        squared = (flow.float() - flow_target(latents, noise)).square()
        halves: Tensor = squared.unflatten(-1, (2, -1)).mean(dim=(1, 2, 3, 5))
        return halves

    def _control(self, clips: EncodedClips, task: Tensor, sample: Any) -> Tensor:
        """Control latents ``[B, 20, f, h, 2w]`` of each clip's task: as ``conditioning.control_latents``."""
        posteriors = torch.cat((clips.control, clips.appearance[:, None]), dim=1)
        rows = torch.arange(len(clips), device=task.device)
        latents = sample(posteriors[rows, task])
        mask = self._task_masks(clips)[task]
        return torch.cat((torch.cat((latents, torch.zeros_like(latents)), dim=-1), mask), dim=1)

    def _task_masks(self, clips: EncodedClips) -> Tensor:
        """Mask channels ``[3 tasks, 4, f, h, 2w]``, made once for each shape of clips."""
        rows, columns = clips.appearance.shape[-2:]
        shape = (clips.poses.shape[1], rows, columns)
        if shape not in self._masks:
            masks = [known_frame_mask(task, shape[0], (rows, columns)) for task in TASKS]
            self._masks[shape] = torch.cat(masks).to(clips.appearance.device)
        return self._masks[shape]

    def _text(self, clips: EncodedClips, keep: Tensor) -> Tensor:
        """Embeddings ``[B, L, C]`` of the captions, or of the empty prompt."""
        empty, empty_mask = self._empty_text
        text = torch.where(keep.view(-1, *[1] * (clips.text.ndim - 1)), clips.text, empty)
        if self.module.text_encoder is None:
            return text
        mask = torch.where(keep[:, None], clips.text_mask, empty_mask)
        return text_embeddings(self.module.text_encoder, text, mask)

    def _image(self, clips: EncodedClips) -> Tensor:
        return (
            clips.image if self.module.image_encoder is None else image_tokens(self.module.image_encoder, clips.image)
        )

    @torch.no_grad()
    def validate(self, batch: ClipBatch) -> dict[str, float]:
        """Flow loss of every task at fixed noise and levels, with text and cameras; and a few-step generation.

        Returns:
            ``flow_1view``, ``flow_2view``, ``flow_allview``, ``flow`` (their mean), ``flow_geometry`` (its right half);
            and with ``validation_clips``, for clips of more than two frames, ``psnr_1view`` and ``psnr_2view``: frames
            that were not given, decibels.

        Raises:
            InputError: the clips do not have 4k+1 frames, or their size does not suit the networks.
        """
        clips = self._encoded(batch)
        everyone = torch.ones(len(clips), dtype=torch.bool, device=batch.device)
        count = len(self._sigmas)
        figures: dict[str, float] = {}
        halves = []
        for index, task in enumerate(TASKS):
            generator = torch.Generator(device=batch.device).manual_seed(_VALIDATION_SEED)
            tasks = torch.full((len(clips),), index, device=batch.device)
            errors = []
            for level in range(_VALIDATION_LEVELS):
                place = count * (2 * level + 1) // (2 * _VALIDATION_LEVELS)
                sigma = self._sigmas[place].expand(len(clips))
                with mixed_precision(batch.device):
                    errors.append(self._errors(clips, tasks, sigma, everyone, everyone, generator))
            halves.append(torch.stack(errors).mean(dim=(0, 1)))
            figures[f"flow_{task.value}"] = float(halves[-1].mean())
        both = torch.stack(halves).mean(dim=0)
        figures |= {"flow": float(both.mean()), "flow_geometry": float(both[1])}
        if self.options.validation_clips and batch.colors.shape[1] > 2:
            for task in (Task.ONE_VIEW, Task.TWO_VIEW):
                figures[f"psnr_{task.value}"] = self._generate(batch, clips, task)
        return figures

    def _generate(self, batch: ClipBatch, clips: EncodedClips, task: Task) -> float:
        """Mean PSNR of the frames that the task does not give, over the first clips of a batch."""
        options, frames = self.options, batch.colors.shape[1]
        unknown = sorted(set(range(frames)) - set(task.known_frames(frames)))
        jobs = [
            Job(
                batch.colors[index],
                task,
                batch.captions[index],
                CameraPath(clips.poses[index].cpu(), clips.intrinsics[index].cpu(), batch.size)
                if bool(clips.has_cameras[index])
                else "free",
                seed=index,
            )
            for index in range(min(options.validation_clips, len(batch)))
        ]
        sampling = Sampling(
            num_frames=frames, size=batch.size, steps=options.validation_steps, guidance=options.validation_guidance
        )
        pipeline, values = self.pipeline(), []
        try:
            with mixed_precision(batch.device):
                for job in jobs:
                    colors = pipeline.generate(job, sampling).colors
                    values.append(frame_psnr(colors[unknown], job.images[unknown].movedim(1, -1)).mean())
        finally:
            pipeline.placement.bring_back()  # memory may have run out on the way
        return float(torch.stack(values).mean())

    def pipeline(self) -> Gen3RPipeline:
        """A pipeline around the networks as they are now; nothing is copied."""
        encoder = self.encoder
        return Gen3RPipeline(
            transformer=self.module.transformer,
            video_vae=encoder.teachers.video_vae,
            geometry_adapter=encoder.adapter,
            vggt=encoder.teachers.vggt,
            image_encoder=self.image_encoder,
            text_encoder=self.text_encoder,
            tokenizer=encoder.tokenizer,
            scheduler=self._scheduler,
        )

    def export(self, folder: Path, state: Mapping[str, Tensor] | None = None) -> None:
        """Write the component folder ``transformer``; jointly trained parts go beside it, under their own names.

        With ``folder`` = ``out/transformer`` these are ``out/text_encoder``, ``out/image_encoder`` and
        ``out/tokenizer``; ``out/scheduler`` holds the noise levels it was trained on;
        see :class:`gen3r_core.training.stage.Stage`.

        Raises:
            OutputError: something cannot be written.
        """
        for name in ("transformer", "text_encoder", "image_encoder"):
            part = getattr(self.module, name)
            if part is not None:
                place = folder if name == "transformer" else folder.parent / name
                export_component(place, name, part, complete_state(part, state, f"{name}."))
        with OutputFolder(folder.parent / "scheduler") as out:
            out.path("scheduler_config.json").write_text(json.dumps(self._scheduler, indent=2), encoding="utf-8")
        if self.options.train_encoders:
            self.encoder.tokenizer.save(folder.parent / "tokenizer")


def camera_tokens(adapter: CameraAdapter | None, half: Tensor) -> Tensor | None:
    """The camera adapter's output for rays that are the same on both halves, at half the work of the whole width.

    The first convolution does not overlap, so that halves can be joined after it; the residual block sees the seam.

    Args:
        adapter: None for a transformer without cameras.
        half: ``[B, 24, f, H, W]`` packed rays of one half, W a multiple of 16.

    Returns:
        ``[B, dim, f, H/16, W/8]``, what ``embed_cameras`` gives for both halves side by side.
    """
    if adapter is None:
        return None
    x = adapter.project(adapter.unshuffle(half.transpose(1, 2).flatten(0, 1)))
    x = torch.cat((x, x), dim=-1)
    tokens: Tensor = (x + adapter.residual(x)).unflatten(0, (len(half), -1))
    return tokens.transpose(1, 2)


def from_config(values: Mapping[str, Any], device: torch.device | str) -> TransformerStage:
    """The stage from the values of a configuration file.

    Args:
        values: keys as :class:`gen3r_core.training.flow_parts.TransformerOptions` has them.
        device: where the networks go.

    Raises:
        InputError: a key is unknown or a value cannot be used.
        CheckpointError: sizes or weights cannot be used, or networks do not belong together.
    """
    options = read_options(TransformerOptions, values, "transformer")
    return TransformerStage(*build_networks(options, device), options)
