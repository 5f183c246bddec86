"""Images in: matched with their camera_info and TF, and offered as keyframes.

Messages are kept as they come, and decoded when they are needed: never in a callback, but small pictures of raw images,
which cost next to nothing.
"""

from __future__ import annotations

import queue
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
from gen3r_ros.executor import Durations
from gen3r_ros.parameters import NodeParameters
from gen3r_ros.qos import SENSOR
from gen3r_ros.transforms import TransformError, Transforms

LARGEST_PENDING = 60
"""Images that wait for their camera_info or TF: two seconds at 30 Hz."""

_INFOS = 60
_LOOK_AGAIN_S = 0.02
_ENDING_S = 5.0


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
        served: time from the arrival of an image to the end of its callback.
    """

    def __init__(self, node: Node, transforms: Transforms, parameters: NodeParameters, on_keyframe: Any) -> None:
        self._node, self._transforms, self._on_keyframe = node, transforms, on_keyframe
        self.parameters = parameters
        self.dropped: Counter[str] = Counter()
        self.images = self.infos = self.without_pose = 0
        self.last_image: float | None = None
        self.last_problem = ""
        self.served = Durations()
        self._lock = threading.Lock()  # of the selector
        self._dropping = threading.Lock()
        self._matching = threading.Lock()
        self._closed = False
        self._selector: KeyframeSelector[CameraImage] = KeyframeSelector(parameters.keyframes)
        self._pending: deque[_Pending] = deque()
        self._known: deque[tuple[int, CameraInfo]] = deque(maxlen=_INFOS)
        self._offered: queue.SimpleQueue[tuple[_Pending, CameraImage, Array | None] | None] = queue.SimpleQueue()
        self._decoder: threading.Thread | None = None
        if parameters.image_transport == "compressed":
            self._decoder = threading.Thread(target=self._decode, name="gen3r camera", daemon=True)
            self._decoder.start()
        group = MutuallyExclusiveCallbackGroup()
        kind, topic = (
            (CompressedImage, "image_raw/compressed") if parameters.image_transport == "compressed"
            else (Image, "image_raw")
        )  # fmt: skip
        self._subscriptions = [
            node.create_subscription(kind, topic, self._receive, SENSOR, callback_group=group),
            node.create_subscription(CameraInfo, "camera_info", self._take_info, SENSOR, callback_group=group),
        ]
        self.topic, self.info_topic = (subscription.topic_name for subscription in self._subscriptions)
        self._timer = node.create_timer(
            _LOOK_AGAIN_S, self._match, callback_group=group, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )

    def close(self) -> None:
        """Stop listening, and let go of all images."""
        with self._matching:  # a callback may be running
            self._closed = True
        self._node.destroy_timer(self._timer)
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        if self._decoder is not None:
            self._offered.put(None)
            self._decoder.join(_ENDING_S)
        self.clear()
        self._pending.clear()

    @property
    def publishers(self) -> int:
        """Nodes that send images on the topic."""
        return self._node.count_publishers(self.topic)

    @property
    def counts(self) -> Counter[str]:
        """What became of images, see :class:`KeyframeSelector`."""
        return Counter(self._selector.counts)

    def options(self, options: KeyframeOptions) -> None:
        """Choose keyframes in another way from now on."""
        self._selector.options = options  # without the lock: callbacks do not wait for a decoder

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

    def _receive(self, message: Any, facts: Any) -> None:
        self._take_image(message)
        arrived = facts["received_timestamp"]  # by the system's clock, in nanoseconds; 0 where RMW does not tell
        if arrived:
            self.served.add((time.time_ns() - arrived) / 1e9)

    def _take_image(self, message: Any) -> None:
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
        self._match()

    def _take_info(self, message: CameraInfo) -> None:
        self.infos += 1
        self._known.append((stamp_ns(message.header.stamp), message))

    def _match(self) -> None:
        """Offer images in their order, as far as all is known of them or they waited long enough."""
        with self._matching:
            if self._closed:
                return
            while self._pending and self._settle(self._pending[0]):
                self._pending.popleft()
            if not self._pending:
                self._timer.cancel()
            elif self._timer.is_canceled():
                self._timer.reset()

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
        except MessageError as error:
            self._drop(error.reason, str(error))
            return True
        image = CameraImage(pending.message, camera, frame, why)
        if self._decoder is None:
            self._offer(pending, image, pose)
        elif self._offered.qsize() < LARGEST_PENDING:
            self._offered.put((pending, image, pose))
        else:
            self._drop("waited too long", "images come faster than they can be decoded")
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

        try:
            with self._lock:
                decision: Decision[CameraImage] = self._selector.offer(pending.stamp, image, small, pose)
        except MessageError as error:
            self._drop(error.reason, str(error))
            return
        except InputError as error:  # a pose that is no pose, a picture too small to look at
            self._drop("size", str(error))
            return
        if decision.keyframe is not None:
            self._on_keyframe(decision)

    def _decode(self) -> None:
        """The thread that looks at compressed images: decoding even a small picture of one takes milliseconds."""
        while (offered := self._offered.get()) is not None:
            try:
                self._offer(*offered)
            except Exception as error:  # noqa: BLE001 - whatever one image does, the next shall be looked at
                self._drop("internal error", f"an image could not be looked at: {type(error).__name__}: {error}")

    def _drop(self, reason: str, words: str) -> None:
        with self._dropping:
            self.dropped[reason] += 1
        self.last_problem = words
        self._node.get_logger().warning(words, throttle_duration_sec=10.0)


def _size_of(message: Any) -> tuple[int, int]:
    """``(height, width)`` of an image that can be read, as far as its header tells."""
    if isinstance(message, CompressedImage):
        return compressed_size(message)
    check_image(message)
    return message.height, message.width
