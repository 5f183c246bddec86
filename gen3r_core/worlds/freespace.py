"""Where one can stand and drive: footprints on the floor, and a grid of distances to them.

Plan coordinates are world x and y in metres.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gen3r_core.worlds.floorplan import FloorPlan
from gen3r_core.worlds.solids import Solid

Array = NDArray[np.float64]
RESOLUTION = 0.1
"""Edge of a grid cell in metres."""
HEAD_ROOM = 1.9
"""What hangs higher, in metres, blocks nobody."""


@dataclass(frozen=True)
class Footprint:
    """A rectangle on the floor.

    Attributes:
        center: metres.
        half: half sizes along its own axes, metres.
        yaw: of its x axis, radians.
    """

    center: tuple[float, float]
    half: tuple[float, float]
    yaw: float = 0.0

    def distance(self, points: Array) -> Array:
        """``[...]`` signed distances in metres of ``[..., 2]`` points, negative inside."""
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        x, y = points[..., 0] - self.center[0], points[..., 1] - self.center[1]
        across = np.abs(cos * x + sin * y) - self.half[0]
        up = np.abs(cos * y - sin * x) - self.half[1]
        outside = np.hypot(np.maximum(across, 0), np.maximum(up, 0))
        return np.asarray(outside + np.minimum(np.maximum(across, up), 0), dtype=np.float64)

    def corners(self) -> Array:
        """``[4, 2]`` in metres."""
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        signs = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], dtype=np.float64)
        turned: Array = signs * np.array(self.half) @ np.array([[cos, sin], [-sin, cos]])
        return np.asarray(turned + np.array(self.center), dtype=np.float64)

    def overlaps(self, other: Footprint, margin: float = 0.0) -> bool:
        """Whether two rectangles come closer than a margin (along the axes of either)."""
        for yaw in (self.yaw, other.yaw):
            for axis in (
                np.array([math.cos(yaw), math.sin(yaw)]),
                np.array([-math.sin(yaw), math.cos(yaw)]),
            ):
                a, b = self.corners() @ axis, other.corners() @ axis
                if a.min() >= b.max() + margin or b.min() >= a.max() + margin:
                    return False
        return True


def footprint_of(solid: Solid) -> Footprint:
    """The rectangle under a solid; along its own axes if those are only turned about z."""
    rotation = np.array(solid.rotation)
    if solid.shape == "box" and abs(rotation[2, 2]) > 1 - 1e-9:
        yaw = math.atan2(rotation[1, 0], rotation[0, 0])
        return Footprint((solid.center[0], solid.center[1]), (solid.half[0], solid.half[1]), yaw)
    low, high = solid.extents()
    middle, half = (low + high) / 2, (high - low) / 2
    return Footprint((float(middle[0]), float(middle[1])), (float(half[0]), float(half[1])))


def blocking(solids: Sequence[Solid]) -> list[Footprint]:
    """Footprints of the solids that stand between floor and head room."""
    found = []
    for solid in solids:
        low, high = solid.extents()
        if high[2] > 0.03 and low[2] < HEAD_ROOM:
            found.append(footprint_of(solid))
    return found


@dataclass(frozen=True, eq=False)
class FreeSpace:
    """A grid over a building.

    Attributes:
        origin: of the middle of cell (0, 0), metres.
        clearance: ``[X, Y]`` metres from the middle of a cell to the next obstacle; -1 outside.
    """

    origin: tuple[float, float]
    clearance: Array

    @classmethod
    def of(cls, plan: FloorPlan, obstacles: Sequence[Footprint]) -> FreeSpace:
        """The grid of a plan with obstacles on it (walls among them)."""
        x0, y0, x1, y1 = plan.bounds
        shape = (math.ceil((x1 - x0) / RESOLUTION), math.ceil((y1 - y0) / RESOLUTION))
        empty = cls((x0 + RESOLUTION / 2, y0 + RESOLUTION / 2), np.full(shape, 10.0))
        points = empty.points()
        clearance, inside = empty.clearance, np.zeros(shape, dtype=bool)
        for room in plan.rooms:
            a, b, c, d = room.cell
            inside |= (points[..., 0] > a) & (points[..., 0] < c) & (points[..., 1] > b) & (points[..., 1] < d)
        for obstacle in obstacles:
            clearance = np.minimum(clearance, obstacle.distance(points))
        return cls(empty.origin, np.where(inside, clearance, -1.0))

    def points(self) -> Array:
        """``[X, Y, 2]`` middles of the cells in metres."""
        x, y = (self.origin[i] + RESOLUTION * np.arange(self.clearance.shape[i]) for i in (0, 1))
        return np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1)

    def with_obstacle(self, obstacle: Footprint) -> FreeSpace:
        """The grid with one more."""
        return FreeSpace(self.origin, np.minimum(self.clearance, obstacle.distance(self.points())))

    def cell(self, point: tuple[float, float]) -> tuple[int, int]:
        """The cell that holds a point, or the nearest one."""
        index = [round((point[i] - self.origin[i]) / RESOLUTION) for i in (0, 1)]
        x, y = (min(max(index[i], 0), self.clearance.shape[i] - 1) for i in (0, 1))
        return x, y

    def at(self, points: Array) -> Array:
        """Clearance ``[...]`` at ``[..., 2]`` points, metres; bilinear, -1 outside of the grid."""
        position = (points - self.origin) / RESOLUTION
        last = np.array(self.clearance.shape) - 1
        outside = ((position < 0) | (position > last)).any(axis=-1)
        base = np.clip(np.floor(position), 0, np.maximum(last - 1, 0)).astype(np.int64)
        weight = np.clip(position - base, 0, 1)
        i, j = base[..., 0], base[..., 1]
        u, v = weight[..., 0], weight[..., 1]
        grid = self.clearance
        i2, j2 = np.minimum(i + 1, last[0]), np.minimum(j + 1, last[1])
        value = (grid[i, j] * (1 - u) + grid[i2, j] * u) * (1 - v) + (grid[i, j2] * (1 - u) + grid[i2, j2] * u) * v
        return np.asarray(np.where(outside, -1.0, value), dtype=np.float64)

    def regions(self, radius: float) -> NDArray[np.int32]:
        """``[X, Y]`` numbers of the connected parts where a disc of ``radius`` metres fits; 0 elsewhere."""
        from scipy import ndimage

        labels, _ = ndimage.label(self.clearance > radius)
        return np.asarray(labels, dtype=np.int32)

    def connects(self, points: Sequence[tuple[float, float]], radius: float) -> bool:
        """Whether a disc can move between all points."""
        labels = self.regions(radius)
        found = {int(labels[self.cell(point)]) for point in points}
        return len(found) <= 1 and 0 not in found

    def largest_region(self, radius: float) -> NDArray[np.bool_]:
        """``[X, Y]`` the largest connected part where a disc fits."""
        labels = self.regions(radius)
        counts = np.bincount(labels.ravel())
        counts[0] = 0
        return np.asarray((labels == int(counts.argmax())) & (labels > 0), dtype=bool)
