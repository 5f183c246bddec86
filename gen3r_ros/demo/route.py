"""Where the demonstration's robot goes: a drive through the room, and the path that is predicted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gen3r_core.errors import InputError
from gen3r_core.worlds.robot import first_blocked, tour
from gen3r_core.worlds.routes import resample
from gen3r_core.worlds.world import World

Array = NDArray[np.float64]
_SPACING = 0.05


@dataclass(frozen=True, eq=False)
class Route:
    """A way in three parts.

    Attributes:
        drive: ``[N, 2]`` metres in the world: what the robot drives to see the room.
        path: ``[M, 2]`` metres: what comes then, and is predicted.
        after: ``[K, 2]`` metres: what comes after that; may be empty.
    """

    drive: Array
    path: Array
    after: Array

    @property
    def length_m(self) -> float:
        """Of the path."""
        return float(np.linalg.norm(np.diff(self.path, axis=0), axis=1).sum())


def plan_route(world: World, tour_seed: int, drive_m: float, path_m: float, after_m: float) -> Route:
    """The beginning of the simulator's tour, and how it goes on.

    Args:
        world: the world.
        tour_seed: as the simulator has it.
        drive_m: metres of the first part.
        path_m: metres of the second.
        after_m: metres of the third, at most; it ends with the tour.

    Raises:
        InputError: the tour is shorter than that.
    """
    way = resample(tour(world, tour_seed), _SPACING)
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(way, axis=0), axis=1))])
    if along[-1] < drive_m + path_m:
        raise InputError(
            f"the tour {tour_seed} through world {world.seed} is {along[-1]:.1f} m long; {drive_m:g} m to drive and "
            f"{path_m:g} m to predict do not fit in: take less, or another world or tour_seed"
        )
    end = int(np.searchsorted(along, drive_m))
    last = int(np.searchsorted(along, drive_m + path_m))
    rest = int(np.searchsorted(along, drive_m + path_m + after_m))
    return Route(way[: end + 1], way[end : last + 1], way[last + 1 : rest + 1])


def continued(route: Route, here: tuple[float, float], world: World) -> Array:
    """The path from where the robot came to stand.

    Args:
        route: that it drove.
        here: metres; it overshoots a little, or stops short.
        world: the world.

    Returns:
        ``[N, 3]`` x, y and heading.

    Raises:
        InputError: the path is blocked there.
    """
    way = np.concatenate([route.drive, route.path[1:]])
    nearest = int(np.linalg.norm(way - here, axis=1).argmin())
    rest = way[nearest + 1 : nearest + 1 + len(route.path)]
    points = np.concatenate([np.asarray(here)[None], rest])
    blocked = first_blocked(world, points)
    if blocked is not None:
        raise InputError(f"the path to predict runs into something near ({blocked[0]:.2f}, {blocked[1]:.2f})")
    return with_headings(points)


def with_headings(points: Array) -> Array:
    """``[N, 3]`` of a way ``[N, 2]``: each point looks to the next, the last as the one before it."""
    ahead = np.diff(points, axis=0)
    heading = np.arctan2(ahead[:, 1], ahead[:, 0])
    return np.column_stack([points, np.append(heading, heading[-1:] if len(heading) else 0.0)])
