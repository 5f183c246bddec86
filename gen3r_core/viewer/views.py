"""Where up is, where the ceiling is, how large points are, and from where a map is seen as a whole."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from gen3r_core.viewer.content import Content

__all__ = ["UPS", "View", "ceiling_cut", "extent", "heights_of", "overview", "point_size", "up_direction"]

UPS = {
    sign + axis: np.array([(sign != "-") * 2.0 - 1 if axis == name else 0.0 for name in "xyz"])
    for sign in ("", "-")
    for axis in "xyz"
}
"""Directions by name: x, y, z, -x, -y, -z."""

_SAMPLE = 200_000
_STEEP = math.cos(math.radians(45))
_BINS = 100
_PEAK = 2.5
_FOOT = 1.5
_ANOTHER_PEAK = 0.4
_FIELD_OF_VIEW = math.radians(75)
_ASPECT = 1.2
"""Of the window beside the panel, at least."""


class View(NamedTuple):
    """From where to look.

    Attributes:
        position: ``[3]`` float64, map units.
        look_at: ``[3]`` float64, map units.
    """

    position: NDArray[np.float64]
    look_at: NDArray[np.float64]


def up_direction(content: Content) -> NDArray[np.float64]:
    """Against gravity: as the source says, else as the cameras were held, else z.

    Cameras count as held upright on average. Where that is within 45 degrees of z, it is z: maps with z up are
    usual, and cameras look down a little.

    Returns:
        ``[3]`` float64 unit vector.
    """
    z = UPS["z"]
    if content.up is not None:
        return content.up
    held = -np.array([camera.T_world_cam[:3, 1] for camera in content.cameras]).reshape(-1, 3).sum(axis=0)
    length = float(np.linalg.norm(held))
    if length < 0.5 * len(content.cameras) or length == 0:  # they turn about, so that none of it means anything
        return z
    held /= length
    return z if float(held @ z) > _STEEP else held


def heights_of(points: NDArray[np.float32], up: NDArray[np.float64]) -> NDArray[np.float32]:
    """Heights ``[N]`` float32 of points ``[N, 3]`` along a unit vector ``[3]``, map units."""
    return points @ up.astype(np.float32)


def extent(heights: NDArray[np.float32]) -> tuple[float, float]:
    """The lowest and the highest point, (0, 1) for none."""
    return (float(heights.min()), float(heights.max())) if heights.size else (0.0, 1.0)


def ceiling_cut(heights: NDArray[np.float32], cameras: NDArray[np.float64]) -> float | None:
    """A height just below the ceiling, if there is one over the cameras.

    A ceiling is a level that has far more points than walls have at a level: in a histogram of heights, a peak over
    the cameras of at least 2.5 times the median. Of several that are nearly as high (rooms of different
    height) the lowest counts; the cut is at its foot.

    Args:
        heights: ``[N]`` float32 of the points in random order, map units.
        cameras: ``[F]`` float64 heights of the cameras, perhaps none: then it is over the middle of the points.

    Returns:
        The height, map units; None where there is no ceiling.
    """
    if len(heights) < 10 * _BINS:
        return None
    sample = heights[:_SAMPLE].astype(np.float64)
    low, high = np.percentile(sample, [0.5, 99.5])
    over = float(np.percentile(cameras, 90)) if len(cameras) else float(low + high) / 2
    if not low < high or over >= high:
        return None
    counts, edges = np.histogram(sample, bins=_BINS, range=(low, high + (high - low) / _BINS))
    smooth = np.convolve(counts, np.ones(3) / 3, mode="same")
    first = int(np.searchsorted(edges, over))
    usual = max(float(np.median(smooth)), 1.0)
    peak = float(smooth[first:].max(initial=0))
    if peak < _PEAK * usual:
        return None
    found = first + int(np.argmax(smooth[first:] >= max(_PEAK * usual, _ANOTHER_PEAK * peak)))
    while found > first and smooth[found - 1] > _FOOT * usual:
        found -= 1
    return float(edges[max(found - 1, first)])


def overview(points: NDArray[np.float32], up: NDArray[np.float64], cameras: NDArray[np.float64]) -> View:
    """A look at everything from above, at a slant, from the side on which the path is the longest.

    Args:
        points: ``[N, 3]`` float32 as shown, in random order.
        up: ``[3]`` float64 unit vector.
        cameras: ``[F, 3]`` float64 positions.
    """
    everything = points[:_SAMPLE].astype(np.float64) if len(points) else cameras
    if not len(everything):
        everything = np.array([-np.ones(3), np.ones(3)])
    right, forward = _level(up, everything)
    axes = np.stack([right, forward, up])
    low, high = np.percentile(everything @ axes.T, [1, 99], axis=0)
    middle = (low + high) / 2 @ axes
    away = -0.75 * forward + 0.15 * right + 1.0 * up
    away /= np.linalg.norm(away)
    sideways = np.cross(up, away) / np.linalg.norm(np.cross(up, away))
    corners = np.array(list(itertools.product(*zip(low, high, strict=True)))) @ axes - middle
    aside, upwards, nearer = np.abs(corners @ sideways), np.abs(corners @ np.cross(away, sideways)), corners @ away
    distance = nearer + np.maximum(upwards, aside / _ASPECT) / math.tan(_FIELD_OF_VIEW / 2)
    return View(middle + away * max(1.05 * float(distance.max()), 1e-3), middle)


def point_size(points: NDArray[np.float32]) -> float:
    """A size in map units at which neighbours just touch: 1.5 times the median distance to the nearest one.

    Args:
        points: ``[N, 3]`` float32 as shown, in random order.
    """
    if len(points) < 2:
        return 0.01
    low, high = np.percentile(points[:_SAMPLE], [1, 99], axis=0)
    size = max(float(np.linalg.norm(high - low)), 1e-6)
    distances, _ = cKDTree(points).query(points[:2000], k=2)
    return float(np.clip(1.5 * np.median(distances[:, 1]), size / 5000, size / 100))


def _level(up: NDArray[np.float64], points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two level unit vectors, right and forward: right is where points reach furthest."""
    start = np.eye(3)[int(np.argmin(np.abs(up)))]
    right = start - (start @ up) * up
    right /= np.linalg.norm(right)
    forward = np.cross(up, right)
    flat = (points - points.mean(axis=0)) @ np.stack([right, forward], axis=1)
    _, vectors = np.linalg.eigh(flat.T @ flat)
    right = vectors[0, -1] * right + vectors[1, -1] * forward
    return right, np.cross(up, right)
