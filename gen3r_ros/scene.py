"""The scene that results belong to: its name, revisions, scale and map. One thread's own."""

from __future__ import annotations

import contextlib
import math
import time
import uuid
import weakref
from dataclasses import dataclass, replace
from operator import itemgetter

import numpy as np

from gen3r_core.geometry.poses import Array
from gen3r_core.messages.problems import MessageError
from gen3r_core.reconstruction.metric import DepthScale, scale_from_depth
from gen3r_core.reconstruction.voxel_map import MapPoints, VoxelMap
from gen3r_core.serving.results import SceneResult
from gen3r_ros.camera_image import ImageKeyframe, common_size
from gen3r_ros.conversions.clouds import Points
from gen3r_ros.outputs import Outputs, Revision
from gen3r_ros.placement import Placement, anchored, known_poses, place, placed_cameras, placed_points


@dataclass(frozen=True, eq=False)
class SavedMap:
    """The map at one moment.

    Attributes:
        points: of the map.
        metric: they are in metres.
        name: of the scene, and its revision.
        keyframes: those that it was made from and that are still there, by time, with ``T_world_cam`` ``[4, 4]``.
        model: name of the weights; empty where there is no keyframe.
        reason: why it is not metric, or what tells the scale.
    """

    points: MapPoints
    metric: bool
    name: str
    keyframes: tuple[tuple[ImageKeyframe, Array], ...]
    model: str
    reason: str


def scale_by_depth(window: tuple[ImageKeyframe, ...], result: SceneResult) -> DepthScale | None:
    """What the depth images of keyframes tell of the scale; None where there are none.

    Args:
        window: the keyframes.
        result: of the worker, one view a keyframe.
    """
    if all(keyframe.payload.depth is None for keyframe in window):
        return None
    aspect, size = common_size(window), result.depth.shape[1:]
    found = []
    for keyframe in window:
        depth = None
        with contextlib.suppress(MessageError):  # damaged: as if there were none
            depth = keyframe.payload.measured_depth(aspect, (size[0], size[1]))
        found.append(np.full(size, np.nan, np.float32) if depth is None else depth)
    return scale_from_depth(result.depth, np.stack(found), result.valid)


