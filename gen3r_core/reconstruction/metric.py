"""Metres for a model that knows none: from its cameras to the same cameras' known poses, or from depth.

The similarity ``p_world = s R p_model + t`` between a model's world and the robot's. Camera centres alone do not
tell R where the camera went straight (every turn about the line fits), so the cameras' rotations count as well.
Where the scale cannot be observed the result says so, in a sentence, instead of a number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gen3r_core.errors import InputError
from gen3r_core.geometry.poses import Array, checked_poses, nearest_rotation, rotation_angles
from gen3r_core.geometry.sim3 import Sim3

__all__ = ["DepthScale", "MetricFit", "MetricOptions", "fit_metric", "scale_from_depth"]

_ROUNDS = 50
_CUT = 3.0
"""Residuals over so many medians have no weight. The median of Gaussian residuals in six dimensions is 2.3
standard deviations, so that seven of them are cut off: outliers, and no good keyframe. Of few cameras the median
says less, and the cut is wider, as P. Rousseeuw and A. Leroy (1987) have it for medians of squares."""
_SMALLEST = 1e-9
_MOST_PIXELS = 2**17
_MOST_PAIRS = 4096


@dataclass(frozen=True)
class MetricOptions:
    """When to believe a fit.

    Attributes:
        min_keyframes: fewest cameras that agree, where the scale is to be found from them.
        min_baseline_m: least distance between the two known positions farthest apart, metres.
        max_scale_error: largest standard error of the scale, relative to it.
        max_residual_ratio: largest residual, relative to the spread of the known positions (both root mean squares).
            Where the scale is given, ``min_baseline_m`` is allowed in any case.
        lever_m: metres that one radian of rotation counts for, about the distance of what is seen.
        min_pixels: fewest pixels with both depths (:func:`scale_from_depth`).
        max_depth_spread: largest spread of their ratios, relative to the median.
    """

    min_keyframes: int = 3
    min_baseline_m: float = 0.1
    max_scale_error: float = 0.05
    max_residual_ratio: float = 0.25
    lever_m: float = 1.0
    min_pixels: int = 500
    max_depth_spread: float = 0.25

    def __post_init__(self) -> None:
        if self.min_keyframes < 2 or self.min_pixels < 1:
            raise InputError(
                f"a scale needs at least 2 keyframes or 1 pixel, got min_keyframes {self.min_keyframes} and min_pixels "
                f"{self.min_pixels}"
            )
        for name in ("min_baseline_m", "max_scale_error", "max_residual_ratio", "lever_m", "max_depth_spread"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"{name} must be a positive number, got {value}")


@dataclass(frozen=True, eq=False)
class MetricFit:
    """How a model's world lies in the robot's.

    Attributes:
        metric: whether scale and place are known.
        reason: one sentence why they are not; empty if they are.
        world_from_model: the similarity, its scale in metres per model unit; None if not metric.
        residual_m: metres, root mean square distance between known and aligned camera positions, of the cameras
            that were used; NaN where nothing was fitted.
        rotation_residual_deg: degrees, the same of rotations.
        scale_error: standard error of the scale, relative to it; NaN where nothing was fitted, 0 where it was given.
        baseline_m: metres between the two known positions farthest apart, of the cameras that were used.
        used: ``[N]`` bool, cameras that agree; the others have no known pose or are outliers.
    """

    metric: bool
    reason: str
    world_from_model: Sim3 | None
    residual_m: float
    rotation_residual_deg: float
    scale_error: float
    baseline_m: float
    used: NDArray[np.bool_]


@dataclass(frozen=True)
class DepthScale:
    """Metres per model unit from depth.

    Attributes:
        metric: whether the scale is known.
        reason: one sentence why it is not; empty if it is.
        metres_per_unit: median of the pixels' ratios; NaN if not metric.
        spread: 1.4826 times the median departure from it, relative to it; NaN without pixels.
        pixels: that had both depths.
    """

    metric: bool
    reason: str
    metres_per_unit: float
    spread: float
    pixels: int


def fit_metric(
    T_model_cam: ArrayLike,
    T_world_cam: ArrayLike,
    options: MetricOptions | None = None,
    *,
    known_scale: float | None = None,
) -> MetricFit:
    """The similarity from a model's world to the robot's, and whether it can be believed.

    Minimised by iteratively reweighted least squares, over cameras i with centres m, g and rotations M, G::

        sum_i w_i (|g_i - s R m_i - t|^2 + lever^2 angle(R M_i, G_i)^2)

    with Tukey's weights w (A. Beaton and J. Tukey, Technometrics 1974), from a start that outliers do not move:
    the rotation with the smallest sum of angles to the others, and with it the two cameras whose similarity leaves
    the least median residual (P. Rousseeuw, JASA 1984; all pairs are tried, nothing is drawn). The step for R is a
    Procrustes problem with the chordal mean of rotations in it (R. Hartley et al., "Rotation averaging", IJCV 2013).
    The scale is ``sum |g|^2 / sum g^T R m`` of centred centres, the regression of the model on the
    world: the known poses are the better ones, and the other way round errors of the model make scales too small.

    Args:
        T_model_cam: ``[N, 4, 4]`` camera to model world, model units, OpenCV axes. NaN where unknown.
        T_world_cam: ``[N, 4, 4]`` the same cameras in the robot's world, metres. NaN where unknown.
        options: when to believe it.
        known_scale: metres per model unit where it is known otherwise (:func:`scale_from_depth`). Then one camera
            is enough, and it need not move.

    Returns:
        The fit.

    Raises:
        InputError: if shapes differ, a pose is not rigid, or the known scale is not positive.
    """
    options = options or MetricOptions()
    model = checked_poses(T_model_cam, "model camera pose", missing=True)
    world = checked_poses(T_world_cam, "world camera pose", missing=True)
    if model.shape != world.shape:
        raise InputError(f"there are {len(model)} model camera poses and {len(world)} world camera poses; pair them")
    if known_scale is not None and not (math.isfinite(known_scale) and known_scale > 0):
        raise InputError(f"the known scale must be positive, got {known_scale}")
    known: NDArray[np.bool_] = np.isfinite(np.concatenate([model, world], axis=2)).all(axis=(1, 2))
    needed = 1 if known_scale is not None else options.min_keyframes
    if int(known.sum()) < needed:
        return _not_fitted(f"only {int(known.sum())} of {len(known)} keyframes have a known pose, {needed} are needed",
                           np.zeros_like(known))  # fmt: skip
    baseline = _extent(world[known, :3, 3])
    # Before anything is fitted: where nothing moves, rounding errors would make the scale.
    if known_scale is None and (baseline < options.min_baseline_m or _extent(model[known, :3, 3]) < _SMALLEST):
        moved = f"the camera moved only {baseline:.3f} m between keyframes, {options.min_baseline_m:g} m are needed"
        still = "the model's cameras all stand at one place"
        return _not_fitted(moved if baseline < options.min_baseline_m else still, known, baseline)
    fit, weights = _robust_fit(model[known], world[known], options.lever_m, known_scale)
    used = known.copy()
    used[known] = weights > 0
    return _judge(fit, model, world, used, known, options, known_scale)


def scale_from_depth(
    model_depth: NDArray[np.floating[Any]],
    metric_depth: NDArray[np.floating[Any]],
    valid: NDArray[np.bool_] | None = None,
    options: MetricOptions | None = None,
) -> DepthScale:
    """Metres per model unit from depth maps of the same views: the median of the pixels' ratios.

    Needs no motion. At most 131072 pixels are looked at, evenly spread.

    Args:
        model_depth: ``[...]`` float z-depth, model units.
        metric_depth: the same shape, metres, pixel by pixel the same view; 0, NaN or infinite where unknown.
        valid: ``[...]`` bool, where the model is to be trusted; None for everywhere.
        options: when to believe it.

    Returns:
        The scale.

    Raises:
        InputError: if shapes differ.
    """
    options = options or MetricOptions()
    if model_depth.shape != metric_depth.shape or (valid is not None and valid.shape != model_depth.shape):
        raise InputError(
            f"depth maps and their mask must have one shape, got {list(model_depth.shape)}, "
            f"{list(metric_depth.shape)}{'' if valid is None else f' and {list(valid.shape)}'}; resize one to the other"
        )
    step = max(1, -(-model_depth.size // _MOST_PIXELS))
    predicted, true = (depth.reshape(-1)[::step].astype(np.float64) for depth in (model_depth, metric_depth))
    both = np.isfinite(predicted) & np.isfinite(true) & (predicted > 0) & (true > 0)
    if valid is not None:
        both &= valid.reshape(-1)[::step]
    pixels, looked = int(both.sum()), len(both)
    if pixels < options.min_pixels:
        reason = f"only {pixels} of {looked} pixels have a metric depth, {options.min_pixels} are needed"
        return DepthScale(False, reason, math.nan, math.nan, pixels)
    ratios = true[both] / predicted[both]
    scale = float(np.median(ratios))
    spread = 1.4826 * float(np.median(np.abs(ratios - scale))) / scale
    if spread > options.max_depth_spread:
        reason = (
            f"metric depth and the model's disagree: their ratio varies by {100 * spread:.0f} %, at most "
            f"{100 * options.max_depth_spread:.0f} % are allowed"
        )
        return DepthScale(False, reason, math.nan, spread, pixels)
    return DepthScale(True, "", scale, spread, pixels)


def _robust_fit(model: Array, world: Array, lever: float, known_scale: float | None) -> tuple[Sim3, Array]:
    """The similarity and the cameras' weights ``[N]`` in [0, 1]; the inputs are ``[N, 4, 4]``, all known."""
    m, g = model[:, :3, 3], world[:, :3, 3]
    turns = world[:, :3, :3] @ model[:, :3, :3].transpose(0, 2, 1)  # each camera's own idea of R
    fit = _first_guess(m, g, turns, lever, known_scale)
    floor = _SMALLEST * (1 + _extent(g))  # residuals that are mere rounding weigh alike
    weights = np.ones(len(m))
    for _ in range(_ROUNDS):
        residual = np.hypot(np.linalg.norm(g - fit.apply(m), axis=1), lever * _angles_to(fit.rotation, turns))
        cut = max(_CUT * (1 + 3 / len(m)) * float(np.median(residual)), floor)
        weights = np.square(np.clip(1 - np.square(residual / cut), 0, None))
        found = _weighted_fit(m, g, turns, weights, lever, fit, known_scale)
        change = abs(found.scale / fit.scale - 1) + np.abs(found.rotation - fit.rotation).max()
        fit = found
        if change < 1e-12:
            break
    return fit, weights


