"""Bundle adjustment with depth: cameras and points that explain matches, with a network's depth maps as a witness.

Each sight of a point says where it is in the picture, and how far it is by a depth map whose scale may be a little
off for each view. Where cameras move, the pictures decide; where they only turn, depth does. Levenberg and
Marquardt's method, points eliminated by Schur's complement (B. Triggs et al., "Bundle Adjustment - A Modern
Synthesis", 1999), with Cauchy's robust weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen3r_core.errors import InputError
from gen3r_core.geometry.poses import Array, nearest_rotation
from gen3r_core.mapping.similarity import cross_matrix, so3_exp

__all__ = ["Adjusted", "BundleOptions", "Sights", "adjust", "project", "without_outliers", "zoomed"]

_NEAREST = 1e-6


@dataclass(frozen=True)
class BundleOptions:
    """What is believed how much.

    Attributes:
        pixel: standard deviation of a sight, pixels.
        depth: of the logarithm of a depth: errors of a depth map are alike in all of it and from view to view, so more
            than that of a single one.
        view_scale: of the logarithm of a view's depth scale.
        place: of a camera's place from where it starts, over the median depth; loose, for those with few sights.
        turn: of its rotation, radians.
        firm_place: the same of cameras that are known well.
        firm_turn: of their rotations, radians.
        focal: of the logarithm of the focal lengths, one for all views; 0 leaves them as they are.
        bound: standard deviations from which a sight loses weight.
        iterations: at most.
        tolerance: relative fall of the cost under which it is done.

    Raises:
        InputError: a number is not positive, or ``focal`` negative.
    """

    pixel: float = 0.3
    depth: float = 0.15
    view_scale: float = 0.05
    place: float = 0.5
    turn: float = 0.5
    firm_place: float = 0.02
    firm_turn: float = math.radians(0.5)
    focal: float = 0.0
    bound: float = 2.0
    iterations: int = 30
    tolerance: float = 1e-5

    def __post_init__(self) -> None:
        sizes = (self.pixel, self.depth, self.view_scale, self.place, self.turn, self.firm_place,
                 self.firm_turn, self.bound, self.iterations)  # fmt: skip
        if not all(np.isfinite(size) and size > 0 for size in sizes) or not 0 <= self.focal < np.inf:
            raise InputError(f"bundle adjustment needs positive sizes, got {self}")


@dataclass(frozen=True, eq=False)
class Sights:
    """Points seen in views.

    Attributes:
        view: ``[M]`` int64 number of the view.
        point: ``[M]`` int64 number of the point.
        pixel: ``[M, 2]`` float64 x and y, the first pixel's centre at (0, 0).
        depth: ``[M]`` float64 z-depth there by the view's depth map; 0 where it is not known.
    """

    view: NDArray[np.int64]
    point: NDArray[np.int64]
    pixel: Array
    depth: Array

    def __len__(self) -> int:
        return len(self.view)

    def where(self, good: NDArray[np.bool_]) -> Sights:
        """Some of them; numbers of points stay."""
        return Sights(self.view[good], self.point[good], self.pixel[good], self.depth[good])


@dataclass(frozen=True, eq=False)
class Adjusted:
    """What explains the sights.

    Attributes:
        T_cam_world: ``[n, 4, 4]``; the first view's is as it was.
        depth_logs: ``[n]`` logarithms of what depths of a view are to be multiplied by.
        focal_log: logarithm of what all focal lengths are to be multiplied by.
        points: ``[P, 3]`` in the world.
        off: ``[M]`` pixels between each sight and where its point is seen; infinite behind the camera.
        cost: robust, in standard deviations.
        iterations: that were run.
    """

    T_cam_world: Array
    depth_logs: Array
    focal_log: float
    points: Array
    off: Array
    cost: float
    iterations: int


def project(K: Array, T_cam_world: Array, points: Array) -> tuple[Array, Array]:
    """Where points are seen.

    Args:
        K: ``[M, 3, 3]`` or ``[3, 3]`` intrinsics.
        T_cam_world: ``[M, 4, 4]`` or ``[4, 4]``.
        points: ``[M, 3]``.

    Returns:
        ``[M, 2]`` pixels (of no meaning where the depth is not positive), and ``[M]`` z-depths.
    """
    local = (T_cam_world[..., :3, :3] @ points[:, :, None])[..., 0] + T_cam_world[..., :3, 3]
    z = local[:, 2]
    safe = np.where(z > _NEAREST, z, 1.0)
    x = K[..., 0, 0] * local[:, 0] / safe + K[..., 0, 2]
    y = K[..., 1, 1] * local[:, 1] / safe + K[..., 1, 2]
    return np.stack([x, y], axis=1), z


def zoomed(K: Array, focal_log: float) -> Array:
    """``[..., 3, 3]`` intrinsics with other focal lengths."""
    scale = math.exp(focal_log)
    found: Array = K * np.array([[scale, 1.0, 1.0], [1.0, scale, 1.0], [1.0, 1.0, 1.0]])
    return found


@dataclass(frozen=True, eq=False)
class _State:
    R: Array
    t: Array
    logs: Array
    points: Array
    focal: float

    def moved(self, cameras: Array, points: Array, focal: float) -> _State:
        """By ``[n, 7]`` shift, turn and logarithm of each camera, ``[P, 3]``, and the focal lengths' logarithm."""
        turn = so3_exp(cameras[:, 3:6])
        return _State(
            turn @ self.R,
            (turn @ self.t[:, :, None])[..., 0] + cameras[:, :3],
            self.logs + cameras[:, 6],
            self.points + points,
            self.focal + focal,
        )


