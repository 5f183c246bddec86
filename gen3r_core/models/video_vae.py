"""The video VAE: diffusers' ``AutoencoderKLWan`` with Gen3R's way of normalising latents.

The posterior's mean is normalised with the per-channel constants, its log variance is not
(as the published model was trained); latents are drawn as ``mean + exp(logvar / 2) * noise``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from gen3r_core.errors import CheckpointError, InputError

PUBLISHED_KEYS = {"dim": "base_dim", "z_dim": "z_dim", "latent_channels": "z_dim"}
"""Names in the published config (and of the inner network's arguments) and in diffusers."""

_SAME_NAME = ("dim_mult", "num_res_blocks", "attn_scales", "temperal_downsample")


def config_from_published(values: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of ``AutoencoderKLWan`` from the published ``config.json``.

    That file does not state the network's width (96, fixed in upstream's code); the inner
    network's arguments (``dim``, ``dim_mult``, ...) are honoured where they are given.

    Raises:
        CheckpointError: the compression is not 4 in time and 8 in space.
    """
    ratios = (values.get("temporal_compression_ratio", 4), values.get("spacial_compression_ratio", 8))
    if ratios != (4, 8):
        raise CheckpointError(f"video VAE: compression ratios {ratios} are not the supported (4, 8)")
    config = {ours: values[theirs] for theirs, ours in PUBLISHED_KEYS.items() if theirs in values}
    return config | {key: values[key] for key in _SAME_NAME if key in values}


def _constants(vae: AutoencoderKLWan, like: Tensor) -> tuple[Tensor, Tensor]:
    shape = (1, -1, 1, 1, 1)
    mean = torch.tensor(vae.config.latents_mean, dtype=torch.float32, device=like.device).view(shape)
    std = torch.tensor(vae.config.latents_std, dtype=torch.float32, device=like.device).view(shape)
    return mean, std


def encode_video(vae: AutoencoderKLWan, video: Tensor) -> tuple[Tensor, Tensor]:
    """Posterior of a clip's latents.

    Args:
        vae: the video VAE.
        video: ``[B, 3, F, H, W]`` in [-1, 1]; F = 4k+1.

    Returns:
        normalised mean and log variance (clamped to [-30, 20]), each
        ``[B, latent channels, 1+(F-1)/4, H/8, W/8]`` float32.

    Raises:
        InputError: the frame count is not 4k+1 (the network would silently drop frames) or the
            size is not a multiple of the network's (8 at full size).
    """
    frames, height, width = video.shape[2:]
    if frames % 4 != 1:
        raise InputError(f"the video VAE takes 4k+1 frames, got {frames}")
    cell = 2 ** (len(vae.config.dim_mult) - 1) * (vae.config.patch_size or 1)
    if height % cell or width % cell:
        raise InputError(f"the video VAE takes sizes in multiples of {cell} pixels, got {height}x{width}")
    posterior = vae.encode(video.to(vae.dtype)).latent_dist
    mean, std = _constants(vae, video)
    return (posterior.mean.float() - mean) / std, posterior.logvar.float()


def sample_latents(mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    """Draw latents from the posterior; ``noise`` is standard normal of the same shape."""
    return mean + torch.exp(0.5 * logvar) * noise


def decode_video(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Frames of normalised latents.

    Args:
        vae: the video VAE.
        latents: ``[B, latent channels, f, h, w]``.

    Returns:
        ``[B, 3, 1+4(f-1), 8h, 8w]`` in [-1, 1], float32.
    """
    mean, std = _constants(vae, latents)
    video: Tensor = vae.decode((latents.float() * std + mean).to(vae.dtype)).sample
    return video.float()
