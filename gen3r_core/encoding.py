"""From images to what the transformer is conditioned on, by the networks that do it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from gen3r_core.conditioning import Task, control_latents, control_video
from gen3r_core.execution.placement import Placement
from gen3r_core.models.image_encoder import ImageEncoder, quantize_like_upstream
from gen3r_core.models.video_vae import encode_video, sample_latents


def encode_first_images(placement: Placement, encoder: ImageEncoder, images: Tensor) -> Tensor:
    """Tokens ``[B, N, image_dim]`` of the first of each job's images ``[B, n, 3, H, W]`` in [0, 1]."""
    with placement.using(image_encoder=encoder):
        tokens: Tensor = encoder(quantize_like_upstream(images[:, 0]))
    return tokens


def encode_known_frames(
    placement: Placement,
    video_vae: AutoencoderKLWan,
    images: Tensor,
    task: Task,
    num_frames: int,
    noise: Sequence[Tensor],
) -> Tensor:
    """Control latents of known frames.

    Args:
        placement: of the VAE.
        video_vae: encodes the clip in which unknown frames are black.
        images: ``[B, n, 3, H, W]`` in [0, 1].
        task: where the images belong.
        num_frames: F.
        noise: standard normal ``[16, f, h, w]`` for each job's draw from the posterior.

    Returns:
        ``[B, 20, f, h, 2w]`` float32.
    """
    latents = []
    with placement.using(video_vae=video_vae):
        for clip, draw in zip(control_video(images, task, num_frames), noise, strict=True):
            # One by one: encoding a clip fills the memory.
            mean, logvar = encode_video(video_vae, clip[None])
            latents.append(sample_latents(mean, logvar, draw.to(mean.device)[None]))
    return control_latents(torch.cat(latents), task, num_frames)
