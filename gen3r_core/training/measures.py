"""Figures that tell how good a part is: depth after alignment, cameras, points, images.

For validation while training. Everything is batched; the callers turn results into numbers.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from gen3r_core.geometry.rigid import invert_rigid
from gen3r_core.training.scene_units import compose

__all__ = ["CameraErrors", "area_under_curve", "camera_errors", "depth_errors", "median_scale", "points_error", "psnr"]


def median_scale(prediction: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """The factor that brings predicted depths of a clip to the true ones: median of ``truth / prediction``.

    Args:
        prediction: ``[B, ...]`` positive.
        truth: The same shape.
        mask: The same shape, bool; pixels that count.

    Returns:
        ``[B]``; NaN where no pixel counts.
    """
    ratio = torch.where(mask & (prediction > 0), truth / prediction, torch.full_like(truth, math.nan))
    return ratio.flatten(1).nanmedian(dim=1).values


def depth_errors(prediction: Tensor, truth: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean relative error, and share of pixels within a factor of 1.25, after :func:`median_scale` per clip.

    Args:
        prediction: ``[B, S, H, W]`` positive, any scale.
        truth: The same shape.
        mask: The same shape, bool; pixels that count.

    Returns:
        AbsRel and delta<1.25, each ``[B]``.
    """
    aligned = prediction * median_scale(prediction, truth, mask)[:, None, None, None]
    safe = torch.where(mask, truth, torch.ones_like(truth))
    count = mask.flatten(1).sum(dim=1).clamp(min=1)
    relative = ((aligned - safe).abs() / safe * mask).flatten(1).sum(dim=1) / count
    ratio = torch.maximum(aligned / safe, safe / aligned.clamp(min=1e-9))
    within = ((ratio < 1.25) & mask).flatten(1).sum(dim=1) / count
    return relative, within


class CameraErrors(NamedTuple):
    """Errors of relative poses between all pairs of views, degrees.

    Attributes:
        rotation: ``[B, pairs]`` angle of the rotation between predicted and true relative rotation.
        translation: ``[B, pairs]`` angle between the directions of the relative translations; 0 where the true
            cameras stand at one place.
    """

    rotation: Tensor
    translation: Tensor


def camera_errors(prediction: Tensor, truth: Tensor, *, least_baseline: float = 1e-4) -> CameraErrors:
    """Compare camera paths pair by pair, so that no alignment is needed.

    Args:
        prediction: ``T_cam_world`` ``[B, S, 4, 4]`` rigid, any scale and world frame.
        truth: The same shape.
        least_baseline: True distance below which a direction means nothing, in the truth's unit.

    Returns:
        Errors of the ``S (S - 1) / 2`` pairs.
    """
    views = truth.shape[1]
    first, second = torch.triu_indices(views, views, offset=1, device=truth.device)
    relative = [compose(T[:, second], invert_rigid(T[:, first])) for T in (prediction.double(), truth.double())]
    difference = (relative[0][..., :3, :3] * relative[1][..., :3, :3]).sum(dim=(-1, -2))  # trace of A^T B
    rotation = torch.rad2deg(torch.acos(((difference - 1) / 2).clamp(-1, 1)))
    moved, true = relative[0][..., :3, 3], relative[1][..., :3, 3]
    cross, dot = torch.linalg.cross(moved, true).norm(dim=-1), (moved * true).sum(dim=-1)
    direction = torch.rad2deg(torch.atan2(cross, dot))
    direction = torch.where(true.norm(dim=-1) > least_baseline, direction, torch.zeros_like(direction))
    return CameraErrors(rotation.float(), direction.float())


def area_under_curve(errors: CameraErrors, threshold: int = 30) -> Tensor:
    """Area under the curve of accuracy over thresholds of 1 to ``threshold`` degrees (as VGGT and Gen3R report it).

    A pair counts as right when both its rotation and its translation direction are off by less.

    Returns:
        ``[B]`` in [0, 1].
    """
    worst = torch.maximum(errors.rotation, errors.translation)
    steps = torch.arange(1, threshold + 1, device=worst.device)
    return (worst[..., None] < steps).float().mean(dim=(1, 2))


def points_error(prediction: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """Mean distance of points over the mean length of the true ones, after one scale a clip.

    The scale is the ratio of median distances from the origin.

    Args:
        prediction: ``[B, S, H, W, 3]`` in the frame of the first camera.
        truth: The same shape.
        mask: ``[B, S, H, W]`` bool.

    Returns:
        ``[B]``.
    """
    scale = median_scale(prediction.norm(dim=-1), truth.norm(dim=-1), mask)
    distance = (prediction * scale[:, None, None, None, None] - truth).norm(dim=-1)
    total = (truth.norm(dim=-1) * mask).flatten(1).sum(dim=1).clamp(min=1e-9)
    error: Tensor = (distance * mask).flatten(1).sum(dim=1) / total
    return error


def psnr(prediction: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in decibels of images in [0, 1]: ``-10 log10(mean squared error)``; at most 100.

    Args:
        prediction: ``[...]``.
        truth: The same shape.
    """
    error = (prediction.float() - truth.float()).square().mean().clamp(min=1e-10)
    return -10 * torch.log10(error)
