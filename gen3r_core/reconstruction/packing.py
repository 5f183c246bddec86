"""Points and depths as the bytes that robots' messages hold, without a loop over points.

PointCloud2 as PCL and RViz read it: 32-bit floats ``x, y, z``, then ``rgb``, a float whose bits are
``0x00RRGGBB``. Depth images by REP-118: ``32FC1`` in metres with NaN where nothing is known, or ``16UC1`` in
millimetres with 0 there.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gen3r_core.errors import InputError

__all__ = [
    "POINT_DTYPE",
    "UnpackedPoints",
    "bytes_of_colors",
    "depth_to_metres",
    "depth_to_millimetres",
    "mask_depth",
    "pack_points",
    "unpack_points",
]

POINT_DTYPE = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("rgb", "<f4"), ("confidence", "<f4")])
"""One point: 20 bytes, little endian, no padding."""

# The same bytes with the colour as the number it is: a float whose bits are 0x00RRGGBB is denormal, and
# arithmetic on it (which a processor may flush to zero) would lose it.
_AS_BITS = np.dtype([("xyz", "<f4", 3), ("rgb", "<u4"), ("confidence", "<f4")])
_LARGEST_MILLIMETRES = 65535


class UnpackedPoints(NamedTuple):
    """What :func:`pack_points` was given.

    Attributes:
        points: ``[N, 3]`` float32.
        colors: ``[N, 3]`` uint8 RGB.
        confidence: ``[N]`` float32.
    """

    points: NDArray[np.float32]
    colors: NDArray[np.uint8]
    confidence: NDArray[np.float32]


def pack_points(
    points: NDArray[np.floating[Any]], colors: NDArray[Any], confidence: NDArray[np.floating[Any]] | None = None
) -> NDArray[np.void]:
    """Points as records ready for a message's ``data``.

    Args:
        points: ``[N, 3]`` or ``[..., 3]`` float, any frame and unit. NaN stays: such a cloud is not dense.
        colors: the same shape; uint8 RGB, or float RGB in [0, 1], clipped.
        confidence: ``[N]`` or ``[...]`` float; None writes 1.

    Returns:
        ``[N]`` of :data:`POINT_DTYPE`, contiguous.

    Raises:
        InputError: if shapes or kinds do not fit.
    """
    if points.ndim == 0 or points.shape[-1] != 3 or points.dtype.kind != "f":
        raise InputError(f"points must be floats of shape [..., 3], got {points.dtype} {list(points.shape)}")
    if colors.shape != points.shape:
        raise InputError(f"colours must have shape {list(points.shape)} as the points have, got {list(colors.shape)}")
    if confidence is not None and confidence.shape != points.shape[:-1]:
        raise InputError(
            f"confidences must have shape {list(points.shape[:-1])} as the points have, got {list(confidence.shape)}"
        )
    rgb = bytes_of_colors(colors).reshape(-1, 3).astype(np.uint32)
    records = np.empty(len(rgb), dtype=_AS_BITS)
    records["xyz"] = points.reshape(-1, 3)
    records["rgb"] = rgb[:, 0] << 16 | rgb[:, 1] << 8 | rgb[:, 2]
    records["confidence"] = 1.0 if confidence is None else confidence.reshape(-1)
    return records.view(POINT_DTYPE)


def unpack_points(records: NDArray[np.void]) -> UnpackedPoints:
    """The inverse of :func:`pack_points`.

    Args:
        records: ``[N]`` of :data:`POINT_DTYPE`.

    Raises:
        InputError: for other records.
    """
    if records.dtype != POINT_DTYPE or records.ndim != 1:
        raise InputError(f"packed points are [N] of {POINT_DTYPE.descr}, got {list(records.shape)} of {records.dtype}")
    bits = np.ascontiguousarray(records).view(_AS_BITS)
    colors = np.stack([bits["rgb"] >> shift & 255 for shift in (16, 8, 0)], axis=-1).astype(np.uint8)
    return UnpackedPoints(bits["xyz"].copy(), colors, bits["confidence"].copy())


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


def depth_to_millimetres(depth: NDArray[np.floating[Any]]) -> NDArray[np.uint16]:
    """Depth for a ``16UC1`` image.

    Args:
        depth: ``[...]`` float metres.

    Returns:
        The same shape, uint16 millimetres, rounded; 0 where the depth is not finite, not positive, under half a
        millimetre, or over 65.535 m.
    """
    millimetres = np.rint(np.asarray(depth, dtype=np.float64) * 1000)
    known = (millimetres >= 1) & (millimetres <= _LARGEST_MILLIMETRES)  # False for NaN
    return np.where(known, millimetres, 0).astype(np.uint16)


def depth_to_metres(millimetres: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Depth of a ``16UC1`` image.

    Args:
        millimetres: ``[...]`` uint16, 0 where nothing is known.

    Returns:
        The same shape, float32 metres, NaN where nothing is known.

    Raises:
        InputError: for other kinds of numbers.
    """
    if millimetres.dtype != np.uint16:
        raise InputError(f"16UC1 depth is uint16 millimetres, got {millimetres.dtype}")
    return np.where(millimetres > 0, millimetres.astype(np.float32) / np.float32(1000), np.float32(np.nan))


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
