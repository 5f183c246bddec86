"""The similarity between two windows, from the frames that both have.

Both say where the pixels of a shared frame are, each in its own world and units, so every pixel is a pair of points;
and every shared camera is another one. Errors grow with depth and are alike within a frame: residuals are relative
to depth, and the covariance counts frames and patches of them as observations, not pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gen3r_core.errors import InputError
from gen3r_core.geometry.poses import Array, nearest_rotation, rotation_angles
from gen3r_core.geometry.sim3 import Sim3
from gen3r_core.mapping.similarity import UncertainSim3, cross_matrix
from gen3r_core.mapping.windows import Window

__all__ = ["Join", "JoinOptions", "join_windows", "shared_frames"]

_ROUNDS = 40
_SETTLED = 1e-6
_CELLS = 3
_TUKEY = 4.685
"""Standard deviations beyond which a residual has no weight: 95 % efficiency (A. Beaton and J. Tukey, 1974)."""
_LEAST_NOISE = 1e-3
"""Of depth: half floats and smooth surfaces make smaller residuals possible, and they mean nothing."""
_UNKNOWN = (1.0, math.radians(20), 0.5)
"""Standard deviations where nothing was measured: typical depths, radians, logarithm of scale."""


@dataclass(frozen=True)
class JoinOptions:
    """How windows are joined.

    Attributes:
        points: pixels of each shared frame that are compared, at most.
        quantile: share of the pixels, the least sure ones, that are left out.
        camera_share: weight of all shared cameras' centres beside that of all points.
        tolerance: residual over depth up to which a point counts as an inlier.
        min_inliers: share of the points that are inliers, at least, for a join that can be trusted.

    Raises:
        InputError: numbers make no sense.
    """

    points: int = 1500
    quantile: float = 0.2
    camera_share: float = 0.2
    tolerance: float = 0.1
    min_inliers: float = 0.4

    def __post_init__(self) -> None:
        if self.points < 16 or not 0 <= self.quantile < 1 or self.camera_share < 0 or not self.tolerance > 0:
            raise InputError(
                f"joining needs at least 16 points a frame, a quantile in [0, 1) and a tolerance, got {self.points}, "
                f"{self.quantile} and {self.tolerance}"
            )


@dataclass(frozen=True, eq=False)
class Join:
    """How one window lies in another.

    Attributes:
        measured: from the second window to the first, with its covariance.
        inliers: share of the points whose residual is within the tolerance.
        residual: median residual over depth, of all points.
        points: that were compared.
        shared: the frames' numbers.
        rotation_rad: ``[shared]`` angles between the shared cameras after joining.
        translation: ``[shared]`` distances between them after joining, over the median depth.
        trusted: whether there are inliers enough.
    """

    measured: UncertainSim3
    inliers: float
    residual: float
    points: int
    shared: NDArray[np.int64]
    rotation_rad: Array
    translation: Array
    trusted: bool


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Pairs of points ``[N, 3]`` in both windows; depth, weight and cluster of each."""

    first: Array
    second: Array
    depth: Array
    weight: Array
    frame: NDArray[np.int64]
    cell: NDArray[np.int64]


def shared_frames(first: Window, second: Window) -> NDArray[np.int64]:
    """Numbers of the frames that both windows have."""
    return np.intersect1d(first.frames, second.frames)


def join_windows(first: Window, second: Window, options: JoinOptions | None = None) -> Join:
    """How the second window lies in the first.

    Minimised over the similarity S, with Tukey's weights of annealed scale (iteratively reweighted least squares)::

        sum_n w_n |p_n - S q_n|^2 / z_n^2

    over pairs of points and camera centres. The start is the best by median residual of as many similarities as
    there are shared frames: each frame's own cameras give a rotation, its depths' median ratio a scale. So whole
    frames may be wrong, and up to half of the points in the others.

    The covariance is that of clustered observations (R. White's sandwich, with K. Liang and S. Zeger's clusters,
    Biometrika 1986): its middle is the sum of those with frames and with ninths of frames as clusters.

    Args:
        first: a window.
        second: another one with at least one frame in common.
        options: how.

    Returns:
        The join, trusted or not.

    Raises:
        InputError: they share no frame.
    """
    options = options or JoinOptions()
    shared = shared_frames(first, second)
    if not len(shared):
        raise InputError(
            f"windows of frames {first.frames[0]} to {first.frames[-1]} and {second.frames[0]} to {second.frames[-1]} "
            f"share no frame"
        )
    a, b = [[window.at(int(frame)) for frame in shared] for window in (first, second)]
    T_a, T_b = first.T_window_cam[a], second.T_window_cam[b]
    pairs = _pairs(first, second, a, b, options)
    if len(pairs.depth) < 16:
        return _unmeasured(T_a, T_b, shared, pairs)
    typical = float(np.median(pairs.depth))
    data = _with_centres(pairs, T_a, T_b, typical, options.camera_share)
    fit, weights, sigma = _robust_fit(data, _first_guess(pairs, T_a, T_b))
    residual = _residuals(fit, pairs)
    inliers = float((residual < options.tolerance).mean())
    turns = rotation_angles(np.swapaxes(T_a[:, :3, :3], 1, 2) @ fit.rotation @ T_b[:, :3, :3])
    apart = np.linalg.norm(T_a[:, :3, 3] - fit.apply(T_b[:, :3, 3]), axis=1) / typical
    return Join(
        measured=UncertainSim3(fit, _covariance(fit, data, weights, sigma)),
        inliers=inliers,
        residual=float(np.median(residual)),
        points=len(pairs.depth),
        shared=shared,
        rotation_rad=turns,
        translation=apart,
        trusted=inliers >= options.min_inliers,
    )


