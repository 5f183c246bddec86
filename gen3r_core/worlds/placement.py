"""Putting furniture into rooms: on the floor, apart from each other, doors and ways left free."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from gen3r_core.worlds.floorplan import FloorPlan, Room
from gen3r_core.worlds.freespace import Footprint, FreeSpace
from gen3r_core.worlds.furniture import FURNITURE, Piece
from gen3r_core.worlds.props import PROPS, pillar
from gen3r_core.worlds.shell import WallItem
from gen3r_core.worlds.solids import Solid

ROBOT_RADIUS = 0.3
"""A disc of this radius, in metres, can get from every room to every other."""
_GAP = 0.06
_TRIES = 10
_FREE_SHARE = 0.4
_TALL = 0.7

_WANTED: MappingProxyType[str, tuple[str, ...]] = MappingProxyType(
    {
        "living room": ("sofa", "coffee table", "armchair", "shelf", "floor lamp", "plant", "cabinet", "sofa", "ball"),
        "bedroom": ("bed", "wardrobe", "cabinet", "chair", "floor lamp", "plant", "armchair", "desk", "shelf"),
        "office": ("desk", "shelf", "table", "cabinet", "plant", "desk", "chair", "box pile", "floor lamp"),
        "kitchen": ("counter", "table", "cabinet", "stool", "counter", "plant", "crate", "stool", "shelf"),
        "dining room": ("table", "cabinet", "plant", "counter", "floor lamp", "stool", "statue", "armchair"),
        "storage room": ("box pile", "crate", "shelf", "barrel", "box pile", "crate", "barrel", "wardrobe", "stool"),
        "workshop": ("table", "barrel", "crate", "shelf", "stool", "box pile", "counter", "barrel", "cabinet"),
        "studio": ("table", "ball", "statue", "plant", "stool", "sofa", "crate", "floor lamp", "shelf", "pillar"),
        "library": ("shelf", "shelf", "table", "armchair", "shelf", "floor lamp", "statue", "plant", "desk"),
        "lobby": ("sofa", "pillar", "plant", "statue", "armchair", "coffee table", "pillar", "counter", "ball"),
        "corridor": ("plant", "cabinet", "box pile", "barrel", "stool", "shelf", "statue", "crate"),
    }
)


@dataclass(frozen=True)
class PlacedPiece:
    """A piece where it stands.

    Attributes:
        piece: what.
        room: index of its room.
        center: of its footprint, world x and y, metres.
        yaw: radians; its front is at ``yaw`` + 90 degrees.
    """

    piece: Piece
    room: int
    center: tuple[float, float]
    yaw: float

    @property
    def footprint(self) -> Footprint:
        """The rectangle that holds it."""
        return Footprint(self.center, self.piece.half, self.yaw)

    def solids(self) -> tuple[Solid, ...]:
        """Its solids in the world."""
        return tuple(solid.moved(self.yaw, (*self.center, 0.0)) for solid in self.piece.solids)


class Placer:
    """Places pieces into the rooms of a plan.

    Args:
        plan: the rooms.
        walls: footprints of walls.
        items: what hangs on the walls, so that nothing stands before doors and windows.
        hanging: what hangs from ceilings: footprints, and how far down in metres over the floor.
        rng: makes the draws.
    """

    def __init__(
        self,
        plan: FloorPlan,
        walls: Sequence[Footprint],
        items: Sequence[WallItem],
        hanging: Sequence[tuple[Footprint, float]],
        rng: np.random.Generator,
    ) -> None:
        self._plan = plan
        self._rng = rng
        self._walls = list(walls)
        self._hanging = list(hanging)
        self._items = [item for item in items if item.name != "picture"]
        self._space = FreeSpace.of(plan, self._walls)
        self._doors = [_before_opening(opening.point, opening.axis, opening.width) for opening in plan.openings]
        self._shut = [_before_item(item) for item in self._items if item.name == "closed door"]
        self._must_reach = [opening.point for opening in plan.openings]
        self._roomy = float((self._space.clearance > ROBOT_RADIUS).sum())
        self.placed: list[PlacedPiece] = []

    def furnish(self, index: int, budget: Counter[str]) -> None:
        """Fill a room until it is furnished, full, or out of solids.

        Args:
            index: of the room.
            budget: how many solids of each shape may be used; what is used is subtracted.
        """
        room = self._plan.rooms[index]
        names = list(_WANTED[room.name])
        share = self._rng.uniform(0.5, 1.0)
        count = max(1, min(len(names), round(room.area / 2.4 * share)))
        first, rest = names[:2], names[2:]
        self._rng.shuffle(rest)
        for name in [*first, *rest][:count]:
            built = pillar(self._rng, room.height) if name == "pillar" else (FURNITURE | PROPS)[name](self._rng)
            placed = self._put(built, index, budget)
            if placed is not None and name == "table":
                self._chairs(placed, index, budget)
            if placed is not None and name == "desk":
                self._beside(placed, FURNITURE["chair"](self._rng), (0, 1), index, budget)

    def _put(self, built: Piece, index: int, budget: Counter[str]) -> PlacedPiece | None:
        if not _affordable(built, budget):
            return None
        room = self._plan.rooms[index]
        for _ in range(_TRIES):
            draw = self._at_wall(built, room) if built.against_wall else self._anywhere(built, room)
            if draw is None:
                return None
            if self._accept(candidate := PlacedPiece(built, index, *draw), budget):
                return candidate
        return None

    def _at_wall(self, built: Piece, room: Room) -> tuple[tuple[float, float], float] | None:
        """Back to a wall: yaw so that +y points into the room."""
        axis, sign = ((0, -1), (0, 1), (1, -1), (1, 1))[int(self._rng.integers(4))]
        inner, along = room.inside, 1 - axis
        low, high = inner[along] + built.half[0] + 0.03, inner[2 + along] - built.half[0] - 0.03
        if low > high:
            return (self._anywhere(built, room)) if built.half[0] < built.half[1] else None
        place = float(self._rng.uniform(low, high))
        distance = (inner[2 + axis] - built.half[1] - 0.04) if sign > 0 else (inner[axis] + built.half[1] + 0.04)
        into = (-sign, 0) if axis == 0 else (0, -sign)
        center = (distance, place) if axis == 0 else (place, distance)
        return center, math.atan2(into[1], into[0]) - math.pi / 2

    def _anywhere(self, built: Piece, room: Room) -> tuple[tuple[float, float], float] | None:
        x0, y0, x1, y1 = room.inside
        quarter = int(self._rng.integers(4)) * math.pi / 2
        loose = self._rng.random() < 0.5
        yaw = quarter + (float(self._rng.uniform(-0.7, 0.7)) if loose else 0.0)
        cos, sin = abs(math.cos(yaw)), abs(math.sin(yaw))
        a, b = built.half
        x, y = cos * a + sin * b + _GAP, sin * a + cos * b + _GAP
        if x1 - x0 < 2 * x or y1 - y0 < 2 * y:
            return None
        return (float(self._rng.uniform(x0 + x, x1 - x)), float(self._rng.uniform(y0 + y, y1 - y))), yaw

    def _chairs(self, placed: PlacedPiece, index: int, budget: Counter[str]) -> None:
        chair = FURNITURE["chair"](self._rng)  # all alike
        sides = [(0, 1), (0, -1), (1, 0), (-1, 0)]
        self._rng.shuffle(sides)
        for side in sides[: int(self._rng.integers(1, 5))]:
            self._beside(placed, chair, side, index, budget)

    def _beside(self, host: PlacedPiece, built: Piece, side: tuple[int, int], index: int, budget: Counter[str]) -> None:
        """At a side of another piece, facing it."""
        reach = [host.piece.half[i] + built.half[1] + _GAP + 0.02 for i in (0, 1)]
        local = (side[0] * reach[0], side[1] * reach[1])
        cos, sin = math.cos(host.yaw), math.sin(host.yaw)
        center = (
            host.center[0] + cos * local[0] - sin * local[1],
            host.center[1] + sin * local[0] + cos * local[1],
        )
        facing = host.yaw + math.atan2(-side[1], -side[0]) - math.pi / 2
        if _affordable(built, budget):
            self._accept(PlacedPiece(built, index, center, facing), budget)

    def _accept(self, candidate: PlacedPiece, budget: Counter[str]) -> bool:
        """Place it if it fits, and tell."""
        if not self._stands_free(candidate):
            return False
        space = self._space.with_obstacle(candidate.footprint)
        largest = space.largest_region(ROBOT_RADIUS)
        if largest.sum() < _FREE_SHARE * self._roomy or not all(largest[space.cell(p)] for p in self._must_reach):
            return False
        if not all(_some_free(space, largest, room) for room in self._plan.rooms):
            return False
        self._space = space
        self.placed.append(candidate)
        budget.subtract(_cost(candidate.piece))
        return True

    def _stands_free(self, candidate: PlacedPiece) -> bool:
        """Whether it is within its room, and apart from walls, lamps, doors, windows and other pieces."""
        x0, y0, x1, y1 = self._plan.rooms[candidate.room].inside
        footprint, height = candidate.footprint, candidate.piece.height
        corners = footprint.corners()
        if (corners < (x0 + 0.02, y0 + 0.02)).any() or (corners > (x1 - 0.02, y1 - 0.02)).any():
            return False
        avoided = [*self._doors, *self._shut, *self._walls]
        avoided += [lamp for lamp, low in self._hanging if height > low - _GAP]
        if height > _TALL:
            avoided += [_before_item(item, 0.5) for item in self._items if item.room == candidate.room]
        if any(footprint.overlaps(other) for other in avoided):
            return False
        return not any(footprint.overlaps(other.footprint, _GAP) for other in self.placed)


def _some_free(space: FreeSpace, region: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], room: Room) -> bool:
    """Whether at least 0.6 square metres of a room can be reached."""
    x0, y0, x1, y1 = room.inside
    (i0, j0), (i1, j1) = space.cell((x0, y0)), space.cell((x1, y1))
    return int(region[i0 : i1 + 1, j0 : j1 + 1].sum()) >= 60


def _cost(built: Piece) -> Counter[str]:
    return Counter(solid.shape for solid in built.solids)


def _affordable(built: Piece, budget: Counter[str]) -> bool:
    return all(budget[shape] >= count for shape, count in _cost(built).items())


def _before_opening(point: tuple[float, float], axis: int, width: float) -> Footprint:
    """What must stay free on both sides of a doorway."""
    deep, wide = 0.85, width / 2 + 0.05
    return Footprint(point, (deep, wide) if axis == 0 else (wide, deep))


def _before_item(item: WallItem, depth: float = 0.7) -> Footprint:
    """What must stay free before a closed door or a window."""
    low, high = item.solid.extents()
    middle, half = (low + high) / 2, (high - low) / 2
    x, y = (float(middle[i] + item.normal[i] * depth / 2) for i in (0, 1))
    half_x, half_y = (float(half[i]) if item.normal[i] == 0 else depth / 2 for i in (0, 1))
    return Footprint((x, y), (half_x, half_y))
