"""Floor plans: rooms as rectangles side by side, joined by openings so that every room can be reached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from gen3r_core.errors import InputError
from gen3r_core.worlds.materials import pick

WorldKind = Literal["room", "corridor", "rooms"]
WORLD_KINDS: tuple[WorldKind, ...] = ("room", "corridor", "rooms")

WALL_THICKNESS = 0.14
"""Metres; each of two neighbouring rooms has half of it, with its own surface."""
_SMALLEST_SIDE = 2.6
_SHORTEST_SHARED = 1.5
_TRIES = 60

ROOM_NAMES = (
    "living room",
    "bedroom",
    "office",
    "kitchen",
    "dining room",
    "storage room",
    "workshop",
    "studio",
    "library",
    "lobby",
)
Rectangle = tuple[float, float, float, float]


@dataclass(frozen=True)
class Room:
    """One room.

    Attributes:
        name: one of :data:`ROOM_NAMES`, or "corridor".
        cell: ``(x0, y0, x1, y1)`` in metres, to the middle of the walls.
        height: of the ceiling, metres; the floor is at 0.
    """

    name: str
    cell: Rectangle
    height: float

    @property
    def inside(self) -> Rectangle:
        """``(x0, y0, x1, y1)`` between the walls, metres."""
        x0, y0, x1, y1 = self.cell
        half = WALL_THICKNESS / 2
        return (x0 + half, y0 + half, x1 - half, y1 - half)

    @property
    def area(self) -> float:
        """Of the floor, square metres."""
        x0, y0, x1, y1 = self.inside
        return (x1 - x0) * (y1 - y0)


@dataclass(frozen=True)
class Opening:
    """A doorway or an archway.

    Attributes:
        rooms: indices of the rooms it joins; ``rooms[0]`` is on the side of smaller coordinates.
        axis: of the wall's normal, 0 for x and 1 for y.
        position: of the middle of the wall along that axis, metres.
        center: of the opening along the wall, metres.
        width: metres.
        height: metres; that of the lower room where there is no lintel.
    """

    rooms: tuple[int, int]
    axis: int
    position: float
    center: float
    width: float
    height: float

    @property
    def point(self) -> tuple[float, float]:
        """Its middle on the floor, metres."""
        return (self.position, self.center) if self.axis == 0 else (self.center, self.position)


@dataclass(frozen=True)
class FloorPlan:
    """Rooms and what joins them.

    Attributes:
        kind: "room" (one), "corridor" (with side rooms) or "rooms" (two to four).
        rooms: at least one.
        openings: so many that every room can be reached.
    """

    kind: WorldKind
    rooms: tuple[Room, ...]
    openings: tuple[Opening, ...]

    @property
    def bounds(self) -> Rectangle:
        """``(x0, y0, x1, y1)`` of all rooms with their walls, metres."""
        cells = np.array([room.cell for room in self.rooms])
        low, high = cells[:, :2].min(axis=0), cells[:, 2:].max(axis=0)
        return (float(low[0]), float(low[1]), float(high[0]), float(high[1]))


def draw_floor_plan(kind: WorldKind, rng: np.random.Generator) -> FloorPlan:
    """A plan of the kind wanted.

    Raises:
        InputError: for an unknown kind.
    """
    if kind not in WORLD_KINDS:
        raise InputError(f"worlds are {', '.join(WORLD_KINDS)}, got {kind!r}")
    if kind == "room":
        size = (float(rng.uniform(3.4, 7.5)), float(rng.uniform(3.2, 6.5)))
        return FloorPlan(kind, (_room(pick(rng, ROOM_NAMES), (0.0, 0.0, *size), rng),), ())
    for _ in range(_TRIES):
        rooms = _corridor_rooms(rng) if kind == "corridor" else _split_rooms(rng)
        openings = _join(rooms, rng)
        if openings is not None:
            return FloorPlan(kind, rooms, openings)
    cells: tuple[Rectangle, Rectangle] = ((0.0, 0.0, 4.0, 4.0), (4.0, 0.0, 8.0, 4.0))
    rooms = tuple(_room(pick(rng, ROOM_NAMES), cell, rng) for cell in cells)
    return FloorPlan(kind, rooms, _join(rooms, rng) or ())


def _room(name: str, cell: Rectangle, rng: np.random.Generator) -> Room:
    return Room(name, cell, float(rng.uniform(2.4, 3.2)))


def _corridor_rooms(rng: np.random.Generator) -> tuple[Room, ...]:
    """A corridor along x, often with a bend at its end, and one to three rooms along one side."""
    length, width = float(rng.uniform(6.0, 12.0)), float(rng.uniform(1.7, 2.6))
    rooms = [_room("corridor", (0.0, 0.0, length, width), rng)]
    depth = float(rng.uniform(3.2, 4.8))
    if rng.random() < 0.4:
        cell = (length, 0.0, length + float(rng.uniform(1.8, 2.6)), width + float(rng.uniform(2.0, 4.5)))
        rooms.append(Room("corridor", cell, rooms[0].height))
    count = int(rng.integers(1, min(3, int(length / 3.2)) + 1))
    start = float(rng.uniform(0.0, length - 3.0 * count))
    for index in range(count):
        end = start + float(rng.uniform(2.9, min(4.5, length - start - 2.9 * (count - 1 - index))))
        rooms.append(_room(pick(rng, ROOM_NAMES), (start, width, end, width + depth), rng))
        start = end
    return tuple(rooms)


def _split_rooms(rng: np.random.Generator) -> tuple[Room, ...]:
    """A rectangle split into two to four."""
    cells: list[Rectangle] = [(0.0, 0.0, float(rng.uniform(6.5, 11.0)), float(rng.uniform(4.5, 9.0)))]
    for _ in range(int(rng.integers(1, 4))):
        cells.sort(key=lambda cell: (cell[2] - cell[0]) * (cell[3] - cell[1]))
        x0, y0, x1, y1 = cells[-1]
        along = 0 if x1 - x0 > y1 - y0 else 1
        side = (x1 - x0, y1 - y0)[along]
        if side < 2 * _SMALLEST_SIDE:
            break
        cut = (x0, y0)[along] + float(rng.uniform(_SMALLEST_SIDE, side - _SMALLEST_SIDE))
        cells.pop()
        cells += [(x0, y0, cut, y1), (cut, y0, x1, y1)] if along == 0 else [(x0, y0, x1, cut), (x0, cut, x1, y1)]
    return tuple(_room(pick(rng, ROOM_NAMES), cell, rng) for cell in cells)


def _join(rooms: tuple[Room, ...], rng: np.random.Generator) -> tuple[Opening, ...] | None:
    """Openings along a spanning tree and some more; None where the rooms do not hang together."""
    shared = {
        (a, b): wall
        for a in range(len(rooms))
        for b in range(len(rooms))
        if a != b and (wall := _shared_wall(rooms[a].cell, rooms[b].cell)) is not None
    }
    reached, openings = {0}, []
    while len(reached) < len(rooms):
        ways = [pair for pair in shared if (pair[0] in reached) != (pair[1] in reached)]
        if not ways:
            return None
        pair = ways[int(rng.integers(len(ways)))]
        openings.append(_opening(pair, shared[pair], rooms, rng))
        reached.update(pair)
    used = {opening.rooms for opening in openings}
    openings += [
        _opening(pair, wall, rooms, rng) for pair, wall in shared.items() if pair not in used and rng.random() < 0.5
    ]
    return tuple(openings)


def _shared_wall(a: Rectangle, b: Rectangle) -> tuple[int, float, float, float] | None:
    """``(axis, position, low, high)`` of the wall with ``a`` before and ``b`` behind it, if it is long enough."""
    for axis in (0, 1):
        other = 1 - axis
        low, high = max(a[other], b[other]), min(a[2 + other], b[2 + other])
        if abs(a[2 + axis] - b[axis]) < 1e-9 and high - low >= _SHORTEST_SHARED:
            return axis, a[2 + axis], low, high
    return None


def _opening(
    pair: tuple[int, int], wall: tuple[int, float, float, float], rooms: tuple[Room, ...], rng: np.random.Generator
) -> Opening:
    axis, position, low, high = wall
    margin = WALL_THICKNESS / 2 + 0.1
    ceiling = min(rooms[index].height for index in pair)
    if all(rooms[index].name == "corridor" for index in pair):
        width = high - low - 2 * margin
        return Opening(pair, axis, position, (low + high) / 2, width, ceiling)
    archway = rng.random() < 0.25
    width = float(rng.uniform(1.3, 2.0) if archway else rng.uniform(0.9, 1.1))
    width = min(width, high - low - 2 * margin)
    height = ceiling if archway and rng.random() < 0.4 else min(float(rng.uniform(2.0, 2.2)), ceiling - 0.15)
    reach = width / 2 + margin
    return Opening(pair, axis, position, float(rng.uniform(low + reach, high - reach)), width, height)
