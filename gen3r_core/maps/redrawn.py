"""What a map's cloud looks like from its own frames, beside what was seen: how well the two fit, in pictures and dB."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gen3r_core.geometry.poses import invert_poses
from gen3r_core.maps.scene_map import MapCloud, MapFrame
from gen3r_core.reconstruction.splats import render_cloud

__all__ = ["RedrawnView", "redraw"]

_MOST_POINTS = 400_000
_OVERLAP = 0.9
"""Radius of a disc in distances between neighbours: surfaces that are seen aslant close as well."""
_BACKGROUND = (128, 128, 128)


@dataclass(frozen=True, eq=False)
class RedrawnView:
    """A frame and the cloud from its place.

    Attributes:
        index: of the frame.
        frame: what was seen (or generated).
        picture: ``[H, W, 3]`` uint8, the cloud; grey where it has no points.
        covered: share of the pixels that points are in.
        psnr: dB over these pixels; NaN where there are none, infinite where all are the same.
    """

    index: int
    frame: MapFrame
    picture: NDArray[np.uint8]
    covered: float
    psnr: float


def redraw(index: int, frame: MapFrame, cloud: MapCloud, spacing: float) -> RedrawnView:
    """Draw a cloud from a frame.

    Args:
        index: of the frame.
        frame: of the map.
        cloud: of the map.
        spacing: of neighbouring points, map units: points are discs that just close a surface.
    """
    visible = _in_view(frame, cloud)
    radius = max(spacing, 1e-6) * _OVERLAP
    if len(visible) > _MOST_POINTS:
        radius *= math.sqrt(len(visible) / _MOST_POINTS)
        visible = visible[np.linspace(0, len(visible) - 1, _MOST_POINTS).astype(np.int64)]
    # The renderer leaves out what is nearer than 5 cm, whatever the unit: distances are brought to a common size.
    factor = _scale(frame, cloud, visible)
    T = frame.T_world_cam.copy()
    T[:3, 3] = 0
    points = (cloud.points[visible].astype(np.float64) - frame.T_world_cam[:3, 3]) * factor
    drawn = render_cloud(
        points, cloud.colors[visible], T, frame.intrinsics, frame.size,
        radius=radius * factor, background=_BACKGROUND, edges=0.0, finer=1,
    )  # fmt: skip
    there = drawn.index >= 0
    psnr = math.nan
    if there.any():
        error = (drawn.colors[there].astype(np.float64) - frame.image[there]) / 255
        mean = float(np.square(error).mean())
        psnr = math.inf if mean == 0 else -10 * math.log10(mean)
    return RedrawnView(index, frame, drawn.colors, float(there.mean()), psnr)


def _in_view(frame: MapFrame, cloud: MapCloud) -> NDArray[np.int64]:
    """Points that fall into the picture, or just beside it."""
    T, K = invert_poses(frame.T_world_cam), frame.intrinsics
    local = cloud.points.astype(np.float64) @ T[:3, :3].T + T[:3, 3]
    z = np.where(local[:, 2] > 0, local[:, 2], np.nan)
    u, v = local[:, 0] / z * K[0, 0] + K[0, 2], local[:, 1] / z * K[1, 1] + K[1, 2]
    height, width = frame.size
    with np.errstate(invalid="ignore"):
        inside = (u > -0.1 * width) & (u < 1.1 * width) & (v > -0.1 * height) & (v < 1.1 * height)
    return np.flatnonzero(inside)


def _scale(frame: MapFrame, cloud: MapCloud, visible: NDArray[np.int64]) -> float:
    """Brings the typical distance of what is in view to 5."""
    if not len(visible):
        return 1.0
    away = cloud.points[visible].astype(np.float64) - frame.T_world_cam[:3, 3]
    typical = float(np.median(np.linalg.norm(away, axis=1)))
    return 5.0 / typical if typical > 0 else 1.0
