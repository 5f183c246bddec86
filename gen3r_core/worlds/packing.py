"""Worlds as tensors: what the renderer reads, alike for one world and for a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gen3r_core.errors import InputError
from gen3r_core.worlds.lighting import LARGEST_LIGHTS
from gen3r_core.worlds.materials import PATTERNS
from gen3r_core.worlds.solids import SHAPES
from gen3r_core.worlds.world import LARGEST, World

FILLER_DISTANCE = 1e6
"""Metres along each axis from the origin to where solids that only fill up a batch are."""


class SolidTensors(NamedTuple):
    """Solids, boxes first, then cylinders, then ellipsoids.

    A point's canonical coordinates are ``to_local @ point + offset``: in them a box is the cube
    [-1, 1]^3, an ellipsoid the unit ball and a cylinder the unit cylinder about z from -1 to 1.

    Attributes:
        to_local: ``[B, K, 3, 3]``.
        offset: ``[B, K, 3]``.
        half: ``[B, K, 3]`` half sizes, metres.
        counts: how many of each shape, K in all.
    """

    to_local: Tensor
    offset: Tensor
    half: Tensor
    counts: tuple[int, int, int]

    def select(self, index: Tensor) -> SolidTensors:
        """Those of ascending indices ``[N]`` (waits for the device)."""
        boxes, cylinders, _ = self.counts
        first = int((index < boxes).sum())
        second = int((index < boxes + cylinders).sum()) - first
        counts = (first, second, int(index.numel()) - first - second)
        return SolidTensors(self.to_local[:, index], self.offset[:, index], self.half[:, index], counts)


class PackedWorlds(NamedTuple):
    """B worlds.

    Attributes:
        solids: their shapes.
        anchor: ``[B, K, 3]`` where textures begin, world metres.
        color: ``[B, K, 3]`` linear RGB.
        accent: ``[B, K, 3]`` linear RGB.
        scale: ``[B, K, 2]`` of the pattern, metres.
        glow: ``[B, K, 2]`` emission and specular strength.
        codes: ``[B, K, 3]`` int64: shape (place in ``SHAPES``), pattern (place in ``PATTERNS``), seed.
        source: ``[B, K]`` int64, index into the world's solids, -1 for fillers.
        light_position: ``[B, L, 3]`` world metres.
        light_power: ``[B, L, 3]`` linear RGB; 0 for fillers.
        light_radius: ``[B, L]`` metres.
        ambient: ``[B, 3]`` linear RGB.
        exposure: ``[B]``.
    """

    solids: SolidTensors
    anchor: Tensor
    color: Tensor
    accent: Tensor
    scale: Tensor
    glow: Tensor
    codes: Tensor
    source: Tensor
    light_position: Tensor
    light_power: Tensor
    light_radius: Tensor
    ambient: Tensor
    exposure: Tensor

    def mapped(self, change: Callable[[Tensor], Tensor]) -> PackedWorlds:
        """Every tensor changed by a function."""
        to_local, offset, half, *rest = (change(tensor) for tensor in _tensors(self))
        return PackedWorlds(SolidTensors(to_local, offset, half, self.solids.counts), *rest)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> PackedWorlds:
        """The same on another device."""
        return self.mapped(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def world(self, index: int) -> PackedWorlds:
        """One of the batch, as a batch of one."""
        return self.mapped(lambda tensor: tensor[index : index + 1])


class Capacity(NamedTuple):
    """How many solids and lights tensors hold.

    Attributes:
        solids: boxes, cylinders, ellipsoids.
        lights: lights.
    """

    solids: tuple[int, int, int]
    lights: int


FULL_CAPACITY = Capacity((LARGEST["box"], LARGEST["cylinder"], LARGEST["ellipsoid"]), LARGEST_LIGHTS)
"""What every world fits into: one shape for all batches, as compiled code wants it."""
CAPACITIES = (Capacity((48, 24, 10), LARGEST_LIGHTS), Capacity((80, 36, 16), LARGEST_LIGHTS), FULL_CAPACITY)
"""What a world costs is its capacity: of ten worlds four fit into the first of these, four more into the second."""


def capacity_of(worlds: Sequence[World]) -> Capacity:
    """The smallest that holds all of some worlds."""
    counts = [[sum(solid.shape == shape for solid in world.solids) for shape in SHAPES] for world in worlds]
    boxes, cylinders, ellipsoids = np.array(counts).max(axis=0).tolist()
    return Capacity((boxes, cylinders, ellipsoids), max(len(world.lights) for world in worlds))


def fits(world: World, capacity: Capacity) -> bool:
    """Whether a world's solids and lights all find room."""
    (boxes, cylinders, ellipsoids), lights = capacity_of([world])
    most = capacity.solids
    return boxes <= most[0] and cylinders <= most[1] and ellipsoids <= most[2] and lights <= capacity.lights