def _pairs(first: Window, second: Window, a: list[int], b: list[int], options: JoinOptions) -> _Pairs:
    """Points of the shared frames' pixels, the same pixels in both windows."""
    parts: list[tuple[Array, ...]] = []
    height, width = first.depth.shape[1:]
    step = max(1, math.ceil(math.sqrt(height * width / options.points)))
    for number, (i, j) in enumerate(zip(a, b, strict=True)):
        p, q = first.camera_points(i, step), second.camera_points(j, step)
        # Where either is unsure the pair is: the smaller of the two, each by its own window's scale.
        sure = np.minimum(*(
            _relative_confidence(window.confidence[place, ::step, ::step])
            for window, place in ((first, i), (second, j))
        ))  # fmt: skip
        good = (p[..., 2] > 0) & (q[..., 2] > 0) & (sure > 0)
        if good.any():
            good &= sure >= np.quantile(sure[good], options.quantile)
        v, u = np.nonzero(good)
        rows, columns = good.shape
        T, U = first.T_window_cam[i], second.T_window_cam[j]
        parts.append((
            p[good] @ T[:3, :3].T + T[:3, 3],
            q[good] @ U[:3, :3].T + U[:3, 3],
            p[good][:, 2],
            sure[good],
            np.full(len(v), number),
            number * _CELLS**2 + v * _CELLS // rows * _CELLS + u * _CELLS // columns,
        ))  # fmt: skip
    p_all, q_all, depth, weight, frame, cell = (np.concatenate(column) for column in zip(*parts, strict=True))
    return _Pairs(p_all, q_all, depth, weight, frame.astype(np.int64), cell.astype(np.int64))


def _relative_confidence(confidence: NDArray[np.float16]) -> Array:
    values = confidence.astype(np.float64)
    known = values[values > 0]
    # Confidences span decades between surfaces and sky; their square root leaves far walls some say.
    return np.sqrt(values / np.median(known)).clip(0, 4) if len(known) else values


def _with_centres(pairs: _Pairs, T_a: Array, T_b: Array, typical: float, share: float) -> _Pairs:
    count = len(T_a)
    number = np.arange(count)
    weight = np.full(count, share * pairs.weight.sum() / count)
    return _Pairs(
        np.concatenate([pairs.first, T_a[:, :3, 3]]),
        np.concatenate([pairs.second, T_b[:, :3, 3]]),
        np.concatenate([pairs.depth, np.full(count, typical)]),
        np.concatenate([pairs.weight, weight]),
        np.concatenate([pairs.frame, number]),
        np.concatenate([pairs.cell, count * _CELLS**2 + number]),
    )


def _first_guess(pairs: _Pairs, T_a: Array, T_b: Array) -> Sim3:
    turns = T_a[:, :3, :3] @ np.swapaxes(T_b[:, :3, :3], 1, 2)
    best, least = None, math.inf
    for number, turn in enumerate(turns):
        mine = pairs.frame == number
        if not mine.any():
            continue
        p, q = pairs.first[mine], pairs.second[mine]
        away = (np.linalg.norm(points - T[number, :3, 3], axis=1) for points, T in ((p, T_a), (q, T_b)))
        near, far = away
        scale = float(np.median(near / np.maximum(far, 1e-12)))
        guess = Sim3(scale, nearest_rotation(turn), np.zeros(3))
        guess = Sim3(scale, guess.rotation, np.median(p - guess.apply(q), axis=0))
        middle = float(np.median(_residuals(guess, pairs)))
        if best is None or middle < least:
            best, least = guess, middle
    if best is None:  # pragma: no cover - pairs are of some frame
        raise InputError("there are no pairs of points")
    return best


