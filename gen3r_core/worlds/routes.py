"""Long ways through a building: waypoints in every room, shortest ways between them, smoothed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen3r_core.errors import Gen3RError
from gen3r_core.worlds.freespace import RESOLUTION
from gen3r_core.worlds.placement import ROBOT_RADIUS
from gen3r_core.worlds.world import World

Array = NDArray[np.float64]
SMALLEST_CLEARANCE = 0.2
"""Metres between a route and the footprint of anything."""
_SPACING = 0.05
_LIKED = 0.8


class Routes:
    """Closed ways through one world.

    Args:
        world: the world.

    Raises:
        Gen3RError: if there is nowhere to stand.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._space = world.free_space
        self._region = self._space.largest_region(ROBOT_RADIUS)
        if not self._region.any():
            raise Gen3RError(f"world {world.seed} has no free floor to move on; take another seed")
        self._cells = np.argwhere(self._region)
        self._number = np.full(self._region.shape, -1, dtype=np.int64)
        self._number[self._region] = np.arange(len(self._cells))
        self._graph = self._build_graph()

    def loop(self, rng: np.random.Generator) -> Array:
        """``[N, 2]`` metres: a closed way through all rooms, points about 5 cm apart, first and last the same.

        Args:
            rng: chooses waypoints and their order.
        """
        waypoints = self._waypoints(rng)
        points = self._space.points()
        pieces = []
        for start, end in zip(waypoints, [*waypoints[1:], waypoints[0]], strict=True):
            cells = self._cells[self._shortest(start, end)]
            pieces.append(points[cells[:, 0], cells[:, 1]][:-1])
        return self._smooth(np.concatenate(pieces))

    def between(self, start: tuple[float, float], end: tuple[float, float]) -> Array:
        """``[N, 2]`` metres: a short way between two places that keeps off things, points about 5 cm apart.

        Args:
            start: metres; the way begins at the nearest place where the robot can move.
            end: metres; the same.
        """
        points = self._space.points()[self._region]
        first, last = (int(np.linalg.norm(points - place, axis=1).argmin()) for place in (start, end))
        return self._smooth_open(points[self._shortest(first, last)])

    def _waypoints(self, rng: np.random.Generator) -> list[int]:
        """Numbers of cells: two to four a room, rooms in a random order."""
        points = self._space.points()[self._region]
        clearance = self._space.clearance[self._region]
        found: list[int] = []
        for index in rng.permutation(len(self._world.rooms)).tolist():
            x0, y0, x1, y1 = self._world.rooms[index].inside
            here = np.flatnonzero(((points > (x0, y0)) & (points < (x1, y1))).all(axis=1))
            if not len(here):
                continue
            roomy = here[clearance[here] >= min(0.6, float(np.quantile(clearance[here], 0.7)))]
            first = int(rng.choice(roomy))
            chosen = [first]
            for _ in range(2 if len(self._world.rooms) > 1 else 3):  # far from those before
                away = np.min([np.linalg.norm(points[roomy] - points[other], axis=1) for other in chosen], axis=0)
                far = roomy[away >= np.quantile(away, 0.8)]
                chosen.append(int(rng.choice(far)))
            found += chosen
        return [cell for cell, before in zip(found, [-1, *found], strict=False) if cell != before]

    def _build_graph(self) -> Any:
        from scipy.sparse import coo_matrix

        rows, columns, costs = [], [], []
        clearance = self._space.clearance
        for dx, dy in ((1, 0), (0, 1), (1, 1), (1, -1)):
            neighbour = self._cells + np.array([dx, dy])
            valid = ((neighbour >= 0) & (neighbour < self._region.shape)).all(axis=1)
            a, b = self._cells[valid], neighbour[valid]
            open_ = self._region[b[:, 0], b[:, 1]]
            a, b = a[open_], b[open_]
            narrow = np.minimum(clearance[a[:, 0], a[:, 1]], clearance[b[:, 0], b[:, 1]])
            cost = RESOLUTION * math.hypot(dx, dy) * (1 + 4 * (1 - narrow / _LIKED).clip(0, 1))
            rows.append(self._number[a[:, 0], a[:, 1]])
            columns.append(self._number[b[:, 0], b[:, 1]])
            costs.append(cost)
        size = len(self._cells)
        entries = (np.concatenate(costs), (np.concatenate(rows), np.concatenate(columns)))
        return coo_matrix(entries, shape=(size, size)).tocsr()

    def _shortest(self, start: int, end: int) -> list[int]:
        from scipy.sparse.csgraph import dijkstra

        _, before = dijkstra(self._graph, directed=False, indices=start, return_predecessors=True)
        way = [end]
        while way[-1] != start:
            way.append(int(before[way[-1]]))
        return way[::-1]

    def _smooth(self, points: Array) -> Array:
        """Evenly spaced and rounded, as much as the clearance allows."""
        from scipy.ndimage import gaussian_filter1d

        even = resample(np.concatenate([points, points[:1]]), _SPACING)[:-1]
        if len(even) < 4:
            return np.concatenate([even, even[:1]])
        result: Array = even
        for sigma in (0.1, 0.2, 0.35):
            smoothed = np.asarray(gaussian_filter1d(even, sigma / _SPACING, axis=0, mode="wrap"), dtype=np.float64)
            good = self._space.at(smoothed) >= SMALLEST_CLEARANCE + 0.02
            # Points that would come too close keep their place; the seam is smoothed by the next, narrower filter.
            weight = gaussian_filter1d(good.astype(np.float64), 4, mode="wrap")[:, None]
            blended: Array = result + (smoothed - result) * np.where(weight > 0.999, 1.0, weight**4).astype(np.float64)
            if self._space.at(blended).min() >= SMALLEST_CLEARANCE:
                result = blended
        return resample(np.concatenate([result, result[:1]]), _SPACING)

    def _smooth_open(self, points: Array) -> Array:
        """Evenly spaced and rounded, both ends kept, as much as the clearance allows."""
        from scipy.ndimage import gaussian_filter1d

        result = resample(points, _SPACING)
        for sigma in (0.1, 0.2, 0.35):
            # Continued beyond its ends by its own turned image, a way keeps them.
            smoothed = [_odd_filter(result[:, axis], sigma / _SPACING, gaussian_filter1d) for axis in (0, 1)]
            rounded: Array = np.stack(smoothed, axis=-1)
            if self._space.at(rounded).min() >= SMALLEST_CLEARANCE:
                result = rounded
        return resample(result, _SPACING)


