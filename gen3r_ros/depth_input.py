"""Depth images, kept until the image of the same view asks for its own."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image

from gen3r_core.messages.problems import MessageError
from gen3r_ros.camera_image import size_of
from gen3r_ros.camera_settings import CameraSettings
from gen3r_ros.conversions.poses import stamp_ns
from gen3r_ros.endpoints import Endpoints
from gen3r_ros.qos import SENSOR
from gen3r_ros.stamps import StampCheck

_KEPT = 60
"""Two seconds at 30 Hz."""


class DepthInput:
    """Subscribes as long as its endpoints are open.

    Args:
        node: that subscribes.
        ends: makes the subscription.
        settings: of the camera.
        group: of the callbacks.
        drop: told reason and words of each image that cannot be used.
        arrived: called after each that can.

    Attributes:
        topic: as resolved.
        images: that came.
        last: when the last came, by ``time.monotonic``; None before.
    """

    def __init__(
        self,
        node: Node,
        ends: Endpoints,
        settings: CameraSettings,
        group: CallbackGroup,
        drop: Callable[[str, str], None],
        arrived: Callable[[], None],
    ) -> None:
        self._node, self._settings, self._drop, self._arrived = node, settings, drop, arrived
        kind = Image if settings.depth_transport == "raw" else CompressedImage
        self.topic = str(ends.subscribe(kind, settings.depth_topic(node), self.take, SENSOR, group).topic_name)
        self._stamps = StampCheck(f"depth images on {self.topic}")
        self._known: deque[tuple[int, Any]] = deque(maxlen=_KEPT)
        self.images = 0
        self.last: float | None = None
        self.future_ns = 0

    def clear(self) -> None:
        """Time was set back."""
        self._known.clear()
        self._stamps.reset()

    def take(self, message: Any) -> None:
        """A depth image came."""
        self.images += 1
        self.last = time.monotonic()
        stamp = stamp_ns(message.header.stamp)
        try:
            if isinstance(message, Image):
                size_of(message)
        except MessageError as error:
            self._drop(f"depth: {error.reason}", str(error))
            return
        judged = self._stamps.judge(stamp, self._node.get_clock().now().nanoseconds, self.future_ns)
        if judged.reason:
            self._drop(f"depth: {judged.reason}", judged.words)
            return
        if judged.restart:
            self._known.clear()
        self._known.append((stamp, message))
        self._arrived()

    def match(self, stamp: int, frame: str, tolerance_ns: int, *, waited: bool) -> tuple[bool, Any]:
        """The depth of an image.

        Args:
            stamp: of the image, nanoseconds.
            frame: the same, its optical frame.
            tolerance_ns: between both stamps, at most.
            waited: long enough; otherwise a nearer one may come.

        Returns:
            whether nothing better is to be expected, and the depth image; None where there is none.
        """
        nearest = min(self._known, key=lambda one: abs(one[0] - stamp), default=None)
        apart = None if nearest is None else abs(nearest[0] - stamp)
        newer = bool(self._known) and self._known[-1][0] > stamp
        if not (waited or newer or apart == 0):
            return False, None
        if nearest is None or apart is None or apart > tolerance_ns:
            return True, None
        own = nearest[1].header.frame_id
        if own != frame and not self._settings.frame:
            self._drop(
                "depth: frame",
                f"depth images on {self.topic} are of {own!r}, the images of {frame!r}: give depth that is registered "
                f"to the images (aligned_depth_to_color, depth_registered)",
            )
            return True, None
        return True, nearest[1]
