"""From pixels with depth to points, with numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen3r_core.geometry.poses import Array

__all__ = ["points_of_pixels"]


def points_of_pixels(u: NDArray[Any], v: NDArray[Any], depth: Array, intrinsics: Array) -> Array:
    """Points of a pinhole camera.

    Args:
        u: ``[...]`` columns, in the intrinsics' convention of where a pixel is.
        v: ``[...]`` rows.
        depth: ``[...]`` along the optical axis.
        intrinsics: ``[3, 3]`` or ``[..., 3, 3]`` pixels.

    Returns:
        ``[..., 3]`` in the camera's frame (OpenCV axes), in the unit of the depth.
    """
    K = intrinsics
    x = (u - K[..., 0, 2]) / K[..., 0, 0] * depth
    y = (v - K[..., 1, 2]) / K[..., 1, 1] * depth
    return np.stack([x, y, depth], axis=-1)
