"""What a robot knows of its cameras' poses, and how far it is to be believed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gen3r_core.errors import InputError
from gen3r_core.geometry.poses import Array, checked_poses, invert_poses, nearest_rotation, rotation_angles

__all__ = ["DriftModel", "KnownPoses", "WindowCameras", "mend_jumps", "mismatch"]


@dataclass(frozen=True)
class DriftModel:
    """How odometry goes wrong from one known pose to the next.

    What is systematic is estimated together with the map, and only its size is given here. A systematic error of
    distances cannot be seen: it makes the whole map larger or smaller, and closes every loop.

    Attributes:
        turn: systematic, radians for each radian turned about the vertical.
        yaw_deg_per_m: systematic, degrees about the vertical for each metre.
        distance: random, share of the distance.
        turn_noise: random, share of the turn.
        step_m: random, metres at every step.
        step_deg: random, degrees at every step.
        up_deg: degrees by which the poses' vertical is off; it does not drift, as gravity is measured.

    Raises:
        InputError: a number is negative, or one of the last three is zero.
    """

    turn: float = 0.03
    yaw_deg_per_m: float = 0.5
    distance: float = 0.01
    turn_noise: float = 0.01
    step_m: float = 0.003
    step_deg: float = 0.1
    up_deg: float = 0.3

    def __post_init__(self) -> None:
        shares = (self.turn, self.yaw_deg_per_m, self.distance, self.turn_noise)
        steps = (self.step_m, self.step_deg, self.up_deg)
        if not all(math.isfinite(x) and x >= 0 for x in shares) or not all(math.isfinite(x) and x > 0 for x in steps):
            raise InputError(f"drift has sizes of 0 or more, and steps over 0, got {self}")


@dataclass(frozen=True, eq=False)
class KnownPoses:
    """Poses from TF or odometry.

    Attributes:
        T_world_cam: ``[N, 4, 4]`` camera to a world with z up, metres, OpenCV axes; NaN where a frame has none.
        drift: how they go wrong. What is known in a map frame drifts little: give small numbers.

    Raises:
        InputError: a pose is not rigid.
    """

    T_world_cam: Array
    drift: DriftModel = field(default_factory=DriftModel)

    def __post_init__(self) -> None:
        checked_poses(self.T_world_cam, "known camera pose", missing=True)

    @cached_property
    def frames(self) -> NDArray[np.int64]:
        """Numbers of the frames whose pose is known."""
        return np.flatnonzero(np.isfinite(self.T_world_cam).all(axis=(1, 2)))

    @property
    def extent(self) -> float:
        """Metres between the known positions that are farthest apart along an axis; 0 without any."""
        places = self.T_world_cam[self.frames, :3, 3]
        return float(np.ptp(places, axis=0).max()) if len(places) else 0.0


class WindowCameras(NamedTuple):
    """A window's cameras, and how far off they may be.

    Attributes:
        frames: ``[n]`` their numbers, rising.
        T_window_cam: ``[n, 4, 4]``.
        place_error: standard deviation of their places, units of the window.
        turn_error: of their rotations, radians.
    """

    frames: NDArray[np.int64]
    T_window_cam: Array
    place_error: float
    turn_error: float


_FEW = 3
_MENDED = 3
_SEEN_STEP_M = 0.03
_MANY_SIGMAS = 8.0
_LEAST_JUMP = (0.3, math.radians(15))


def mend_jumps(known: KnownPoses, windows: Sequence[WindowCameras]) -> tuple[KnownPoses, set[int]]:
    """Take out steps between known poses that cannot be: wheels lifted, a localisation that changed its mind.

    A step is a jump if it is off from the same step of a window's cameras by metres or a turn that neither's errors
    explain. The poses behind it are moved so that the step becomes the window's.

    Args:
        known: the poses.
        windows: in order.

    Returns:
        The poses without jumps, and the frames before which there was one.
    """
    T, jumps = known.T_world_cam.copy(), set()
    window = 0
    for first, second in pairwise(known.frames.tolist()):
        while window + 1 < len(windows) and windows[window].frames[-1] < second:
            window += 1
        own = windows[window]
        if not own.frames[0] <= first < second <= own.frames[-1]:
            continue
        scale = _window_scale(known.T_world_cam, own)
        if scale is None:
            continue
        a, b = (own.T_window_cam[int(np.searchsorted(own.frames, frame))] for frame in (first, second))
        seen = invert_poses(a) @ b
        seen[:3, 3] *= scale
        off, turned = _difference(seen, known.T_world_cam[first], known.T_world_cam[second])
        # What the window's other steps are off by is no jump, but a window that is wrong.
        places, turns = _usual(known.T_world_cam, own, scale)
        limits = (max(_LEAST_JUMP[0], _MANY_SIGMAS * max(scale * own.place_error, places)),
                  max(_LEAST_JUMP[1], _MANY_SIGMAS * max(own.turn_error, turns)))  # fmt: skip
        if off > limits[0] or turned > limits[1]:
            mended = T.copy()
            mended[second:] = T[first] @ seen @ invert_poses(T[second]) @ T[second:]
            before, after = (mismatch(own.T_window_cam, poses[own.frames]) for poses in (T, mended))
            # A jump is one step that is wrong among right ones; where all is wrong, the window is.
            if (off <= limits[0] or _MENDED * after[1] < before[1]) and (
                turned <= limits[1] or _MENDED * after[0] < before[0]
            ):
                T = mended
                jumps.add(second)
    return (KnownPoses(T, known.drift), jumps) if jumps else (known, jumps)


def _window_scale(T: Array, window: WindowCameras) -> float | None:
    """Metres per unit: the median over steps, which a jump does not move; None where too few steps are known."""
    places, own = T[window.frames][:, :3, 3], window.T_window_cam[:, :3, 3]
    true, seen = (np.linalg.norm(np.diff(x, axis=0), axis=1) for x in (places, own))
    good = np.isfinite(true) & (np.nan_to_num(true) > _SEEN_STEP_M) & (seen > 0)
    return float(np.median(true[good] / seen[good])) if good.sum() >= _FEW else None


def _difference(seen: Array, T_first: Array, T_second: Array) -> tuple[float, float]:
    """Metres and radians between a step as a window has it and as known poses have it."""
    step = invert_poses(T_first) @ T_second
    return float(np.linalg.norm(seen[:3, 3] - step[:3, 3])), float(rotation_angles(seen[:3, :3].T @ step[:3, :3]))


def _usual(T: Array, window: WindowCameras, scale: float) -> tuple[float, float]:
    """Medians of these differences over a window's steps from frame to frame."""
    own, known = window.T_window_cam, T[window.frames]
    seen = invert_poses(own[:-1]) @ own[1:]
    seen[:, :3, 3] *= scale
    both = [_difference(*steps) for steps in zip(seen, known[:-1], known[1:], strict=True)
            if np.isfinite(steps[1]).all() and np.isfinite(steps[2]).all()]  # fmt: skip
    places, turns = np.median(both, axis=0)
    return float(places), float(turns)


