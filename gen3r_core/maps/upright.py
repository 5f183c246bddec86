"""Which way is up in a map, and how high things are above the way of its cameras."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from gen3r_core.geometry.poses import Array

__all__ = ["heights_above_cameras", "upright_axes"]


def upright_axes(T_world_cam: Array, *, gravity_known: bool | None = None) -> Array:
    """Axes in which a map can be drawn from above.

    Args:
        T_world_cam: ``[F, 4, 4]`` of its frames, OpenCV axes; may be empty.
        gravity_known: the world's z is up. If not, up is the mean of the cameras' own, and right is the first one's.
            None: the world's z, if the cameras' mean is within 45 degrees of it.

    Returns:
        ``[3, 3]`` float64 rotation, world to drawing: its rows are right, forward and up in the world.
    """
    if gravity_known or not len(T_world_cam):
        return np.eye(3)
    up = -T_world_cam[:, :3, 1].mean(axis=0)
    if np.linalg.norm(up) < 1e-3:  # as many upside down as not
        up = -T_world_cam[0, :3, 1]
    up = up / np.linalg.norm(up)
    if gravity_known is None and up[2] > math.cos(math.pi / 4):
        return np.eye(3)
    right = T_world_cam[0, :3, 0] - (T_world_cam[0, :3, 0] @ up) * up
    if np.linalg.norm(right) < 1e-3:
        right = np.cross(T_world_cam[0, :3, 2], up)
    right = right / np.linalg.norm(right)
    axes: Array = np.stack([right, np.cross(up, right), up])
    return axes


def heights_above_cameras(points: NDArray[np.float32] | Array, cameras: Array) -> Array:
    """How far points are above the nearest camera: storeys and slopes do not matter then.

    Args:
        points: ``[N, 3]`` in upright axes.
        cameras: ``[F, 3]`` positions in the same axes, at least one.

    Returns:
        ``[N]`` float64.
    """
    from scipy.spatial import cKDTree

    _, nearest = cKDTree(cameras).query(points, workers=-1)
    heights: Array = points[:, 2] - cameras[nearest, 2]
    return heights
