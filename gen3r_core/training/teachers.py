"""Frozen networks that training stages look up to: VGGT's tokens and the video VAE's posterior of a clip.

Both give what the pipeline's own calls give; the constants of normalisation lie on the device, so that no
step waits for a copy from the host.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from gen3r_core.errors import InputError
from gen3r_core.models.geometry_adapter import GeometryAdapter
from gen3r_core.models.vggt import VGGT
from gen3r_core.models.vggt.dinov2 import patch_grid
from gen3r_core.models.vggt.tokens import pack_tokens
from gen3r_core.training.components import load_frozen
from gen3r_core.training.whole_clip import encode_clip

__all__ = ["ClipTokens", "Teachers", "adapter_posterior", "channel_constants", "mixed_precision", "parse_dtype"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class ClipTokens:
    """VGGT's tokens of B clips of F frames.

    Attributes:
        layers: ``[B, F, special + h * w, 2C]`` for each kept block.
        packed: ``[B, (n + 1) * 2C, F, h, w]``, as the geometry adapter takes them.
        grid: ``(h, w)``.
    """

    layers: Sequence[Tensor]
    packed: Tensor
    grid: tuple[int, int]


class Teachers:
    """VGGT and the video VAE, frozen.

    Args:
        vggt: in evaluation mode, without gradients.
        video_vae: the same.
        whole_clip: encode clips in one pass (fast); otherwise chunk by chunk as the pipeline does (less memory).
    """

    def __init__(self, vggt: VGGT, video_vae: AutoencoderKLWan, *, whole_clip: bool = True) -> None:
        self.vggt = vggt
        self.video_vae = video_vae
        self.whole_clip = whole_clip
        device = video_vae.quant_conv.weight.device
        config = video_vae.config
        self._mean, self._std = channel_constants(config.latents_mean, config.latents_std, device)

    @classmethod
    def load(
        cls, vggt: Path | str, video_vae: Path | str, device: torch.device | str, dtype: str, *, whole_clip: bool = True
    ) -> Teachers:
        """Both from component or checkpoint folders.

        Raises:
            InputError: the dtype is unknown.
            CheckpointError: the files cannot be used.
        """
        kind = parse_dtype(dtype)
        return cls(
            cast(VGGT, load_frozen("vggt", vggt, device, kind)),
            load_frozen("video_vae", video_vae, device, kind),
            whole_clip=whole_clip,
        )

    @torch.no_grad()
    def tokens(self, colors: Tensor) -> ClipTokens:
        """VGGT's tokens of clips ``[B, F, 3, H, W]`` in [0, 1]."""
        grid = patch_grid((colors.shape[-2], colors.shape[-1]), self.vggt.patch_size)
        layers = self.vggt.aggregate(colors)
        return ClipTokens(layers, pack_tokens(layers, grid), grid)

    @torch.no_grad()
    def video_posterior(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior of latents: as :func:`gen3r_core.models.video_vae.encode_video`.

        Args:
            video: ``[B, 3, F, H, W]`` in [-1, 1], F = 4k+1.

        Returns:
            mean (normalised) and log variance (not), ``[B, 16, f, H/8, W/8]`` float32.

        Raises:
            InputError: the frame count is not 4k+1.
        """
        if video.shape[2] % 4 != 1:
            raise InputError(f"clips must have 4k+1 frames (1, 5, 9, ...), got {video.shape[2]}")
        video = video.to(self.video_vae.quant_conv.weight.dtype)
        if self.whole_clip:
            mean, logvar = encode_clip(self.video_vae, video)
        else:
            posterior = self.video_vae.encode(video).latent_dist
            mean, logvar = posterior.mean, posterior.logvar
        return (mean.float() - self._mean) / self._std, logvar.float()


def adapter_posterior(adapter: GeometryAdapter, packed: Tensor) -> tuple[Tensor, Tensor]:
    """Posterior of the adapter's latents, not normalised, with gradients.

    Args:
        adapter: the network.
        packed: ``[B, token_channels, F, h, w]``, F = 4k+1.

    Returns:
        mean and log variance (clamped to [-30, 20]), ``[B, 16, f, 7h/4, 7w/4]`` float32.

    Raises:
        InputError: the frame count is not 4k+1.
    """
    if packed.shape[2] % 4 != 1:
        raise InputError(f"clips must have 4k+1 frames (1, 5, 9, ...), got {packed.shape[2]}")
    hidden = adapter.quant_conv(adapter.encoder(packed.to(adapter.quant_conv.weight.dtype)))
    mean, logvar = hidden.float().chunk(2, dim=1)
    return mean, logvar.clamp(-30.0, 20.0)


def channel_constants(mean: Sequence[float], std: Sequence[float], device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Normalisation constants as ``[1, C, 1, 1, 1]`` float32 tensors on a device."""
    return (
        torch.tensor(mean, dtype=torch.float32, device=device).view(1, -1, 1, 1, 1),
        torch.tensor(std, dtype=torch.float32, device=device).view(1, -1, 1, 1, 1),
    )


def parse_dtype(name: str) -> torch.dtype:
    """The dtype of frozen weights.

    Raises:
        InputError: it is neither "float32" nor "bfloat16".
    """
    if name not in _DTYPES:
        raise InputError(f"option 'frozen_dtype' is {name!r}; choose one of: {', '.join(_DTYPES)}")
    return _DTYPES[name]


@contextmanager
def mixed_precision(device: torch.device | str) -> Iterator[None]:
    """bf16 autocast on a GPU, nothing on a CPU: for what runs outside of the trainer's own."""
    kind = torch.device(device).type
    with torch.autocast(kind, torch.bfloat16) if kind == "cuda" else nullcontext():
        yield