class _Problem:
    """Residuals, weights and derivatives."""

    def __init__(
        self, sights: Sights, K: Array, start: _State, options: BundleOptions, firm: NDArray[np.bool_]
    ) -> None:
        self.sights, self.options = sights, options
        self.K = K[sights.view]
        self.known = sights.depth > 0
        self.log_depth = np.log(np.where(self.known, sights.depth, 1.0))
        typical = float(np.median(sights.depth[self.known])) if self.known.any() else 1.0
        place = np.where(firm, options.firm_place, options.place) * typical
        turn = np.where(firm, options.firm_turn, options.turn)
        sizes = np.stack([place] * 3 + [turn] * 3 + [np.full(len(firm), options.view_scale)], axis=1)
        self.prior = 1 / np.square(sizes)  # [n, 7]
        self.focal_prior = 1 / options.focal**2 if options.focal else 0.0
        self.start = start

    def residuals(self, state: _State) -> tuple[Array, Array, NDArray[np.bool_]]:
        """``[M, 3]`` in standard deviations, ``[M, 3]`` places in the cameras, and which are ahead of them."""
        view = self.sights.view
        local = (state.R[view] @ state.points[self.sights.point][:, :, None])[..., 0] + state.t[view]
        z = np.maximum(local[:, 2], _NEAREST)
        ahead = local[:, 2] > _NEAREST
        zoom = math.exp(state.focal)
        u = zoom * self.K[:, 0, 0] * local[:, 0] / z + self.K[:, 0, 2] - self.sights.pixel[:, 0]
        v = zoom * self.K[:, 1, 1] * local[:, 1] / z + self.K[:, 1, 2] - self.sights.pixel[:, 1]
        far = np.where(self.known, np.log(z) - self.log_depth - state.logs[view], 0.0)
        o = self.options
        return np.stack([u / o.pixel, v / o.pixel, far / o.depth], axis=1), local, ahead

    def from_start(self, state: _State) -> Array:
        """``[n, 7]`` how far cameras are from where they started, to first order."""
        turned = state.R @ np.swapaxes(self.start.R, 1, 2)
        turn = np.stack([turned[:, 2, 1] - turned[:, 1, 2], turned[:, 0, 2] - turned[:, 2, 0],
                         turned[:, 1, 0] - turned[:, 0, 1]], axis=1) / 2  # fmt: skip
        shift = state.t - (turned @ self.start.t[:, :, None])[..., 0]
        return np.concatenate([shift, turn, state.logs[:, None]], axis=1)

    def weigh(self, r: Array, ahead: NDArray[np.bool_]) -> tuple[Array, float]:
        """``[M, 3]`` Cauchy's weights of residuals, and their cost; picture and depth are doubted each by itself."""
        c = self.options.bound**2
        picture, far = np.square(r[:, :2]).sum(axis=1), np.square(r[:, 2])
        # A point behind a camera has no derivatives of use: it costs as much as one that is far off.
        picture = np.where(ahead, picture, 1e6)
        cost = c * float(np.log1p(picture / c).sum() + np.log1p(np.where(ahead, far, 0.0) / c).sum())
        one = np.where(ahead, 1 / (1 + picture / c), 0.0)
        other = np.where(ahead & self.known, 1 / (1 + far / c), 0.0)
        return np.stack([one, one, other], axis=1), cost

    def cost(self, state: _State) -> float:
        """Robust cost, with what is known beforehand."""
        r, _, ahead = self.residuals(state)
        known = float((self.prior * np.square(self.from_start(state))).sum()) + self.focal_prior * state.focal**2
        return self.weigh(r, ahead)[1] + known

    def derivatives(self, state: _State, local: Array) -> tuple[Array, Array, Array]:
        """``[M, 3, 7]`` by camera, ``[M, 3, 3]`` by point and ``[M, 3]`` by the focal lengths' logarithm."""
        o, zoom = self.options, math.exp(state.focal)
        z = np.maximum(local[:, 2], _NEAREST)
        by_local = np.zeros((len(z), 3, 3))
        by_focal = np.zeros((len(z), 3))
        for row, focal in enumerate((zoom * self.K[:, 0, 0], zoom * self.K[:, 1, 1])):
            by_local[:, row, row] = focal / z / o.pixel
            by_local[:, row, 2] = -focal * local[:, row] / np.square(z) / o.pixel
            by_focal[:, row] = focal * local[:, row] / z / o.pixel
        by_local[:, 2, 2] = np.where(self.known, 1 / z / o.depth, 0.0)
        by_camera = np.zeros((len(z), 3, 7))
        by_camera[:, :, :3] = by_local
        by_camera[:, :, 3:6] = -by_local @ cross_matrix(local)
        by_camera[:, 2, 6] = np.where(self.known, -1 / o.depth, 0.0)
        return by_camera, by_local @ state.R[self.sights.view], by_focal


