"""What goes wrong with a robot's sensors, on purpose: parameters of the simulator that can be set at any time.

    ros2 param set /gen3r_sim fault_camera_off true

Which messages are lost is drawn from a fixed seed: the same run loses the same.
"""

from __future__ import annotations

import copy
import heapq
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from geometry_msgs.msg import TransformStamped
from rcl_interfaces.msg import SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from gen3r_core.errors import InputError
from gen3r_ros.conversions.poses import stamp_message, stamp_ns
from gen3r_ros.declared import Declared, declare_parameter

SECOND = 1_000_000_000
_BACK_NS, _AHEAD_NS = 3 * SECOND // 10, 3600 * SECOND
_MANY = 10_000
"""Messages that wait to be late, at most; then the first go."""

FAULTS = {
    "fault_drop": Declared(0.0, "share of the images that are lost, 0 to 1", 0.0, 1.0),
    "fault_drop_infos": Declared(0.0, "share of the camera infos that are lost, 0 to 1", 0.0, 1.0),
    "fault_delay_s": Declared(0.0, "seconds that images and camera infos come late", 0.0, 3600.0),
    "fault_tf_delay_s": Declared(0.0, "seconds that transforms come late", 0.0, 3600.0),
    "fault_stamps": Declared("none",
                             "of images and camera infos: zero; twice the same; every second one 0.3 s back; "
                             "an hour in the future; of another clock (the machine's in simulated time, or one that "
                             "begins with it)", values=("none", "zero", "twice", "back", "future", "other_clock")),
    "fault_images": Declared("none",
                             "wrong step, unknown encoding, half of the data, no pixels, half the height",
                             values=("none", "step", "encoding", "truncated", "empty", "size")),
    "fault_infos": Declared("none", "bad camera infos: not calibrated, not finite",
                            values=("none", "zero", "nan")),
    "fault_camera_off": Declared(False, "the camera sends nothing, until this is false again"),
}  # fmt: skip
"""By name; all can be set at any time."""


@dataclass(frozen=True)
class FaultValues:
    """Their values; attributes are called as in :data:`FAULTS`."""

    fault_drop: float
    fault_drop_infos: float
    fault_delay_s: float
    fault_tf_delay_s: float
    fault_stamps: str
    fault_images: str
    fault_infos: str
    fault_camera_off: bool


class Faults:
    """Between the simulator and its publishers.

    Args:
        node: on which the parameters are declared.
        image: publishes an image.
        info: publishes a camera info.
        depth: publishes a depth image; what happens to images happens to them.
        transforms: publishes transforms.
        now: nanoseconds of the simulator's time, simulated or real.

    Raises:
        InputError: a parameter has a value that cannot be.
    """

    def __init__(
        self,
        node: Node,
        image: Callable[[Image], None],
        info: Callable[[CameraInfo], None],
        depth: Callable[[Image], None],
        transforms: Callable[[Sequence[TransformStamped]], None],
        now: Callable[[], int],
    ) -> None:
        self._node, self._image, self._info, self._depth = node, image, info, depth
        self._transforms, self._now = transforms, now
        for name, one in FAULTS.items():
            declare_parameter(node, name, one)
        self.values = self._read([])
        self._rng = np.random.default_rng(0)
        self._late: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._sent = 0
        self._last_stamp = 0
        self._started = time.time_ns()
        node.add_on_set_parameters_callback(self._check)
        node.add_post_set_parameters_callback(self._take)

    def picture(self, image: Image, info: CameraInfo, depth: Image | None) -> None:
        """Send a picture, its camera info and its depth, as far as nothing goes wrong."""
        own = self.values
        self._sent += 1
        lost = self._rng.random(2) < (own.fault_drop, own.fault_drop_infos)
        if own.fault_camera_off:
            return
        header = self._header(image.header)
        delay = round(own.fault_delay_s * SECOND)
        if not lost[1]:
            self._put(delay, lambda: self._info(_bad_info(info, own.fault_infos, header)))
        if not lost[0]:
            self._put(delay, lambda: self._image(_bad_image(image, own.fault_images, header)))
            if depth is not None:
                self._put(delay, lambda: self._depth(_bad_image(depth, own.fault_images, header)))

    def transforms(self, transforms: Sequence[TransformStamped]) -> None:
        """Send transforms, now or later."""
        self._put(round(self.values.fault_tf_delay_s * SECOND), lambda: self._transforms(transforms))

    def release(self) -> None:
        """Send what was late and is due."""
        now = self._now()
        while self._late and (self._late[0][0] <= now or len(self._late) > _MANY):
            heapq.heappop(self._late)[2]()

    def _put(self, delay: int, send: Callable[[], None]) -> None:
        if delay:
            heapq.heappush(self._late, (self._now() + delay, next(self._order), send))
        else:
            send()

    def _header(self, true: Header) -> Header:
        stamp, kind = stamp_ns(true.stamp), self.values.fault_stamps
        if kind == "zero":
            stamp = 0
        elif kind == "twice" and self._last_stamp:
            stamp = self._last_stamp
        elif kind == "back" and self._sent % 2 and self._last_stamp:
            stamp = self._last_stamp - _BACK_NS
        elif kind == "future":
            stamp += _AHEAD_NS
        elif kind == "other_clock":
            own = self._node.get_parameter("use_sim_time").value
            stamp = time.time_ns() if own else time.time_ns() - self._started + SECOND
        if kind in ("none", "back"):
            self._last_stamp = stamp
        return Header(stamp=stamp_message(stamp), frame_id=true.frame_id)

    # ------------------------------------------------------------------ parameters

    def _read(self, changed: Sequence[Parameter[Any]]) -> FaultValues:
        values = {own.name: self._node.get_parameter(own.name).value for own in fields(FaultValues)}
        values.update({one.name: one.value for one in changed if one.name in values})
        for name, value in values.items():
            allowed = FAULTS[name].values
            if allowed and value not in allowed:
                raise InputError(f"the parameter {name} cannot be {value!r}; it is one of {', '.join(allowed)}")
        return FaultValues(**values)

    def _check(self, changed: list[Parameter[Any]]) -> SetParametersResult:
        try:
            self._read(changed)
        except InputError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _take(self, changed: list[Parameter[Any]]) -> None:
        self.values = self._read([])
        faults = ", ".join(f"{one.name} is {one.value}" for one in changed if one.name in FAULTS)
        if faults:
            self._node.get_logger().warning(f"from now on {faults}")


def _bad_image(image: Image, kind: str, header: Header) -> Image:
    """A copy with other contents; the data are shared where they stay."""
    made = copy.copy(image)
    made.header = header
    if kind == "step":
        made.step = 1
    elif kind == "encoding":
        made.encoding = "odd"
    elif kind == "truncated":
        made.data = made.data[: len(made.data) // 2]
    elif kind == "empty":
        made = Image(header=header, encoding=image.encoding)
    elif kind == "size":
        made.height //= 2
        made.data = made.data[: made.step * made.height]
    return made


def _bad_info(info: CameraInfo, kind: str, header: Header) -> CameraInfo:
    made = copy.copy(info)
    made.header = header
    if kind != "none":
        made.k = np.full(9, 0.0 if kind == "zero" else np.nan)
    return made