def _first_guess(m: Array, g: Array, turns: Array, lever: float, known_scale: float | None) -> Sim3:
    """Of the similarities that two cameras each tell, the one with the least median residual over all."""
    R = turns[int(np.argmin(rotation_angles(turns[:, None].swapaxes(2, 3) @ turns[None, :]).sum(axis=1)))]
    turned = m @ R.T
    first, second = np.triu_indices(len(m), k=0 if known_scale is not None else 1)
    kept = slice(None, None, -(-len(first) // _MOST_PAIRS))
    first, second = first[kept], second[kept]
    if known_scale is None:
        modelled, true = (np.linalg.norm(c[first] - c[second], axis=1) for c in (m, g))
        apart = (modelled > _SMALLEST * modelled.max()) & (true > 0)
        first, second, scales = first[apart], second[apart], true[apart] / modelled[apart]
    else:
        scales = np.full(len(first), known_scale)
    middles = (g[first] + g[second] - scales[:, None] * (turned[first] + turned[second])) / 2
    off = g[None] - scales[:, None, None] * turned[None] - middles[:, None]
    residual = np.hypot(np.linalg.norm(off, axis=2), lever * _angles_to(R, turns)[None])
    best = int(np.argmin(np.median(residual, axis=1)))
    return Sim3(float(scales[best]), R, middles[best])


def _weighted_fit(
    m: Array, g: Array, turns: Array, weights: Array, lever: float, before: Sim3, known_scale: float | None
) -> Sim3:
    """One step: R for the scale there is, then scale and translation for that R."""
    w = weights / weights.sum()
    m_mean, g_mean = w @ m, w @ g
    m_centred, g_centred = m - m_mean, g - g_mean
    cross = (w[:, None] * g_centred).T @ m_centred
    # angle^2 is 3 - trace(R^T turn) to second order, hence the half beside the centres' s * cross.
    R = nearest_rotation(before.scale * cross + lever**2 / 2 * np.einsum("n,nij->ij", w, turns))
    scale = known_scale
    if scale is None:
        along = float(np.sum(R * cross))
        # Centres that run against each other fit no positive scale; the residual will tell.
        scale = float(w @ np.square(g_centred).sum(axis=1)) / along if along > 0 else before.scale
    return Sim3(scale, R, g_mean - scale * (R @ m_mean))


def _judge(
    fit: Sim3,
    model: Array,
    world: Array,
    used: NDArray[np.bool_],
    known: NDArray[np.bool_],
    options: MetricOptions,
    known_scale: float | None,
) -> MetricFit:
    g, m = world[used, :3, 3], model[used, :3, 3]
    count, all_known = int(used.sum()), int(known.sum())
    squares = np.square(g - fit.apply(m)).sum(axis=1)
    residual = float(np.sqrt(squares.mean()))
    turns = world[used, :3, :3] @ model[used, :3, :3].transpose(0, 2, 1)
    rotation = math.degrees(float(np.sqrt(np.square(_angles_to(fit.rotation, turns)).mean())))
    baseline = _extent(g)
    around = float(np.square(g - g.mean(axis=0)).sum())
    # Seven numbers were fitted to 3 N coordinates; the variance of a regression's slope is sigma^2 / sum |g|^2.
    sigma = math.sqrt(float(squares.sum()) / max(3 * count - 7, 1))
    error = 0.0 if known_scale is not None else sigma / math.sqrt(max(around, np.finfo(np.float64).tiny))
    spread = math.sqrt(around / count)
    allowed = options.max_residual_ratio * spread
    reason = ""
    if known_scale is not None:
        allowed = max(allowed, options.min_baseline_m)
    elif count < options.min_keyframes or 2 * count <= all_known:
        reason = f"only {count} of {all_known} keyframes agree on how the model lies in the world"
    elif baseline < options.min_baseline_m:
        reason = (
            f"the camera moved only {baseline:.3f} m between the keyframes that agree, "
            f"{options.min_baseline_m:g} m are needed"
        )
    if not reason and residual > allowed:
        reason = (
            f"the model's camera path does not fit the known one: {residual:.3f} m are left between them, at most "
            f"{allowed:.3f} m are allowed for positions spread over {spread:.3f} m"
        )
    if not reason and error > options.max_scale_error:
        reason = (
            f"the camera moved too little to tell the scale: {baseline:.3f} m with {residual:.3f} m left between the "
            f"paths make it uncertain by {100 * error:.0f} %, at most {100 * options.max_scale_error:.0f} % are allowed"
        )
    return MetricFit(not reason, reason, None if reason else fit, residual, rotation, error, baseline, used)


def _not_fitted(reason: str, used: NDArray[np.bool_], baseline: float = math.nan) -> MetricFit:
    return MetricFit(False, reason, None, math.nan, math.nan, math.nan, baseline, used)


def _angles_to(R: Array, turns: Array) -> Array:
    return rotation_angles(R.T @ turns)


def _extent(points: Array) -> float:
    """The largest distance between two of ``[N, 3]`` points; 0 for one."""
    return float(np.linalg.norm(points[:, None] - points[None, :], axis=-1).max())