class Scene:
    """What is known of where the robot is.

    Args:
        voxel_m: metres, edge of a voxel of the map.
        max_points: of the map.

    Attributes:
        name: changes when it is begun anew.
        revision: of the newest result, from 1; 0 before.
        placement: of the newest reconstruction; None before.
        metric_placement: of the newest that is metric; None before.
        map: of all revisions.
        map_metric: whether the map is in metres.
        depth_scale: what depth images told of the newest reconstruction; None where there are none.
    """

    def __init__(self, voxel_m: float, max_points: int) -> None:
        self.map = VoxelMap(voxel_m, max_points)
        self._map_stamp = 0
        self._map_sent = -math.inf
        self.begin()

    def begin(self) -> None:
        """Forget everything: another scene. A map that was published is followed by an empty one."""
        self.name, self.revision = uuid.uuid4().hex[:12], 0
        self.placement: Placement | None = None
        self.metric_placement: Placement | None = None
        self.map.clear()
        self.map_metric = False
        # In the map's frame and unit. Weak: which keyframes are kept, and for how long, is their selector's matter.
        self._placed: dict[tuple[int, str], tuple[weakref.ref[ImageKeyframe], Array]] = {}
        self._model = ""
        self.depth_scale: DepthScale | None = None
        self._map_changed = self._map_stale = self._map_sent > -math.inf
        self._map_sent = -math.inf

    def reconstructed(
        self, window: tuple[ImageKeyframe, ...], result: SceneResult, known_scale: float, seconds: float
    ) -> Revision:
        """Take a reconstruction in.

        Args:
            window: its keyframes, oldest first.
            result: of the worker.
            known_scale: metres per model unit; 0: from TF.
            seconds: that it took.
        """
        known = [keyframe.T_world_cam for keyframe in window]
        poses, self.depth_scale = known_poses(window), None
        if result.metres_per_unit is not None and poses is not None:
            placement = anchored(result.predicted_T_world_cam, poses, result.metres_per_unit)
        else:
            placement = self._place(window, result, known_scale)
        if not placement.metric and all(T is None for T in known):
            why = next((k.payload.why_no_pose for k in reversed(window) if k.payload.why_no_pose), "")
            placement = replace(placement, reason=f"{placement.reason}: {why}" if why else placement.reason)
        if not placement.metric and result.not_fitted:
            placement = replace(placement, reason=f"{placement.reason}; and {result.not_fitted}")
        if not placement.metric and placement.scale_from:
            placement = replace(
                placement,
                reason=f"in metres by {placement.scale_from}, but not in the robot's world: {placement.reason}",
            )
        self.placement = placement
        if placement.metric:
            self.metric_placement = placement
        points = placed_points(result, placement, generated=False)
        cameras = placed_cameras(result, placement)
        if self._insert(points, placement, window[-1].stamp_ns, generated=False):
            self._remember(window, cameras, result.model)
        return self._revision(window, cameras, placement, points, None, result.model, seconds)

    def predicted(
        self,
        window: tuple[ImageKeyframe, ...],
        result: SceneResult,
        T_world_views: Array,
        known_scale: float,
        seconds: float,
    ) -> Revision:
        """Take a prediction in.

        It is placed by the cameras that were asked for: with the scale that fits them best, or, where they tell none,
        with that which the model was told.

        Args:
            window: the keyframe that it began at.
            result: of the worker.
            T_world_views: ``[F, 4, 4]`` the cameras that were asked for, in the fixed frame.
            known_scale: metres per model unit that the model was told.
            seconds: that it took.
        """
        placement = place(result.T_world_cam, T_world_views)
        if not placement.metric:
            placement = place(result.T_world_cam, T_world_views, known_scale=known_scale)
        points = placed_points(result, placement, generated=True)
        self._insert(points, placement, window[-1].stamp_ns, generated=True)
        poses = placed_cameras(result, placement)[:1]
        return self._revision(window, poses, placement, None, points, result.model, seconds)

    def publish_map(self, outputs: Outputs, period_s: float) -> None:
        """Publish the map if it changed, the last one was so long ago, and somebody listens.

        An empty one that follows another is published in any case: who comes later would be told that.
        """
        now = time.monotonic()
        wanted = self._map_stale or outputs.wants_map()
        if self._map_changed and now - self._map_sent >= period_s and wanted:
            self._map_changed, self._map_stale, self._map_sent = False, False, now
            outputs.map(self.map, self._map_stamp)

    def saved_map(self, *, include_generated: bool) -> SavedMap:
        """The map as it is now."""
        placement = self.metric_placement if self.map_metric else self.placement
        reason = "" if placement is None else placement.reason or f"scale and place from {placement.scale_from}"
        there = [(kept(), T) for _, (kept, T) in sorted(self._placed.items(), key=itemgetter(0))]
        return SavedMap(
            self.map.points(include_generated=include_generated),
            self.map_metric,
            f"{self.name}-{self.revision}",
            tuple((keyframe, T) for keyframe, T in there if keyframe is not None),
            self._model,
            reason,
        )

    def _place(self, window: tuple[ImageKeyframe, ...], result: SceneResult, known_scale: float) -> Placement:
        """By the scale that is given, else by that of depth images, else by TF alone."""
        known = [keyframe.T_world_cam for keyframe in window]
        scale, told_by = known_scale, "metres_per_unit"
        self.depth_scale = scale_by_depth(window, result)
        if not scale and self.depth_scale is not None and self.depth_scale.metric:
            scale, told_by = self.depth_scale.metres_per_unit, "depth"
        placement = place(result.T_world_cam, known, known_scale=scale, told_by=told_by)
        if placement.metric or told_by != "depth":
            return placement
        by_motion = place(result.T_world_cam, known)
        return by_motion if by_motion.metric else placement

    def _revision(
        self,
        window: tuple[ImageKeyframe, ...],
        poses: Array,
        placement: Placement,
        observed: Points | None,
        generated: Points | None,
        model: str,
        seconds: float,
    ) -> Revision:
        self.revision += 1
        return Revision(self.name, self.revision, window, poses, placement, observed, generated, model, seconds)

    def _remember(self, window: tuple[ImageKeyframe, ...], cameras: Array, model: str) -> None:
        """Keyframes of the map, for those who save it."""
        self._model = model
        self._placed = {key: found for key, found in self._placed.items() if found[0]() is not None}
        for keyframe, T in zip(window, cameras, strict=False):
            self._placed[keyframe.stamp_ns, keyframe.payload.source] = (weakref.ref(keyframe), T)

    def _insert(self, points: Points, placement: Placement, stamp_ns: int, *, generated: bool) -> bool:
        """Into the map; whether they went there. Units that no metres are known of do not mix, even with each other."""
        if points.rgb is None or (not placement.metric and (self.map_metric or generated)):
            return False
        if not generated and not (placement.metric and self.map_metric):
            self.map.clear()
            self._placed.clear()
        if not generated:
            self.map_metric = placement.metric
        elif not self.map_metric:
            return False
        self._map_stamp = max(self._map_stamp, stamp_ns) if len(self.map) else stamp_ns
        self.map.insert(points.xyz, points.rgb, points.confidence, generated=generated)
        self._map_changed = self._map_changed or not generated
        return True