def adjust(
    sights: Sights,
    K: Array,
    T_cam_world: Array,
    points: Array,
    options: BundleOptions | None = None,
    *,
    firm: NDArray[np.bool_] | None = None,
) -> Adjusted:
    """Cameras and points that explain sights best.

    Args:
        sights: of the points.
        K: ``[n, 3, 3]`` intrinsics of the views, pixels, the first one's centre at (0, 0).
        T_cam_world: ``[n, 4, 4]`` to begin from; the first one's is kept.
        points: ``[P, 3]`` to begin from.
        options: what is believed how much.
        firm: ``[n]`` whose pose is known well from elsewhere; None for nobody's.

    Raises:
        InputError: there are no sights, or of views or points that are not there.
    """
    options = options or BundleOptions()
    n, count = len(T_cam_world), len(points)
    if not len(sights) or sights.view.max() >= n or sights.point.max() >= count or len(K) != n:
        raise InputError(f"bundle adjustment needs sights of its {n} views and {count} points")
    state = _State(T_cam_world[:, :3, :3].copy(), T_cam_world[:, :3, 3].copy(), np.zeros(n), points.copy(), 0.0)
    problem = _Problem(sights, K, state, options, np.zeros(n, dtype=bool) if firm is None else firm)
    cost, damping, rounds = problem.cost(state), 1e-4, 0
    while rounds < options.iterations:
        rounds += 1
        system = _Normal(problem, state)
        before = cost
        for _ in range(6):
            trial = state.moved(*system.step(damping))
            found = problem.cost(trial)
            if found < cost:
                state, cost, damping = trial, found, max(damping / 5, 1e-9)
                break
            damping = min(damping * 8, 1e6)
        if before - cost <= options.tolerance * before:
            break
    T = T_cam_world.copy()
    T[:, :3, :3], T[:, :3, 3] = nearest_rotation(state.R), state.t
    seen, z = project(zoomed(problem.K, state.focal), T[sights.view], state.points[sights.point])
    off = np.where(z > _NEAREST, np.linalg.norm(seen - sights.pixel, axis=1), np.inf)
    return Adjusted(T, state.logs, state.focal, state.points, off, cost, rounds)


