"""Messages of a camera, and where it is, for tests of the inputs in one process."""

from __future__ import annotations

import numpy as np
from camera_tracks import base_camera, yawed
from rclpy.parameter import Parameter
from std_msgs.msg import Header

from gen3r_core.geometry.transform_history import StampedTransform, TransformError
from gen3r_ros.conversions.cameras import CameraModel
from gen3r_ros.conversions.images import image_message
from gen3r_ros.conversions.poses import stamp_message
from gen3r_ros.parameters import declare

K = np.array([[100.0, 0, 60], [0, 100.0, 45], [0, 0, 1]])
SIZE = (90, 120)
CAMERA = CameraModel(K, SIZE)
SECOND = 10**9
TRUE = np.linspace(0.5, 4.0, 90 * 120).reshape(SIZE).astype(np.float32)


class Frames:
    """Where cameras are, as a test says; None: not known, and never will be."""

    def __init__(self):
        self.pose = yawed(1, 2, 0) @ base_camera()
        self.asked = []

    def lookup(self, target, source, stamp_ns=None):
        self.asked.append(source)
        if self.pose is None:
            raise TransformError(f"no transform from {source} to {target}", may_come=False)
        return StampedTransform(self.pose, stamp_ns)

    def clear(self):
        pass


def header(seconds=1.0, frame="cam"):
    return Header(stamp=stamp_message(round(seconds * SECOND)), frame_id=frame)


def picture(seconds=1.0, size=SIZE, frame="cam"):
    pixels = np.random.default_rng(round(10 * seconds)).integers(0, 256, (*size, 3), dtype=np.uint8)
    return image_message(pixels, "rgb8", header(seconds, frame))


def millimetres(seconds=1.0, frame="cam", depth=TRUE):
    numbers = np.rint(1000 * np.nan_to_num(depth)).astype(np.uint16)
    return image_message(numbers, "16UC1", header(seconds, frame))


def later(camera):
    """As if the wait were over."""
    for pending in camera._pending:
        pending.since -= 100
    camera._match()


def parameters_of(node, **values):
    """The parameters of a node, declared with these values."""
    for name, value in values.items():
        node._parameter_overrides[name] = Parameter(name, value=value)
    return declare(node)