def _residuals(fit: Sim3, pairs: _Pairs) -> Array:
    off = pairs.first - fit.apply(pairs.second)
    found: Array = np.sqrt(np.einsum("ni,ni->n", off, off)) / pairs.depth
    return found


def _robust_fit(data: _Pairs, guess: Sim3) -> tuple[Sim3, Array, float]:
    """The fit, each pair's weight in it, and the residuals' standard deviation along an axis."""
    fit, wide = guess, 4.0
    sigma = weights = None
    for _ in range(_ROUNDS):
        residual = _residuals(fit, data)
        # The median of a Gaussian vector's length in three dimensions is 1.538 standard deviations.
        sigma = max(_weighted_median(residual, data.weight) / 1.538, _LEAST_NOISE)
        cut = _TUKEY * sigma * wide
        weights = data.weight * np.square(np.clip(1 - np.square(residual / cut), 0, None)) / np.square(data.depth)
        found = _weighted_similarity(data.first, data.second, weights, fit)
        change = abs(found.scale / fit.scale - 1) + float(np.abs(found.rotation - fit.rotation).max())
        fit, settled = found, wide == 1.0 and change < _SETTLED
        wide = max(1.0, wide / 1.5)
        if settled:
            break
    if sigma is None or weights is None:  # pragma: no cover - there is at least one round
        raise InputError("nothing was fitted")
    return fit, weights, sigma


def _weighted_similarity(p: Array, q: Array, weights: Array, before: Sim3) -> Sim3:
    """Least squares of ``p - s R q - t`` (S. Umeyama, IEEE PAMI 1991), with a scale that is fair to both.

    The scale is the geometric mean of the regressions either way: both clouds have errors, and Umeyama's own would
    make each window a little smaller than the one before.
    """
    w = weights / weights.sum()
    p_mean, q_mean = w @ p, w @ q
    p_centred, q_centred = p - p_mean, q - q_mean
    R = nearest_rotation((w[:, None] * p_centred).T @ q_centred)
    up, down = (float(np.einsum("n,ni,ni->", w, c, c)) for c in (p_centred, q_centred))
    scale = math.sqrt(up / down) if up > 0 and down > 0 else before.scale
    return Sim3(scale, R, p_mean - scale * (R @ q_mean))


def _covariance(fit: Sim3, data: _Pairs, weights: Array, sigma: float) -> Array:
    moved = fit.scale * data.second @ fit.rotation.T
    off = data.first - moved - fit.translation
    count = len(off)
    J = np.zeros((count, 3, 7))
    J[:, :, :3] = np.eye(3)
    J[:, :, 3:6] = -fit.scale * fit.rotation @ cross_matrix(data.second)
    J[:, :, 6] = moved
    JW = J * weights[:, None, None]
    H = np.einsum("nia,nib->ab", JW, J)
    scores = np.einsum("nia,ni->na", JW, off)
    middle = np.zeros((7, 7))
    for cluster in (data.frame, data.cell):
        _, number = np.unique(cluster, return_inverse=True)
        sums = np.stack([np.bincount(number, weights=column) for column in scores.T], axis=1)
        groups = len(sums)
        middle += sums.T @ sums * (groups / max(groups - 1, 1))
    # Each frame is at least as uncertain as a point of it: smooth errors would look like none.
    frames = len(np.unique(data.frame))
    noise = np.diag(np.repeat(np.square([sigma * float(np.median(data.depth)), sigma, sigma]), [3, 3, 1])) / frames
    scale = np.sqrt(np.diag(H)) + 1e-30
    inverse = np.linalg.inv(H / np.outer(scale, scale) + 1e-9 * np.eye(7)) / np.outer(scale, scale)
    covariance = inverse @ middle @ inverse + noise
    result: Array = (covariance + covariance.T) / 2
    return result


def _unmeasured(T_a: Array, T_b: Array, shared: NDArray[np.int64], pairs: _Pairs) -> Join:
    """From cameras alone: a rotation, a place, and a guess that units are alike."""
    R = nearest_rotation((T_a[:, :3, :3] @ np.swapaxes(T_b[:, :3, :3], 1, 2)).sum(axis=0))
    fit = Sim3(1.0, R, np.mean(T_a[:, :3, 3] - T_b[:, :3, 3] @ R.T, axis=0))
    spread = np.square(_UNKNOWN)
    nothing = np.full(len(shared), math.nan)
    return Join(
        UncertainSim3(fit, np.diag(np.repeat(spread, [3, 3, 1]))), 0.0, math.nan, len(pairs.depth), shared, nothing,
        nothing, trusted=False,
    )  # fmt: skip


def _weighted_median(values: Array, weights: Array) -> float:
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    return float(values[order][int(np.searchsorted(total, total[-1] / 2))])
