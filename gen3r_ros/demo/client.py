"""The demonstration's own node: brings the managed node up, listens to the graph, and asks for views."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from gen3r.action import PredictViews, Reconstruct
from gen3r.msg import ErrorCode, GenerationOptions, NovelView, Reconstruction
from gen3r.srv import SaveMap
from geometry_msgs.msg import PoseStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from nav_msgs.msg import Path
from numpy.typing import NDArray
from rclpy.action.client import ActionClient
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

from gen3r_ros.conversions.cameras import camera_model
from gen3r_ros.conversions.clouds import cloud_points
from gen3r_ros.conversions.images import depth_array, rgb_array
from gen3r_ros.conversions.poses import matrix_pose, pose_matrix, stamp_ns, transform_matrix
from gen3r_ros.demo.processes import DemoError
from gen3r_ros.demo.recording import Keyframe, Recording, View
from gen3r_ros.qos import LATCHED, RESULT, SENSOR, STATIC_TRANSFORMS, TRANSFORMS, VIEWS
from gen3r_ros.simulator import BASE, CAMERA, MAP, ODOM, OPTICAL

NODE = "gen3r"
_SPIN_S = 0.02
_DRIVE_TOPIC = "drive"
_STILL_NS, _STILL = 900_000_000, 1e-6
_Words = str | Callable[[], str]


class DemoClient:
    """Spun while it waits.

    Args:
        watch: called all the time; raises where a process died or time is up.
        say: told what is being waited for, and what of it there is; called all the time.

    Attributes:
        recording: what came.
    """

    def __init__(self, watch: Callable[[], None], say: Callable[[str], None]) -> None:
        self._watch, self._say = watch, say
        self.recording = Recording()
        self._context = rclpy.Context()
        self._context.init()
        self.node = rclpy.create_node("gen3r_demo", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._change: Any = self.node.create_client(ChangeState, f"{NODE}/change_state")
        self._save: Any = self.node.create_client(SaveMap, "save_map")
        self._views: Any = ActionClient(self.node, PredictViews, "predict_views")
        self._reconstruct: Any = ActionClient(self.node, Reconstruct, "reconstruct")
        self._drive = self.node.create_publisher(Path, _DRIVE_TOPIC, RESULT)
        self._words = ""
        self._newest: NDArray[np.uint8] | None = None
        self._static: dict[tuple[str, str], NDArray[np.float64]] = {}
        self._moving: dict[int, dict[tuple[str, str], NDArray[np.float64]]] = {}
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._take_diagnostics, RESULT)
        self.node.create_subscription(TFMessage, "/tf", self._take_tf, TRANSFORMS)
        self.node.create_subscription(TFMessage, "/tf_static", self._take_static, STATIC_TRANSFORMS)
        self.node.create_subscription(Reconstruction, "reconstruction", self._take_reconstruction, LATCHED)
        self.node.create_subscription(PointCloud2, "points/observed", self._take_cloud, RESULT)
        self.node.create_subscription(PointCloud2, "points/generated", self._take_generated, RESULT)
        self.node.create_subscription(NovelView, "novel_view", self._take_view, VIEWS)

    def close(self) -> None:
        """Leave the graph."""
        self._executor.shutdown(timeout_sec=1.0)
        self.node.destroy_node()
        self._context.try_shutdown()

    # ------------------------------------------------------------------ waiting

    def until(self, done: Callable[[], bool], timeout_s: float, what: str, words: _Words = "") -> None:
        """Spin until something is so.

        Args:
            done: whether it is.
            timeout_s: seconds.
            what: that is waited for, for the message.
            words: more of it, for the terminal.

        Raises:
            DemoError: a process died, or the time is up.
        """
        end = time.monotonic() + timeout_s
        while not done():
            self._watch()
            if time.monotonic() > end:
                raise DemoError(f"{what}: not within {timeout_s:g} s{f' ({self._words})' if self._words else ''}")
            self._say(words() if callable(words) else words)
            self._executor.spin_once(timeout_sec=_SPIN_S)

    def change(self, transition: int, timeout_s: float, what: str) -> None:
        """Have the managed node change its state.

        Raises:
            DemoError: it refused; with what its diagnostics say.
        """
        self.until(self._change.service_is_ready, timeout_s, f"{what}: the node's services")
        answer = self._change.call_async(ChangeState.Request(transition=Transition(id=transition)))
        self.until(answer.done, timeout_s, what, lambda: self._words)
        result = answer.result()
        if result is None or not result.success:
            raise DemoError(f"{what} failed: {self._words or 'see the log of the node'}")

    def bring_up(self, timeout_s: float) -> None:
        """Configure and activate the node; the model loads meanwhile."""
        self.change(Transition.TRANSITION_CONFIGURE, timeout_s, "configuring the node")
        self.change(Transition.TRANSITION_ACTIVATE, timeout_s, "loading the model")

    def listen_to_camera(self) -> None:
        """Only now: the simulator waits for the first who does."""
        self.node.create_subscription(Image, "image_raw", self._take_image, SENSOR)
        self.node.create_subscription(Image, "depth/image_raw", self._take_depth, SENSOR)
        self.node.create_subscription(CameraInfo, "camera_info", self._take_info, SENSOR)

    # ------------------------------------------------------------------ asking

    def drive(self, way: NDArray[np.float64]) -> None:
        """Have the robot drive along ``[N, 3]`` x, y, heading in the map."""
        self._drive.publish(_path(way))

    def reconstruct(self, timeout_s: float) -> int:
        """Have the node reconstruct from the newest keyframes; the stamp of the last of them.

        Raises:
            DemoError: it failed.
        """
        result = self._act(self._reconstruct, Reconstruct.Goal(), timeout_s, "reconstructing")
        number = result.reconstruction.revision
        # Topics and actions overtake each other.
        self.until(
            lambda: any(one["revision"] >= number for one in self.recording.revisions),
            20.0,
            "receiving the reconstruction",
        )
        return stamp_ns(result.reconstruction.header.stamp)

    def predict(self, way: NDArray[np.float64], prompt: str, views: int, timeout_s: float) -> None:
        """Ask for views along ``[N, 3]`` x, y, heading in the map, and wait until they are there.

        Raises:
            DemoError: it was refused or failed.
        """
        self.recording.path, self.recording.prompt = way, prompt
        goal = PredictViews.Goal(path=_path(way), prompt=prompt, options=GenerationOptions(num_frames=views))
        result = self._act(self._views, goal, timeout_s, "predicting views")
        self.until(lambda: len(self.recording.views) >= result.views, 20.0, "receiving the predicted views")
        self.recording.action_seconds = float(result.seconds)

    def _act(self, client: Any, goal: Any, timeout_s: float, what: str) -> Any:
        """The result of an action."""
        self.until(client.server_is_ready, timeout_s, f"{what}: the action server")
        stage = ["queued"]

        def told(message: Any) -> None:
            own = message.feedback
            if not self.recording.feedback or self.recording.feedback[-1] != own.stage:
                self.recording.feedback.append(own.stage)
            left = f", {own.seconds_left:.0f} s left" if math.isfinite(own.seconds_left) else ""
            stage[0] = f"{own.stage} {own.step}/{own.total}{left}"

        sent = client.send_goal_async(goal, feedback_callback=told)
        self.until(sent.done, timeout_s, what)
        handle = sent.result()
        if handle is None or not handle.accepted:
            raise DemoError(f"{what}: the node did not accept the goal")
        ended = handle.get_result_async()
        self.until(ended.done, timeout_s, what, lambda: stage[0])
        result = ended.result().result
        if result.code != ErrorCode.OK:
            raise DemoError(f"{what} failed with code {result.code}: {result.message}")
        return result

    def save_map(self, path: str, timeout_s: float = 60.0) -> int:
        """Have the node write its map; the number of its points.

        Raises:
            DemoError: it could not.
        """
        self.until(self._save.service_is_ready, timeout_s, "saving the map: the service")
        answer = self._save.call_async(SaveMap.Request(path=path))
        self.until(answer.done, timeout_s, "saving the map")
        result = answer.result()
        if result is None or result.code != ErrorCode.OK:
            raise DemoError(f"the map could not be saved: {'no answer' if result is None else result.message}")
        return int(result.points)

    @property
    def here(self) -> NDArray[np.float64] | None:
        """``[4, 4]`` base to map, the newest that TF told; None before."""
        poses = self.recording.base_poses
        return poses[max(poses)] if poses else None

    def stands(self, since_ns: int) -> bool:
        """Whether the robot has not moved for a while, all of it after a stamp."""
        poses = self.recording.base_poses
        if not poses:
            return False
        now = max(poses)
        before = [stamp for stamp in poses if now - _STILL_NS <= stamp <= now]
        long_enough = now - min(before) > _STILL_NS * 0.8 and min(before) > since_ns
        return long_enough and all(np.abs(poses[stamp] - poses[now]).max() < _STILL for stamp in before)

    # ------------------------------------------------------------------ what comes

    def _take_diagnostics(self, message: DiagnosticArray) -> None:
        """What the node says of itself: how far loading is, and why something failed."""
        told = [f"{one.message}" for one in message.status if one.message and NODE in one.name]
        if told:
            self._words = told[0]

    def _take_static(self, message: TFMessage) -> None:
        for one in message.transforms:
            self._static[one.header.frame_id, one.child_frame_id] = transform_matrix(one.transform)
        if (BASE, CAMERA) in self._static and (CAMERA, OPTICAL) in self._static:
            self.recording.mount = self._static[BASE, CAMERA] @ self._static[CAMERA, OPTICAL]

    def _take_tf(self, message: TFMessage) -> None:
        for one in message.transforms:
            pair = (one.header.frame_id, one.child_frame_id)
            if pair not in ((MAP, ODOM), (ODOM, BASE)):
                self.recording.frames.add(one.child_frame_id)
                continue
            stamp = stamp_ns(one.header.stamp)
            both = self._moving.setdefault(stamp, {})
            both[pair] = transform_matrix(one.transform)
            if len(both) == 2:
                self.recording.base_poses[stamp] = both[MAP, ODOM] @ both[ODOM, BASE]
                del self._moving[stamp]

    def _take_image(self, message: Image) -> None:
        picture = rgb_array(message)
        if self._newest is not None and np.array_equal(self._newest, picture):  # it stands still
            return
        self._newest = picture
        self.recording.images[stamp_ns(message.header.stamp)] = picture

    def _take_depth(self, message: Image) -> None:
        if stamp_ns(message.header.stamp) in self.recording.images:  # it comes after its image
            self.recording.true_depths[stamp_ns(message.header.stamp)] = depth_array(message)

    def _take_info(self, message: CameraInfo) -> None:
        self.recording.intrinsics = camera_model(message).intrinsics

    def _take_reconstruction(self, message: Reconstruction) -> None:
        self.recording.model = message.model
        self.recording.revisions.append(
            {
                "revision": message.revision,
                "metric": bool(message.metric),
                "metres_per_unit": message.metres_per_unit,
                "residual_m": message.residual_m,
                "points_observed": message.points_observed,
                "keyframes": len(message.keyframes),
                "seconds": message.seconds,
                "stamp_ns": stamp_ns(message.header.stamp),
                "reason": message.not_metric_reason,
            }
        )
        if not message.points_observed or not message.metric:
            return
        for one in message.keyframes:
            stamp = stamp_ns(one.stamp)
            self.recording.keyframes[stamp] = Keyframe(stamp, pose_matrix(one.pose))

    def _take_cloud(self, message: PointCloud2) -> None:
        points = cloud_points(message)
        if points.rgb is not None:
            self.recording.clouds = points.xyz, points.rgb

    def _take_generated(self, message: PointCloud2) -> None:
        points = cloud_points(message)
        if points.rgb is not None:
            self.recording.generated = points.xyz, points.rgb

    def _take_view(self, message: NovelView) -> None:
        self.recording.views.append(
            View(
                rgb_array(message.image),
                depth_array(message.depth),
                pose_matrix(message.pose),
                bool(message.observed),
                bool(message.metric),
            )
        )


def _path(way: NDArray[np.float64]) -> Path:
    header = Header(frame_id=MAP)
    poses = []
    for x, y, heading in way.tolist():
        T = np.eye(4)
        T[:2, :2] = [[math.cos(heading), -math.sin(heading)], [math.sin(heading), math.cos(heading)]]
        T[:2, 3] = x, y
        poses.append(PoseStamped(header=header, pose=matrix_pose(T)))
    return Path(header=header, poses=poses)
