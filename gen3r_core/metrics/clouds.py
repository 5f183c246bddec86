"""Points against the true ones, pixel by pixel; :mod:`gen3r_core.metrics.cloud_distances` compares clouds."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gen3r_core.geometry.alignment import align_similarity
from gen3r_core.metrics.cloud_distances import Cloud
from gen3r_core.metrics.depth import median_scale

__all__ = ["aligned_points", "points_error"]


def aligned_points(prediction: Tensor, truth: Tensor, mask: Tensor) -> tuple[Cloud, Cloud]:
    """Predicted points moved onto the true ones by a similarity, and the true ones, both on the host.

    All pixels with a true point count; a predicted point belongs to the true one of its pixel. The similarity is
    :func:`~gen3r_core.geometry.alignment.align_similarity`'s, with the scale of Gen3R's evaluation.

    Args:
        prediction: ``[..., 3]`` float, any world frame and unit.
        truth: The same shape.
        mask: ``[...]`` bool; pixels whose true point is known.

    Returns:
        Two clouds ``[N, 3]``, equal index meaning same pixel; the first is NaN where the prediction is not finite.
    """
    known, predicted = truth[mask].double(), prediction[mask].double()
    if bool(torch.isfinite(predicted).all()):
        predicted = align_similarity(predicted, known).apply(predicted)
    else:
        predicted = torch.full_like(known, math.nan)
    return predicted.cpu().numpy(), known.cpu().numpy()


def points_error(prediction: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """Mean distance of points over the mean length of the true ones, after one scale a clip.

    The scale is the median ratio of distances from the origin.

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
