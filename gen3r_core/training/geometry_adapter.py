"""The geometry adapter's stage: tokens of a frozen VGGT through a latent that looks like the video VAE's.

The published recipe (Gen3R, arXiv 2601.04090): smooth-L1 on tokens and camera token, losses of cameras, depth
and points through VGGT's frozen heads against VGGT itself, cosine similarity of tokens, and a KL term that pulls
the posterior to that of the frozen video VAE for the same clip, weighted to a tenth of the reconstruction loss.
Latents are trained as they come; their mean and standard deviation are measured afterwards
(:meth:`GeometryAdapterStage.finish`) and stored in the exported configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gen3r_core.decoding import plausible_encoding
from gen3r_core.errors import InputError
from gen3r_core.geometry.cameras import decode_pose_encoding
from gen3r_core.geometry.rigid import homogeneous
from gen3r_core.metrics.cameras import area_under_curve, camera_errors
from gen3r_core.metrics.depth import depth_errors
from gen3r_core.models.geometry_adapter import GeometryAdapter
from gen3r_core.models.vggt.tokens import unpack_tokens
from gen3r_core.models.video_vae import sample_latents
from gen3r_core.training.augment import on_device
from gen3r_core.training.batch import ClipBatch
from gen3r_core.training.components import chosen_sizes, complete_state, trained_component
from gen3r_core.training.export import export_component
from gen3r_core.training.losses import adaptive_weight, camera_loss, cosine_distance, gaussian_kl, smooth_l1
from gen3r_core.training.options import check_range, read_options
from gen3r_core.training.teachers import ClipTokens, Teachers, adapter_posterior, mixed_precision
from gen3r_core.training.whole_clip import channels_last

__all__ = ["GeometryAdapterOptions", "GeometryAdapterStage", "from_config", "initialise"]

SMALLEST_STD = 1e-3
"""Of a latent channel, in the exported configuration: a channel that never moves is not blown up."""

_BRANCH_SCALE = 0.1
"""Of what ends a residual branch at the start: blocks begin close to the identity."""


@dataclass(frozen=True)
class GeometryAdapterOptions:
    """Keys of the stage's configuration.

    Attributes:
        size: row of :data:`gen3r_core.sizes.SIZES` that gives the sizes of an adapter from scratch.
        config: sizes that differ from it, or all of them
            (:class:`gen3r_core.models.geometry_adapter.GeometryAdapterConfig`); ``token_channels`` follows VGGT where
            left out.
        initial: folder to start from, in place of both.
        vggt: folder of the trained VGGT, or of a checkpoint that holds it.
        video_vae: folder of the trained video VAE, or of a checkpoint that holds it.
        seed: of first weights.
        token_weight: factor of the loss on patch tokens.
        token_beta: its smooth-L1's.
        camera_token_weight: factor of the loss on camera tokens.
        camera_token_beta: its smooth-L1's.
        camera_weight: factor of the loss on pose encodings.
        depth_weight: factor of the loss on depth.
        point_weight: factor of the loss on points.
        similarity_weight: factor of the cosine distance of tokens.
        alignment: pull the posterior to the video VAE's; otherwise to the standard normal (to compare).
        alignment_floor: least log variance of the video VAE's posterior in the KL term. A VAE trained with little
            regularisation is so sure of some latents that these alone would count, and leaves the decoder no
            tolerance for what a transformer gets slightly wrong.
        first_logvar: log variance of the posterior of an adapter from scratch; at 0 noise is larger than the latents.
        alignment_share: the KL term's share of the reconstruction loss.
        alignment_limit: largest factor of the KL term (a mean over elements), for when it comes close to 0.
        dense_frames: frames of a step that go through the dense heads, drawn anew in every step; None takes all.
            The heads cost more than all the rest.
        frames_per_chunk: frames that go through a dense head at a time.
        recompute: keep no activations of heads and adapter but compute them again for the gradient: a third more
            work, a fraction of the memory (full size).
        whole_clip: run the video VAE over whole clips; otherwise in chunks (less memory).
        frozen_dtype: of frozen weights, "float32" or "bfloat16".
        channels_last: lay out weights of the adapter and of VGGT's dense heads channels-last, for tensor cores.
        compile: compile the adapter with ``torch.compile``.

    Raises:
        InputError: a value is out of range.
    """

    size: str = ""
    config: dict[str, Any] | None = None
    initial: str | None = None
    vggt: str = ""
    video_vae: str = ""
    seed: int = 0
    token_weight: float = 1.0
    token_beta: float = 0.15
    camera_token_weight: float = 1.0
    camera_token_beta: float = 0.1
    camera_weight: float = 10.0
    depth_weight: float = 2.0
    point_weight: float = 1.0
    similarity_weight: float = 1.0
    alignment: bool = True
    alignment_floor: float = -30.0
    first_logvar: float = 0.0
    alignment_share: float = 0.1
    alignment_limit: float = 10.0
    dense_frames: int | None = None
    frames_per_chunk: int = 64
    recompute: bool = False
    whole_clip: bool = True
    frozen_dtype: str = "float32"
    channels_last: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        for name in ("dense_frames", "frames_per_chunk"):
            check_range(name, getattr(self, name), 1)
        weights = ("token", "camera_token", "camera", "depth", "point", "similarity")
        for name in (*(f"{weight}_weight" for weight in weights), "alignment_share", "alignment_limit"):
            check_range(name, getattr(self, name), 0)
        check_range("alignment_floor", self.alignment_floor, -30, 0)
        check_range("first_logvar", self.first_logvar, -30, 20)
        for name in ("token_beta", "camera_token_beta"):
            check_range(name, getattr(self, name), 1e-6)


class GeometryAdapterStage:
    """Trains :class:`gen3r_core.models.geometry_adapter.GeometryAdapter`.

    Args:
        module: the adapter, float32, on its device.
        teachers: frozen VGGT and video VAE there.
        options: see :class:`GeometryAdapterOptions`.

    Raises:
        InputError: the adapter's tokens are not VGGT's.
    """

    name = "geometry_adapter"

    def __init__(self, module: GeometryAdapter, teachers: Teachers, options: GeometryAdapterOptions) -> None:
        wanted = token_channels(teachers)
        if module.config.token_channels != wanted:
            raise InputError(
                f"geometry_adapter: 'token_channels' is {module.config.token_channels}, but this VGGT gives {wanted}"
            )
        self.module = module
        self.teachers = teachers
        self.options = options
        self._latents: dict[str, list[float]] = {}
        if options.channels_last:
            for part in (module, teachers.vggt.depth_head, teachers.vggt.point_head):
                channels_last(part)
        self._round_trip = torch.compile(self._encode_decode) if options.compile else self._encode_decode

    def loss(self, batch: ClipBatch, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of whole clips; see :class:`gen3r_core.training.stage.Stage`.

        Raises:
            InputError: the clips do not have 4k+1 frames, or do not suit the networks.
        """
        options = self.options
        target = self.teachers.tokens(batch.colors)
        video_mean, video_logvar = self.teachers.video_posterior(to_video(batch.colors))
        noise = torch.randn(video_mean.shape, generator=generator, device=batch.device)
        packed, mean, logvar = self._round_trip(target.packed, noise, target.grid)
        tokens, cameras, distance = self._token_losses(packed, target)
        camera, depth, points = self._head_losses(packed, target, batch.size, step)
        reconstruction = (
            options.token_weight * tokens
            + options.camera_token_weight * cameras
            + options.camera_weight * camera
            + options.depth_weight * depth
            + options.point_weight * points
        )
        if not options.alignment:
            video_mean, video_logvar = torch.zeros_like(video_mean), torch.zeros_like(video_logvar)
        divergence = gaussian_kl(mean, logvar, video_mean, video_logvar.clamp(min=options.alignment_floor))
        weight = adaptive_weight(reconstruction, divergence, options.alignment_share, options.alignment_limit)
        total = reconstruction + options.similarity_weight * distance + weight * divergence
        figures = {
            "tokens": tokens,
            "camera_tokens": cameras,
            "cosine_distance": distance,
            "camera": camera,
            "depth": depth,
            "points": points,
            "kl": divergence,
            "kl_weight": weight,
            "latent_mean": mean.mean(),
            "latent_std": mean.std(),
            "posterior_std": (0.5 * logvar).exp().mean(),
        }
        return total, {name: value.detach() for name, value in figures.items()}

    def _encode_decode(self, packed: Tensor, noise: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens of a draw from the posterior, and its mean and log variance; latents are not normalised."""
        adapter = self.module
        mean, logvar = self._run(lambda x: adapter_posterior(adapter, x), packed)
        z = sample_latents(mean, logvar, noise)
        return self._run(lambda x: adapter.decoder(adapter.post_quant_conv(x), grid), z), mean, logvar

    def _run(self, function: Callable[..., Any], *inputs: Any) -> Any:
        if self.options.recompute and torch.is_grad_enabled():
            return checkpoint(function, *inputs, use_reentrant=False)
        return function(*inputs)

    def _token_losses(self, packed: Tensor, target: ClipTokens) -> tuple[Tensor, Tensor, Tensor]:
        """Smooth-L1 of patch tokens and of camera tokens, and the cosine distance of both."""
        options, width = self.options, target.layers[0].shape[-1]
        patches, true_patches = packed[:, :-width], target.packed[:, :-width]
        camera = packed[:, -width:].float().mean(dim=(3, 4))
        true_camera = target.packed[:, -width:, :, 0, 0]
        distance = cosine_distance(patches, true_patches, dim=1) + cosine_distance(camera, true_camera, dim=1)
        tokens = smooth_l1(patches, true_patches, options.token_beta)
        return tokens, smooth_l1(camera, true_camera, options.camera_token_beta), distance

    def _head_losses(
        self, packed: Tensor, target: ClipTokens, size: tuple[int, int], step: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What VGGT's heads make of the tokens, against what they make of the true ones: L1 and distances."""
        vggt, at_once = self.teachers.vggt, self.options.frames_per_chunk
        layers = unpack_tokens(packed, vggt.special_tokens, num_layers=len(vggt.config.layers))
        with torch.no_grad():
            true_steps = vggt.predict_cameras(target.layers)
        camera = camera_loss(vggt.predict_cameras(layers), true_steps, kind="l1")
        some = self._dense_frames(step, layers[0])
        own_layers = [layer if some is None else layer[:, some] for layer in layers]
        true_layers = [layer if some is None else layer[:, some] for layer in target.layers]
        frames = own_layers[0].shape[1]
        depth = points = torch.zeros((), device=packed.device)
        for start in range(0, frames, at_once):
            own = [layer[:, start : start + at_once] for layer in own_layers]
            true = [layer[:, start : start + at_once] for layer in true_layers]
            with torch.no_grad():
                true_depth, _ = vggt.predict_depth(true, size, frames_per_chunk=at_once)
                true_points, _ = vggt.predict_points(true, size, frames_per_chunk=at_once)
            share = own[0].shape[1] / frames
            depth = depth + share * self._run(self._depth_distance, own, true_depth, size)
            points = points + share * self._run(self._point_distance, own, true_points, size)
        return camera, depth, points

    def _dense_frames(self, step: int, like: Tensor) -> Tensor | None:
        """Frames that go through the dense heads in a step, on the device of tokens; None for all."""
        frames, most = like.shape[1], self.options.dense_frames
        if most is None or most >= frames:
            return None
        places = np.random.default_rng([self.options.seed, step]).permutation(frames)[:most]
        return on_device(torch.from_numpy(places), like.device)

    def _depth_distance(self, layers: list[Tensor], truth: Tensor, size: tuple[int, int]) -> Tensor:
        depth, _ = self.teachers.vggt.predict_depth(layers, size, frames_per_chunk=self.options.frames_per_chunk)
        return (depth - truth).abs().mean()

    def _point_distance(self, layers: list[Tensor], truth: Tensor, size: tuple[int, int]) -> Tensor:
        points, _ = self.teachers.vggt.predict_points(layers, size, frames_per_chunk=self.options.frames_per_chunk)
        return (points - truth).square().sum(dim=-1).clamp(min=1e-12).sqrt().mean()

    @torch.no_grad()
    def validate(self, batch: ClipBatch) -> dict[str, float]:
        """Figures of the round trip through the posterior's mean.

        Returns:
            ``token_cosine``; ``absrel_vggt`` (depth against VGGT's own, one scale a clip); ``rotation_error``,
            ``translation_error`` and ``auc30`` of cameras against VGGT's own (degrees); ``latent_distance`` (mean
            distance to the video VAE's posterior mean); and, for clips with depth, ``absrel_before``,
            ``absrel_after`` (against the truth) and their ratio ``absrel_ratio``.

        Raises:
            InputError: the clips do not have 4k+1 frames, or do not suit the networks.
        """
        vggt, chunk = self.teachers.vggt, self.options.frames_per_chunk
        target = self.teachers.tokens(batch.colors)
        video_mean, _ = self.teachers.video_posterior(to_video(batch.colors))
        packed, mean, _ = self._encode_decode(target.packed, torch.zeros_like(video_mean), target.grid)
        layers = unpack_tokens(packed, vggt.special_tokens, num_layers=len(vggt.config.layers))
        own = vggt.decode(layers, batch.size, frames_per_chunk=chunk, points=False)
        true = vggt.decode(target.layers, batch.size, frames_per_chunk=chunk, points=False)
        poses = [
            homogeneous(decode_pose_encoding(plausible_encoding(prediction.pose_encoding), batch.size)[0])
            for prediction in (own, true)
        ]
        errors = camera_errors(*poses)
        everywhere = torch.ones_like(true.depth, dtype=torch.bool)
        patches = -target.layers[0].shape[-1]
        figures = {
            "token_cosine": 1 - cosine_distance(packed[:, :patches], target.packed[:, :patches], dim=1),
            "absrel_vggt": depth_errors(own.depth, true.depth, everywhere)[0].mean(),
            "rotation_error": errors.rotation.mean(),
            "translation_error": errors.translation.mean(),
            "auc30": area_under_curve(errors).mean(),
            "latent_distance": (mean - video_mean).abs().mean(),
        }
        if batch.depth is not None:
            known = batch.depth > 0
            before = depth_errors(true.depth, batch.depth, known)[0].mean()
            after = depth_errors(own.depth, batch.depth, known)[0].mean()
            figures |= {"absrel_before": before, "absrel_after": after, "absrel_ratio": after / before.clamp(min=1e-9)}
        return {name: float(value) for name, value in figures.items()}

    @torch.no_grad()
    def finish(self, batches: Iterable[ClipBatch]) -> None:
        """Measure mean and standard deviation of every latent channel (of the posterior's mean) over clips.

        Args:
            batches: training clips; see :class:`gen3r_core.training.stage.FinishingStage`.

        Raises:
            InputError: there is no clip.
        """
        sums: list[Tensor] = []
        for batch in batches:
            with mixed_precision(batch.device):
                mean, _ = adapter_posterior(self.module, self.teachers.tokens(batch.colors).packed)
            flat = mean.double().transpose(0, 1).flatten(1)
            count = torch.full_like(flat[:, 0], flat.shape[1])
            sums.append(torch.stack((count, flat.sum(dim=1), flat.square().sum(dim=1))))
        if not sums:
            raise InputError("the mean and deviation of the latents cannot be measured: there is no clip")
        count, total, squares = torch.stack(sums).sum(dim=0)
        mean = total / count
        std = (squares / count - mean.square()).clamp(min=0).sqrt().clamp(min=SMALLEST_STD)
        self._latents = {"latents_mean": mean.tolist(), "latents_std": std.tolist()}

    def export(self, folder: Path, state: Mapping[str, Tensor] | None = None) -> None:
        """Write the component folder ``geometry_adapter``, with what :meth:`finish` measured, if it did."""
        export_component(
            folder, "geometry_adapter", self.module, complete_state(self.module, state), changes=self._latents
        )


def to_video(colors: Tensor) -> Tensor:
    """``[B, F, 3, H, W]`` in [0, 1] to ``[B, 3, F, H, W]`` in [-1, 1], as the video VAE takes clips."""
    return (colors * 2 - 1).clamp(-1, 1).transpose(1, 2)


def token_channels(teachers: Teachers) -> int:
    """Channels of the packed tokens of a VGGT: of all kept blocks and of the camera token."""
    config = teachers.vggt.config
    return (len(config.layers) + 1) * 2 * config.embed_dim


@torch.no_grad()
def initialise(adapter: GeometryAdapter, generator: torch.Generator, first_logvar: float = 0.0) -> None:
    """First weights: normal with variance 1 / inputs, zero biases, blocks close to the identity.

    Time convolutions begin as the identity on the newest frame. torch's default attenuates from layer to layer,
    and costs the video VAE, which is built of the same blocks, several decibels.

    Args:
        adapter: the network, changed in place.
        generator: on the CPU, so that a seed means the same weights on every device.
        first_logvar: log variance of the posterior, the same everywhere but for the small output of the encoder.
    """
    for name, layer in adapter.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Conv3d):
            scale = _BRANCH_SCALE if name.endswith((".conv2", ".proj")) else 1.0
            inputs = layer.weight[0].numel()
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * (scale / inputs**0.5))
            if layer.bias is not None:
                layer.bias.zero_()
            if name.endswith("time_conv"):
                layer.weight.zero_()
                newest = torch.eye(layer.in_channels).repeat(layer.out_channels // layer.in_channels, 1)
                layer.weight[:, :, -1, 0, 0] = newest.to(layer.weight)
    cast(Tensor, adapter.quant_conv.bias).chunk(2)[1].fill_(first_logvar)


def from_config(values: Mapping[str, Any], device: torch.device | str) -> GeometryAdapterStage:
    """The stage from the values of a configuration file.

    Args:
        values: keys as :class:`GeometryAdapterOptions` has them.
        device: where the networks go.

    Raises:
        InputError: a key is unknown or a value cannot be used.
        CheckpointError: sizes or weights cannot be used.
    """
    options = read_options(GeometryAdapterOptions, values, "geometry_adapter")
    for name in ("vggt", "video_vae"):
        if not getattr(options, name):
            raise InputError(f"geometry_adapter: option {name!r} is missing: name the folder of the trained {name}")
    teachers = Teachers.load(
        options.vggt, options.video_vae, device, options.frozen_dtype, whole_clip=options.whole_clip
    )
    config = chosen_sizes("geometry_adapter", options.size, options.config, options.initial)
    if config is not None:
        channels = int(teachers.video_vae.config.z_dim)
        identity = {"latents_mean": [0.0] * channels, "latents_std": [1.0] * channels, "latent_channels": channels}
        config = {"token_channels": token_channels(teachers)} | identity | config
    module, fresh = trained_component("geometry_adapter", config, options.initial, device, seed=options.seed)
    adapter = cast(GeometryAdapter, module)
    if fresh:
        initialise(adapter, torch.Generator().manual_seed(options.seed), options.first_logvar)
    return GeometryAdapterStage(adapter, teachers, options)
