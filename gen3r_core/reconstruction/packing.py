"""Colours and depths in the form that robots' messages hold them, without a loop over pixels.

Depth images by REP-118: ``32FC1`` with NaN where nothing is known.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen3r_core.errors import InputError

__all__ = ["bytes_of_colors", "mask_depth"]


def bytes_of_colors(colors: NDArray[Any]) -> NDArray[np.uint8]:
    """8-bit colours of float ones in [0, 1], rounded; 8-bit ones are returned as they are.

    Args:
        colors: ``[..., 3]`` uint8 or float; floats are clipped, NaN becomes 0.

    Returns:
        The same shape, uint8.

    Raises:
        InputError: for other kinds of numbers.
    """
    if colors.dtype == np.uint8:
        return colors
    if colors.dtype.kind != "f":
        raise InputError(f"colours must be uint8, or floats between 0 and 1, got {colors.dtype}")
    # fmax passes NaN over, so that the cast is defined for every value.
    scaled = np.fmin(np.fmax(colors, 0), 1) * 255
    rounded: NDArray[np.uint8] = np.rint(scaled).astype(np.uint8)
    return rounded


def mask_depth(depth: NDArray[np.floating[Any]], valid: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
    """Depth for a ``32FC1`` image.

    Args:
        depth: ``[...]`` float, any unit.
        valid: ``[...]`` bool, where to trust it; None for everywhere.

    Returns:
        The same shape, float32, NaN where the depth is not trusted, not finite or not positive.

    Raises:
        InputError: if shapes differ.
    """
    if valid is not None and valid.shape != depth.shape:
        raise InputError(f"the mask must have shape {list(depth.shape)} as the depth has, got {list(valid.shape)}")
    single = np.asarray(depth, dtype=np.float32)
    known = np.isfinite(single) & (single > 0)
    return np.where(known if valid is None else known & valid, single, np.float32(np.nan))
