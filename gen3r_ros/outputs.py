"""Results out: clouds, map, camera poses and views. Messages are made only for topics that somebody listens to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gen3r.msg import Keyframe as KeyframeMessage
from gen3r.msg import NovelView
from gen3r.msg import Reconstruction as ReconstructionMessage
from nav_msgs.msg import Path
from rclpy.node import Node
from rclpy.time import Time
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from gen3r_core.geometry.poses import Array
from gen3r_core.reconstruction.packing import mask_depth
from gen3r_core.reconstruction.voxel_map import VoxelMap
from gen3r_core.serving.results import SceneResult
from gen3r_ros.camera_image import ImageKeyframe
from gen3r_ros.conversions.cameras import CameraModel, camera_info
from gen3r_ros.conversions.clouds import Points, cloud_message
from gen3r_ros.conversions.frusta import frusta_message, no_frusta
from gen3r_ros.conversions.images import image_message
from gen3r_ros.conversions.poses import matrix_pose, path_message, stamp_message, transform_message
from gen3r_ros.endpoints import Endpoints
from gen3r_ros.placement import Placement, joined, placed_cameras
from gen3r_ros.qos import LATCHED, RESULT, VIEWS
from gen3r_ros.transforms import transform_sender

# Colours of frusta.
_SEEN, _PREDICTED = (0.2, 0.6, 1.0), (1.0, 0.6, 0.1)


@dataclass(frozen=True, eq=False)
class Revision:
    """What an inference made, in the fixed frame.

    Attributes:
        scene_id: of the scene.
        number: of the revision.
        keyframes: that it was made from, oldest first.
        poses: ``[K, 4, 4]`` their cameras as the model has them, in the fixed frame.
        placement: of the model's world.
        observed: points of what was seen; None where the inference was not about them.
        generated: points that were made up; the same.
        model: name of the weights.
        seconds: that the inference took.
    """

    scene_id: str
    number: int
    keyframes: Sequence[ImageKeyframe]
    poses: Array
    placement: Placement
    observed: Points | None
    generated: Points | None
    model: str
    seconds: float

    @property
    def stamp_ns(self) -> int:
        """Of the newest keyframe."""
        return self.keyframes[-1].stamp_ns


class Outputs:
    """The publishers; one thread at a time publishes.

    Args:
        node: that publishes.
        fixed_frame: of all results.
        prefix: of TF frames.

    Attributes:
        published: when something went out last, and what, by the node's clock; None before.
        ends: the publishers.

    Raises:
        InputError: parameters of quality of service make no sense, or a topic has another type in this process.
    """

    def __init__(self, node: Node, fixed_frame: str, prefix: str) -> None:
        self._node, self._frame, self._prefix = node, fixed_frame, prefix.strip("/")
        self.ends = Endpoints(node)
        make = self.ends.advertise
        self._points = make(PointCloud2, "points", RESULT)
        self._observed = make(PointCloud2, "points/observed", RESULT)
        self._generated = make(PointCloud2, "points/generated", RESULT)
        self._map = make(PointCloud2, "map", LATCHED)
        self._path = make(Path, "keyframe_path", RESULT)
        self._scene = make(ReconstructionMessage, "reconstruction", LATCHED)
        self._frusta = make(MarkerArray, "frusta", RESULT)
        self._view = make(NovelView, "novel_view", VIEWS)
        self._image = make(Image, "novel_view/image", VIEWS)
        self._info = make(CameraInfo, "novel_view/camera_info", VIEWS)
        self._depth = make(Image, "novel_view/depth", VIEWS)
        self._frames = transform_sender(node)
        self._sent_frames: dict[str, int] = {}
        self._last: tuple[Points | None, Points | None] = (None, None)  # observed, generated
        self.published: int | None = None

    def close(self) -> None:
        """Take the publishers down."""
        self._frames.close()
        self.ends.close()
        self._last = (None, None)

    def forget(self) -> None:
        """A new scene begins: nothing of the old one is joined to it."""
        self._last = (None, None)
        if self._frusta.get_subscription_count():
            self._frusta.publish(no_frusta(self._header(self._node.get_clock().now().nanoseconds)))

    def wants_map(self) -> bool:
        """Whether somebody listens to the map."""
        return int(self._map.get_subscription_count()) > 0

    # ------------------------------------------------------------------ what goes out

    def reconstruction(self, revision: Revision) -> ReconstructionMessage:
        """Publish the points, poses and facts of a revision.

        Returns:
            the facts, as published.
        """
        header = self._header(revision.stamp_ns)
        observed, generated = self._last
        observed = observed if revision.observed is None else revision.observed
        generated = generated if revision.generated is None else revision.generated
        self._last = (observed, generated)
        parts = [(self._observed, revision.observed), (self._generated, revision.generated)]
        for publisher, points in parts:
            if points is not None and publisher.get_subscription_count():
                publisher.publish(cloud_message(points, header))
        if self._points.get_subscription_count():
            self._points.publish(cloud_message(joined(observed, generated), header))
        if revision.observed is not None:
            if self._path.get_subscription_count():
                self._path.publish(path_message(revision.poses, header))
            if self._frusta.get_subscription_count():
                cameras = [keyframe.payload.pinhole for keyframe in revision.keyframes]
                self._frusta.publish(frusta_message(revision.poses, cameras, header, "keyframes", _SEEN))
            if revision.placement.metric:
                names = [f"{self._prefix}/keyframe_{index}" for index in range(len(revision.poses))]
                self._send_frames(names, revision.poses, revision.stamp_ns)
        message = self._facts(revision, header)
        self._scene.publish(message)
        self.published = self._node.get_clock().now().nanoseconds
        return message

    def views(self, revision: Revision, result: SceneResult) -> int:
        """Publish the views of a prediction.

        Returns:
            how many there were.
        """
        poses = placed_cameras(result, revision.placement)
        header = self._header(revision.stamp_ns)
        count = len(poses)
        names = [f"{self._prefix}/view_{index}" for index in range(count)]
        if revision.placement.metric:
            # Static: known at any time, though the keyframe is older than what listeners keep; the next replace them.
            sent = [transform_message(self._frame, name, T, header.stamp) for name, T in zip(names, poses, strict=True)]
            self._frames.send_static(sent)
        height, width = result.images.shape[1:3]
        models = [CameraModel(K.astype(np.float64), (height, width)) for K in result.intrinsics]
        if self._frusta.get_subscription_count():
            self._frusta.publish(frusta_message(poses, models, header, "views", _PREDICTED))
        wanted = [one.get_subscription_count() > 0 for one in (self._view, self._image, self._info, self._depth)]
        if not any(wanted):
            return count
        for index, name in enumerate(names):
            own = Header(stamp=header.stamp, frame_id=name)
            image = image_message(result.images[index], "rgb8", own)
            info = camera_info(models[index], own)
            depth = None
            if wanted[0] or wanted[3]:
                metres = (
                    mask_depth(result.depth[index], result.valid[index]) * revision.placement.world_from_model.scale
                )
                depth = image_message(metres.astype(np.float32), "32FC1", own)
            if wanted[1]:
                self._image.publish(image)
            if wanted[2]:
                self._info.publish(info)
            if wanted[3] and depth is not None:
                self._depth.publish(depth)
            if wanted[0]:
                self._view.publish(
                    NovelView(
                        header=header,
                        scene_id=revision.scene_id,
                        revision=revision.number,
                        index=index,
                        count=count,
                        observed=bool(result.observed[index]),
                        pose=matrix_pose(poses[index]),
                        metric=revision.placement.metric,
                        image=image,
                        camera_info=info,
                        depth=depth,
                        model=revision.model,
                        age=self.age(revision.stamp_ns),
                    )
                )
        self.published = self._node.get_clock().now().nanoseconds
        return count

    def map(self, points: VoxelMap, stamp_ns: int) -> int:
        """Publish the observed points of the map.

        Returns:
            how many there were.
        """
        found = points.points()
        cloud = Points(found.points.astype(np.float32), found.colors, found.confidence)
        self._map.publish(cloud_message(cloud, self._header(stamp_ns)))
        return len(found.points)

    # ------------------------------------------------------------------ parts

    def _header(self, stamp_ns: int) -> Header:
        return Header(stamp=stamp_message(stamp_ns), frame_id=self._frame)

    def age(self, stamp_ns: int) -> Any:
        """How long ago a stamp was, by the node's clock: a message."""
        now = self._node.get_clock().now()
        return (now - Time(nanoseconds=stamp_ns, clock_type=now.clock_type)).to_msg()

    def _send_frames(self, names: Sequence[str], poses: Array, stamp_ns: int) -> None:
        """Tell TF, but not twice for one time: tf2 keeps the first and warns of the second."""
        stamp = stamp_message(stamp_ns)
        fresh = [(name, T) for name, T in zip(names, poses, strict=True) if self._sent_frames.get(name) != stamp_ns]
        self._sent_frames.update({name: stamp_ns for name, _ in fresh})
        if fresh:
            self._frames.send([transform_message(self._frame, name, T, stamp) for name, T in fresh])

    def _facts(self, revision: Revision, header: Header) -> ReconstructionMessage:
        placement = revision.placement
        counts = [0 if points is None else len(points.xyz) for points in (revision.observed, revision.generated)]
        return ReconstructionMessage(
            header=header,
            scene_id=revision.scene_id,
            revision=revision.number,
            keyframes=[
                KeyframeMessage(
                    stamp=stamp_message(keyframe.stamp_ns), camera_frame=keyframe.payload.frame, pose=matrix_pose(T)
                )
                for keyframe, T in zip(revision.keyframes, revision.poses, strict=True)
            ],
            metric=placement.metric,
            not_metric_reason=placement.reason,
            metres_per_unit=placement.metres_per_unit,
            residual_m=placement.residual_m,
            points_observed=counts[0],
            points_generated=counts[1],
            model=revision.model,
            seconds=revision.seconds,
            age=self.age(revision.stamp_ns),
        )
