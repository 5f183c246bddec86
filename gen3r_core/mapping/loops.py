"""Places that a sequence comes back to: found by what frames look like, proved by predicting both visits together.

A loop is believed only if one window made of frames of both visits fits both visits' own windows, and shows that the
visits see the same surfaces. What still is wrong, the pose graph's robust weights have to bear.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gen3r_core.errors import InputError
from gen3r_core.geometry.poses import Array, invert_poses
from gen3r_core.mapping.joining import JoinOptions, join_windows
from gen3r_core.mapping.similarity import UncertainSim3
from gen3r_core.mapping.windows import Predictor, Window, WindowStore

__all__ = ["Candidate", "Loop", "LoopOptions", "agreement", "candidates", "seen_in", "verify"]

_ROWS = 512
_PER_FRAME = 16


@dataclass(frozen=True)
class LoopOptions:
    """Which visits to one place are looked at, and believed.

    Attributes:
        min_gap: frames between two visits, at least.
        near: frames after which a frame still looks alike; how much so is what similarities are compared with.
        min_likeness: similarity of two visits over that, at least.
        per_window: pairs that are tried for each window of the sequence, at most.
        tolerance: relative difference of depths that still are the same surface.
        min_seen: share of one visit's points that the other's cameras see, at least.
        min_agreeing: share of those that it sees at the same depth, at least.

    Raises:
        InputError: numbers make no sense.
    """

    min_gap: int = 40
    near: int = 3
    min_likeness: float = 0.7
    per_window: int = 2
    tolerance: float = 0.1
    min_seen: float = 0.2
    min_agreeing: float = 0.5

    def __post_init__(self) -> None:
        if self.min_gap < 2 or self.near < 1 or self.per_window < 0 or not self.tolerance > 0:
            raise InputError(f"loops need a gap of 2 frames, a neighbour, and a tolerance, got {self}")


class Candidate(NamedTuple):
    """Two frames that look alike.

    Attributes:
        first: number of the earlier frame.
        second: of the later one.
        likeness: similarity of their features over that of near frames.
    """

    first: int
    second: int
    likeness: float


@dataclass(frozen=True, eq=False)
class Loop:
    """Two visits, and what came of looking at them together.

    Attributes:
        candidate: the frames that looked alike.
        windows: numbers of the windows that they are in.
        reason: why it is not believed; empty if it is.
        measured: from the second window to the first; None if there is nothing to tell.
        agreeing: share of surfaces seen by both visits that have the same depth, the worse way round.
    """

    candidate: Candidate
    windows: tuple[int, int]
    reason: str
    measured: UncertainSim3 | None
    agreeing: float


def candidates(features: NDArray[np.float32], windows: int, options: LoopOptions | None = None) -> list[Candidate]:
    """Pairs of frames, far apart in the sequence, that look most alike.

    Of pairs within half a gap of a better one only the better is taken, so that one place is tried once for each
    visit and stretch of the way.

    Args:
        features: ``[N, D]`` of length 1.
        windows: of the sequence; it bounds how many pairs there are.
        options: which.

    Returns:
        The most alike first.
    """
    options = options or LoopOptions()
    count = len(features)
    if count <= options.min_gap or not windows:
        return []
    # What all frames have in common tells nothing.
    own = features - features.mean(axis=0)
    own = own / np.maximum(np.linalg.norm(own, axis=1, keepdims=True), 1e-9)
    near = float(np.median(np.sum(own[: -options.near] * own[options.near :], axis=1)))
    if not near > 0:
        return []
    found: list[tuple[float, int, int]] = []
    for start in range(0, count, _ROWS):
        alike = own[start : start + _ROWS] @ own.T / near
        rows = np.arange(start, start + len(alike))
        alike[np.arange(count)[None] - rows[:, None] < options.min_gap] = -1.0
        # The best of each row: where a robot waits, all frames look like all.
        best = np.argsort(-alike, axis=1, kind="stable")[:, :_PER_FRAME]
        values = np.take_along_axis(alike, best, axis=1)
        row, place = np.nonzero(values >= options.min_likeness)
        found += zip(values[row, place].tolist(), rows[row].tolist(), best[row, place].tolist(), strict=True)
    found.sort(key=lambda pair: (-pair[0], pair[1], pair[2]))
    chosen: list[Candidate] = []
    taken = np.zeros((0, 2))
    apart = max(2, options.near * 2)
    for likeness, first, second in found:
        if len(chosen) >= options.per_window * windows:
            break
        if len(taken) and (np.abs(taken - (first, second)).max(axis=1) < apart).any():
            continue
        chosen.append(Candidate(first, second, likeness))
        taken = np.concatenate([taken, [[first, second]]])
    return chosen


def verify(
    candidate: Candidate,
    names: tuple[str, str],
    numbers: tuple[int, int],
    store: WindowStore,
    predictor: Predictor,
    options: LoopOptions | None = None,
    join: JoinOptions | None = None,
) -> Loop:
    """Predict a window made of both visits' frames, and see whether it proves that they are at one place.

    Args:
        candidate: the frames.
        names: of the windows that they are in, in the store.
        numbers: of these windows in the sequence.
        store: has the windows, and keeps the new one.
        predictor: the model.
        options: what to believe.
        join: how windows are joined.
    """
    options, join = options or LoopOptions(), join or JoinOptions()
    first, second = store.get(names[0]), store.get(names[1])
    size = min(len(first), len(second))
    parts = [
        _around(window, frame, half)
        for window, frame, half in (
            (first, candidate.first, (size + 1) // 2),
            (second, candidate.second, size // 2),
        )
    ]
    both = store.predict(
        f"loop_{candidate.first:06d}_{candidate.second:06d}",
        predictor,
        np.concatenate([w.frames[p] for w, p in zip((first, second), parts, strict=True)]).tolist(),
        np.concatenate([w.stamps[p] for w, p in zip((first, second), parts, strict=True)]).tolist(),
        np.concatenate([w.colors[p] for w, p in zip((first, second), parts, strict=True)]),
    )
    before, after = join_windows(first, both, join), join_windows(both, second, join)
    if not (before.trusted and after.trusted):
        worst = min(before.inliers, after.inliers)
        return Loop(candidate, numbers, f"seen together, a visit has another form: {100 * worst:.0f} % of its points "
                    f"fit", None, math.nan)  # fmt: skip
    half = len(parts[0])
    visits = list(range(half)), list(range(half, len(both)))
    ways = [agreement(both, visits[0], visits[1], options.tolerance),
            agreement(both, visits[1], visits[0], options.tolerance)]  # fmt: skip
    seen, agreeing = min(way[0] for way in ways), min(way[1] for way in ways)
    reason = ""
    if seen < options.min_seen:
        reason = f"the visits look at different things: one sees {100 * seen:.0f} % of the other's points"
    elif agreeing < options.min_agreeing:
        reason = f"the visits contradict each other: {100 * agreeing:.0f} % of what both see has the same depth"
    return Loop(candidate, numbers, reason, before.measured.after(after.measured), agreeing)


def agreement(window: Window, here: list[int], there: list[int], tolerance: float) -> tuple[float, float]:
    """Whether some frames of a window see what others see.

    Args:
        window: the window.
        here: places of the frames whose points are looked for.
        there: places of the frames that look for them.
        tolerance: see :class:`LoopOptions`.

    Returns:
        The share of the points that are within the view of one of the others, and the share of those that have the
        depth seen there, in one of them at least.
    """
    height, width = window.depth.shape[1:]
    step = max(1, round(math.sqrt(height * width / 400)))
    T_cam_window = invert_poses(window.T_window_cam)
    seen_count = agree_count = total = 0
    for place in here:
        points = window.camera_points(place, step).reshape(-1, 3)
        T = window.T_window_cam[place]
        points = points[points[:, 2] > 0] @ T[:3, :3].T + T[:3, 3]
        seen, agree = np.zeros(len(points), dtype=bool), np.zeros(len(points), dtype=bool)
        for other in there:
            now, same = seen_in(window.depth[other], window.intrinsics[other], T_cam_window[other], points, tolerance)
            seen |= now
            agree |= same
        total, seen_count, agree_count = (
            total + len(points),
            seen_count + int(seen.sum()),
            agree_count + int(agree.sum()),
        )
    return seen_count / max(total, 1), agree_count / max(seen_count, 1)


def seen_in(
    depth: NDArray[np.floating[Any]],
    K: Array,
    T_cam_world: Array,
    points: Array,
    tolerance: float,
    *,
    scale: float = 1.0,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which points a camera has in view, and which of them it sees at their depth.

    Args:
        depth: ``[H, W]`` of the camera, its window's units; 0 where nothing is known.
        K: ``[3, 3]`` its intrinsics, the first pixel's centre at (0, 0).
        T_cam_world: ``[4, 4]`` from the points' frame to the camera's.
        points: ``[N, 3]``.
        tolerance: relative difference of depths.
        scale: units of the points in one of the depth.

    Returns:
        Two ``[N]``.
    """
    local = points @ T_cam_world[:3, :3].T + T_cam_world[:3, 3]
    z = local[:, 2]
    ahead = z > 1e-6
    safe = np.where(ahead, z, 1.0)
    u = np.rint((local[:, 0] / safe * K[0, 0] + K[0, 2]).clip(-1e6, 1e6)).astype(np.int64)
    v = np.rint((local[:, 1] / safe * K[1, 1] + K[1, 2]).clip(-1e6, 1e6)).astype(np.int64)
    inside = ahead & (u >= 0) & (v >= 0) & (u < depth.shape[1]) & (v < depth.shape[0])
    there = depth[v.clip(0, depth.shape[0] - 1), u.clip(0, depth.shape[1] - 1)].astype(np.float64) * scale
    inside &= there > 0
    return inside, inside & (np.abs(there - z) < tolerance * z)


def _around(window: Window, frame: int, count: int) -> NDArray[np.int64]:
    """Places of ``count`` frames of a window around one."""
    start = min(max(0, window.at(frame) - count // 2), len(window) - count)
    return np.arange(start, start + count)
