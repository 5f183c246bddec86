"""Distances between clouds, as Gen3R's evaluation takes them. No torch, so that processes for it start quickly."""

from __future__ import annotations

import math
import signal
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gen3r_core.metrics.sampling import farthest_points, voxel_means

__all__ = ["CLOUD_POINTS", "VOXEL", "Cloud", "CloudErrors", "cloud_errors", "prepare_worker"]

CLOUD_POINTS = 20_000
"""Points of a cloud between which distances are taken (Gen3R, arXiv 2601.04090, public code)."""

VOXEL = 0.005
"""Metres; clouds are thinned to one point a voxel of this side before these points are chosen."""

Cloud = NDArray[np.float64]


class CloudErrors(NamedTuple):
    """Distances between a predicted cloud and a true one, in the truth's unit; NaN if the prediction is not finite.

    Attributes:
        accuracy: mean distance from predicted points to the nearest true one.
        completeness: mean distance from true points to the nearest predicted one.
        chamfer: the mean of the two.
    """

    accuracy: float
    completeness: float
    chamfer: float


def cloud_errors(
    predictions: Sequence[Cloud], truth: Cloud, *, count: int = CLOUD_POINTS, voxel: float = VOXEL
) -> list[CloudErrors]:
    """Accuracy and completeness as Gen3R's public evaluation takes them (arXiv 2601.04090).

    Each cloud is thinned to the mean of every voxel, of these the farthest points are chosen, and distances are those
    to the nearest chosen point of the other cloud, found exactly (k-d tree). Points are sparse then: two clouds of one
    surface that differ in the slightest are about a third of the distance between points apart.

    Args:
        predictions: ``[N, 3]`` each, aligned to the truth.
        truth: ``[M, 3]`` finite, at least one point.
        count: points to choose.
        voxel: side of a voxel, in the truth's unit.

    Returns:
        One a prediction.
    """
    from scipy.spatial import cKDTree

    true = _thinned(truth, count, voxel)
    tree = cKDTree(true)
    found = []
    for prediction in predictions:
        if not np.isfinite(prediction).all():
            found.append(CloudErrors(math.nan, math.nan, math.nan))
            continue
        points = _thinned(prediction, count, voxel)
        accuracy = float(tree.query(points)[0].mean())
        completeness = float(cKDTree(points).query(true)[0].mean())
        found.append(CloudErrors(accuracy, completeness, (accuracy + completeness) / 2))
    return found


def prepare_worker() -> None:
    """What a process that compares clouds does first: an interrupt is the main process's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _thinned(points: Cloud, count: int, voxel: float) -> Cloud:
    means = voxel_means(points, voxel)
    return means[farthest_points(means, count)]