def pack_worlds(
    worlds: Sequence[World], *, capacity: Capacity | None = None, dtype: torch.dtype = torch.float32
) -> PackedWorlds:
    """Tensors of worlds, on the CPU.

    Args:
        worlds: B of them, at least one.
        capacity: sizes to fill up to; None takes the smallest.
        dtype: float32 or float64.

    Raises:
        InputError: if there is no world, or one does not fit.
    """
    if not worlds:
        raise InputError("there is no world to pack; give at least one")
    capacity = capacity_of(worlds) if capacity is None else capacity
    return stack_worlds([_pack(world, capacity, dtype) for world in worlds])


def stack_worlds(packed: Sequence[PackedWorlds]) -> PackedWorlds:
    """Batches of one capacity as one batch.

    Raises:
        InputError: if capacities differ.
    """
    shapes = {(one.solids.counts, one.light_radius.shape[1]) for one in packed}
    if len(shapes) != 1:
        raise InputError(f"worlds of different capacities cannot be stacked: {sorted(shapes)}; pack them with one")
    lists = [_tensors(one) for one in packed]
    to_local, offset, half, *rest = (torch.cat(parts) for parts in zip(*lists, strict=True))
    return PackedWorlds(SolidTensors(to_local, offset, half, packed[0].solids.counts), *rest)


def _tensors(packed: PackedWorlds) -> list[Tensor]:
    solids, *rest = packed
    return [solids.to_local, solids.offset, solids.half, *rest]


def _pack(world: World, capacity: Capacity, dtype: torch.dtype) -> PackedWorlds:
    order: list[int] = []
    for shape, room in zip(SHAPES, capacity.solids, strict=True):
        found = [index for index, solid in enumerate(world.solids) if solid.shape == shape]
        if len(found) > room:
            raise InputError(
                f"world {world.seed} has {len(found)} {shape} solids, and only {room} fit; raise the limit"
            )
        order += found + [-1] * (room - len(found))
    if len(world.lights) > capacity.lights:
        raise InputError(f"world {world.seed} has {len(world.lights)} lights, and only {capacity.lights} fit")
    source = np.array(order, dtype=np.int64)
    there = source >= 0
    solids = [world.solids[index] for index in source[there]]
    count = len(source)

    def filled(values: list[Any], width: tuple[int, ...], filler: float) -> NDArray[np.float64]:
        array = np.full((count, *width), filler, dtype=np.float64)
        array[there] = np.array(values, dtype=np.float64)
        return array

    half = filled([s.half for s in solids], (3,), 1.0)
    rotation = filled([s.rotation for s in solids], (3, 3), 0.0)
    rotation[~there] = np.eye(3)
    center = filled([s.center for s in solids], (3,), -FILLER_DISTANCE)
    to_local = rotation.transpose(0, 2, 1) / half[:, :, None]
    offset = -(to_local * center[:, None, :]).sum(axis=2)
    codes = np.zeros((count, 3), dtype=np.int64)
    codes[:, 0] = np.repeat(np.arange(3), capacity.solids)
    codes[there, 1] = [PATTERNS.index(s.material.pattern) for s in solids]
    codes[there, 2] = [s.material.seed for s in solids]
    lights = np.zeros((capacity.lights, 7))
    lights[:, 2] = 1.0
    for row, light in zip(lights, world.lights, strict=False):
        row[:] = (*light.position, *light.power, light.radius)

    def tensor(array: object) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(np.array(array, dtype=np.float64)[None])).to(dtype)

    return PackedWorlds(
        SolidTensors(tensor(to_local), tensor(offset), tensor(half), capacity.solids),
        tensor(filled([s.center if s.anchor is None else s.anchor for s in solids], (3,), 0.0)),
        tensor(filled([s.material.color for s in solids], (3,), 0.5)),
        tensor(filled([s.material.accent for s in solids], (3,), 0.5)),
        tensor(filled([s.material.scale for s in solids], (2,), 1.0)),
        tensor(filled([(s.material.emission, s.material.specular) for s in solids], (2,), 0.0)),
        torch.from_numpy(codes[None]),
        torch.from_numpy(source[None]),
        tensor(lights[:, :3]),
        tensor(lights[:, 3:6]),
        tensor(lights[:, 6]),
        tensor(world.ambient),
        tensor(world.exposure),
    )
