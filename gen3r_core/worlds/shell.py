"""The shell of a building: floors, walls with openings, ceilings, windows and closed doors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gen3r_core.worlds.floorplan import WALL_THICKNESS, FloorPlan, Opening, Room
from gen3r_core.worlds.interiors import Interior, draw_door, draw_poster, draw_window
from gen3r_core.worlds.materials import Material
from gen3r_core.worlds.solids import Solid, box, yaw_matrix

_SLAB = 0.1
_HALF_WALL = WALL_THICKNESS / 2
_SIDES = ((0, -1), (0, 1), (1, -1), (1, 1))


@dataclass(frozen=True)
class WallItem:
    """Something flat on a wall.

    Attributes:
        name: "window", "picture" or "closed door".
        room: index of its room.
        solid: what is drawn.
        normal: into the room, ``(x, y)``.
    """

    name: str
    room: int
    solid: Solid
    normal: tuple[float, float]


def build_shell(plan: FloorPlan, interiors: Sequence[Interior], rng: np.random.Generator) -> tuple[Solid, ...]:
    """Floors, walls and ceilings of all rooms, and here and there a slanting corner.

    Everything of a room lies within its cell, but for slanting corners, which stick out of the
    building where nobody can be.

    Args:
        plan: the rooms.
        interiors: one for each room.
        rng: decides on slanting corners.
    """
    solids: list[Solid] = []
    for index, (room, interior) in enumerate(zip(plan.rooms, interiors, strict=True)):
        x0, y0, x1, y1 = room.cell
        inner = room.inside
        anchor = (inner[0], inner[1], 0.0)
        solids.append(box((x0, y0, -_SLAB), (x1, y1, 0.0), interior.floor, anchor=anchor))
        solids.append(box((x0, y0, room.height), (x1, y1, room.height + _SLAB), interior.ceiling, anchor=anchor))
        for side, material in zip(_SIDES, interior.walls, strict=True):
            solids += _wall(room, side, material, _openings_of(plan, index, side))
        if rng.random() < 0.35:
            solids += _slanting_corner(plan, room, interior.walls[0], rng)
    return tuple(solids)


def _openings_of(plan: FloorPlan, index: int, side: tuple[int, int]) -> list[Opening]:
    """Openings in one wall of a room, along the wall."""
    axis, sign = side
    place = 0 if sign > 0 else 1  # a room before the wall sees it on its positive side
    found = [o for o in plan.openings if o.axis == axis and o.rooms[place] == index]
    return sorted(found, key=lambda opening: opening.center)


def _wall(room: Room, side: tuple[int, int], material: Material, openings: Sequence[Opening]) -> list[Solid]:
    axis, sign = side
    cell, inner = room.cell, room.inside
    along = 1 - axis
    # Walls across x run to the corners of the cell, walls across y end at those.
    low, high = (cell if axis == 0 else inner)[along], (cell if axis == 0 else inner)[2 + along]
    near, far = (cell[axis], inner[axis]) if sign < 0 else (inner[2 + axis], cell[2 + axis])
    anchor = (inner[0], inner[1], 0.0)
    pieces: list[tuple[float, float, float, float]] = []
    start = low
    for opening in openings:
        left, right = opening.center - opening.width / 2, opening.center + opening.width / 2
        pieces.append((start, left, 0.0, room.height))
        if opening.height < room.height:
            pieces.append((left, right, opening.height, room.height))
        start = right
    pieces.append((start, high, 0.0, room.height))
    solids = []
    for a, b, bottom, top in pieces:
        if axis == 0:
            solids.append(box((near, a, bottom), (far, b, top), material, anchor=anchor))
        else:
            solids.append(box((a, near, bottom), (b, far, top), material, anchor=anchor))
    return solids


def _slanting_corner(plan: FloorPlan, room: Room, material: Material, rng: np.random.Generator) -> list[Solid]:
    """A wall at 45 degrees across a corner of the building, far from all openings."""
    bounds, inner = plan.bounds, room.inside
    leg = float(rng.uniform(0.5, 1.1))
    corners = [
        (sx, sy)
        for sx in (-1, 1)
        for sy in (-1, 1)
        if room.cell[1 + sx] == bounds[1 + sx] and room.cell[2 + sy] == bounds[2 + sy]
    ]
    if not corners:
        return []
    sx, sy = corners[int(rng.integers(len(corners)))]
    x, y = inner[1 + sx], inner[2 + sy]
    if any(math.dist(opening.point, (x, y)) < leg + opening.width / 2 + 0.3 for opening in plan.openings):
        return []
    depth, reach = leg / math.sqrt(2), leg / math.sqrt(2) + _HALF_WALL
    half = depth / 2 + 0.02
    distance = depth - half  # of the box's centre from the corner, towards the room
    center = (x - sx * distance / math.sqrt(2), y - sy * distance / math.sqrt(2), room.height / 2)
    yaw = math.atan2(-sy, -sx)
    return [Solid("box", center, (half, reach, room.height / 2), material, yaw_matrix(yaw), (x, y, 0.0))]


def hang_on_walls(plan: FloorPlan, rng: np.random.Generator) -> tuple[WallItem, ...]:
    """Windows on outer walls, pictures, and closed doors where a corridor has room for them."""
    items: list[WallItem] = []
    bounds = plan.bounds
    for index, room in enumerate(plan.rooms):
        for side in _SIDES:
            axis, sign = side
            outer = room.cell[axis if sign < 0 else 2 + axis] == bounds[axis if sign < 0 else 2 + axis]
            taken = [
                (o.center - o.width / 2 - 0.15, o.center + o.width / 2 + 0.15) for o in _openings_of(plan, index, side)
            ]
            wanted: list[str] = []
            if outer and rng.random() < 0.4:
                wanted += ["window"] * int(rng.integers(1, 3))
            if room.name == "corridor" and rng.random() < 0.7:
                wanted += ["closed door"] * int(rng.integers(1, 4))
            elif rng.random() < 0.12:
                wanted.append("closed door")
            if rng.random() < 0.55:
                wanted += ["picture"] * int(rng.integers(1, 3))
            for name in wanted:
                item = _hang(name, index, room, side, taken, rng)
                if item is not None:
                    items.append(item)
    return tuple(items)


def _hang(
    name: str,
    index: int,
    room: Room,
    side: tuple[int, int],
    taken: list[tuple[float, float]],
    rng: np.random.Generator,
) -> WallItem | None:
    axis, sign = side
    inner, along = room.inside, 1 - axis
    low, high = inner[along] + 0.2, inner[2 + along] - 0.2
    if name == "window":
        width, bottom, top = float(rng.uniform(0.9, 2.0)), float(rng.uniform(0.6, 1.0)), float(rng.uniform(1.9, 2.2))
        depth, material = 0.03, draw_window(rng)
    elif name == "closed door":
        width, bottom, top = float(rng.uniform(0.8, 1.0)), 0.0, float(rng.uniform(1.95, 2.1))
        depth, material = 0.04, draw_door(rng)
    else:
        width, bottom = float(rng.uniform(0.5, 1.3)), float(rng.uniform(1.0, 1.4))
        top = min(bottom + float(rng.uniform(0.4, 0.9)), room.height - 0.2)
        depth, material = 0.03, draw_poster(rng)
    for _ in range(6):
        if high - low <= width:
            return None
        start = float(rng.uniform(low, high - width))
        end = start + width
        if all(end < a or start > b for a, b in taken):
            break
    else:
        return None
    taken.append((start - 0.15, end + 0.15))
    wall = inner[axis] if sign < 0 else inner[2 + axis]
    near, far = (wall - 0.02, wall + depth) if sign < 0 else (wall - depth, wall + 0.02)
    if axis == 0:
        solid = box((near, start, bottom), (far, end, top), material)
    else:
        solid = box((start, near, bottom), (end, far, top), material)
    return WallItem(name, index, solid, (-sign, 0.0) if axis == 0 else (0.0, -sign))
