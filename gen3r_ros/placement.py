"""Where a model's world lies in the robot's: its scenes as numbers in the fixed frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen3r_core.geometry.poses import Array, invert_poses
from gen3r_core.geometry.sim3 import Sim3
from gen3r_core.reconstruction.keyframes import Keyframe
from gen3r_core.reconstruction.metric import MetricOptions, fit_metric
from gen3r_core.serving.results import SceneResult
from gen3r_ros.conversions.clouds import Points

# REP-103: of the optical frame (x right, y down, z forward) in axes x forward, y left, z up.
_UPRIGHT = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


@dataclass(frozen=True, eq=False)
class Placement:
    """How a model's world is brought into the fixed frame.

    Attributes:
        world_from_model: the similarity. Where the place is not known it has the first camera at the origin, looking
            along x with z up; where the scale is not known either, the scale 1.
        metric: whether results are in metres and in the robot's world.
        reason: one sentence why not; empty if they are.
        residual_m: metres, see :class:`~gen3r_core.reconstruction.metric.MetricFit`; NaN where not metric.
        scale_from: what tells the scale: "TF", "TF and images", "depth", "metres_per_unit"; empty where nothing does.
    """

    world_from_model: Sim3
    metric: bool
    reason: str
    residual_m: float
    scale_from: str = ""

    @property
    def metres_per_unit(self) -> float:
        """Metres in one model unit; NaN where not known."""
        return self.world_from_model.scale if self.scale_from else math.nan


def place(
    T_model_cam: NDArray[np.floating[Any]],
    T_world_cam: Sequence[Array | None] | Array,
    *,
    known_scale: float | None = None,
    told_by: str = "metres_per_unit",
    options: MetricOptions | None = None,
) -> Placement:
    """Find the placement from cameras whose poses are known in both worlds.

    Args:
        T_model_cam: ``[N, 4, 4]`` camera to model world, model units.
        T_world_cam: N poses ``[4, 4]`` camera to fixed frame, metres; None where unknown.
        known_scale: metres per model unit where it is known otherwise; None or 0: from the cameras.
        told_by: what tells it.
        options: when to believe it.
    """
    world = np.stack([np.full((4, 4), np.nan) if T is None else np.asarray(T, np.float64) for T in T_world_cam])
    model = np.asarray(T_model_cam, dtype=np.float64)
    fit = fit_metric(model, world, options, known_scale=known_scale or None)
    if fit.world_from_model is not None:
        return Placement(fit.world_from_model, True, "", fit.residual_m, told_by if known_scale else "TF")
    first: Array = invert_poses(model[0])
    scale = known_scale or 1.0
    apart = Sim3(scale, _UPRIGHT @ first[:3, :3], scale * _UPRIGHT @ first[:3, 3])
    return Placement(apart, False, fit.reason, math.nan, told_by if known_scale else "")


def known_poses(window: Sequence[Keyframe[Any]]) -> Array | None:
    """``T_world_cam`` ``[N, 4, 4]`` of keyframes in the fixed frame, metres; None where one of them has no pose."""
    poses = [keyframe.T_world_cam for keyframe in window if keyframe.T_world_cam is not None]
    return np.stack(poses) if poses and len(poses) == len(window) else None


def anchored(T_model_cam: NDArray[np.floating[Any]], T_world_cam: Array, metres_per_unit: float) -> Placement:
    """The placement of a scene whose depth was fitted to known poses: its first camera is where it is known to be.

    Args:
        T_model_cam: ``[N, 4, 4]`` the model's own cameras, from which the residual is; model units.
        T_world_cam: ``[N, 4, 4]`` known poses, metres.
        metres_per_unit: of the scene.
    """
    first = T_world_cam[0]
    fit = fit_metric(np.asarray(T_model_cam, np.float64), T_world_cam, known_scale=metres_per_unit)
    return Placement(Sim3(metres_per_unit, first[:3, :3], first[:3, 3]), True, "", fit.residual_m, "TF and images")


def placed_points(result: SceneResult, placement: Placement, *, generated: bool) -> Points:
    """The points of a scene in the fixed frame; float32, copies.

    Args:
        result: of the worker.
        placement: of its world.
        generated: those of generated views, or those of observed ones.
    """
    chosen: NDArray[np.bool_] = result.observed[result.point_view] != generated
    xyz = placement.world_from_model.apply(result.points[chosen].astype(np.float64))
    return Points(xyz.astype(np.float32), result.point_colors[chosen], result.point_confidence[chosen])


def placed_cameras(result: SceneResult, placement: Placement) -> Array:
    """``T_world_cam`` ``[F, 4, 4]`` float64 of a scene's cameras in the fixed frame."""
    return placement.world_from_model.apply_poses(result.T_world_cam.astype(np.float64))


def joined(first: Points | None, second: Points | None) -> Points:
    """Two clouds in one; both have colours and confidences."""
    parts = [part for part in (first, second) if part is not None]
    if not parts:
        return Points(np.empty((0, 3), np.float32), np.empty((0, 3), np.uint8), np.empty(0, np.float32))
    if len(parts) == 1:
        return parts[0]
    return Points(
        np.concatenate([part.xyz for part in parts]),
        np.concatenate([part.rgb for part in parts if part.rgb is not None]),
        np.concatenate([part.confidence for part in parts if part.confidence is not None]),
    )
