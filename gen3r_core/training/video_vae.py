"""The stage that trains the video VAE: reconstruction of single frames and of clips.

The loss is a distance of pixels, a distance of finite differences at several scales (edges, in place of a network's
judgement), and a small Kullback-Leibler term. Latents are left as they come; when the training is done their mean and
deviation are measured and stored in the configuration, as the full model has them (arXiv 2503.20314).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from torch import Tensor

from gen3r_core.errors import InputError
from gen3r_core.metrics.frames import frame_classes
from gen3r_core.metrics.images import frame_psnr
from gen3r_core.sizes import named_config
from gen3r_core.training.batch import ClipBatch
from gen3r_core.training.components import trained_component
from gen3r_core.training.export import export_component
from gen3r_core.training.options import check_range, read_options
from gen3r_core.training.stage import TrainingError
from gen3r_core.training.video_vae_weights import inflate, initialize
from gen3r_core.training.whole_clip import channels_last, decode_clip, encode_clip, temporal_ratio

__all__ = ["VideoVAELoss", "VideoVAEOptions", "VideoVAEStage", "from_config"]

_LEAST_STD = 1e-3


@dataclass(frozen=True)
class VideoVAELoss:
    """Weights of the loss's terms; a phase may change them.

    Attributes:
        absolute: mean absolute difference of pixels in [-1, 1].
        squared: mean squared difference; what PSNR measures.
        edges: mean absolute difference of finite differences along x and y, and along time in clips.
        edge_levels: scales of the edge term, each half as large as the one before.
        pyramid: mean absolute difference of the bands of a Laplacian pyramid.
        kl: divergence from the normal distribution, mean per element.
        latent_noise: extra noise on the latents, as a share of their deviation in the batch.
    """

    absolute: float = 1.0
    squared: float = 0.0
    edges: float = 0.5
    edge_levels: int = 3
    pyramid: float = 0.0
    kl: float = 1e-6
    latent_noise: float = 0.0

    def __post_init__(self) -> None:
        for name in ("absolute", "squared", "edges", "pyramid", "kl", "latent_noise"):
            check_range(name, getattr(self, name), 0)
        check_range("edge_levels", self.edge_levels, 1, 6)
        if not self.absolute and not self.squared:
            raise InputError("video_vae: a loss without absolute and squared differences does not learn colours")


@dataclass(frozen=True)
class VideoVAEOptions:
    """What `--config` and `--set` can say about this stage.

    Attributes:
        size: row of :data:`gen3r_core.sizes.SIZES` that gives the sizes of a network from scratch.
        model: sizes that differ from it, as in the component's config.json.
        initial: component folder or checkpoint to start from, in place of both.
        inflate: prepare weights from `initial` that were trained on single frames for clips.
        loss: see :class:`VideoVAELoss`.
        seed: of the first weights.
        compile: compile the forward pass (one graph per shape); for GPUs.
        stacked: 3-D convolutions as 2-D ones on stacked frames.
        channels_last: weights and clips channels-last.
    """

    size: str = "small"
    model: dict[str, Any] | None = None
    initial: str | None = None
    inflate: bool = False
    loss: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    compile: bool = False
    stacked: bool = False
    channels_last: bool = True

    def __post_init__(self) -> None:
        if self.model is not None and self.initial is not None:
            raise InputError("video_vae: options 'model' and 'initial' exclude each other: sizes come with the weights")
        if self.inflate and self.initial is None:
            raise InputError("video_vae: option 'inflate' is for weights from 'initial'; new ones are ready for clips")


class VideoVAEStage:
    """See the module's text; `module` is diffusers' `AutoencoderKLWan`.

    Args:
        options: see :class:`VideoVAEOptions`.
        device: where it trains.

    Raises:
        InputError: the size is unknown, or the network does not compress time by four.
        CheckpointError: sizes or files cannot be used.
    """

    name = "video_vae"

    def __init__(self, options: VideoVAEOptions, device: torch.device) -> None:
        sizes = None if options.initial is not None else named_config(options.size, self.name, options.model)
        module, fresh = trained_component("video_vae", sizes, options.initial, device, seed=options.seed)
        self.module = cast(AutoencoderKLWan, module)
        if temporal_ratio(self.module) != 4 or list(self.module.config.attn_scales):
            raise InputError("video_vae: a network with two steps in time and without attn_scales is needed")
        if fresh:
            initialize(self.module, torch.Generator().manual_seed(options.seed))
        elif options.inflate:
            inflate(self.module)
        if options.channels_last:
            channels_last(self.module)
        self.options = options
        self.weights = read_options(VideoVAELoss, options.loss, "video_vae loss")
        self._terms: Callable[..., dict[str, Tensor]] = self.terms
        if options.compile:
            self._terms = torch.compile(self.terms, fullgraph=True, dynamic=False)
        self._latents: dict[str, list[float]] = {}

    def configure(self, values: Mapping[str, Any]) -> None:
        """Changes the loss for a phase: `values` are fields of :class:`VideoVAELoss`; others are as at the start."""
        self.weights = read_options(VideoVAELoss, {**self.options.loss, **values}, "video_vae loss")

    def loss(self, batch: ClipBatch, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:  # noqa: ARG002
        """The weighted sum of the terms; figures are the terms, PSNR among them."""
        video = self._video(batch)
        noise = torch.randn(self._latent_shape(video), device=video.device, generator=generator)
        extra = (
            torch.randn(noise.shape, device=video.device, generator=generator) if self.weights.latent_noise else None
        )
        terms = self._terms(video, noise, extra, self.weights)
        figures = {key: value.detach() for key, value in terms.items() if key != "loss"}
        return terms["loss"], figures

    def terms(self, video: Tensor, noise: Tensor, extra: Tensor | None, weights: VideoVAELoss) -> dict[str, Tensor]:
        """All terms of the loss, one graph.

        Args:
            video: `[B, 3, F, H, W]` in [-1, 1]; F = 4k+1.
            noise: standard normal in the latents' shape, for the posterior.
            extra: the same for :attr:`VideoVAELoss.latent_noise`.
            weights: of the terms.

        Returns:
            Scalars: "loss", and unweighted "absolute", "squared", "psnr" (of [0, 1] values), "edges", "kl", and
            "pyramid" where it is weighted.
        """
        mean, logvar = encode_clip(self.module, video, stacked=self.options.stacked)
        mean, logvar = mean.float(), logvar.float()
        latents = mean + torch.exp(0.5 * logvar) * noise
        if extra is not None:
            deviation = mean.detach().std(dim=(0, 2, 3, 4), keepdim=True)
            latents = latents + weights.latent_noise * deviation * extra
        difference = decode_clip(self.module, latents, stacked=self.options.stacked).float() - video
        squared = difference.square().mean()
        terms = {
            "absolute": difference.abs().mean(),
            "squared": squared,
            "edges": _edges(difference, weights.edge_levels),
            "kl": 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean(),
        }
        if weights.pyramid:
            terms["pyramid"] = _bands(difference)
        terms["loss"] = sum(
            (getattr(weights, key) * value for key, value in terms.items()), start=squared.new_zeros(())
        )
        terms["psnr"] = -10 * torch.log10(squared.detach() / 4)
        return terms

    @torch.no_grad()
    def validate(self, batch: ClipBatch) -> dict[str, float]:
        """PSNR in dB of whole clips through the shipped, chunked class, latents at their mean.

        Returns:
            "psnr" of all frames; for clips also "psnr_first" (frame 0), "psnr_whole" (frames 4k, k > 0, which end a
            latent frame), "psnr_between" (the others) and "psnr_last" (the last four).
        """
        video = self._video(batch)
        decoded = self.module.decode(self.module.encode(video).latent_dist.mean).sample.float()
        decibels = frame_psnr(decoded.transpose(1, 2) / 2, video.transpose(1, 2) / 2).mean(dim=0)
        groups = {"psnr": list(range(len(decibels)))}
        if len(decibels) > 1:
            groups |= {f"psnr_{name}": frames for name, frames in frame_classes(len(decibels)).items()}
        return {key: float(decibels[frames].mean()) for key, frames in groups.items()}

    @torch.no_grad()
    def finish(self, batches: Iterable[ClipBatch]) -> None:
        """Measures mean and deviation of the posterior means by channel, for the exported configuration.

        Raises:
            TrainingError: there are no batches, or the latents are not finite.
        """
        count, total, squares = 0, torch.zeros(()), torch.zeros(())
        for batch in batches:
            mean = encode_clip(self.module, self._video(batch), stacked=self.options.stacked)[0].double()
            count += mean.numel() // mean.shape[1]
            total = total.to(mean) + mean.sum(dim=(0, 2, 3, 4))
            squares = squares.to(mean) + mean.square().sum(dim=(0, 2, 3, 4))
        if count == 0:
            raise TrainingError("video_vae: latents cannot be measured without clips")
        average = total / count
        deviation = (squares / count - average.square()).clamp(min=_LEAST_STD**2).sqrt()
        if not bool(torch.isfinite(average).all() and torch.isfinite(deviation).all()):
            raise TrainingError("video_vae: the latents are not finite; go back to an earlier checkpoint")
        self._latents = {"latents_mean": average.tolist(), "latents_std": deviation.tolist()}

    def export(self, folder: Path, state: Mapping[str, Tensor] | None = None) -> None:
        """Writes the component; latents' statistics as measured by :meth:`finish`, or as they were before."""
        export_component(folder, self.name, self.module, state, self._latents)

    def _video(self, batch: ClipBatch) -> Tensor:
        if batch.colors.shape[1] % 4 != 1:
            raise InputError(f"the video VAE trains on clips of 4k+1 frames, got {batch.colors.shape[1]}")
        video = batch.colors.transpose(1, 2) * 2 - 1
        layout = torch.channels_last_3d if self.options.channels_last else torch.contiguous_format
        return video.contiguous(memory_format=layout)

    def _latent_shape(self, video: Tensor) -> tuple[int, ...]:
        config = self.module.config
        cell = 2 ** (len(config.dim_mult) - 1) * (config.patch_size or 1)
        clips, _, frames, height, width = video.shape
        if height % cell or width % cell:
            raise InputError(f"the video VAE trains on frames in multiples of {cell} pixels, got {height}x{width}")
        return (clips, config.z_dim, 1 + (frames - 1) // 4, height // cell, width // cell)


def _edges(difference: Tensor, levels: int) -> Tensor:
    """Mean absolute finite differences of `[B, C, F, H, W]`, over scales; the difference of edges is linear."""
    total = difference.new_zeros(())
    for level in range(levels):
        if level:
            if min(difference.shape[-2:]) < 4:
                break
            difference = F.avg_pool3d(difference, (1, 2, 2))
        total = total + difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
        if difference.shape[2] > 1:
            total = total + difference.diff(dim=2).abs().mean()
    return total / levels


def _bands(difference: Tensor, levels: int = 3) -> Tensor:
    """Mean absolute values of the bands of a Laplacian pyramid of `[B, C, F, H, W]`."""
    total = difference.new_zeros(())
    for _ in range(levels):
        if difference.shape[-2] % 2 or difference.shape[-1] % 2:
            break
        coarse = F.avg_pool3d(difference, (1, 2, 2))
        finer = coarse.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)
        total = total + (difference - finer).abs().mean()
        difference = coarse
    return total + difference.abs().mean()


def from_config(values: Mapping[str, Any], device: torch.device) -> VideoVAEStage:
    """The stage from the values of a configuration file; keys are the fields of :class:`VideoVAEOptions`.

    Raises:
        InputError: unknown keys, wrong types, or values that exclude each other.
        CheckpointError: sizes or files cannot be used.
    """
    return VideoVAEStage(read_options(VideoVAEOptions, values, "video_vae"), device)
