"""Points on the surfaces of a world: the cloud that reconstructions are measured against."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gen3r_core.errors import Gen3RError, InputError
from gen3r_core.reconstruction.cloud import PointCloud
from gen3r_core.worlds.intersection import signed_distance
from gen3r_core.worlds.packing import PackedWorlds, pack_worlds
from gen3r_core.worlds.shading import hits_at, shade
from gen3r_core.worlds.world import World

Array = NDArray[np.float64]
_LIFT = 2e-3
_ROUNDS = 200
_AT_ONCE = 16384


def sample_surface(world: World, n: int, seed: int = 0) -> PointCloud:
    """Points spread evenly by area over all surfaces that face the inside of rooms.

    Left out are surfaces that lie within or against another solid (the underside of a table's foot)
    and the outside of the building. Undersides and backs that stand free count, seen or not.

    Args:
        world: the world.
        n: how many points.
        seed: of the draw.

    Returns:
        n points in the world frame, metres, float64; colours as seen from straight above the surface.

    Raises:
        InputError: if n is not positive.
    """
    if n < 1:
        raise InputError(f"a cloud needs at least one point, got {n}")
    rng = np.random.default_rng((world.seed, 4, seed))
    packed = pack_worlds([world])
    geometry = _Geometry(packed)
    found: list[tuple[Array, Array, NDArray[np.int64]]] = []
    count = 0
    for _ in range(_ROUNDS):
        points, normals, index = geometry.draw(min(2 * (n - count) + 256, 4 * _AT_ONCE), rng)
        free = _is_free(world, packed, points + _LIFT * normals)
        found.append((points[free], normals[free], index[free]))
        count += int(free.sum())
        if count >= n:
            break
    else:
        raise Gen3RError(f"world {world.seed} shows hardly any surface: {count} of {n} points were found")
    points, normals, index = (np.concatenate(parts)[:n] for parts in zip(*found, strict=True))
    return PointCloud(points, _colors(packed, points, normals, index))


class _Geometry:
    """Areas of one packed world's solids, and draws from them."""

    def __init__(self, packed: PackedWorlds) -> None:
        half = packed.solids.half[0].double().numpy()
        self.shape = packed.codes[0, :, 0].numpy()
        self.half = half
        self.rotation = (packed.solids.to_local[0] * packed.solids.half[0][:, :, None]).double().numpy()
        offset = packed.solids.offset[0].double().numpy() * half
        self.center = -np.einsum("kij,ki->kj", self.rotation, offset)
        a, b, c = half.T
        p = 1.6075  # Thomsen's approximation of an ellipsoid's area, within 1.1 percent
        ball = 4 * math.pi * (((a * b) ** p + (a * c) ** p + (b * c) ** p) / 3) ** (1 / p)
        block = 8 * (a * b + a * c + b * c)
        drum = 2 * math.pi * a * (a + 2 * c)
        area = np.select([self.shape == 0, self.shape == 1], [block, drum], ball)
        self.share = area / area.sum()

    def draw(self, count: int, rng: np.random.Generator) -> tuple[Array, Array, NDArray[np.int64]]:
        """Points, normals (world) and solids; somewhat fewer than asked for."""
        index = rng.choice(len(self.share), count, p=self.share)
        half, shape = self.half[index], self.shape[index]
        draws = [_on_box(half, rng), _on_cylinder(half, rng), _on_ellipsoid(half, rng)]
        local, normal = (
            np.select([shape[:, None] == 0, shape[:, None] == 1], [draws[0][i], draws[1][i]], draws[2][i])
            for i in (0, 1)
        )
        keep = (shape != 2) | draws[2][2]
        rotation = self.rotation[index]
        points = np.einsum("nij,ni->nj", rotation, local) + self.center[index]
        normals = np.einsum("nij,ni->nj", rotation, normal)
        return points[keep], normals[keep], index[keep]


def _on_box(half: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    a, b, c = half.T
    areas = np.stack([b * c, a * c, a * b], axis=-1)
    place = rng.random(len(half)) * areas.sum(axis=1)
    axis = (place[:, None] > np.cumsum(areas, axis=1)).sum(axis=1).clip(max=2)
    local = rng.uniform(-1, 1, half.shape)
    sign = np.where(rng.random(len(half)) < 0.5, -1.0, 1.0)
    normal = np.zeros_like(half)
    rows = np.arange(len(half))
    local[rows, axis] = sign
    normal[rows, axis] = sign
    return local * half, normal


def _on_cylinder(half: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    radius, rise = half[:, 0], half[:, 2]
    angle = rng.uniform(0, 2 * math.pi, len(half))
    around = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    on_cap = rng.random(len(half)) * (radius + 2 * rise) < radius
    sign = np.where(rng.random(len(half)) < 0.5, -1.0, 1.0)
    flat = around * radius[:, None]
    cap = np.concatenate([flat * np.sqrt(rng.random(len(half)))[:, None], (sign * rise)[:, None]], axis=-1)
    side = np.concatenate([flat, (rng.uniform(-1, 1, len(half)) * rise)[:, None]], axis=-1)
    up = np.stack([np.zeros_like(sign), np.zeros_like(sign), sign], axis=-1)
    out = np.concatenate([around, np.zeros((len(half), 1))], axis=-1)
    return np.where(on_cap[:, None], cap, side), np.where(on_cap[:, None], up, out)


def _on_ellipsoid(half: Array, rng: np.random.Generator) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Uniform by rejection: the ball's area element grows by ``abc |u / half|`` at the point ``half * u``."""
    u = rng.normal(size=half.shape)
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    gradient = u / half
    size = np.linalg.norm(gradient, axis=1)
    keep = rng.random(len(half)) < size * half.min(axis=1)
    return u * half, gradient / size[:, None], keep


def _is_free(world: World, packed: PackedWorlds, points: Array) -> NDArray[np.bool_]:
    """Whether points are inside of a room and outside of all solids."""
    inside = np.zeros(len(points), dtype=bool)
    for room in world.rooms:
        x0, y0, x1, y1 = room.cell
        inside |= ((points > (x0, y0, 0.0)) & (points < (x1, y1, room.height))).all(axis=1)
    distance = [
        signed_distance(packed.solids, part[None, :, None])[0, :, 0]
        for part in torch.from_numpy(points).to(torch.float32).split(_AT_ONCE)
    ]
    return np.asarray(inside & (torch.cat(distance).numpy() > _LIFT / 2), dtype=bool)


def _colors(packed: PackedWorlds, points: Array, normals: Array, index: NDArray[np.int64]) -> Array:
    def part(values: Array, rows: slice) -> Tensor:
        return torch.from_numpy(values[rows]).to(torch.float32)[None, :, None]

    found = []
    away = 0.05
    for start in range(0, len(points), _AT_ONCE):
        rows = slice(start, start + _AT_ONCE)
        normal = part(normals, rows)
        eye = part(points, rows) + away * normal
        distance = torch.full(eye.shape[:-1], away)
        solid = torch.from_numpy(index[rows])[None, :, None]
        hits = hits_at(packed, eye, -normal, distance, solid, torch.full_like(distance, 0.02))
        found.append(shade(packed, hits, eye)[0, :, 0])
    return torch.cat(found).double().clamp(0, 1).numpy()
