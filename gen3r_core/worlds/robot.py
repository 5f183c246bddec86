"""A robot on the floor of a world: a unicycle that follows ways, and where it can go. Loads no PyTorch.

Poses of the robot are ``(x, y, yaw)``: metres on the floor, radians from x towards y.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from gen3r_core.errors import InputError
from gen3r_core.worlds.routes import Routes, resample
from gen3r_core.worlds.world import World

Array = NDArray[np.float64]
MARGIN = 0.15
"""Metres that a way keeps from everything, at least."""

_STEP = 0.02
_LOOKAHEAD = 0.2
_SEARCH = np.arange(0.0, 0.6, 0.01)
_ACCELERATION = 1.0
_TURN_GAIN = 4.0
_TURN_FIRST = 0.6
_TURN_FIRST_NEAR = 0.15
_ARRIVED = 0.01
_AIMED = 0.01
_SPACING = 0.05


class Robot:
    """A unicycle: it drives forward, and turns.

    Args:
        x: metres.
        y: metres.
        yaw: radians.
        speed: the highest, metres a second.
        turn_rate: the highest, radians a second.

    Attributes:
        x: metres.
        y: metres.
        yaw: radians, unwrapped.
        velocity: metres a second, forward.
        turning: radians a second.
        driven: metres since the start.

    Raises:
        InputError: a number is not finite, or a rate not positive.
    """

    def __init__(self, x: float, y: float, yaw: float, *, speed: float = 0.3, turn_rate: float = 0.8) -> None:
        if not all(map(math.isfinite, (x, y, yaw))) or not 0 < speed < 10 or not 0 < turn_rate < 20:
            raise InputError(
                f"a robot needs a place and positive speeds, got {(x, y, yaw)}, {speed} m/s and {turn_rate} rad/s"
            )
        self.x, self.y, self.yaw = x, y, yaw
        self.velocity = self.turning = self.driven = 0.0
        self._speed, self._turn_rate = speed, turn_rate
        self._way: Array | None = None
        self._along: Array = np.zeros(1)
        self._gone = 0.0
        self._end_yaw: float | None = None
        self._closed = False

    @property
    def T_world_base(self) -> Array:  # noqa: N802 - transforms are named by direction
        """``[4, 4]``: x forward, y to the left, z up, on the floor; metres."""
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        return np.array([[cos, -sin, 0, self.x], [sin, cos, 0, self.y], [0, 0, 1, 0], [0, 0, 0, 1.0]])

    @property
    def busy(self) -> bool:
        """Whether there is a way that it has not come to the end of."""
        return self._way is not None

    def follow(self, way: Array, *, end_yaw: float | None = None, closed: bool = False) -> None:
        """Leave the old way and take a new one.

        Args:
            way: ``[N, 2]`` metres; begun at its first point.
            end_yaw: heading to take at its end, radians; None keeps that of the way.
            closed: go round and round; first and last point are the same.

        Raises:
            InputError: it has no point, or values that are not finite.
        """
        if way.ndim != 2 or way.shape[1] != 2 or len(way) == 0 or not np.isfinite(way).all():
            raise InputError(f"a way has finite points [N, 2], got {way.shape}")
        even = resample(np.asarray(way, dtype=np.float64), _SPACING)
        self._way = even
        self._along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(even, axis=0), axis=1))])
        self._gone, self._end_yaw = 0.0, end_yaw
        self._closed = closed and float(self._along[-1]) > 2 * float(_SEARCH[-1])

    def stop(self) -> None:
        """Leave the way."""
        self._way = None

    def step(self, seconds: float) -> None:
        """Go on for a time; the same steps from the same start lead to the same place.

        Args:
            seconds: 0 or more.
        """
        count = max(1, math.ceil(seconds / _STEP - 1e-9))
        for _ in range(count):
            self._step(seconds / count)

    def _step(self, dt: float) -> None:
        wanted, self.turning = (0.0, 0.0) if self._way is None else self._steer(self._way)
        # It may stand still at once, at arrival and where it has to turn on the spot, but not start so.
        self.velocity = min(wanted, self.velocity + _ACCELERATION * dt)
        middle = self.yaw + self.turning * dt / 2
        self.x += self.velocity * dt * math.cos(middle)
        self.y += self.velocity * dt * math.sin(middle)
        self.yaw += self.turning * dt
        self.driven += self.velocity * dt

    def _steer(self, way: Array) -> tuple[float, float]:
        """Speeds that lead along the way: towards the point a little ahead on it."""
        total = float(self._along[-1])
        self._gone = self._progress(way, total)
        left = math.inf if self._closed else math.hypot(way[-1, 0] - self.x, way[-1, 1] - self.y)
        near_end = not self._closed and self._gone >= total - _LOOKAHEAD
        if near_end and left < _ARRIVED:
            return self._finish()
        ((x, y),) = self._at(way, np.array([self._gone + _LOOKAHEAD]))
        error = _wrapped(math.atan2(y - self.y, x - self.x) - self.yaw)
        turning = self._turn(error)
        if abs(error) > (_TURN_FIRST_NEAR if left < _LOOKAHEAD / 2 else _TURN_FIRST):
            return 0.0, turning
        return min(self._speed * math.cos(error), 2 * left + _ARRIVED), turning

    def _finish(self) -> tuple[float, float]:
        error = 0.0 if self._end_yaw is None else _wrapped(self._end_yaw - self.yaw)
        if abs(error) < _AIMED:
            self._way = None
            return 0.0, 0.0
        return 0.0, self._turn(error)

    def _turn(self, error: float) -> float:
        return min(self._turn_rate, max(-self._turn_rate, _TURN_GAIN * error))

    def _progress(self, way: Array, total: float) -> float:
        """Metres along the way of its point nearest to the robot, not behind those before."""
        metres = self._gone + _SEARCH
        points = self._at(way, metres)
        gone = float(metres[np.hypot(points[:, 0] - self.x, points[:, 1] - self.y).argmin()])
        return gone % total if self._closed else min(gone, total)

    def _at(self, way: Array, metres: Array) -> Array:
        """``[M, 2]`` points of the way."""
        if self._closed:
            metres = metres % float(self._along[-1])
        return np.stack([np.interp(metres, self._along, way[:, axis]) for axis in (0, 1)], axis=-1)


def tour(world: World, seed: int = 0) -> Array:
    """A closed way through all rooms, ``[N, 2]`` metres; first and last point are the same.

    Args:
        world: the world.
        seed: together with the world's; another one gives another tour.

    Raises:
        InputError: for a negative seed.
        Gen3RError: if there is nowhere to stand.
    """
    if seed < 0:
        raise InputError(f"the seed of a tour is a whole number from 0 on, got {seed}")
    return Routes(world).loop(np.random.default_rng((world.seed, 6, seed)))


def start_of(way: Array) -> tuple[float, float, float]:
    """Where a robot stands at the beginning of a way, looking along it: x, y, yaw."""
    ahead = way[min(len(way) - 1, 4)] - way[0]
    return float(way[0, 0]), float(way[0, 1]), math.atan2(ahead[1], ahead[0])


def first_blocked(world: World, way: Array, margin: float = MARGIN) -> tuple[float, float] | None:
    """The first point of a way that is nearer to something than a margin; None if there is none.

    Args:
        world: the world.
        way: ``[N, 2]`` metres; what lies between its points counts.
        margin: metres from walls and furniture.
    """
    points = resample(way, _SPACING / 2) if len(way) > 1 else way
    blocked = world.free_space.at(points) < margin
    if not blocked.any():
        return None
    x, y = points[int(blocked.argmax())]
    return float(x), float(y)


def _wrapped(angle: float) -> float:
    return math.remainder(angle, 2 * math.pi)