def _odd_filter(values: Array, sigma: float, smooth: Any) -> Array:
    line = np.linspace(values[0], values[-1], len(values))
    bent = values - line  # 0 at both ends
    wide = np.concatenate([-bent[:0:-1], bent, -bent[-2::-1]]) if len(bent) > 1 else bent
    middle = smooth(wide, sigma)[len(bent) - 1 : 2 * len(bent) - 1] if len(bent) > 1 else bent
    return np.asarray(line + middle, dtype=np.float64)


def resample(points: Array, spacing: float) -> Array:
    """A polyline ``[N, 2]`` with points every ``spacing`` metres, both ends kept; repeated points are dropped."""
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    keep = np.concatenate([[True], steps > 1e-9])
    points = points[keep]
    if len(points) < 2:
        return points
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    count = max(2, round(float(along[-1]) / spacing) + 1)
    at = np.linspace(0, along[-1], count)
    return np.stack([np.interp(at, along, points[:, axis]) for axis in (0, 1)], axis=-1)


def follow(
    route: Array, spacing: float, *, start: float = 0.0, length: float | None = None, frames: int | None = None,
    most_turn: float = math.radians(10),
) -> tuple[Array, Array]:  # fmt: skip
    """Positions and headings along a closed route, one for each frame.

    Where the route turns sharper than ``most_turn`` between frames, the robot stands still and turns.

    Args:
        route: ``[N, 2]`` metres, closed; it is run through again and again.
        spacing: metres between frames.
        start: metres along the route.
        length: metres to go; or
        frames: how many frames.
        most_turn: radians between frames.

    Returns:
        ``[F, 2]`` metres and ``[F]`` radians (unwrapped).
    """
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(route, axis=0), axis=1))])
    total = float(along[-1])
    count = math.floor((length or 0.0) / spacing + 1e-9) + 1 if frames is None else frames
    distance: Array = start + spacing * np.arange(count, dtype=np.float64)

    def at(metres: Array) -> Array:
        wrapped = np.mod(metres, total) if total > 0 else np.zeros_like(metres)
        return np.asarray(np.stack([np.interp(wrapped, along, route[:, axis]) for axis in (0, 1)], axis=-1))

    positions = at(distance)
    ahead = at(distance + 0.12) - at(distance - 0.12)
    heading = np.unwrap(np.arctan2(ahead[:, 1], ahead[:, 0]))
    where, turned = _turning(heading, most_turn, frames)
    return positions[where], turned


def _turning(heading: Array, most: float, frames: int | None) -> tuple[NDArray[np.int64], Array]:
    where, turned = [0], [float(heading[0])]
    for index in range(1, len(heading)):
        change = heading[index] - turned[-1]
        extra = max(0, math.ceil(abs(change) / most - 1e-9) - 1)
        first = turned[-1]
        for step in range(1, extra + 1):
            where.append(index - 1)
            turned.append(first + change * step / (extra + 1))
        where.append(index)
        turned.append(float(heading[index]))
        if frames is not None and len(where) >= frames:
            break
    kept = slice(0, frames)
    return np.array(where[kept], dtype=np.int64), np.array(turned[kept])


def nearest_phase(route: Array, points: Sequence[tuple[float, float]], before: float) -> list[float]:
    """Metres along a route, ``before`` metres ahead of where it comes nearest to each of some points."""
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(route, axis=0), axis=1))])
    return [float(along[np.linalg.norm(route - point, axis=1).argmin()]) - before for point in points]
