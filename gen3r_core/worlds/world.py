"""A world: rooms with furniture and lights, all drawn from one seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gen3r_core.errors import InputError
from gen3r_core.worlds.floorplan import WORLD_KINDS, FloorPlan, Opening, Room, WorldKind, draw_floor_plan
from gen3r_core.worlds.freespace import FreeSpace, blocking, footprint_of
from gen3r_core.worlds.interiors import Interior, draw_interior, draw_rug
from gen3r_core.worlds.lighting import Light, exposure_for, light_rooms
from gen3r_core.worlds.placement import PlacedPiece, Placer
from gen3r_core.worlds.props import ceiling_lamp
from gen3r_core.worlds.shell import WallItem, build_shell, hang_on_walls
from gen3r_core.worlds.solids import SHAPES, Solid, box

LARGEST = {"box": 112, "cylinder": 48, "ellipsoid": 24}
"""Solids of each shape that a world has at most."""
_WALL_ITEMS = 10
_KIND_SHARES = (0.5, 0.2, 0.3)


@dataclass(frozen=True)
class WorldObject:
    """Something with a name in a world.

    Attributes:
        name: e.g. "sofa".
        word: e.g. "red"; may be empty.
        room: index of its room.
    """

    name: str
    word: str
    room: int


@dataclass(frozen=True, eq=False)
class World:
    """A building with everything in it. Metres, z up, the floor at z = 0.

    Attributes:
        seed: what it was drawn from.
        plan: rooms and openings.
        interiors: surfaces by room.
        solids: everything that is drawn.
        owners: index into ``objects`` by solid, -1 for floors, walls and ceilings.
        objects: what captions can name.
        placed: furniture.
        lights: at least one.
        ambient: linear RGB irradiance from everywhere.
        exposure: scene radiance is multiplied by it.
    """

    seed: int
    plan: FloorPlan
    interiors: tuple[Interior, ...]
    solids: tuple[Solid, ...]
    owners: tuple[int, ...]
    objects: tuple[WorldObject, ...]
    placed: tuple[PlacedPiece, ...]
    lights: tuple[Light, ...]
    ambient: tuple[float, float, float]
    exposure: float

    @property
    def kind(self) -> WorldKind:
        """One of :data:`~gen3r_core.worlds.floorplan.WORLD_KINDS`."""
        return self.plan.kind

    @property
    def rooms(self) -> tuple[Room, ...]:
        """The rooms."""
        return self.plan.rooms

    @property
    def openings(self) -> tuple[Opening, ...]:
        """What joins them."""
        return self.plan.openings

    @cached_property
    def free_space(self) -> FreeSpace:
        """Where one can walk; computed once."""
        walls = [solid for solid, owner in zip(self.solids, self.owners, strict=True) if owner < 0]
        return FreeSpace.of(self.plan, [*blocking(walls), *(placed.footprint for placed in self.placed)])

    def room_at(self, point: tuple[float, float]) -> int | None:
        """Index of the room over a point on the floor; None outside of the building."""
        for index, room in enumerate(self.rooms):
            x0, y0, x1, y1 = room.cell
            if x0 <= point[0] <= x1 and y0 <= point[1] <= y1:
                return index
        return None


def make_world(seed: int, kind: WorldKind | None = None) -> World:
    """Draw a world.

    Args:
        seed: 0 or more; the same seed and kind give the same world.
        kind: "room", "corridor" or "rooms"; None draws it (50, 20 and 30 percent).

    Raises:
        InputError: for a negative seed or an unknown kind.
    """
    if seed < 0:
        raise InputError(f"the seed of a world is a whole number from 0 on, got {seed}")
    rng = np.random.default_rng((seed, 0))
    drawn = WORLD_KINDS[int(rng.choice(len(WORLD_KINDS), p=_KIND_SHARES))]
    plan = draw_floor_plan(drawn if kind is None else kind, rng)
    interiors = tuple(draw_interior(rng) for _ in plan.rooms)
    shell = build_shell(plan, interiors, rng)
    items = _some_of(hang_on_walls(plan, rng), rng)
    fixtures = [_fixtures(room, rng) for room in plan.rooms]
    budget = Counter[str](LARGEST)
    budget.subtract(solid.shape for solid in shell)
    budget.subtract("box" for _ in items)
    budget.subtract(solid.shape for room in fixtures for solids, _ in room for solid in solids)
    budget["box"] -= len(plan.rooms)  # rugs
    hanging = [
        (footprint_of(solid), float(solid.extents()[0, 2]))
        for room in fixtures
        for solids, _ in room
        for solid in solids
    ]
    placer = Placer(plan, blocking(shell), items, hanging, rng)
    for index in range(len(plan.rooms)):
        share = Counter[str]({shape: budget[shape] // (len(plan.rooms) - index) for shape in SHAPES})
        before = Counter(share)
        placer.furnish(index, share)
        budget.subtract(before - share)
    rugs = [rug for index, room in enumerate(plan.rooms) if (rug := _rug(index, room, rng)) is not None]
    solids, owners, objects = _gather(shell, items, fixtures, placer.placed, rugs)
    lights = light_rooms(plan, interiors, items, [[lamp for _, lamp in room] for room in fixtures], placer.placed, rng)
    warmth = float(rng.uniform(0.0, 0.1))
    strength = float(rng.uniform(0.4, 0.6))
    ambient = (strength, strength * (1 - warmth / 3), strength * (1 - warmth))
    exposure = exposure_for(plan, interiors, lights, ambient) * float(rng.uniform(0.85, 1.2))
    return World(seed, plan, interiors, solids, owners, objects, tuple(placer.placed), lights, ambient, float(exposure))


def _some_of(items: Sequence[WallItem], rng: np.random.Generator) -> tuple[WallItem, ...]:
    if len(items) <= _WALL_ITEMS:
        return tuple(items)
    chosen = sorted(rng.choice(len(items), _WALL_ITEMS, replace=False).tolist())
    return tuple(items[index] for index in chosen)


def _fixtures(room: Room, rng: np.random.Generator) -> list[tuple[list[Solid], tuple[float, float, float]]]:
    """Ceiling lamps of a room, each with the point its light comes from; long rooms have two."""
    x0, y0, x1, y1 = room.inside
    shape = rng.bit_generator.state
    places = [(0.5, 0.5)]
    if max(x1 - x0, y1 - y0) > 6.5:
        places = [(0.25, 0.5), (0.75, 0.5)] if x1 - x0 > y1 - y0 else [(0.5, 0.25), (0.5, 0.75)]
    found = []
    shift = rng.uniform(-0.05, 0.05, 2)
    for u, v in places:
        rng.bit_generator.state = shape  # lamps of a room are alike
        solids, lamp = ceiling_lamp(rng, room.height)
        offset = (x0 + (u + float(shift[0])) * (x1 - x0), y0 + (v + float(shift[1])) * (y1 - y0), 0.0)
        point = (offset[0] + lamp.point[0], offset[1] + lamp.point[1], lamp.point[2])
        found.append(([solid.moved(0.0, offset) for solid in solids], point))
    return found


def _rug(index: int, room: Room, rng: np.random.Generator) -> tuple[WorldObject, Solid] | None:
    x0, y0, x1, y1 = room.inside
    if rng.random() > 0.4 or min(x1 - x0, y1 - y0) < 2.0:
        return None
    half = [min(float(rng.uniform(0.6, 1.4)), (side - 0.4) / 2) for side in (x1 - x0, y1 - y0)]
    x, y = (
        float(rng.uniform(low + reach + 0.1, high - reach - 0.1))
        for low, high, reach in ((x0, x1, half[0]), (y0, y1, half[1]))
    )
    name, material = draw_rug(rng)
    solid = box((x - half[0], y - half[1], -0.01), (x + half[0], y + half[1], 0.008), material)
    return WorldObject("rug", name, index), solid


def _gather(
    shell: Sequence[Solid],
    items: Sequence[WallItem],
    fixtures: Sequence[Sequence[tuple[list[Solid], tuple[float, float, float]]]],
    placed: Sequence[PlacedPiece],
    rugs: Sequence[tuple[WorldObject, Solid]],
) -> tuple[tuple[Solid, ...], tuple[int, ...], tuple[WorldObject, ...]]:
    solids, owners, objects = list(shell), [-1] * len(shell), list[WorldObject]()

    def add(named: WorldObject, parts: Sequence[Solid]) -> None:
        solids.extend(parts)
        owners.extend([len(objects)] * len(parts))
        objects.append(named)

    for item in items:
        add(WorldObject(item.name, item.solid.material.word, item.room), [item.solid])
    for room, lamps in enumerate(fixtures):
        for parts, _ in lamps:
            add(WorldObject("ceiling lamp", "", room), parts)
    for one in placed:
        add(WorldObject(one.piece.name, one.piece.word, one.room), one.solids())
    for named, solid in rugs:
        add(named, [solid])
    return tuple(solids), tuple(owners), tuple(objects)
