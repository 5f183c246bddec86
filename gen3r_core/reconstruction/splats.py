"""Point clouds as pictures: points drawn as discs of their size in the world, lit so that their form is seen.

On the CPU with numpy alone: Open3D's own renderer needs EGL, which robots and CI machines may lack.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen3r_core.errors import InputError

__all__ = ["Splats", "look_at", "perspective", "render_cloud"]

Array = NDArray[np.float64]
_NEAR = 0.05
_LARGEST_DISC = 9
"""Pixels, its radius."""
_LIGHT = np.array([-0.35, -0.5, 0.8]) / math.sqrt(0.35**2 + 0.5**2 + 0.8**2)
_AMBIENT = 0.72
_TURNED = 0.12
"""Cosine of the angle at which a surface that is seen from its side is left out: its normals are none too sure."""
_EDGES = ((1, 0), (-1, 0), (0, 1), (0, -1), (2, 2), (-2, 2), (2, -2), (-2, -2))


@dataclass(frozen=True, eq=False)
class Splats:
    """A picture of a cloud.

    Attributes:
        colors: ``[H, W, 3]`` uint8.
        depth: ``[H, W]`` float32, infinite where nothing is.
        index: ``[H, W]`` of the point that is seen, -1 where none is.
    """

    colors: NDArray[np.uint8]
    depth: NDArray[np.float32]
    index: NDArray[np.int64]


def look_at(eye: Array, target: Array) -> Array:
    """``T_world_cam`` ``[4, 4]`` of a camera (OpenCV axes) that looks at a place, z of the world being up.

    Raises:
        InputError: it would look straight up or down, or nowhere.
    """
    forward = np.asarray(target, dtype=np.float64) - eye
    length = float(np.linalg.norm(forward))
    across = np.cross(forward, [0.0, 0.0, 1.0])
    if length < 1e-9 or np.linalg.norm(across) < 1e-6 * length:
        raise InputError(f"a camera at {np.asarray(eye).tolist()} cannot look at {np.asarray(target).tolist()} upright")
    forward, across = forward / length, across / np.linalg.norm(across)
    T = np.eye(4)
    T[:3, :3] = np.stack([across, np.cross(forward, across), forward], axis=1)
    T[:3, 3] = eye
    return T


def perspective(size: tuple[int, int], vfov: float) -> Array:
    """Intrinsics ``[3, 3]`` of square pixels.

    Args:
        size: ``(height, width)``, pixels.
        vfov: vertical field of view, radians.
    """
    focal = size[0] / 2 / math.tan(vfov / 2)
    return np.array([[focal, 0, size[1] / 2], [0, focal, size[0] / 2], [0, 0, 1.0]])


def render_cloud(
    points: NDArray[np.floating[Any]],
    colors: NDArray[np.uint8],
    T_world_cam: Array,
    intrinsics: Array,
    size: tuple[int, int],
    *,
    radius: float,
    normals: NDArray[np.floating[Any]] | None = None,
    background: tuple[int, int, int] | NDArray[np.uint8] = (255, 255, 255),
    edges: float = 1.0,
    finer: int = 2,
) -> Splats:
    """Draw a cloud.

    The nearest disc counts in each pixel. With normals, points that are turned away are left out, so that one looks
    into rooms through their walls, and the others are lit. Steps in depth are darkened (eye-dome lighting,
    C. Boucheny, 2009).

    Args:
        points: ``[N, 3]`` world.
        colors: ``[N, 3]`` uint8 RGB.
        T_world_cam: ``[4, 4]`` camera to world, OpenCV axes.
        intrinsics: ``[3, 3]`` pixels of ``size``.
        size: ``(height, width)``, pixels.
        radius: of a disc, in the points' unit.
        normals: ``[N, 3]`` unit vectors that point out of the surfaces; None where not known.
        background: RGB, or a picture ``[H, W, 3]`` uint8.
        edges: how dark steps in depth are; 0 for not at all.
        finer: pixels are drawn as so many squared, and averaged.

    Returns:
        The picture; depth and index are those of its finest pixels at whole pixels.

    Raises:
        InputError: shapes do not fit.
    """
    if points.ndim != 2 or points.shape[1] != 3 or colors.shape != points.shape or colors.dtype != np.uint8:
        raise InputError(
            f"a cloud to draw has points [N, 3] and colours [N, 3] uint8, got {points.shape} and {colors.shape} "
            f"{colors.dtype}"
        )
    height, width = size[0] * finer, size[1] * finer
    K = np.asarray(intrinsics, dtype=np.float64).copy()
    K[:2] *= finer
    R, eye = T_world_cam[:3, :3], T_world_cam[:3, 3]
    seen = (points.astype(np.float64) - eye) @ R
    kept = seen[:, 2] > _NEAR
    shade = np.ones(len(points))
    if normals is not None:
        towards = eye - points
        kept &= (towards * normals).sum(axis=1) > _TURNED * np.linalg.norm(towards, axis=1)
        shade = _AMBIENT + (1 - _AMBIENT) * np.abs(normals @ _LIGHT)
    where = np.flatnonzero(kept)
    index = _draw(seen[where], where, K, (height, width), radius)
    there = index >= 0
    depth = np.full((height, width), np.inf, dtype=np.float32)
    depth[there] = seen[index[there], 2]
    picture = np.empty((height, width, 3))
    behind = np.asarray(background)
    picture[:] = behind if behind.ndim == 1 else behind.repeat(finer, axis=0).repeat(finer, axis=1)
    picture[there] = colors[index[there]] * shade[index[there], None]
    if edges > 0:
        picture *= _edge_shade(depth, there, edges, finer)[..., None]
    small = picture.reshape(size[0], finer, size[1], finer, 3).mean(axis=(1, 3))
    return Splats(np.rint(small.clip(0, 255)).astype(np.uint8), depth[::finer, ::finer], index[::finer, ::finer])


def _draw(seen: Array, names: NDArray[np.int64], K: Array, size: tuple[int, int], radius: float) -> NDArray[np.int64]:
    """``[H, W]`` names of the nearest discs, -1 where there are none."""
    height, width = size
    if not len(seen):
        return np.full(size, -1, dtype=np.int64)
    z = seen[:, 2]
    u = np.floor(seen[:, 0] / z * K[0, 0] + K[0, 2])
    v = np.floor(seen[:, 1] / z * K[1, 1] + K[1, 2])
    pixels = (radius * K[0, 0] / z).clip(0.5, _LARGEST_DISC)
    # Nearest first is smallest: depth in the upper half of a number, the point in the lower.
    key = np.rint((z / z.max()) * (2**31 - 1)).astype(np.int64) << 32 | np.arange(len(seen))
    nothing = np.iinfo(np.int64).max
    best = np.full(height * width, nothing, dtype=np.int64)
    reach = math.ceil(float(pixels.max()))
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            x, y = u + dx, v + dy
            drawn = (dx * dx + dy * dy <= pixels * pixels) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
            np.minimum.at(best, (y[drawn] * width + x[drawn]).astype(np.int64), key[drawn])
    found = best.reshape(size)
    drawn = found != nothing
    index = np.full(size, -1, dtype=np.int64)
    index[drawn] = names[found[drawn] & (2**32 - 1)]
    return index


def _edge_shade(depth: NDArray[np.float32], there: NDArray[np.bool_], strength: float, finer: int) -> Array:
    """``[H, W]`` factors: how much nearer the neighbours are."""
    log = np.log(np.where(there, depth, np.inf))
    total = np.zeros(depth.shape)
    for dy, dx in _EDGES:
        near = np.roll(log, (dy * finer, dx * finer), axis=(0, 1))
        with np.errstate(invalid="ignore"):
            step = np.nan_to_num(log - near, nan=0.0, posinf=0.0, neginf=0.0)
        total += step.clip(0, 0.15)
    return np.where(there, np.exp(-strength * 3.0 * total / len(_EDGES) * 4), 1.0)