def mismatch(T_window_cam: Array, T_known: Array) -> tuple[float, float]:
    """How far a window's cameras are from known ones after the best turn, scale and shift.

    Args:
        T_window_cam: ``[n, 4, 4]``.
        T_known: ``[n, 4, 4]``, NaN where unknown.

    Returns:
        Root mean squares: radians, and units of the window. Zeros where fewer than three are known.
    """
    there = np.isfinite(T_known).all(axis=(1, 2))
    if there.sum() < _FEW:
        return 0.0, 0.0
    M, G = T_window_cam[there], T_known[there]
    turns = G[:, :3, :3] @ np.swapaxes(M[:, :3, :3], 1, 2)
    R = nearest_rotation(turns.sum(axis=0))
    rotation = float(np.sqrt(np.square(rotation_angles(R.T @ turns)).mean()))
    m, g = ((T[:, :3, 3] - T[:, :3, 3].mean(axis=0)) for T in (M, G))
    turned = m @ R.T
    along, size = float((g * turned).sum()), float(np.square(g).sum())
    # Without motion all that the window moves is error; so it is where it moves the other way.
    wanted = g * (along / size) if along > 0 and size > 0 else np.zeros_like(g)
    return rotation, float(np.sqrt(np.square(turned - wanted).sum(axis=1).mean()))
