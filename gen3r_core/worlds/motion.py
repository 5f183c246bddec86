"""How cameras move: many candidate paths at once, drawn without looking at the world.

A path is positions in world metres and the angles of the view: yaw (counterclockwise from x), pitch
(up) and roll (clockwise as the camera sees it), radians.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
PathKind = Literal["robot", "drone", "hand"]
PATH_KINDS: tuple[PathKind, ...] = ("robot", "drone", "hand")


@dataclass(frozen=True, eq=False)
class Candidates:
    """N paths of F frames.

    Attributes:
        positions: ``[N, F, 3]`` world metres.
        yaw: ``[N, F]`` radians.
        pitch: ``[N, F]`` radians.
        roll: ``[N, F]`` radians.
    """

    positions: Array
    yaw: Array
    pitch: Array
    roll: Array

    def poses(self) -> Array:
        """``[N, F, 4, 4]`` camera to world, OpenCV axes."""
        return camera_poses(self.positions, self.yaw, self.pitch, self.roll)


@dataclass(frozen=True, eq=False)
class Starts:
    """Where candidate paths begin.

    Attributes:
        points: ``[N, 2]`` metres.
        headings: ``[N]`` radians.
        ceilings: ``[N]`` height of the room, metres.
        through_door: ``[N]`` bool, whether the heading leads through a doorway.
    """

    points: Array
    headings: Array
    ceilings: Array
    through_door: NDArray[np.bool_]


def camera_poses(positions: Array, yaw: Array, pitch: Array, roll: Array) -> Array:
    """Poses of cameras, OpenCV axes, in a world with z up.

    Args:
        positions: ``[..., 3]`` metres.
        yaw: ``[...]`` radians, direction of the view from x towards y.
        pitch: ``[...]`` radians, upwards.
        roll: ``[...]`` radians, clockwise as the camera sees it.

    Returns:
        ``[..., 4, 4]`` camera to world.
    """
    zero = np.zeros_like(yaw)
    forward = np.stack([np.cos(pitch) * np.cos(yaw), np.cos(pitch) * np.sin(yaw), np.sin(pitch)], axis=-1)
    level = np.stack([np.sin(yaw), -np.cos(yaw), zero], axis=-1)
    below = np.cross(forward, level)
    cos, sin = np.cos(roll)[..., None], np.sin(roll)[..., None]
    right, down = cos * level + sin * below, cos * below - sin * level
    poses = np.zeros((*yaw.shape, 4, 4))
    poses[..., :3, :] = np.stack([right, down, forward, positions], axis=-1)
    poses[..., 3, 3] = 1.0
    return poses


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], periods: float) -> Array:
    """``[N, F]`` sums of three sinusoids of up to about ``periods`` over the path, RMS about 1."""
    count, frames = shape
    time = np.linspace(0, 1, frames)
    total = np.zeros(shape)
    for share in (0.4, 0.7, 1.0):
        phase = rng.uniform(0, 2 * math.pi, (count, 1))
        rate = periods * share * rng.uniform(0.6, 1.0, (count, 1))
        total += np.sin(2 * math.pi * rate * time + phase)
    return np.asarray(total * math.sqrt(2 / 3), dtype=np.float64)


def robot_candidates(starts: Starts, frames: int, speed: float, rng: np.random.Generator) -> Candidates:
    """A ground robot: a unicycle with smooth speed and turning, its camera level and at one height.

    Args:
        starts: N of them.
        frames: F.
        speed: mean metres between frames.
        rng: makes the draws.
    """
    count = len(starts.headings)
    swing = _swing(frames, speed)
    turn = swing * np.radians(rng.normal(0, 22, (count, 1))) * np.where(starts.through_door[:, None], 0.3, 1.0)
    time = np.linspace(0, 1, frames)
    sway = swing * np.radians(5) * smooth_noise(rng, (count, frames), 1.0)
    heading = starts.headings[:, None] + turn * time + sway - sway[:, :1]
    # One in seven drives backwards; some cameras look sideways.
    reverse = np.where((rng.random((count, 1)) < 0.14) & ~starts.through_door[:, None], -1.0, 1.0)
    pace = speed * reverse * (1 + 0.2 * smooth_noise(rng, (count, frames), 1.0).clip(-2, 2))
    xy = starts.points[:, None] + _travel(heading, pace)
    mounted = np.where(rng.random((count, 1)) < 0.2, np.radians(rng.uniform(-70, 70, (count, 1))), 0.0)
    height = np.minimum(rng.uniform(0.3, 1.5, (count, 1)), starts.ceilings[:, None] - 0.4)
    pitch = np.radians(rng.uniform(-6, 2, (count, 1))) + np.zeros((1, frames))
    positions = np.concatenate([xy, np.broadcast_to(height[..., None], (count, frames, 1))], axis=-1)
    positions = _at_speed(positions, speed)
    return Candidates(positions, heading + mounted, pitch, np.zeros((count, frames)))


def drone_candidates(starts: Starts, frames: int, speed: float, rng: np.random.Generator) -> Candidates:
    """A drone: flies ahead, sideways or around a point, climbs and sinks, and banks a little in turns.

    Arguments as :func:`robot_candidates`.
    """
    count = len(starts.headings)
    shape, time = (count, frames), np.linspace(0, 1, frames)
    mode = rng.integers(0, 3, (count, 1)) * ~starts.through_door[:, None]
    swing = _swing(frames, speed)
    turn = swing * np.radians(rng.normal(0, 30, (count, 1)))
    course = starts.headings[:, None] + turn * time + swing * np.radians(8) * smooth_noise(rng, shape, 1.2)
    climb = np.radians(rng.normal(0, 12, (count, 1))) + np.radians(6) * smooth_noise(rng, shape, 1.0)
    level = speed * np.cos(climb)
    xy = starts.points[:, None] + _travel(course, level)
    start = 0.5 + (starts.ceilings[:, None] - 1.0) * rng.random((count, 1))
    z = (start + _sums(speed * np.sin(climb))).clip(0.3, starts.ceilings[:, None] - 0.35)
    positions = _at_speed(np.concatenate([xy, z[..., None]], axis=-1), speed)
    xy = positions[..., :2]
    side = np.where(rng.random((count, 1)) < 0.5, -1.0, 1.0) * np.radians(rng.uniform(40, 100, (count, 1)))
    pitch = np.radians(rng.uniform(-22, 4, (count, 1))) + np.radians(2) * smooth_noise(rng, shape, 1.0)
    # Around a point: the view follows it.
    distance = rng.uniform(1.0, 2.5, (count, 1))
    aim = starts.headings[:, None] + side
    target = starts.points[:, None] + (distance * np.concatenate([np.cos(aim), np.sin(aim)], axis=-1))[:, None]
    about = np.unwrap(np.arctan2(target[..., 1] - xy[..., 1], target[..., 0] - xy[..., 0]), axis=1)
    yaw = np.select([mode == 0, mode == 1], [course, course + side], about)
    bank = (-np.gradient(course, axis=1) * speed * 40 if frames > 1 else np.zeros(shape)).clip(-0.12, 0.12)
    return Candidates(positions, yaw, pitch, bank)


def hand_candidates(starts: Starts, frames: int, speed: float, rng: np.random.Generator) -> Candidates:
    """A camera in a hand: looks at something while it moves about, and trembles.

    Arguments as :func:`robot_candidates`.
    """
    count = len(starts.headings)
    shape, time = (count, frames), np.linspace(0, 1, frames)
    course = np.radians(rng.uniform(-180, 180, (count, 1))) + np.radians(30) * smooth_noise(rng, shape, 0.8)
    xy = starts.points[:, None] + _travel(course, speed * (1 + 0.25 * smooth_noise(rng, shape, 1.5).clip(-2, 2)))
    height = rng.uniform(0.9, 1.75, (count, 1)).clip(max=starts.ceilings[:, None] - 0.35)
    z = height + min(0.1, 2 * speed) * smooth_noise(rng, shape, 1.0)
    tremble = 0.003 * np.stack([smooth_noise(rng, shape, 6.0) for _ in range(3)], axis=-1)
    positions = _at_speed(np.concatenate([xy, z[..., None]], axis=-1) + tremble, speed)
    xy, z = positions[..., :2], positions[..., 2]
    distance = rng.uniform(0.8, 3.0, (count, 1))
    target = starts.points[:, None] + (
        distance[..., None] * np.stack([np.cos(starts.headings), np.sin(starts.headings)], axis=-1)[:, None]
    )
    away = np.hypot(target[..., 0] - xy[..., 0], target[..., 1] - xy[..., 1])
    yaw = np.unwrap(np.arctan2(target[..., 1] - xy[..., 1], target[..., 0] - xy[..., 0]), axis=1)
    pan = _swing(frames, speed) * np.radians(rng.normal(0, 12, (count, 1))) * time
    low = rng.uniform(0.2, 1.2, (count, 1))
    pitch = np.arctan2(low - z, away).clip(-0.6, 0.25)
    shake = [np.radians(amount) * smooth_noise(rng, shape, 5.0) for amount in (0.5, 0.5, 0.6)]
    roll = np.radians(rng.normal(0, 2, (count, 1))) + shake[2]
    return Candidates(positions, yaw + pan + shake[0], pitch + shake[1], roll)


def _swing(frames: int, speed: float) -> float:
    """Turns follow the way that is gone: 1 for 1.2 m, between 0.2 and 1.2."""
    return min(1.2, max(0.2, speed * (frames - 1) / 1.2))


def _travel(heading: Array, pace: Array) -> Array:
    """``[N, F, 2]`` metres gone since the first frame, by headings and steps ``[N, F]``."""
    middle = (heading[:, 1:] + heading[:, :-1]) / 2
    steps = pace[:, 1:, None] * np.stack([np.cos(middle), np.sin(middle)], axis=-1)
    start = np.zeros((len(heading), 1, 2))
    return np.concatenate([start, np.cumsum(steps, axis=1)], axis=1)


def _at_speed(positions: Array, speed: float) -> Array:
    """Paths ``[N, F, 3]`` made larger or smaller about their first point, so that the mean step is ``speed``."""
    if positions.shape[1] < 2:
        return positions
    mean = np.linalg.norm(np.diff(positions, axis=1), axis=-1).mean(axis=1)
    scale = (speed / np.maximum(mean, 1e-9))[:, None, None]
    return np.asarray(positions[:, :1] + scale * (positions - positions[:, :1]), dtype=np.float64)


def _sums(steps: Array) -> Array:
    """``[N, F]`` sums of the steps after the first frame."""
    total = np.cumsum(steps, axis=1)
    return np.asarray(total - total[:, :1], dtype=np.float64)