class _Normal:
    """Normal equations at a state; solved for any damping. The last unknown is the focal lengths' logarithm."""

    def __init__(self, problem: _Problem, state: _State) -> None:
        from scipy import sparse

        view, point = problem.sights.view, problem.sights.point
        self.n, self.count, self.zooms = len(state.R), len(state.points), problem.focal_prior > 0
        r, local, ahead = problem.residuals(state)
        weights, _ = problem.weigh(r, ahead)
        by_camera, by_point, by_focal = problem.derivatives(state, local)
        weighted = np.swapaxes(by_camera * weights[:, :, None], 1, 2)
        cross = weighted @ by_point
        self.H = _summed(weighted @ by_camera, view, self.n) + problem.prior[:, :, None] * np.eye(7)
        g = _summed((weighted @ r[:, :, None])[..., 0], view, self.n) + problem.prior * problem.from_start(state)
        self.H_focal = _summed((weighted @ by_focal[:, :, None])[..., 0], view, self.n)
        weighted = np.swapaxes(by_point * weights[:, :, None], 1, 2)
        self.P = _summed(weighted @ by_point, point, self.count)
        self.h = _summed((weighted @ r[:, :, None])[..., 0], point, self.count)
        by_both = _summed((weighted @ by_focal[:, :, None])[..., 0], point, self.count)
        self.focal = float((weights * by_focal**2).sum()) + problem.focal_prior
        self.g = np.append(g.ravel(), float((weights * by_focal * r).sum()) + problem.focal_prior * state.focal)
        rows = (7 * view[:, None, None] + np.arange(7)[None, :, None]).repeat(3, axis=2).ravel()
        columns = (3 * point[:, None, None] + np.arange(3)[None, None, :]).repeat(7, axis=1).ravel()
        last = np.full(3 * self.count, 7 * self.n)
        values = np.concatenate([cross.ravel(), by_both.ravel()])
        places = (np.append(rows, last), np.append(columns, np.arange(3 * self.count)))
        self.W: Any = sparse.csr_matrix((values, places), shape=(7 * self.n + 1, 3 * self.count))

    def step(self, damping: float) -> tuple[Array, Array, float]:
        """``[n, 7]``, ``[P, 3]`` and the focal lengths' logarithm; the first camera's pose stays."""
        from scipy import linalg, sparse

        P = self.P + damping * self.P * np.eye(3) + 1e-9 * np.eye(3)
        inverse = np.linalg.inv(P)
        place = np.arange(self.count + 1)
        E = sparse.bsr_matrix((inverse, place[:-1], place), shape=(3 * self.count, 3 * self.count))
        WE = self.W @ E
        S = -(WE @ self.W.T).toarray()
        own = np.arange(7 * self.n).reshape(self.n, 7)
        S[own[:, :, None], own[:, None, :]] += self.H + damping * self.H * np.eye(7)
        S[-1, :-1] += self.H_focal.ravel()
        S[:-1, -1] += self.H_focal.ravel()
        S[-1, -1] += self.focal * (1 + damping)
        right = -(self.g - WE @ self.h.ravel())
        free = np.arange(6, 7 * self.n + self.zooms)
        cameras = np.zeros(7 * self.n + 1)
        cameras[free] = linalg.solve(S[np.ix_(free, free)], right[free], assume_a="pos")
        back = -(self.h.ravel() + self.W.T @ cameras).reshape(-1, 3)
        return cameras[:-1].reshape(-1, 7), (inverse @ back[:, :, None])[..., 0], float(cameras[-1])


def _summed(values: Array, group: NDArray[np.int64], count: int) -> Array:
    """Sums of ``[M, ...]`` by group."""
    flat = values.reshape(len(values), -1)
    found: Array = np.stack([np.bincount(group, weights=column, minlength=count) for column in flat.T], axis=1)
    return found.reshape(count, *values.shape[1:])


def without_outliers(sights: Sights, found: Adjusted, limit: float) -> Sights:
    """Sights within ``limit`` pixels, of points that have two of them at least."""
    good = found.off < limit
    times = np.bincount(sights.point[good], minlength=len(found.points))
    return sights.where(good & (times[sights.point] >= 2))
