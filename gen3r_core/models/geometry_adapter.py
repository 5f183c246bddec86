"""The geometry adapter: a causal video autoencoder between VGGT's tokens and the latent space.

Tokens of the chosen VGGT layers, 40x40 a frame at 560 pixels, become 70x70 latents with the
video VAE's compression (4 in time, 8 in space of the image), and back (Gen3R, arXiv 2601.04090).
Residual blocks, mid block and norms are diffusers' Wan VAE parts. The whole clip goes through in
one pass: a causal convolution with zeros in front equals the reference's chunk after chunk with
cached frames, given the rules for the time-resampling layers stated at each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    WanCausalConv3d,
    WanMidBlock,
    WanResidualBlock,
    WanRMS_norm,
)
from torch import Tensor, nn

from gen3r_core.errors import CheckpointError, InputError
from gen3r_core.models.config import from_values

LATENTS_MEAN = (
    0.14257538, 0.18577661, 0.14208488, 0.06298031, 0.09738383, -0.06001362, -0.04728968, -0.12326089,
    -0.04308648, -0.10522724, 0.08278389, -0.00270301, -0.09203526, 0.03170688, 0.11458898, 0.10679868,
)  # fmt: skip
"""Per-channel mean of the published adapter's latents (a constant of its code, for 49 frames)."""

LATENTS_STD = (
    0.56929547, 0.61451489, 0.68560797, 0.78598368, 0.51151282, 0.75570852, 0.80284864, 0.63438177,
    0.82458758, 0.59266430, 0.75781488, 0.70593017, 0.70382243, 0.57837099, 0.73155540, 0.71971470,
)  # fmt: skip
"""Per-channel standard deviation of the published adapter's latents."""


TOKENS_TO_LATENTS = 14 / 8
"""Latent cells (8 pixels) along the side of a VGGT patch (14 pixels)."""


