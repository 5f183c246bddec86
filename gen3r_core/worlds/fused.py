"""The loops of rays over solids as Triton kernels, for CUDA devices.

The same closed forms as :mod:`gen3r_core.worlds.intersection`, which chooses between the two: there every
intermediate of all rays times all solids passes through memory, here it stays in registers. One program
takes a block of rays of one world and walks through its solids. Neighbouring rays are alike, so that a bound
around the whole block (a cone for rays from one camera, a swept ball for rays to one light, a ball for points)
tells for most solids that no ray of the block can meet their bounding sphere: those are skipped, and what is
left out could not be hit. Solids that only fill up a batch have spheres that nothing meets.
"""

# pragma: gpu-only file
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from gen3r_core.worlds.packing import FILLER_DISTANCE, SolidTensors

_BLOCK = 256
_NOWHERE = -1e30
_SLACK = tl.constexpr(1e-3)  # relative and metres: far above rounding, far below anything to be seen
_TINY = tl.constexpr(1e-12)  # as intersection's


def nearest_hit(solids: SolidTensors, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """As :func:`gen3r_core.worlds.intersection.nearest_hit`; float32 on a CUDA device."""
    shape = directions.shape[:3]
    distance = torch.empty(shape, device=directions.device)
    index = torch.empty(shape, dtype=torch.int64, device=directions.device)
    _launch(_nearest, solids, solids[:2], (origins, directions), (distance, index))
    return distance, index


def is_blocked(solids: SolidTensors, points: Tensor, targets: Tensor) -> Tensor:
    """As :func:`gen3r_core.worlds.intersection.is_blocked`; float32 on a CUDA device."""
    points, targets = torch.broadcast_tensors(points, targets)
    blocked = torch.empty(points.shape[:3], dtype=torch.bool, device=points.device)
    _launch(_blocked, solids, solids[:2], (points, targets), (blocked,))
    return blocked


def signed_distance(solids: SolidTensors, points: Tensor, most: float) -> Tensor:
    """As :func:`gen3r_core.worlds.intersection.signed_distance`; float32 on a CUDA device."""
    distance = torch.empty(points.shape[:3], device=points.device)
    _launch(_distance, solids, solids[:3], (points,), (distance,), most)
    return distance


def bounding_spheres(solids: SolidTensors) -> Tensor:
    """Centre (world, metres) and radius ``[B, K, 4]``; the radius of solids that fill up is negative without end."""
    half = solids.half
    center = -(solids.to_local * (half.square() * solids.offset)[..., None]).sum(dim=-2)
    radius = torch.where(center[..., 0] < -FILLER_DISTANCE / 2, _NOWHERE, half.norm(dim=-1))
    return torch.cat([center, radius[..., None]], dim=-1)


def _launch(
    kernel: Any,
    solids: SolidTensors,
    tables: tuple[Tensor, ...],
    rays: tuple[Tensor, ...],
    results: tuple[Tensor, ...],
    *more: float,
) -> None:
    batch, pixels, samples = results[0].shape
    inputs: list[Any] = []
    for values in rays:
        expanded = values.expand(batch, pixels, samples, 3)
        inputs += [expanded, *expanded.stride()]
    grid = (triton.cdiv(pixels * samples, _BLOCK), batch)
    boxes, cylinders, ellipsoids = solids.counts
    ends = (boxes, boxes + cylinders, boxes + cylinders + ellipsoids)
    first = [bounding_spheres(solids), *(table.contiguous() for table in tables), *ends]
    kernel[grid](*first, *inputs, *results, *more, pixels * samples, samples, BLOCK=_BLOCK)


@triton.jit
def _rows(base, stride_b, stride_p, stride_s, stride_c, place, samples, mask):
    """Three coordinates of a block of points or vectors."""
    at = base + tl.program_id(1).to(tl.int64) * stride_b + (place // samples) * stride_p + (place % samples) * stride_s
    x = tl.load(at, mask=mask, other=0.0)
    y = tl.load(at + stride_c, mask=mask, other=0.0)
    z = tl.load(at + 2 * stride_c, mask=mask, other=0.0)
    return x, y, z


@triton.jit
def _middle(values, mask):
    return tl.sum(values, axis=0) / tl.sum(mask.to(tl.float32), axis=0)


@triton.jit
def _reach(x, y, z, mx, my, mz, mask):
    """How far the furthest of a block's points is from their middle."""
    dx, dy, dz = x - mx, y - my, z - mz
    return tl.sqrt(tl.max(tl.where(mask, dx * dx + dy * dy + dz * dz, 0.0), axis=0))


@triton.jit
def _meets_ball(sphere, mx, my, mz, reach):
    """Whether a sphere comes within reach of a point."""
    dx, dy, dz = tl.load(sphere) - mx, tl.load(sphere + 1) - my, tl.load(sphere + 2) - mz
    room = tl.load(sphere + 3) + reach
    return (room > 0) & (dx * dx + dy * dy + dz * dz < room * room * (1 + _SLACK) + _SLACK)


@triton.jit
def _meets_sweep(sphere, mx, my, mz, ax, ay, az, inverse, reach):
    """Whether a sphere comes within reach of the line from a point m along the vector a; inverse is 1 / |a|^2."""
    dx, dy, dz = tl.load(sphere) - mx, tl.load(sphere + 1) - my, tl.load(sphere + 2) - mz
    along = tl.minimum(tl.maximum((dx * ax + dy * ay + dz * az) * inverse, 0.0), 1.0)
    dx, dy, dz = dx - along * ax, dy - along * ay, dz - along * az
    room = tl.load(sphere + 3) + reach
    return (room > 0) & (dx * dx + dy * dy + dz * dz < room * room * (1 + _SLACK) + _SLACK)


@triton.jit
def _meets_cone(sphere, mx, my, mz, ax, ay, az, cosine, sine, reach):
    """Whether a sphere comes within reach of the cone about the unit vector a with its tip at m.

    The distance to the cone's mantle never exceeds that to the cone.
    """
    dx, dy, dz = tl.load(sphere) - mx, tl.load(sphere + 1) - my, tl.load(sphere + 2) - mz
    along = dx * ax + dy * ay + dz * az
    squared = dx * dx + dy * dy + dz * dz
    across = tl.sqrt(tl.maximum(squared - along * along, 0.0))
    room = tl.load(sphere + 3) + reach
    return (room > 0) & (across * cosine - along * sine < room * (1 + _SLACK) + _SLACK * (1 + tl.abs(along)))


@triton.jit
def _point(matrix, offset, x, y, z):
    """World points in a solid's canonical coordinates."""
    a = tl.load(offset) + tl.load(matrix) * x + tl.load(matrix + 1) * y + tl.load(matrix + 2) * z
    b = tl.load(offset + 1) + tl.load(matrix + 3) * x + tl.load(matrix + 4) * y + tl.load(matrix + 5) * z
    c = tl.load(offset + 2) + tl.load(matrix + 6) * x + tl.load(matrix + 7) * y + tl.load(matrix + 8) * z
    return a, b, c


@triton.jit
def _vector(matrix, x, y, z):
    """World directions in a solid's canonical coordinates."""
    a = tl.load(matrix) * x + _TINY + tl.load(matrix + 1) * y + tl.load(matrix + 2) * z
    b = tl.load(matrix + 3) * x + _TINY + tl.load(matrix + 4) * y + tl.load(matrix + 5) * z
    c = tl.load(matrix + 6) * x + _TINY + tl.load(matrix + 7) * y + tl.load(matrix + 8) * z
    return a, b, c


@triton.jit
def _slab(start, direction):
    inverse = 1.0 / direction
    middle = -start * inverse
    reach = tl.abs(inverse)
    return middle - reach, middle + reach


@triton.jit
def _entry(near, far):
    return tl.where((near < far) & (near > 0), near, float("inf"))


@triton.jit
def _enter_box(matrix, offset, ox, oy, oz, dx, dy, dz):
    """Where rays enter; infinite for a miss."""
    x, y, z = _point(matrix, offset, ox, oy, oz)
    u, v, w = _vector(matrix, dx, dy, dz)
    near, far = _slab(x, u)
    low, high = _slab(y, v)
    near, far = tl.maximum(near, low), tl.minimum(far, high)
    low, high = _slab(z, w)
    return _entry(tl.maximum(near, low), tl.minimum(far, high))


@triton.jit
def _enter_cylinder(matrix, offset, ox, oy, oz, dx, dy, dz):
    x, y, z = _point(matrix, offset, ox, oy, oz)
    u, v, w = _vector(matrix, dx, dy, dz)
    inverse = 1.0 / (u * u + v * v)
    closest = -(x * u + y * v) * inverse
    px = x + closest * u
    py = y + closest * v
    room = 1 - px * px - py * py
    reach = tl.sqrt(tl.maximum(room, 0.0) * inverse)
    low, high = _slab(z, w)
    near = tl.where(room > 0, tl.maximum(closest - reach, low), float("inf"))
    return _entry(near, tl.minimum(closest + reach, high))


@triton.jit
def _enter_ellipsoid(matrix, offset, ox, oy, oz, dx, dy, dz):
    x, y, z = _point(matrix, offset, ox, oy, oz)
    u, v, w = _vector(matrix, dx, dy, dz)
    inverse = 1.0 / (u * u + v * v + w * w)
    closest = -(x * u + y * v + z * w) * inverse
    px = x + closest * u
    py = y + closest * v
    pz = z + closest * w
    room = 1 - px * px - py * py - pz * pz
    reach = tl.sqrt(tl.maximum(room, 0.0) * inverse)
    return _entry(tl.where(room > 0, closest - reach, float("inf")), closest + reach)


@triton.jit
def _nearest(
    spheres, to_local, offsets, boxes, cylinders, solids,
    o, o_b, o_p, o_s, o_c, d, d_b, d_p, d_s, d_c, distance, index, rays, samples, BLOCK: tl.constexpr,
):  # fmt: skip
    """The nearest entry and the solid it belongs to; the first of equals, as ``min`` has it."""
    world = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = place < rays
    ox, oy, oz = _rows(o, o_b, o_p, o_s, o_c, place, samples, mask)
    dx, dy, dz = _rows(d, d_b, d_p, d_s, d_c, place, samples, mask)
    # The cone around all directions, with its tip in the middle of all origins.
    mx, my, mz = _middle(ox, mask), _middle(oy, mask), _middle(oz, mask)
    reach = _reach(ox, oy, oz, mx, my, mz, mask)
    length = tl.sqrt(dx * dx + dy * dy + dz * dz)
    unit = tl.where(mask, 1.0 / tl.maximum(length, 1e-20), 0.0)
    ax, ay, az = tl.sum(dx * unit, axis=0), tl.sum(dy * unit, axis=0), tl.sum(dz * unit, axis=0)
    scale = 1.0 / tl.maximum(tl.sqrt(ax * ax + ay * ay + az * az), 1e-20)
    ax, ay, az = ax * scale, ay * scale, az * scale
    cosine = tl.min(tl.where(mask, (dx * ax + dy * ay + dz * az) * unit, 1.0), axis=0)
    cosine = tl.minimum(cosine, 1.0)
    sine = tl.sqrt(tl.maximum(1 - cosine * cosine, 0.0))
    wide = cosine < 0.05  # wider than half of everything: no cone
    best = tl.full((BLOCK,), float("inf"), tl.float32)
    found = tl.zeros((BLOCK,), tl.int32)
    for solid in range(boxes):
        row = world * solids + solid
        if wide | _meets_cone(spheres + row * 4, mx, my, mz, ax, ay, az, cosine, sine, reach):
            near = _enter_box(to_local + row * 9, offsets + row * 3, ox, oy, oz, dx, dy, dz)
            found = tl.where(near < best, solid, found)
            best = tl.minimum(best, near)
    for solid in range(boxes, cylinders):
        row = world * solids + solid
        if wide | _meets_cone(spheres + row * 4, mx, my, mz, ax, ay, az, cosine, sine, reach):
            near = _enter_cylinder(to_local + row * 9, offsets + row * 3, ox, oy, oz, dx, dy, dz)
            found = tl.where(near < best, solid, found)
            best = tl.minimum(best, near)
    for solid in range(cylinders, solids):
        row = world * solids + solid
        if wide | _meets_cone(spheres + row * 4, mx, my, mz, ax, ay, az, cosine, sine, reach):
            near = _enter_ellipsoid(to_local + row * 9, offsets + row * 3, ox, oy, oz, dx, dy, dz)
            found = tl.where(near < best, solid, found)
            best = tl.minimum(best, near)
    tl.store(distance + world * rays + place, best, mask=mask)
    tl.store(index + world * rays + place, found.to(tl.int64), mask=mask)


@triton.jit
def _blocked(
    spheres, to_local, offsets, boxes, cylinders, solids,
    o, o_b, o_p, o_s, o_c, t, t_b, t_p, t_s, t_c, blocked, rays, samples, BLOCK: tl.constexpr,
):  # fmt: skip
    """Whether a ray enters anything before its target, which lies at 1."""
    world = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = place < rays
    ox, oy, oz = _rows(o, o_b, o_p, o_s, o_c, place, samples, mask)
    tx, ty, tz = _rows(t, t_b, t_p, t_s, t_c, place, samples, mask)
    # A ball swept from the middle of all points to the middle of all targets holds every ray.
    mx, my, mz = _middle(ox, mask), _middle(oy, mask), _middle(oz, mask)
    ax, ay, az = _middle(tx, mask), _middle(ty, mask), _middle(tz, mask)
    reach = tl.maximum(_reach(ox, oy, oz, mx, my, mz, mask), _reach(tx, ty, tz, ax, ay, az, mask))
    ax, ay, az = ax - mx, ay - my, az - mz
    inverse = 1.0 / tl.maximum(ax * ax + ay * ay + az * az, 1e-20)
    dx, dy, dz = tx - ox, ty - oy, tz - oz
    best = tl.full((BLOCK,), float("inf"), tl.float32)
    for solid in range(boxes):
        row = world * solids + solid
        if _meets_sweep(spheres + row * 4, mx, my, mz, ax, ay, az, inverse, reach):
            best = tl.minimum(best, _enter_box(to_local + row * 9, offsets + row * 3, ox, oy, oz, dx, dy, dz))
    for solid in range(boxes, cylinders):
        row = world * solids + solid
        if _meets_sweep(spheres + row * 4, mx, my, mz, ax, ay, az, inverse, reach):
            best = tl.minimum(best, _enter_cylinder(to_local + row * 9, offsets + row * 3, ox, oy, oz, dx, dy, dz))
    for solid in range(cylinders, solids):
        row = world * solids + solid
        if _meets_sweep(spheres + row * 4, mx, my, mz, ax, ay, az, inverse, reach):
            best = tl.minimum(best, _enter_ellipsoid(to_local + row * 9, offsets + row * 3, ox, oy, oz, dx, dy, dz))
    tl.store(blocked + world * rays + place, best < 1, mask=mask)


@triton.jit
def _outside(a, b):
    """Length of the parts of two coordinates that are beyond the surface."""
    a, b = tl.maximum(a, 0.0), tl.maximum(b, 0.0)
    return tl.sqrt(a * a + b * b)


@triton.jit
def _distance(
    spheres, to_local, offsets, halves, boxes, cylinders, solids, p, p_b, p_p, p_s, p_c, distance, most, rays, samples,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """The least signed distance to a solid, at most ``most``."""
    world = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = place < rays
    px, py, pz = _rows(p, p_b, p_p, p_s, p_c, place, samples, mask)
    mx, my, mz = _middle(px, mask), _middle(py, mask), _middle(pz, mask)
    reach = most + _reach(px, py, pz, mx, my, mz, mask)
    best = tl.full((BLOCK,), 0.0, tl.float32) + most
    for solid in range(boxes):
        row = world * solids + solid
        if _meets_ball(spheres + row * 4, mx, my, mz, reach):
            x, y, z = _point(to_local + row * 9, offsets + row * 3, px, py, pz)
            x = (tl.abs(x) - 1) * tl.load(halves + row * 3)
            y = (tl.abs(y) - 1) * tl.load(halves + row * 3 + 1)
            z = (tl.abs(z) - 1) * tl.load(halves + row * 3 + 2)
            inside = tl.minimum(tl.maximum(x, tl.maximum(y, z)), 0.0)
            best = tl.minimum(best, _outside(_outside(x, y), z) + inside)
    for solid in range(boxes, cylinders):
        row = world * solids + solid
        if _meets_ball(spheres + row * 4, mx, my, mz, reach):
            x, y, z = _point(to_local + row * 9, offsets + row * 3, px, py, pz)
            radial = (tl.sqrt(x * x + y * y) - 1) * tl.load(halves + row * 3)
            along = (tl.abs(z) - 1) * tl.load(halves + row * 3 + 2)
            inside = tl.minimum(tl.maximum(radial, along), 0.0)
            best = tl.minimum(best, _outside(radial, along) + inside)
    for solid in range(cylinders, solids):
        row = world * solids + solid
        if _meets_ball(spheres + row * 4, mx, my, mz, reach):
            x, y, z = _point(to_local + row * 9, offsets + row * 3, px, py, pz)
            half = halves + row * 3
            smallest = tl.minimum(tl.load(half), tl.minimum(tl.load(half + 1), tl.load(half + 2)))
            best = tl.minimum(best, (tl.sqrt(x * x + y * y + z * z) - 1) * smallest)
    tl.store(distance + world * rays + place, best, mask=mask)
