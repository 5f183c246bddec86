"""A map drawn from above and from the side, true to scale: points without perspective, for a report."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gen3r_core.errors import InputError
from gen3r_core.geometry.poses import Array
from gen3r_core.maps.scene_map import MapCloud
from gen3r_core.maps.upright import heights_above_cameras

__all__ = ["Drawing", "ceiling_height", "draw_from", "scale_length", "typical_spacing"]

_MOST_POINTS = 3_000_000
_SPACING_SAMPLES = 4000
_LARGEST_SPLAT = 6
_STRAY = 0.4
"""Percent of the points, at either end of an axis, that do not make a drawing larger."""
_CUT = 0.4
"""How far between cameras and the highest points ceilings are cut off."""
_GENERATED = np.array([214, 108, 24.0])


@dataclass(frozen=True, eq=False)
class Drawing:
    """Points seen along an axis.

    Attributes:
        pixels: ``[H, W, 4]`` uint8 RGBA; transparent where nothing is.
        left: horizontal coordinate of the picture's left edge, map units.
        top: vertical coordinate of its upper edge.
        unit: pixels in one map unit.
        outside: share of the points that are not in the picture.
    """

    pixels: NDArray[np.uint8]
    left: float
    top: float
    unit: float
    outside: float

    def place(self, horizontal: Array, vertical: Array) -> Array:
        """Pixels ``[N, 2]`` (x, y) of coordinates."""
        return np.stack([(horizontal - self.left) * self.unit, (self.top - vertical) * self.unit], axis=-1)


def typical_spacing(points: NDArray[np.float32]) -> float:
    """Median distance of points from their nearest neighbours; 0 for fewer than 2.

    Args:
        points: ``[N, 3]``.
    """
    if len(points) < 2:
        return 0.0
    from scipy.spatial import cKDTree

    samples = points[np.linspace(0, len(points) - 1, min(len(points), _SPACING_SAMPLES)).astype(np.int64)]
    distances, _ = cKDTree(points).query(samples, k=2, workers=-1)
    return float(np.median(distances[:, 1]))


def ceiling_height(points: Array, cameras: Array) -> tuple[float, NDArray[np.bool_]]:
    """What to leave out so that one looks into rooms from above.

    Args:
        points: ``[N, 3]`` in upright axes.
        cameras: ``[F, 3]`` in the same; may be empty.

    Returns:
        how far above the cameras the cut is, map units, infinite where nothing is cut; and which points stay, ``[N]``.
    """
    if not len(points) or not len(cameras):
        return math.inf, np.ones(len(points), np.bool_)
    above = heights_above_cameras(points, cameras)
    highest = float(np.percentile(above, 99))
    if highest <= 0:
        return math.inf, np.ones(len(points), np.bool_)
    return _CUT * highest, above <= _CUT * highest


def draw_from(
    cloud: MapCloud,
    upright: Array,
    cameras: Array,
    axes: tuple[int, int, int],
    *,
    largest: tuple[int, int],
    spacing: float,
    tint_generated: bool = False,
) -> Drawing:
    """Draw points without perspective; the nearest one counts in each pixel.

    Args:
        cloud: at least one point or camera is needed.
        upright: ``[N, 3]`` its points in upright axes.
        cameras: ``[F, 3]`` positions in the same axes; all of them will be in the picture.
        axes: which of them points right, which up, and which is left over: (0, 1, 2) is from above, (0, 2, 1) and
            (1, 2, 0) are from the sides.
        largest: ``(height, width)`` that the picture may have, pixels.
        spacing: of neighbouring points, map units.
        tint_generated: mix orange into points that were generated.

    Raises:
        InputError: there is nothing to draw.
    """
    right, up, away = axes
    if not len(upright) and not len(cameras):
        raise InputError("there is nothing to draw: the map has neither points nor cameras")
    bounds = [_bounds(upright[:, axis], cameras[:, axis]) for axis in (right, up)]
    (left, rightmost), (bottom, top) = bounds
    unit = min(largest[1] / (rightmost - left), largest[0] / (top - bottom))
    width, height = max(1, math.ceil((rightmost - left) * unit)), max(1, math.ceil((top - bottom) * unit))
    chosen = np.arange(len(upright))
    if len(chosen) > _MOST_POINTS:
        chosen = np.linspace(0, len(upright) - 1, _MOST_POINTS).astype(np.int64)
    x = np.floor((upright[chosen, right] - left) * unit).astype(np.int64)
    y = np.floor((top - upright[chosen, up]) * unit).astype(np.int64)
    towards = round(float(np.linalg.det(np.eye(3)[list(axes)])))  # the eye is where right x up points
    rank = np.empty(len(chosen), np.int64)
    rank[np.argsort(towards * upright[chosen, away], kind="stable")] = np.arange(len(chosen))
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    best = np.full(height * width, -1, np.int64)
    reach = min(_LARGEST_SPLAT, round(spacing * unit / 2))
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            u, v = x + dx, y + dy
            drawn = (u >= 0) & (u < width) & (v >= 0) & (v < height)
            np.maximum.at(best, v[drawn] * width + u[drawn], rank[drawn])
    by_rank = np.empty(len(chosen), np.int64)
    by_rank[rank] = chosen
    pixels = np.zeros((height * width, 4), np.uint8)
    there = best >= 0
    points = by_rank[best[there]]
    colors = cloud.colors[points].astype(np.float64)
    if tint_generated:
        made = cloud.generated[points]
        colors[made] = 0.5 * colors[made] + 0.5 * _GENERATED
    pixels[there, :3] = np.rint(colors)
    pixels[there, 3] = 255
    outside = 0.0 if not len(inside) else 1 - float(inside.mean())
    return Drawing(pixels.reshape(height, width, 4), left, top, unit, outside)


def scale_length(extent: float) -> float:
    """A round length (1, 2 or 5 times a power of ten) of about a fifth of an extent."""
    wanted = max(extent / 5, 1e-12)
    power = 10.0 ** math.floor(math.log10(wanted))
    return max((factor * power for factor in (1, 2, 5) if factor * power <= wanted * 1.0001), default=power)


def _bounds(points: Array, cameras: Array) -> tuple[float, float]:
    ends = [*cameras]
    if len(points):
        ends += np.percentile(points, [_STRAY, 100 - _STRAY]).tolist()
    low, high = float(min(ends)), float(max(ends))
    margin = 0.04 * (high - low) or 0.5
    return low - margin, high + margin
