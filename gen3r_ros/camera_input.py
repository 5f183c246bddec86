"""Images of one camera in: matched with their camera_info, depth and TF, and offered as keyframes.

Messages are kept as they come, and decoded when they are needed: never in a callback, but small pictures of raw images,
which cost next to nothing.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from gen3r_core.errors import InputError
from gen3r_core.geometry.poses import Array
from gen3r_core.messages.problems import MessageError
from gen3r_core.reconstruction.keyframes import Decision, KeyframeOptions, KeyframeSelector
from gen3r_ros.camera_image import CameraImage, ImageKeyframe, pinhole_of, size_of
from gen3r_ros.camera_settings import CameraSettings, one_camera
from gen3r_ros.conversions.cameras import camera_model
from gen3r_ros.conversions.compressed import compressed_thumbnail
from gen3r_ros.conversions.images import thumbnail
from gen3r_ros.conversions.poses import stamp_ns
from gen3r_ros.depth_input import DepthInput
from gen3r_ros.endpoints import Endpoints
from gen3r_ros.executor import Durations
from gen3r_ros.parameters import NodeParameters
from gen3r_ros.qos import SENSOR
from gen3r_ros.stamps import SECOND, StampCheck
from gen3r_ros.transforms import TransformError, Transforms

LARGEST_PENDING = 60
"""Images that wait for their camera_info, depth or TF: two seconds at 30 Hz."""

_INFOS = 60
_LOOK_AGAIN_S = 0.02
_ENDING_S = 5.0


@dataclass(eq=False)
class _Pending:
    stamp: int
    message: Any
    since: float
    size: tuple[int, int]
    frame: str


class CameraInput:
    """Subscribes while it lives; :meth:`close` ends it.

    Args:
        node: that subscribes.
        transforms: where the camera is.
        parameters: of the node.
        on_keyframe: called in a callback with each decision that took a keyframe: return quickly.
        settings: of the camera; None: that without a name.
        on_restart: called in a callback, with one sentence, when stamps began anew: it calls :meth:`restart`. None:
            only this camera is restarted.

    Attributes:
        node: that subscribes.
        parameters: the present ones.
        settings: of the camera.
        topic: of the images, as resolved.
        info_topic: of the camera infos.
        depth: images with depth; None where none are wanted.
        ends: its subscriptions.
        dropped: images that were not used, by reason.
        images: that came.
        infos: camera infos that came.
        without_pose: images whose camera's pose TF did not tell; they are used all the same.
        without_depth: images without depth, where some is wanted; the same.
        why_no_pose: one sentence, of the last image; empty where TF told its pose.
        last_image: when the last came, by ``time.monotonic``; None before.
        last_used: when the last that could be used was, the same.
        last_info: the newest camera_info; None before.
        behind_s: seconds that the last image's stamp was behind the node's clock; None before.
        last_problem: the last message that could not be used, in words.
        served: time from the arrival of an image to the end of its callback.
    """

    def __init__(
        self,
        node: Node,
        transforms: Transforms,
        parameters: NodeParameters,
        on_keyframe: Callable[[Decision[CameraImage]], None],
        settings: CameraSettings | None = None,
        on_restart: Callable[[str], None] | None = None,
    ) -> None:
        self.node, self._transforms, self._on_keyframe = node, transforms, on_keyframe
        self._on_restart = on_restart or (lambda _words: self.restart())
        self.parameters = parameters
        self.settings = settings or one_camera(parameters)
        self.dropped: Counter[str] = Counter()
        self.images = self.infos = self.without_pose = self.without_depth = 0
        self.last_image: float | None = None
        self.last_used: float | None = None
        self.last_info: CameraInfo | None = None
        self.behind_s: float | None = None
        self.last_problem = self.why_no_pose = ""
        self.served = Durations()
        self._lock = threading.Lock()  # of the selector
        self._dropping = threading.Lock()
        self._matching = threading.Lock()
        self._closed = False
        self._epoch = 0  # of time; images from before a restart are of no use
        self._selector: KeyframeSelector[CameraImage] = KeyframeSelector(parameters.keyframes)
        self._pending: deque[_Pending] = deque()
        self._known: deque[tuple[int, CameraInfo]] = deque(maxlen=_INFOS)
        self._offered: queue.SimpleQueue[tuple[_Pending, CameraImage, Array | None, int] | None] = queue.SimpleQueue()
        self._decoder: threading.Thread | None = None
        compressed = self.settings.image_transport == "compressed"
        self.ends = Endpoints(node)
        group = MutuallyExclusiveCallbackGroup()
        kind = CompressedImage if compressed else Image
        images = self.ends.subscribe(kind, self.settings.image_topic(node), self._receive, SENSOR, group)
        infos = self.ends.subscribe(CameraInfo, self.settings.camera_info, self._take_info, SENSOR, group)
        self.topic, self.info_topic = str(images.topic_name), str(infos.topic_name)
        self._stamps = StampCheck(f"images on {self.topic}")
        self.depth: DepthInput | None = None
        if self.settings.depth_topic(node):
            self.depth = DepthInput(node, self.ends, self.settings, group, self._drop, self._match)
        if compressed:
            self._decoder = threading.Thread(target=self._decode, name="gen3r camera", daemon=True)
            self._decoder.start()
        self._timer = node.create_timer(
            _LOOK_AGAIN_S, self._match, callback_group=group, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )

    def close(self) -> None:
        """Stop listening, and let go of all images."""
        with self._matching:  # a callback may be running
            self._closed = True
        self.node.destroy_timer(self._timer)
        self.ends.close()
        if self._decoder is not None:
            self._offered.put(None)
            self._decoder.join(_ENDING_S)
        self.clear()
        self._pending.clear()

    @property
    def publishers(self) -> int:
        """Nodes that send images on the topic."""
        return self.node.count_publishers(self.topic)

    @property
    def counts(self) -> Counter[str]:
        """What became of images, see :class:`KeyframeSelector`."""
        return Counter(self._selector.counts)

    @property
    def queues(self) -> tuple[int, int]:
        """Images that wait for something, and those that wait to be looked at."""
        return len(self._pending), self._offered.qsize()

    def options(self, options: KeyframeOptions) -> None:
        """Choose keyframes in another way from now on."""
        self._selector.options = options  # without the lock: callbacks do not wait for a decoder

    def clear(self) -> None:
        """Forget all keyframes."""
        with self._lock:
            self._selector.clear()

    def restart(self) -> None:
        """Time was set back: what came before is of no use."""
        with self._matching:
            self._epoch += 1
            self._pending.clear()
        self._stamps.reset()
        if self.depth is not None:
            self.depth.clear()
        self.clear()

    def newest(self) -> ImageKeyframe | None:
        """The newest keyframe."""
        return next(iter(self.window(1)), None)

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
        stamp, frame = stamp_ns(message.header.stamp), self.settings.frame or message.header.frame_id
        now = self.node.get_clock().now().nanoseconds
        self.behind_s = (now - stamp) / SECOND if now and stamp > 0 else None
        try:
            size = size_of(message) if stamp > 0 else (0, 0)
            if stamp > 0 and not frame:
                self._drop("no frame", "an image has no frame_id: the driver sets none; set camera_frame")
            elif self._in_time(stamp, now):
                self._pending.append(_Pending(stamp, message, self.last_image, size, frame))
        except MessageError as error:
            self._drop(error.reason, str(error))
        if len(self._pending) > LARGEST_PENDING:
            self._pending.popleft()
            self._drop("waited too long", "images come faster than their camera_info and TF")
        self._match()

    def _in_time(self, stamp: int, now: int) -> bool:
        """Whether a stamp can be used."""
        tolerance = round(self.parameters.future_tolerance_s * SECOND)
        if self.depth is not None:
            self.depth.future_ns = tolerance
        judged = self._stamps.judge(stamp, now, tolerance)
        if judged.restart:
            self._on_restart(judged.words)
            judged = self._stamps.judge(stamp, now, tolerance)
        if judged.reason:
            self._drop(judged.reason, judged.words)
        return not judged.reason

    def _take_info(self, message: CameraInfo) -> None:
        self.infos += 1
        self.last_info = message
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
        settled, depth = self._depth_for(pending, waited=waited)
        if not settled:
            return False
        pose, why = None, ""
        try:
            pose = self._transforms.lookup(self.parameters.fixed_frame, pending.frame, pending.stamp).T_target_source
        except TransformError as error:
            if error.may_come and not waited:
                return False
            why = str(error)
            self.without_pose += 1
            self.node.get_logger().warning(why, throttle_duration_sec=10.0)
        self.why_no_pose = why
        self.without_depth += int(depth is None and self.depth is not None)
        try:
            camera = camera_model(info, rectified=self.settings.rectified)
            if camera.size != pending.size:
                raise MessageError(
                    "size",
                    f"images on {self.topic} have {pending.size} (height, width), camera_info on {self.info_topic} is "
                    f"for {camera.size}",
                )
            pinhole_of(camera)  # remembers; distortion that makes no sense is found here
        except MessageError as error:
            self._drop(error.reason, str(error))
            return True
        self.last_used = time.monotonic()
        image = CameraImage(pending.message, camera, pending.frame, why, depth, self.settings.name)
        if self._decoder is None:
            self._offer(pending, image, pose)
        elif self._offered.qsize() < LARGEST_PENDING:
            self._offered.put((pending, image, pose, self._epoch))
        else:
            self._drop("waited too long", "images come faster than they can be decoded")
        return True

    def _info_for(self, pending: _Pending, *, exact: bool) -> CameraInfo | None:
        """That with the same stamp; if there is none to be expected, the newest."""
        for stamp, info in reversed(self._known):
            if stamp == pending.stamp:
                return info
        return None if exact or not self._known else self._known[-1][1]

    def _depth_for(self, pending: _Pending, *, waited: bool) -> tuple[bool, Any]:
        """Whether nothing more is to be waited for, and what there is."""
        if self.depth is None:
            return True, None
        tolerance = round(self.parameters.depth_tolerance_s * SECOND)
        return self.depth.match(pending.stamp, pending.frame, tolerance, waited=waited)

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
                pending, image, pose, epoch = offered
                if epoch == self._epoch:
                    self._offer(pending, image, pose)
            except Exception as error:  # noqa: BLE001 - whatever one image does, the next shall be looked at
                self._drop("internal error", f"an image could not be looked at: {type(error).__name__}: {error}")

    def _drop(self, reason: str, words: str) -> None:
        with self._dropping:
            self.dropped[reason] += 1
        self.last_problem = words
        self.node.get_logger().warning(words, throttle_duration_sec=10.0)
