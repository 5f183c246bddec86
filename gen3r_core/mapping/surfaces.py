"""Loops from surfaces: windows that are placed nearly right, and see the same walls, are pulled onto each other.

Where odometry tells roughly where everything is, two visits to a place need not be recognised: their surfaces lie
beside each other already, by what the odometry has drifted. Points of one are brought onto planes of the other
(Y. Chen and G. Medioni, Image and Vision Computing 1992), with robust weights and gates that narrow. Directions in
which surfaces can slide (along a corridor's wall) have a large variance in what is measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen3r_core.errors import InputError
from gen3r_core.geometry.poses import Array
from gen3r_core.geometry.sim3 import Sim3
from gen3r_core.mapping.loops import Candidate, Loop
from gen3r_core.mapping.similarity import UncertainSim3, compose, so3_exp
from gen3r_core.mapping.windows import Window, WindowStore
from gen3r_core.progress import JobMonitor

__all__ = ["SurfaceOptions", "surface_loops"]

_STEPS = 5
_TUKEY = 4.685


@dataclass(frozen=True)
class SurfaceOptions:
    """Which windows are compared, and what is believed.

    Attributes:
        min_gap: frames between two windows, at least.
        near_m: metres within which points of one window have the other's beside them, for it to be tried.
        min_beside: share of its points that have to.
        per_window: pairs that are tried for each window, at most.
        gates_m: metres within which points belong together, one after the other.
        thin_m: edge of the cubes that get one point each.
        min_overlap: share of a window's points that lie on the other's surfaces in the end, both ways.
        max_residual_m: median distance of those from their planes, at most.
        tilt_deg: standard deviation of the vertical, which is known.
        turn_deg: of what the odometry may have turned.
        shift_m: of what it may have shifted.
        point_m: of a point's distance from its plane.
        independent: points that count as one observation: errors of a window's depth are smooth.

    Raises:
        InputError: numbers make no sense.
    """

    min_gap: int = 20
    near_m: float = 0.5
    min_beside: float = 0.5
    per_window: int = 4
    gates_m: tuple[float, ...] = (0.8, 0.6, 0.45, 0.3, 0.2, 0.15)
    thin_m: float = 0.07
    min_overlap: float = 0.5
    max_residual_m: float = 0.07
    tilt_deg: float = 0.5
    turn_deg: float = 5.0
    shift_m: float = 0.3
    point_m: float = 0.06
    independent: int = 500

    def __post_init__(self) -> None:
        if self.min_gap < 1 or self.per_window < 1 or not self.gates_m or not min(self.gates_m) > 0:
            raise InputError(f"loops from surfaces need a gap, pairs and gates, got {self}")


@dataclass(frozen=True, eq=False)
class _Surface:
    """Points ``[M, 3]`` of a window in the world with normals ``[M, 3]``, and a tree over them."""

    points: Array
    normals: Array
    tree: Any


def surface_loops(
    store: WindowStore,
    names: Sequence[str],
    T_world_window: Sequence[Sim3],
    options: SurfaceOptions | None = None,
    *,
    monitor: JobMonitor | None = None,
) -> list[Loop]:
    """Loops between windows that lie beside each other.

    Args:
        store: has the windows.
        names: of the windows, in order.
        T_world_window: where they are, as far as that is known; z is up, unit metre.
        options: which.
        monitor: told of stage "surfaces", in pairs.

    Returns:
        What was tried; those that are not believed say why.

    Raises:
        InputError: a window is missing.
        CancelledError: the monitor's callback asked for it.
    """
    options, monitor = options or SurfaceOptions(), monitor or JobMonitor()
    surfaces, frames = [], []
    for name, motion in zip(names, T_world_window, strict=True):
        window = store.get(name)
        surfaces.append(_surface(window, motion, options))
        frames.append((int(window.frames[0]), int(window.frames[-1])))
    pairs = _beside(surfaces, frames, options)
    monitor.report("surfaces", 0, len(pairs))
    found = []
    for done, (i, j, share) in enumerate(pairs):
        middle = Candidate(sum(frames[i]) // 2, sum(frames[j]) // 2, share)
        motions = (T_world_window[i], T_world_window[j])
        found.append(_compare(surfaces[i], surfaces[j], (i, j), middle, motions, options))
        monitor.report("surfaces", done + 1, len(pairs))
    return found


def _surface(window: Window, motion: Sim3, options: SurfaceOptions) -> _Surface:
    from scipy.spatial import cKDTree

    height, width = window.depth.shape[1:]
    step = max(1, round(math.sqrt(height * width) / 56))
    sure = window.confidence[window.depth > 0].astype(np.float32)
    least = float(np.quantile(sure, 0.3)) if len(sure) else 0.0
    points, normals = [], []
    for place in range(len(window)):
        local = window.camera_points(place, step)
        good = (window.depth[place, ::step, ::step] > 0) & (window.confidence[place, ::step, ::step] >= least)
        normal, flat = _normals(local, good)
        T = window.T_window_cam[place]
        points.append(local[:-1, :-1][flat] @ T[:3, :3].T + T[:3, 3])
        normals.append(normal[flat] @ T[:3, :3].T)
    p, n = np.concatenate(points), np.concatenate(normals)
    p, n = motion.apply(p), n @ motion.rotation.T
    _, first = np.unique(np.floor(p / options.thin_m).astype(np.int64), axis=0, return_index=True)
    return _Surface(p[first], n[first], cKDTree(p[first]))


def _normals(local: Array, good: NDArray[np.bool_]) -> tuple[Array, NDArray[np.bool_]]:
    """``[h-1, w-1, 3]`` of pixels with their right and lower neighbours, and which of them are no edges."""
    across, down = local[:-1, 1:] - local[:-1, :-1], local[1:, :-1] - local[:-1, :-1]
    normal = np.cross(down, across)
    length = np.linalg.norm(normal, axis=-1)
    depth = local[:-1, :-1, 2]
    near = 0.15 * np.maximum(depth, 1e-9)
    flat = good[:-1, :-1] & good[:-1, 1:] & good[1:, :-1] & (length > 0)
    flat &= (np.linalg.norm(across, axis=-1) < near) & (np.linalg.norm(down, axis=-1) < near)
    return normal / np.maximum(length, 1e-12)[..., None], flat


def _beside(
    surfaces: Sequence[_Surface], frames: Sequence[tuple[int, int]], options: SurfaceOptions
) -> list[tuple[int, int, float]]:
    tried: list[tuple[int, int, float]] = []
    for i, j in combinations(range(len(surfaces)), 2):
        if frames[j][0] - frames[i][1] < options.min_gap or not len(surfaces[i].points) or not len(surfaces[j].points):
            continue
        share = min(_share(surfaces[i], surfaces[j], options), _share(surfaces[j], surfaces[i], options))
        if share >= options.min_beside:
            tried.append((i, j, share))
    tried.sort(key=lambda pair: (-pair[2], pair[0], pair[1]))
    taken = [0] * len(surfaces)
    chosen = []
    for i, j, share in tried:
        if min(taken[i], taken[j]) < options.per_window:
            chosen.append((i, j, share))
            taken[i], taken[j] = taken[i] + 1, taken[j] + 1
    return chosen


def _share(one: _Surface, other: _Surface, options: SurfaceOptions) -> float:
    step = max(1, len(one.points) // 500)
    far, _ = other.tree.query(one.points[::step], distance_upper_bound=options.near_m)
    return float(np.isfinite(far).mean())


def _compare(
    fixed: _Surface, moved: _Surface, windows: tuple[int, int], middle: Candidate, motions: tuple[Sim3, Sim3],
    options: SurfaceOptions,
) -> Loop:  # fmt: skip
    R, t, information = _align(fixed, moved, options)
    onto = _on_surface(fixed, moved.points @ R.T + t, moved.normals @ R.T, options)
    back = _on_surface(moved, (fixed.points - t) @ R, fixed.normals @ R, options)
    overlap, residual = min(onto[0], back[0]), max(onto[1], back[1])
    reason = ""
    if overlap < options.min_overlap:
        reason = f"surfaces do not meet: {100 * overlap:.0f} % of the points lie on the other window's"
    elif residual > options.max_residual_m:
        reason = f"surfaces do not fit: {residual:.3f} m are left between them"
    first, second = motions
    measured = compose(compose(first.inverse(), Sim3(1.0, R, t)), second)
    covariance = _carried(np.asarray(np.linalg.inv(information), dtype=np.float64), first, second, R)
    return Loop(middle, windows, reason, UncertainSim3(measured, covariance), overlap)


def _align(fixed: _Surface, moved: _Surface, options: SurfaceOptions) -> tuple[Array, Array, Array]:
    """Rotation and shift in the world that bring one surface onto the other, and their information ``[6, 6]``.

    Six numbers: shift of the moved surface's middle, and rotation about it, axes of the world.
    """
    middle = moved.points.mean(axis=0)
    R, shift = np.eye(3), np.zeros(3)
    prior = np.diag(1 / np.square([options.shift_m] * 3 + [math.radians(options.tilt_deg)] * 2 + [math.radians(
        options.turn_deg)]))  # fmt: skip
    turned = np.zeros(3)
    H = prior.copy()
    for gate in options.gates_m:
        for _ in range(_STEPS):
            arms = (moved.points - middle) @ R.T
            points, normals = arms + middle + shift, moved.normals @ R.T
            far, index = fixed.tree.query(points, distance_upper_bound=gate)
            there = np.isfinite(far)
            n = fixed.normals[np.where(there, index, 0)]
            there &= (n * normals).sum(axis=1) > 0.7
            if there.sum() < 30:
                break
            n, p, q = n[there], points[there], fixed.points[index[there]]
            r = ((p - q) * n).sum(axis=1)
            sigma = max(1.4826 * float(np.median(np.abs(r))), 0.01)
            w = np.square(1 - np.square(np.minimum(np.abs(r) / (_TUKEY * sigma), 1.0)))
            J = np.concatenate([n, np.cross(arms[there], n)], axis=1)
            weight = 1 / (options.point_m**2 * options.independent)
            H = prior + weight * (J * w[:, None]).T @ J
            g = weight * (J * w[:, None]).T @ r + prior @ np.concatenate([shift, turned])
            step = -np.linalg.solve(H, g)
            shift = shift + step[:3]
            R = so3_exp(step[3:]) @ R
            turned = turned + step[3:]
            if np.abs(step).max() < 1e-4:
                break
    return R, middle + shift - R @ middle, _about_origin(H, middle + shift)


def _about_origin(H: Array, middle: Array) -> Array:
    """Information of a shift and a turn about the origin, from that about a point."""
    from gen3r_core.mapping.similarity import cross_matrix

    # A turn about the origin also shifts the point.
    J = np.eye(6)
    J[:3, 3:] = -cross_matrix(middle)
    return np.asarray(J.T @ H @ J)


def _carried(covariance: Array, first: Sim3, second: Sim3, R: Array) -> Array:
    """Covariance of a motion in the world as that of what lies between the windows: see :class:`UncertainSim3`."""
    from gen3r_core.mapping.similarity import cross_matrix

    # Of F^-1 Exp(d) M S: the shift, seen from the first window, and the rotation, seen from the second.
    at = R @ second.translation
    turn = first.rotation.T
    J = np.zeros((7, 6))
    J[:3, :3] = turn / first.scale
    J[:3, 3:] = -turn @ cross_matrix(at) / first.scale
    J[3:6, 3:] = (R @ second.rotation).T
    full = J @ covariance @ J.T
    full[6, 6] = 0.02**2
    return np.asarray((full + full.T) / 2 + 1e-10 * np.eye(7))


def _on_surface(other: _Surface, points: Array, normals: Array, options: SurfaceOptions) -> tuple[float, float]:
    """Share of points on another surface, and their median distance from its planes."""
    far, index = other.tree.query(points, distance_upper_bound=options.gates_m[-1])
    there = np.isfinite(far)
    n = other.normals[np.where(there, index, 0)]
    there &= (n * normals).sum(axis=1) > 0.7
    if not there.any():
        return 0.0, math.inf
    r = ((points[there] - other.points[index[there]]) * n[there]).sum(axis=1)
    return float(there.mean()), float(np.median(np.abs(r)))
