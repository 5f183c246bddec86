"""Thinning clouds before they are compared: one point a voxel, then the farthest points."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["farthest_points", "voxel_means"]

_BLOCK = 128
"""Points that are looked at together or not at all; fewer make more blocks to choose from. About the fastest."""

_MOST_VOXELS = 2**62


def voxel_means(points: NDArray[np.float64], size: float) -> NDArray[np.float64]:
    """The mean of the points in each voxel of a grid that begins at the cloud's corner.

    Args:
        points: ``[N, 3]`` finite, N at least 1.
        size: side of a voxel, in the points' unit.

    Returns:
        ``[M, 3]``, M at most N, in the order of the voxels along x, y, z.
    """
    cells = np.floor((points - points.min(axis=0)) / size)
    counts = cells.max(axis=0) + 1
    if float(np.prod(counts)) > _MOST_VOXELS:  # points that are far off: number the rows and columns that are in use
        cells = np.stack([np.unique(axis, return_inverse=True)[1] for axis in cells.T], axis=1)
        plane = cells[:, 0] * (cells[:, 1].max() + 1) + cells[:, 1]
        cells[:, 0], cells[:, 1] = np.unique(plane, return_inverse=True)[1], 0
        counts = cells.max(axis=0) + 1
    x, y, z = cells.astype(np.int64).T
    key = (x * int(counts[1]) + y) * int(counts[2]) + z
    _, inverse, members = np.unique(key, return_inverse=True, return_counts=True)
    sums = [np.bincount(inverse, weights=points[:, axis]) for axis in range(3)]
    means: NDArray[np.float64] = np.stack(sums, axis=1) / members[:, None]
    return means


def farthest_points(points: NDArray[np.floating], count: int) -> NDArray[np.int64]:
    """Points that cover a cloud evenly: the first, then again and again the one farthest from all before it.

    Exact, in float32. Points are ordered along a curve through space and cut into blocks; a block in which every
    point is nearer to a taken one than the block's box is to the new one cannot change.

    Args:
        points: ``[N, 3]`` finite.
        count: points to take; all where there are no more.

    Returns:
        Indices ``[at most count]``, in the order in which they were taken.
    """
    if len(points) <= count:
        return np.arange(len(points))
    points = points.astype(np.float32)
    order = np.argsort(_curve_position(points), kind="stable")
    blocks = -(-len(points) // _BLOCK)
    padded = np.concatenate([order, np.repeat(order[-1:], blocks * _BLOCK - len(order))])
    x, y, z = (np.ascontiguousarray(points[padded, axis].reshape(blocks, _BLOCK)) for axis in range(3))
    low = np.stack([axis.min(axis=1) for axis in (x, y, z)])
    high = np.stack([axis.max(axis=1) for axis in (x, y, z)])
    best = np.full((blocks, _BLOCK), np.inf, dtype=np.float32)  # squared distance to the nearest taken point
    best.reshape(-1)[len(order) :] = -1  # what fills up the last block is never taken
    widest = best.max(axis=1)
    taken = np.empty(count, dtype=np.int64)
    place = int(np.flatnonzero(order == 0)[0])
    for turn in range(count):
        taken[turn] = padded[place]
        block, inside = divmod(place, _BLOCK)
        point = np.array([x[block, inside], y[block, inside], z[block, inside]])[:, None]
        gap = np.maximum(np.maximum(low - point, point - high), 0)
        gap *= gap
        near = np.flatnonzero(gap[0] + gap[1] + gap[2] < widest)
        dx, dy, dz = x[near] - point[0], y[near] - point[1], z[near] - point[2]
        closer = np.minimum(best[near], dx * dx + dy * dy + dz * dz)
        best[near] = closer
        widest[near] = closer.max(axis=1)
        block = int(widest.argmax())
        place = block * _BLOCK + int(best[block].argmax())
    return taken


def _curve_position(points: NDArray[np.float32]) -> NDArray[np.int64]:
    """Place of points along a curve that keeps neighbours together: the bits of their grid cells interleaved."""
    low, high = points.min(axis=0), points.max(axis=0)
    cells = ((points - low) / np.maximum(high - low, np.finfo(np.float32).tiny) * 1023).astype(np.int64)
    position = np.zeros(len(points), dtype=np.int64)
    for bit in range(10):
        for axis in range(3):
            position |= (cells[:, axis] >> bit & 1) << 3 * bit + axis
    return position