@dataclass(frozen=True)
class GeometryAdapterConfig:
    """Sizes of the adapter.

    Attributes:
        token_channels: channels of the packed token map (all chosen layers plus the camera token).
        latent_channels: channels of the latents.
        hidden_dim: base width.
        resample_scale: how much narrower than the token map the full-resolution features are.
        dim_mult: width multipliers from the token side to the latent side.
        num_res_blocks: residual blocks a level in the encoder (one more in the decoder).
        temporal_downsample: for each transition between levels, whether it halves time.
        latents_mean, latents_std: ``latent_channels`` normalisation constants.
    """

    token_channels: int = 10240
    latent_channels: int = 16
    hidden_dim: int = 128
    resample_scale: int = 10
    dim_mult: tuple[int, ...] = (4, 2, 1, 1)
    num_res_blocks: int = 2
    temporal_downsample: tuple[bool, ...] = (False, True, True)
    latents_mean: tuple[float, ...] = LATENTS_MEAN
    latents_std: tuple[float, ...] = LATENTS_STD

    def __post_init__(self) -> None:
        if len(self.temporal_downsample) != len(self.dim_mult) - 1:
            raise CheckpointError("geometry adapter: temporal_downsample must have one entry less than dim_mult")
        if not len(self.latents_mean) == len(self.latents_std) == self.latent_channels:
            raise CheckpointError(
                f"geometry adapter: latents_mean and latents_std must have latent_channels = "
                f"{self.latent_channels} values"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GeometryAdapterConfig:
        """Build from our own ``config.json``.

        Raises:
            CheckpointError: a key is unknown.
        """
        return from_values(cls, values, "geometry adapter")

    @classmethod
    def from_published(cls, values: Mapping[str, Any]) -> GeometryAdapterConfig:
        """Build from the published ``config.json`` (its file omits nothing; training sizes are the defaults).

        Raises:
            CheckpointError: input and output widths differ, or compressions are not 4 and 8.
        """
        width = values.get("input_dim", 10240)
        if values.get("output_dim", width) != width:
            raise CheckpointError(
                f"geometry adapter: input_dim {width} and output_dim {values['output_dim']} differ; "
                f"only an adapter back to the same tokens is supported"
            )
        ratios = (values.get("temporal_compression_ratio", 4), values.get("spatial_compression_ratio", 8))
        if ratios != (4, 8):
            raise CheckpointError(f"geometry adapter: compression ratios {ratios} are not the supported (4, 8)")
        return cls(
            token_channels=width,
            latent_channels=values.get("latent_channels", 16),
            hidden_dim=values.get("hidden_dim", 128),
            resample_scale=values.get("resample_scale", 10),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for ``config.json``."""
        return asdict(self)


def _per_frame(layer: nn.Module, x: Tensor) -> Tensor:
    """Apply a 2-D layer to every frame of ``[B, C, T, H, W]``."""
    batch = x.shape[0]
    out: Tensor = layer(x.transpose(1, 2).flatten(0, 1))
    frames: Tensor = out.unflatten(0, (batch, -1))
    return frames.transpose(1, 2)


class _Transition(nn.Module):
    """Between two levels: a convolution per frame, and halving or doubling of time."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_dim, out_dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return _per_frame(self.conv, x)


class TimeDown(_Transition):
    """Encoder transition. Time: frame 0 passes as it is; the others come from an unpadded stride-2 convolution."""

    def __init__(self, dim: int, *, temporal: bool) -> None:
        super().__init__(dim, dim)
        self.time_conv = WanCausalConv3d(dim, dim, (3, 1, 1), stride=(2, 1, 1)) if temporal else None

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, C, T, H, W]`` to half the frames, but for the first."""
        x = super().forward(x)
        if self.time_conv is None or x.shape[2] == 1:
            return x
        return torch.cat((x[:, :, :1], self.time_conv(x)), dim=2)


class TimeUp(_Transition):
    """Decoder transition. Time: frame 0 passes; each later one becomes two, filtered as if frame 0 did not exist."""

    def __init__(self, dim: int, *, temporal: bool) -> None:
        super().__init__(dim, dim // 2)
        self.time_conv = WanCausalConv3d(dim, dim * 2, (3, 1, 1), padding=(1, 0, 0)) if temporal else None

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, C, T, H, W]`` to twice the frames, but for the first."""
        if self.time_conv is not None and x.shape[2] > 1:
            pairs = self.time_conv(x[:, :, 1:]).unflatten(1, (2, -1))
            x = torch.cat((x[:, :, :1], pairs.permute(0, 2, 3, 1, 4, 5).flatten(2, 3)), dim=2)
        return super().forward(x)


class _Encoder(nn.Module):
    def __init__(self, config: GeometryAdapterConfig) -> None:
        super().__init__()
        dims = [config.hidden_dim * m for m in (config.dim_mult[0], *config.dim_mult)]
        narrow = config.token_channels // config.resample_scale
        self.reduce = nn.Conv2d(config.token_channels, narrow, 3, padding=1)
        self.conv_in = WanCausalConv3d(narrow, dims[0], 3, padding=1)
        layers: list[nn.Module] = []
        for level, (in_dim, out_dim) in enumerate(pairwise(dims)):
            layers += [WanResidualBlock(in_dim if i == 0 else out_dim, out_dim) for i in range(config.num_res_blocks)]
            if level < len(config.temporal_downsample):
                layers.append(TimeDown(out_dim, temporal=config.temporal_downsample[level]))
        self.levels = nn.Sequential(*layers)
        self.mid_block = WanMidBlock(dims[-1])
        self.norm_out = WanRMS_norm(dims[-1], images=False)
        self.conv_out = WanCausalConv3d(dims[-1], 2 * config.latent_channels, 3, padding=1)

    def from_tokens(self, tokens: Tensor) -> Tensor:
        """Features at the latents' size, what ``conv_in`` takes."""
        x = tokens.transpose(1, 2).flatten(0, 1)
        x = F.interpolate(x, scale_factor=(TOKENS_TO_LATENTS, TOKENS_TO_LATENTS), mode="nearest-exact")
        features: Tensor = self.reduce(x).unflatten(0, (tokens.shape[0], -1))
        return features.transpose(1, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.mid_block(self.levels(self.conv_in(self.from_tokens(tokens))))
        out: Tensor = self.conv_out(F.silu(self.norm_out(x)))
        return out


class _Decoder(nn.Module):
    def __init__(self, config: GeometryAdapterConfig) -> None:
        super().__init__()
        mult = config.dim_mult[::-1]
        dims = [config.hidden_dim * m for m in (mult[0], *mult)]
        temporal = config.temporal_downsample[::-1]
        narrow = config.token_channels // config.resample_scale
        self.conv_in = WanCausalConv3d(config.latent_channels, dims[0], 3, padding=1)
        self.mid_block = WanMidBlock(dims[0])
        layers: list[nn.Module] = []
        for level, (previous, out_dim) in enumerate(pairwise(dims)):
            in_dim = previous if level == 0 else previous // 2
            layers += [
                WanResidualBlock(in_dim if i == 0 else out_dim, out_dim) for i in range(config.num_res_blocks + 1)
            ]
            if level < len(temporal):
                layers.append(TimeUp(out_dim, temporal=temporal[level]))
        self.levels = nn.Sequential(*layers)
        self.norm_out = WanRMS_norm(dims[-1], images=False)
        self.conv_out = WanCausalConv3d(dims[-1], narrow, 3, padding=1)
        self.expand = nn.Conv2d(narrow, config.token_channels, 3, stride=2)

    def forward(self, z: Tensor, grid: tuple[int, int]) -> Tensor:
        x = self.levels(self.mid_block(self.conv_in(z)))
        return self.to_tokens(self.conv_out(F.silu(self.norm_out(x))), grid)

    def to_tokens(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """The token map of what ``conv_out`` gives."""
        batch = x.shape[0]
        x = x.transpose(1, 2).flatten(0, 1)
        # Twice the token grid, one row and column of zeros after it, then a stride-2 convolution.
        x = F.interpolate(x, size=(2 * grid[0], 2 * grid[1]), mode="nearest-exact")
        tokens: Tensor = self.expand(F.pad(x, (0, 1, 0, 1))).unflatten(0, (batch, -1))
        return tokens.transpose(1, 2)


class GeometryAdapter(nn.Module):
    """Encode packed VGGT tokens to a latent posterior and decode latents to tokens."""

    def __init__(self, config: GeometryAdapterConfig | None = None) -> None:
        super().__init__()
        self.config = config or GeometryAdapterConfig()
        width = self.config.latent_channels
        self.encoder = _Encoder(self.config)
        self.quant_conv = WanCausalConv3d(2 * width, 2 * width, 1)
        self.post_quant_conv = WanCausalConv3d(width, width, 1)
        self.decoder = _Decoder(self.config)

    def _constants(self, like: Tensor) -> tuple[Tensor, Tensor]:
        shape = (1, -1, 1, 1, 1)
        mean = torch.tensor(self.config.latents_mean, dtype=like.dtype, device=like.device).view(shape)
        std = torch.tensor(self.config.latents_std, dtype=like.dtype, device=like.device).view(shape)
        return mean, std

    def encode(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior of the latents.

        Args:
            tokens: ``[B, token_channels, F, h, w]`` packed token map, F = 4k+1.

        Returns:
            mean (normalised per channel) and log variance (clamped to [-30, 20], not normalised),
            each ``[B, latent_channels, 1+(F-1)/4, 7h/4, 7w/4]`` float32, sizes rounded down.

        Raises:
            InputError: the frame count is not 4k+1.
        """
        frames = tokens.shape[2]
        if frames % 4 != 1:
            raise InputError(f"the geometry adapter takes 4k+1 frames, got {frames}")
        hidden = self.encoder(tokens.to(self.quant_conv.weight.dtype))
        mean, logvar = self.quant_conv(hidden).float().chunk(2, dim=1)
        shift, scale = self._constants(mean)
        return (mean - shift) / scale, logvar.clamp(-30.0, 20.0)

    def decode(self, latents: Tensor, grid: Sequence[int] | None = None) -> Tensor:
        """Token map of normalised latents.

        Args:
            latents: ``[B, latent_channels, f, h, w]``.
            grid: token grid ``(rows, columns)`` of the result; 4/7 of the latent grid by default
                (the published model always returns 40x40, its grid at 560 pixels).

        Returns:
            ``[B, token_channels, 1+4(f-1), rows, columns]`` in the weights' dtype.

        Raises:
            InputError: no grid is given and the latent grid is not a multiple of 7.
        """
        height, width = latents.shape[3:]
        if grid is None:
            if height % 7 or width % 7:
                raise InputError(
                    f"latents of {height}x{width} do not correspond to a whole token grid (multiples of 7 needed, "
                    f"images of multiples of 56 pixels)"
                )
            grid = (height * 4 // 7, width * 4 // 7)
        shift, scale = self._constants(latents.float())
        z = (latents.float() * scale + shift).to(self.post_quant_conv.weight.dtype)
        tokens: Tensor = self.decoder(self.post_quant_conv(z), (int(grid[0]), int(grid[1])))
        return tokens
