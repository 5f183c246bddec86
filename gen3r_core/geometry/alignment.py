"""Comparing two point maps: similarity alignment and chamfer distances.

As in the evaluation published with Gen3R (arXiv 2601.04090), without its downsampling.
Arithmetic runs in float64; results have the dtype and device of the source points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gen3r_core.errors import InputError


@dataclass(frozen=True)
class Similarity:
    """A similarity transform ``target = scale * rotation @ source + translation``.

    Attributes:
        rotation: ``[3, 3]``, orthonormal with determinant +1.
        translation: ``[3]`` in target units.
        scale: scalar tensor, target units in one source unit.
    """

    rotation: Tensor
    translation: Tensor
    scale: Tensor

    def apply(self, points: Tensor) -> Tensor:
        """Moves ``[..., 3]`` points of the source frame into the target frame."""
        return (self.scale * (points.reshape(-1, 3) @ self.rotation.T) + self.translation).reshape(points.shape)


@dataclass(frozen=True)
class ChamferMetrics:
    """How far two aligned clouds are apart.

    Attributes:
        accuracy: mean distance from each source point to its nearest target point.
        completeness: mean distance from each target point to its nearest source point.
        chamfer: the mean of the two.
        relative_percent: chamfer in percent of the diagonal of the target's bounding box.
            With squared distances this mixes units, as the published evaluation does.
        alignment: the similarity that was applied to the source.
        aligned: all source points after it, shape as given.
    """

    accuracy: float
    completeness: float
    chamfer: float
    relative_percent: float
    alignment: Similarity
    aligned: Tensor


def align_similarity(
    source: Tensor, target: Tensor, mask: Tensor | None = None, *, with_scale: bool = True
) -> Similarity:
    """The similarity that brings source points closest to their counterparts.

    The rotation is that of least squares (S. Umeyama, IEEE PAMI 1991; always proper). The scale
    is not Umeyama's trace but the ratio of spreads, ``sqrt(sum |G - mean G|^2 / sum |P - mean P|^2)``,
    as Gen3R's evaluation has it. Fewer than three points give the identity; source points that
    all coincide give scale 1.

    Args:
        source: ``[..., 3]`` float points P.
        target: ``[..., 3]`` float points G of the same shape; equal index means same point.
        mask: ``[...]`` bool or uint8, the pairs to use; None for all.
        with_scale: otherwise the scale stays 1.

    Returns:
        The transform, dtype and device of ``source``.

    Raises:
        InputError: if shapes differ.
    """
    source_points, target_points = _pairs(source, target, mask)
    one = torch.ones((), dtype=torch.float64, device=source.device)
    if source_points.shape[0] < 3:
        eye = torch.eye(3, dtype=source.dtype, device=source.device)
        return Similarity(eye, torch.zeros_like(eye[0]), one.to(source.dtype))
    source_mean, target_mean = source_points.mean(dim=0), target_points.mean(dim=0)
    source_centred, target_centred = source_points - source_mean, target_points - target_mean
    left, _, right = torch.linalg.svd(target_centred.T @ source_centred)
    signs = torch.ones(3, dtype=torch.float64, device=source.device)
    signs[2] = torch.sign(torch.linalg.det(left) * torch.linalg.det(right))
    rotation = (left * signs) @ right
    scale = one
    if with_scale:
        spread = source_centred.square().sum()
        ratio = (target_centred.square().sum() / spread).sqrt()
        scale = torch.where(spread > 0, ratio, one)
    translation = target_mean - scale * (rotation @ source_mean)
    return Similarity(rotation.to(source.dtype), translation.to(source.dtype), scale.to(source.dtype))


def chamfer_metrics(
    source: Tensor,
    target: Tensor,
    mask: Tensor,
    *,
    frames: Sequence[int] | None = None,
    squared: bool = False,
    in_millimetres: bool = False,
) -> ChamferMetrics:
    """Aligns a predicted point map to a true one and measures what is left between them.

    Nearest neighbours are exact (k-d tree, on the CPU).

    Args:
        source: ``[F, H, W, 3]`` float predicted points; only the frames of ``frames``, if given.
        target: ``[G, H, W, 3]`` float true points, metres; G = F unless ``frames`` is given.
        mask: ``[G, H, W]`` bool or uint8, valid target points.
        frames: indices into the target's frames that the source covers: alignment uses these,
            distances use all valid target points.
        squared: average squared distances instead.
        in_millimetres: times 1000, but for the percentage.

    Returns:
        The metrics, in target units.

    Raises:
        InputError: if shapes do not fit, or no point is valid.
    """
    if mask.shape != target.shape[:-1]:
        raise InputError(f"the mask must have shape {tuple(target.shape[:-1])} as the target points have, "
                         f"got {tuple(mask.shape)}")  # fmt: skip
    mask = mask.bool()
    chosen, chosen_mask = (target, mask) if frames is None else (target[list(frames)], mask[list(frames)])
    alignment = align_similarity(source, chosen, chosen_mask)
    aligned = alignment.apply(source)
    accuracy, completeness = chamfer_distances(aligned[chosen_mask], target[mask], squared=squared)
    chamfer = (accuracy + completeness) / 2
    low, high = target[mask].double().aminmax(dim=0)
    unit = 1000.0 if in_millimetres else 1.0
    return ChamferMetrics(
        accuracy=accuracy * unit,
        completeness=completeness * unit,
        chamfer=chamfer * unit,
        relative_percent=100 * chamfer / max(float((high - low).norm()), np.finfo(np.float64).tiny),
        alignment=alignment,
        aligned=aligned,
    )


def chamfer_distances(source: Tensor, target: Tensor, *, squared: bool = False) -> tuple[float, float]:
    """Mean nearest-neighbour distances of two clouds of any sizes, both ways.

    Args:
        source: ``[N, 3]`` float points.
        target: ``[M, 3]`` float points in the same frame and units.
        squared: average squared distances instead.

    Returns:
        From source to target (accuracy), from target to source (completeness).

    Raises:
        InputError: if a cloud is empty, holds NaN or infinite points, or has a wrong shape.
    """
    first, second = _cloud(source, "source"), _cloud(target, "target")
    power = 2 if squared else 1
    return float((_nearest(first, second) ** power).mean()), float((_nearest(second, first) ** power).mean())


def _nearest(queries: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.spatial import cKDTree

    distances: NDArray[np.float64] = cKDTree(points).query(queries)[0]
    return distances


def _cloud(points: Tensor, name: str) -> NDArray[np.float64]:
    if points.ndim != 2 or points.shape[1] != 3:
        raise InputError(f"{name} points must have shape [N, 3], got {tuple(points.shape)}")
    if points.shape[0] == 0:
        raise InputError(f"there is no valid {name} point to measure distances from; check the mask")
    array: NDArray[np.float64] = points.detach().double().cpu().numpy()
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array).all(axis=1)).sum())
        raise InputError(f"{bad} of {len(array)} {name} points are NaN or infinite; leave them out of the mask")
    return array


def _pairs(source: Tensor, target: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    if source.shape != target.shape or source.ndim == 0 or source.shape[-1] != 3:
        raise InputError(f"source and target points must have one shape [..., 3] to be paired, "
                         f"got {tuple(source.shape)} and {tuple(target.shape)}")  # fmt: skip
    if mask is None:
        return source.reshape(-1, 3).double(), target.reshape(-1, 3).double()
    if mask.shape != source.shape[:-1]:
        raise InputError(f"the mask must have shape {tuple(source.shape[:-1])} as the points have, "
                         f"got {tuple(mask.shape)}")  # fmt: skip
    return source[mask.bool()].double(), target[mask.bool()].double()
