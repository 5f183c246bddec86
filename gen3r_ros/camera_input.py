"""Images in: matched with their camera_info and TF, and offered as keyframes.

Messages are kept as they come, and decoded when they are needed.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from gen3r_core.errors import InputError
from gen3r_core.geometry.poses import Array
from gen3r_core.reconstruction.keyframes import Decision, Keyframe, KeyframeOptions, KeyframeSelector
from gen3r_ros.conversions.cameras import CameraModel, camera_model
from gen3r_ros.conversions.compressed import compressed_rgb, compressed_size, compressed_thumbnail
from gen3r_ros.conversions.images import check_image, rgb_array, thumbnail
from gen3r_ros.conversions.poses import stamp_ns
from gen3r_ros.conversions.problems import MessageError
from gen3r_ros.parameters import NodeParameters
from gen3r_ros.qos import SENSOR
from gen3r_ros.transforms import TransformError, Transforms

LARGEST_PENDING = 60
"""Images that wait for their camera_info or TF: two seconds at 30 Hz."""

_INFOS = 60
_CALLBACKS = 1000
_LOOK_AGAIN_S = 0.02


@dataclass(frozen=True, eq=False)
class CameraImage:
    """An image that was not decoded yet.

    Attributes:
        message: Image or CompressedImage.
        camera: that took it.
        frame: the camera's optical frame.
        why_no_pose: one sentence, where TF did not tell the camera's pose.
    """

    message: Any
    camera: CameraModel
    frame: str
    why_no_pose: str = ""

    def rgb(self) -> NDArray[np.uint8]:
        """``[H, W, 3]`` uint8.

        Raises:
            MessageError: it is damaged.
        """
        return compressed_rgb(self.message) if isinstance(self.message, CompressedImage) else rgb_array(self.message)


ImageKeyframe = Keyframe[CameraImage]


@dataclass(eq=False)
class _Pending:
    stamp: int
    message: Any
    since: float
    size: tuple[int, int]


class CameraInput:
    """Subscribes while it lives; :meth:`close` ends it.

    Args:
        node: that subscribes.
        transforms: where the camera is.
        parameters: of the node.
        on_keyframe: called in a callback with each decision that took a keyframe: return quickly.

    Attributes:
        topic: of the images, as resolved.
        info_topic: of the camera infos.
        dropped: images that were not used, by reason.
        images: that came.
        infos: camera infos that came.
        without_pose: images whose camera's pose TF did not tell; they are used all the same.
        last_image: when the last came, by ``time.monotonic``; None before.
        last_problem: the last message that could not be used, in words.
    """

    def __init__(self, node: Node, transforms: Transforms, parameters: NodeParameters, on_keyframe: Any) -> None:
        self._node, self._transforms, self._on_keyframe = node, transforms, on_keyframe
        self.parameters = parameters
        self.dropped: Counter[str] = Counter()
        self.images = self.infos = self.without_pose = 0
        self.last_image: float | None = None
        self.last_problem = ""
        self._took_s: deque[float] = deque(maxlen=_CALLBACKS)
        self._lock = threading.Lock()  # of the selector
        self._selector: KeyframeSelector[CameraImage] = KeyframeSelector(parameters.keyframes)
        self._pending: deque[_Pending] = deque()
        self._known: deque[tuple[int, CameraInfo]] = deque(maxlen=_INFOS)
        group = MutuallyExclusiveCallbackGroup()
        kind, topic = (
            (CompressedImage, "image_raw/compressed") if parameters.image_transport == "compressed"
            else (Image, "image_raw")
        )  # fmt: skip
        self._subscriptions = [
            node.create_subscription(kind, topic, self._take_image, SENSOR, callback_group=group),
            node.create_subscription(CameraInfo, "camera_info", self._take_info, SENSOR, callback_group=group),
        ]
        self.topic, self.info_topic = (subscription.topic_name for subscription in self._subscriptions)
        self._timer = node.create_timer(
            _LOOK_AGAIN_S, self._match, callback_group=group, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )

    def close(self) -> None:
        """Stop listening, and let go of all images."""
        self._node.destroy_timer(self._timer)
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self.clear()
        self._pending.clear()

    @property
    def publishers(self) -> int:
        """Nodes that send images on the topic."""
        return self._node.count_publishers(self.topic)

    @property
    def callback_ms(self) -> tuple[float, float]:
        """What the last callbacks took, milliseconds: 99 of 100 of them, and all, not more than this."""
        took = sorted(self._took_s.copy())
        return (1e3 * took[(99 * len(took) - 1) // 100], 1e3 * took[-1]) if took else (0.0, 0.0)

    @property
    def counts(self) -> Counter[str]:
        """What became of images, see :class:`KeyframeSelector`."""
        return Counter(self._selector.counts)

    def options(self, options: KeyframeOptions) -> None:
        """Choose keyframes in another way from now on."""
        with self._lock:
            self._selector.options = options

    def clear(self) -> None:
        """Forget all keyframes."""
        with self._lock:
            self._selector.clear()

    def window(self, count: int) -> tuple[ImageKeyframe, ...]:
        """The newest keyframes whose images have the size of the newest one's, oldest first."""
        with self._lock:
            newest = self._selector.window(1)
            if not newest:
                return ()
            size = newest[0].payload.camera.size
            alike = [keyframe for keyframe in self._selector if keyframe.payload.camera.size == size]
        return tuple(alike[-count:])

    # ------------------------------------------------------------------ callbacks

    def _take_image(self, message: Any) -> None:
        start = time.perf_counter()
        self.images += 1
        self.last_image = time.monotonic()
        stamp = stamp_ns(message.header.stamp)
        try:
            if stamp <= 0:
                self._drop("no stamp", "an image has the stamp 0: the driver sets none")
            elif not message.header.frame_id:
                self._drop("no frame", "an image has no frame_id: the driver sets none")
            else:
                self._pending.append(_Pending(stamp, message, self.last_image, _size_of(message)))
        except MessageError as error:
            self._drop(error.reason, str(error))
        if len(self._pending) > LARGEST_PENDING:
            self._pending.popleft()
            self._drop("waited too long", "images come faster than their camera_info and TF")
        self._match(start)

    def _take_info(self, message: CameraInfo) -> None:
        self.infos += 1
        self._known.append((stamp_ns(message.header.stamp), message))

    def _match(self, start: float | None = None) -> None:
        """Offer images in their order, as far as all is known of them or they waited long enough."""
        begun = time.perf_counter() if start is None else start
        worked = start is not None or bool(self._pending)
        while self._pending and self._settle(self._pending[0]):
            self._pending.popleft()
        if worked:
            self._took_s.append(time.perf_counter() - begun)

    def _settle(self, pending: _Pending) -> bool:
        """Whether nothing more is to be waited for."""
        waited = time.monotonic() - pending.since >= self.parameters.input_wait_s
        info = self._info_for(pending, exact=not waited)
        if info is None:
            if waited:
                self._drop("no camera_info", f"an image came on {self.topic}, and no camera_info on {self.info_topic}")
            return waited
        frame, pose, why = pending.message.header.frame_id, None, ""
        try:
            pose = self._transforms.lookup(self.parameters.fixed_frame, frame, pending.stamp).T_target_source
        except TransformError as error:
            if error.may_come and not waited:
                return False
            why = str(error)
            self.without_pose += 1
            self._node.get_logger().warning(why, throttle_duration_sec=10.0)
        try:
            camera = camera_model(info, rectified=self.parameters.rectified)
            if camera.size != pending.size:
                raise MessageError(
                    "size",
                    f"images on {self.topic} have {pending.size} (height, width), camera_info on {self.info_topic} is "
                    f"for {camera.size}",
                )
            self._offer(pending, CameraImage(pending.message, camera, frame, why), pose)
        except MessageError as error:
            self._drop(error.reason, str(error))
        except InputError as error:  # a pose that is no pose, a picture too small to look at
            self._drop("size", str(error))
        return True

    def _info_for(self, pending: _Pending, *, exact: bool) -> CameraInfo | None:
        """That with the same stamp; if there is none to be expected, the newest."""
        for stamp, info in reversed(self._known):
            if stamp == pending.stamp:
                return info
        return None if exact or not self._known else self._known[-1][1]

    def _offer(self, pending: _Pending, image: CameraImage, pose: Array | None) -> None:
        def small() -> NDArray[Any]:
            message = pending.message
            return compressed_thumbnail(message) if isinstance(message, CompressedImage) else thumbnail(message)

        with self._lock:
            decision: Decision[CameraImage] = self._selector.offer(pending.stamp, image, small, pose)
        if decision.keyframe is not None:
            self._on_keyframe(decision)

    def _drop(self, reason: str, words: str) -> None:
        self.dropped[reason] += 1
        self.last_problem = words
        self._node.get_logger().warning(words, throttle_duration_sec=10.0)


def _size_of(message: Any) -> tuple[int, int]:
    """``(height, width)`` of an image that can be read, as far as its header tells."""
    if isinstance(message, CompressedImage):
        return compressed_size(message)
    check_image(message)
    return message.height, message.width
