"""From VGGT's predictions to a scene: cameras made plausible, depth unprojected on the device."""

from __future__ import annotations

import math

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from gen3r_core.execution.placement import Placement
from gen3r_core.geometry.cameras import decode_pose_encoding
from gen3r_core.geometry.rigid import homogeneous
from gen3r_core.geometry.unprojection import depth_mask, unproject_depth
from gen3r_core.models.geometry_adapter import GeometryAdapter
from gen3r_core.models.vggt import VGGT, VGGTPrediction
from gen3r_core.models.vggt.tokens import unpack_tokens
from gen3r_core.models.video_vae import decode_video
from gen3r_core.scene import Scene

SMALLEST_FOV = 1e-3
"""Radians; predicted fields of view are kept this far from 0 and from a half turn."""


def plausible_encoding(encoding: Tensor) -> Tensor:
    """Pose encoding whose fields of view give finite, positive focal lengths (the head may say 0).

    Args:
        encoding: ``[..., 9]`` translation, quaternion xyzw, vertical and horizontal field of view in radians.

    Returns:
        ``[..., 9]``, dtype and device of the input.
    """
    fov = encoding[..., 7:].clamp(SMALLEST_FOV, math.pi - SMALLEST_FOV)
    return torch.cat((encoding[..., :7], fov), dim=-1)


def decode_geometry(
    placement: Placement, adapter: GeometryAdapter, vggt: VGGT, latents: Tensor, size: tuple[int, int]
) -> VGGTPrediction:
    """Cameras, depth and points from the geometry half of one clip's latents.

    Args:
        placement: of both networks.
        adapter: from latents to tokens.
        vggt: whose heads read the tokens.
        latents: ``[1, C, f, h, w]`` float32.
        size: ``(height, width)`` in pixels.
    """
    with placement.using(geometry_adapter=adapter):
        tokens = adapter.decode(latents)
    layers = unpack_tokens(tokens, vggt.special_tokens, num_layers=len(vggt.config.layers))
    del tokens
    with placement.using(vggt=vggt):
        return vggt.decode(layers, size, frames_per_chunk=placement.level.frames_per_chunk)


def decode_colors(placement: Placement, video_vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """``[F, H, W, 3]`` float32 RGB in [0, 1] from the appearance half ``[1, C, f, h, w]`` of one clip's latents."""
    with placement.using(video_vae=video_vae):
        video = decode_video(video_vae, latents)[0]
    return (video / 2 + 0.5).clamp(0, 1).permute(1, 2, 3, 0)


def predict_geometry(placement: Placement, vggt: VGGT, images: Tensor) -> VGGTPrediction:
    """Cameras, depth and points of the images ``[N, 3, H, W]`` themselves."""
    with placement.using(vggt=vggt):
        prediction: VGGTPrediction = vggt(images[None], frames_per_chunk=placement.level.frames_per_chunk)
    return prediction


def assemble_scene(
    prediction: VGGTPrediction,
    colors: Tensor,
    observed: Tensor,
    *,
    limit_depth: bool,
    metres_per_unit: float | None = None,
) -> Scene:
    """The first clip of a prediction as a scene, in float32 on its device.

    Args:
        prediction: of VGGT's heads; clip 0 is taken.
        colors: ``[F, H, W, 3]`` float32 RGB in [0, 1].
        observed: ``[F]`` bool, the frames that were given as images.
        limit_depth: see :func:`gen3r_core.geometry.unprojection.depth_mask`.
        metres_per_unit: metres in one scene unit, None when unknown.
    """
    size = (int(colors.shape[1]), int(colors.shape[2]))
    poses, intrinsics = decode_pose_encoding(plausible_encoding(prediction.pose_encoding[0]), size)
    depth = prediction.depth[0]
    return Scene(
        colors=colors,
        depth=depth,
        depth_confidence=prediction.depth_confidence[0],
        points=unproject_depth(depth, poses, intrinsics),
        point_map=prediction.points[0],
        point_map_confidence=prediction.points_confidence[0],
        valid=depth_mask(depth, limit_range=limit_depth),
        intrinsics=intrinsics,
        T_cam_world=homogeneous(poses),
        observed=observed,
        metres_per_unit=metres_per_unit,
    )
