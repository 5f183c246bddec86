"""How close depth is, after one scale a clip."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["depth_errors", "median_scale"]


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
