"""Lights of a world, and the exposure that makes pictures of it neither dark nor burnt out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gen3r_core.worlds.floorplan import FloorPlan, Room
from gen3r_core.worlds.interiors import Interior
from gen3r_core.worlds.placement import PlacedPiece
from gen3r_core.worlds.props import WARM, sky_color
from gen3r_core.worlds.shell import WallItem

LARGEST_LIGHTS = 6
"""Lights that a world has at most."""
SOFTENING = 0.7
"""Metres: a light's power falls off with ``1 / (distance^2 + SOFTENING^2)``, so that nothing near it burns out."""
MIDDLE = 0.3
"""What the mean surface shall have after exposure, before the tone curve ``1 - exp(-x)``."""
Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Light:
    """A lamp or a window.

    Attributes:
        position: world, metres.
        power: linear RGB; ``power / (d^2 + SOFTENING^2)`` is the irradiance at distance d.
        radius: of the shining ball in metres, which softens shadows.
        room: index of its room.
    """

    position: Vector
    power: Vector
    radius: float
    room: int


def light_rooms(
    plan: FloorPlan,
    interiors: Sequence[Interior],
    items: Sequence[WallItem],
    fixtures: Sequence[Sequence[Vector]],
    placed: Sequence[PlacedPiece],
    rng: np.random.Generator,
) -> tuple[Light, ...]:
    """Lights of all rooms, each room about equally bright on average: dark surfaces get more light.

    Every room has at least one; windows and floor lamps shine where lights are left.

    Args:
        plan: the rooms.
        interiors: their surfaces.
        items: windows among them.
        fixtures: points of ceiling lamps by room, metres.
        placed: floor lamps among them.
        rng: makes the draws.
    """
    sources: list[tuple[int, Vector, Vector, float, float]] = []  # room, position, colour, share, radius
    for room, points in enumerate(fixtures):
        warm = float(rng.uniform(0, 1))
        color = (1.0, 0.98 - 0.08 * warm, 0.95 - 0.27 * warm)
        kept = points if len(sources) + len(points) + len(fixtures) - room - 1 <= LARGEST_LIGHTS else points[:1]
        sources += [(room, point, color, 1.0 / len(kept), float(rng.uniform(0.04, 0.12))) for point in kept]
    extra: list[tuple[int, Vector, Vector, float, float]] = []
    for item in items:
        if item.name == "window":
            low, high = item.solid.extents()
            middle = (low + high) / 2
            x, y = (float(middle[i]) + item.normal[i] * 0.3 for i in (0, 1))
            extra.append((item.room, (x, y, float(high[2]) - 0.2), sky_color(rng), float(rng.uniform(0.5, 1.3)), 0.15))
    for one in placed:
        if one.piece.lamp is not None:
            z = min(one.piece.lamp.point[2], plan.rooms[one.room].height - 0.1)
            extra.append((one.room, (*one.center, z), WARM, float(rng.uniform(0.3, 0.6)), 0.06))
    rng.shuffle(extra)
    sources += extra[: LARGEST_LIGHTS - len(sources)]
    total = [sum(source[3] for source in sources if source[0] == room) for room in range(len(plan.rooms))]
    reflected = [_mean_albedo(room, interior) for room, interior in zip(plan.rooms, interiors, strict=True)]
    bright = [float(np.clip(rng.uniform(0.85, 1.15) * (0.35 / value) ** 0.6, 0.6, 2.2)) for value in reflected]
    lights = []
    for room, position, color, share, radius in sources:
        mean = float(_mean_irradiance(plan.rooms[room], np.array(position)))
        power = share / total[room] * bright[room] / max(mean, 1e-3)
        lights.append(Light(position, (power * color[0], power * color[1], power * color[2]), radius, room))
    return tuple(lights)


def exposure_for(
    plan: FloorPlan, interiors: Sequence[Interior], lights: Sequence[Light], ambient: tuple[float, float, float]
) -> float:
    """The factor that brings the mean radiance of floors, walls and ceilings to :data:`MIDDLE`."""
    radiance, area = 0.0, 0.0
    for index, (room, interior) in enumerate(zip(plan.rooms, interiors, strict=True)):
        light = sum(
            _mean_irradiance(room, np.array(lamp.position)) * np.array(lamp.power)
            for lamp in lights
            if lamp.room == index
        )
        irradiance = 0.85 * light + 0.8 * np.array(ambient)
        for albedo, size in _surfaces(room, interior):
            radiance += size * float((albedo * irradiance).mean())
            area += size
    return MIDDLE * area / max(radiance, 1e-6)


def _surfaces(room: Room, interior: Interior) -> list[tuple[NDArray[np.float64], float]]:
    """Mean reflectance ``[3]`` and area of floor, ceiling and walls."""
    x0, y0, x1, y1 = room.inside
    sides = (y1 - y0, y1 - y0, x1 - x0, x1 - x0)
    surfaces = [(interior.floor, room.area), (interior.ceiling, room.area)]
    surfaces += [(wall, side * room.height) for wall, side in zip(interior.walls, sides, strict=True)]
    return [(0.7 * np.array(m.color) + 0.3 * np.array(m.accent), area) for m, area in surfaces]


def _mean_albedo(room: Room, interior: Interior) -> float:
    surfaces = _surfaces(room, interior)
    return sum(float(albedo.mean()) * area for albedo, area in surfaces) / sum(area for _, area in surfaces)


def _mean_irradiance(room: Room, position: NDArray[np.float64]) -> float:
    """Of a light of power 1 on floor, ceiling and walls, by the middles of a 6 x 6 grid on each."""
    x0, y0, x1, y1 = room.inside
    low, high = np.array([x0, y0, 0.0]), np.array([x1, y1, room.height])
    grid = (np.arange(6) + 0.5) / 6
    total, area = 0.0, 0.0
    for axis in range(3):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        size = float((high[a] - low[a]) * (high[b] - low[b]))
        u, v = np.meshgrid(low[a] + grid * (high[a] - low[a]), low[b] + grid * (high[b] - low[b]))
        for wall in (low[axis], high[axis]):
            away = abs(float(position[axis] - wall))
            squared = (u - position[a]) ** 2 + (v - position[b]) ** 2 + away**2
            falloff = away / np.sqrt(squared) / (squared + SOFTENING**2)
            total += size * float(falloff.mean())
            area += size
    return total / area if math.isfinite(total) else 0.0
