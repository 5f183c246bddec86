"""Rays against solids, and distances to them: closed forms, all against all.

A solid is an affine image of a cube, a ball or a cylinder (:class:`~gen3r_core.worlds.packing.SolidTensors`),
and a ray's parameter survives affine maps: rays go into canonical coordinates, where the tests are short
(the slab test of Kay and Kajiya 1986, and quadratics in the form that does not cancel). A ray that starts
inside a solid does not see it. Nothing here waits for the device. On CUDA devices the loops run as kernels
(:mod:`gen3r_core.worlds.fused`) where Triton is installed, as it is with PyTorch for CUDA.
"""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from gen3r_core.worlds.packing import SolidTensors

_TINY = 1e-12
"""Added to directions, so that none is exactly zero; far below float32's resolution of any other."""
_HAS_TRITON = importlib.util.find_spec("triton") is not None
_Axes = tuple[Tensor, Tensor, Tensor]


def nearest_hit(solids: SolidTensors, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """The first solid on each ray.

    Args:
        solids: B worlds of K solids.
        origins: ``[B, P or 1, S or 1, 3]`` world, metres.
        directions: ``[B, P, S, 3]`` world, of any length.

    Returns:
        ``[B, P, S]`` distance in lengths of the direction (infinite where nothing is hit), and
        int64 index of the solid (0 there).
    """
    if runs_fused(directions):  # pragma: gpu-only
        from gen3r_core.worlds import fused

        return fused.nearest_hit(solids, origins, directions)
    distance: Tensor | None = None
    index: Tensor | None = None
    start = 0
    for entry in _entries(solids, origins, directions):
        here, place = entry.min(dim=-1)
        place = place + start
        start += entry.shape[-1]
        if distance is None or index is None:
            distance, index = here, place
        else:
            index = torch.where(here < distance, place, index)
            distance = torch.minimum(distance, here)
    if distance is None or index is None:
        shape = directions.shape[:-1]
        return directions.new_full(shape, torch.inf), torch.zeros(shape, dtype=torch.int64, device=directions.device)
    return distance, index


def is_blocked(solids: SolidTensors, points: Tensor, targets: Tensor) -> Tensor:
    """Whether anything stands between points and targets.

    Args:
        solids: B worlds.
        points: ``[B, P, S, 3]`` world, metres.
        targets: ``[B, 1 or P, S or 1, 3]`` world, metres.

    Returns:
        ``[B, P, S]`` bool.
    """
    if runs_fused(points):  # pragma: gpu-only
        from gen3r_core.worlds import fused

        return fused.is_blocked(solids, points, targets)
    directions = targets - points
    blocked = torch.zeros(directions.shape[:-1], dtype=torch.bool, device=points.device)
    for entry in _entries(solids, points, directions):
        blocked = blocked | (entry.amin(dim=-1) < 1)
    return blocked


def signed_distance(solids: SolidTensors, points: Tensor, most: float = torch.inf) -> Tensor:
    """Distance to the nearest surface, negative inside a solid.

    Exact for boxes, cylinders and spheres; for other ellipsoids a lower bound outside, 0 on the surface.

    Args:
        solids: B worlds.
        points: ``[B, P, S, 3]`` world, metres.
        most: larger distances do not matter and are returned as this.

    Returns:
        ``[B, P, S]`` metres; ``most`` where there is no solid.
    """
    if runs_fused(points):  # pragma: gpu-only
        from gen3r_core.worlds import fused

        return fused.signed_distance(solids, points, most)
    nearest = points.new_full(points.shape[:-1], most)
    boxes, cylinders, ellipsoids = _split(solids)
    if boxes is not None:
        x, y, z = (
            (value.abs() - 1) * boxes.half[:, None, None, :, axis]
            for axis, value in enumerate(_local_points(boxes, points))
        )
        outside = torch.sqrt(x.clamp(min=0) ** 2 + y.clamp(min=0) ** 2 + z.clamp(min=0) ** 2)
        inside = torch.maximum(x, torch.maximum(y, z)).clamp(max=0)
        nearest = torch.minimum(nearest, (outside + inside).amin(dim=-1))
    if cylinders is not None:
        x, y, z = _local_points(cylinders, points)
        radial = (torch.sqrt(x * x + y * y) - 1) * cylinders.half[:, None, None, :, 0]
        along = (z.abs() - 1) * cylinders.half[:, None, None, :, 2]
        outside = torch.sqrt(radial.clamp(min=0) ** 2 + along.clamp(min=0) ** 2)
        nearest = torch.minimum(nearest, (outside + torch.maximum(radial, along).clamp(max=0)).amin(dim=-1))
    if ellipsoids is not None:
        x, y, z = _local_points(ellipsoids, points)
        smallest = ellipsoids.half.amin(dim=-1)[:, None, None, :]
        nearest = torch.minimum(nearest, ((torch.sqrt(x * x + y * y + z * z) - 1) * smallest).amin(dim=-1))
    return nearest


def runs_fused(values: Tensor) -> bool:
    """Whether these and what goes with them are for the kernels: float32 on a CUDA device that has Triton."""
    return values.is_cuda and values.dtype == torch.float32 and _HAS_TRITON


def _entries(solids: SolidTensors, origins: Tensor, directions: Tensor) -> list[Tensor]:
    """``[B, P, S, K]`` where rays enter the solids of each shape there is; infinite for a miss."""
    found = []
    for part, test in zip(_split(solids), (_enter_boxes, _enter_cylinders, _enter_ellipsoids), strict=True):
        if part is not None:
            near, far = test(_local_points(part, origins), _local_vectors(part, directions))
            found.append(torch.where((near < far) & (near > 0), near, torch.inf))
    return found


def _split(solids: SolidTensors) -> tuple[SolidTensors | None, SolidTensors | None, SolidTensors | None]:
    parts: list[SolidTensors | None] = []
    start = 0
    for shape, count in enumerate(solids.counts):
        here = slice(start, start + count)
        counts = (count if shape == 0 else 0, count if shape == 1 else 0, count if shape == 2 else 0)
        part = SolidTensors(solids.to_local[:, here], solids.offset[:, here], solids.half[:, here], counts)
        parts.append(part if count else None)
        start += count
    return parts[0], parts[1], parts[2]


def _local_points(solids: SolidTensors, points: Tensor) -> _Axes:
    """Three ``[B, P, S, K]``: sums of products, as a matrix product might run in TF32."""
    x, y, z = (points[..., axis, None] for axis in range(3))
    found = []
    for axis in range(3):
        m = solids.to_local[:, None, None, :, axis]
        start = solids.offset[:, None, None, :, axis]
        found.append(start.addcmul(m[..., 0], x).addcmul(m[..., 1], y).addcmul(m[..., 2], z))
    return found[0], found[1], found[2]


def _local_vectors(solids: SolidTensors, vectors: Tensor) -> _Axes:
    x, y, z = (vectors[..., axis, None] for axis in range(3))
    found = []
    for axis in range(3):
        m = solids.to_local[:, None, None, :, axis]
        found.append((m[..., 0] * x + _TINY).addcmul(m[..., 1], y).addcmul(m[..., 2], z))
    return found[0], found[1], found[2]


def _slab(origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    inverse = direction.reciprocal()
    middle, reach = -origin * inverse, inverse.abs()
    return middle - reach, middle + reach


def _enter_boxes(origin: _Axes, direction: _Axes) -> tuple[Tensor, Tensor]:
    near, far = _slab(origin[0], direction[0])
    for axis in (1, 2):
        low, high = _slab(origin[axis], direction[axis])
        near, far = torch.maximum(near, low), torch.minimum(far, high)
    return near, far


def _enter_cylinders(origin: _Axes, direction: _Axes) -> tuple[Tensor, Tensor]:
    (x, y, z), (dx, dy, dz) = origin, direction
    inverse = (dx * dx + dy * dy).reciprocal()
    closest = -(x * dx + y * dy) * inverse
    px, py = x + closest * dx, y + closest * dy
    room = 1 - px * px - py * py
    reach = torch.sqrt(room.clamp(min=0) * inverse)
    low, high = _slab(z, dz)
    near = torch.where(room > 0, torch.maximum(closest - reach, low), torch.inf)
    return near, torch.minimum(closest + reach, high)


def _enter_ellipsoids(origin: _Axes, direction: _Axes) -> tuple[Tensor, Tensor]:
    (x, y, z), (dx, dy, dz) = origin, direction
    inverse = (dx * dx + dy * dy + dz * dz).reciprocal()
    closest = -(x * dx + y * dy + z * dz) * inverse
    px, py, pz = x + closest * dx, y + closest * dy, z + closest * dz
    room = 1 - px * px - py * py - pz * pz
    reach = torch.sqrt(room.clamp(min=0) * inverse)
    return torch.where(room > 0, closest - reach, torch.inf), closest + reach
