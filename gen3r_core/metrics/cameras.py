"""How close camera paths are: relative poses pair by pair, and positions after a similarity."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gen3r_core.geometry.alignment import align_similarity
from gen3r_core.geometry.rigid import compose, invert_rigid

__all__ = ["CameraErrors", "area_under_curve", "camera_errors", "trajectory_error"]

LEAST_BASELINE = 1e-4
"""True distance below which a direction means nothing, in the truth's unit."""


class CameraErrors(NamedTuple):
    """Errors of relative poses between all pairs of views, degrees.

    Attributes:
        rotation: ``[B, pairs]`` angle of the rotation between predicted and true relative rotation.
        translation: ``[B, pairs]`` angle between the directions of the relative translations; 0 where the true
            cameras stand at one place.
    """

    rotation: Tensor
    translation: Tensor


def camera_errors(prediction: Tensor, truth: Tensor, *, least_baseline: float = LEAST_BASELINE) -> CameraErrors:
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


def trajectory_error(prediction: Tensor, truth: Tensor) -> float | None:
    """Absolute trajectory error: root mean square distance of camera positions after the best similarity.

    Rotation, translation and scale are those of least squares (S. Umeyama, IEEE PAMI 1991). The rotation comes from
    :func:`~gen3r_core.geometry.alignment.align_similarity`, whose scale is another one: with that, a longer path
    would not have the smallest error.

    Args:
        prediction: ``T_world_cam`` ``[S, 4, 4]``, any world frame and scale.
        truth: The same shape.

    Returns:
        In the truth's unit; NaN where a prediction is not finite; None where there is nothing to align: fewer than
        three cameras, or a true path that does not move.
    """
    places, true = (T[:, :3, 3].detach().double().cpu() for T in (prediction, truth))
    centred = true - true.mean(dim=0)
    if len(true) < 3 or float(centred.norm(dim=1).max()) <= LEAST_BASELINE:
        return None
    if not bool(torch.isfinite(places).all()):
        return float("nan")
    turned = (places - places.mean(dim=0)) @ align_similarity(places, true).rotation.T
    spread = turned.square().sum()
    scale = (turned * centred).sum() / spread if spread > 0 else spread
    return float((scale * turned - centred).square().sum(dim=1).mean().sqrt())
