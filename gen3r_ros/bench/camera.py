"""A camera on a robot that swings to and fro, as fast as a real one sends: for measuring the node.

The images are cut from one large texture, which takes next to no time; they show nothing that could be reconstructed.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from gen3r_core.geometry.poses import poses_from
from gen3r_ros.conversions.cameras import CameraModel, camera_info
from gen3r_ros.conversions.images import image_message
from gen3r_ros.conversions.poses import transform_message
from gen3r_ros.qos import SENSOR
from gen3r_ros.running import ros_context, spin_until_signal
from gen3r_ros.transforms import transform_sender
from gen3r_ros.transport import use_large_message_profile

SIZE, HZ = (480, 640), 30.0
FRAME = "camera_optical_frame"
_T_BASE_OPTICAL = np.array([[0, 0, 1.0, 0.0], [-1, 0, 0, 0], [0, -1, 0, 0.3], [0, 0, 0, 1]])
_SWING_M, _SWING_RAD, _STEP = 0.5, 0.4, 5


class Camera:
    """Publishes ``image_raw``, ``camera_info`` and TF.

    Args:
        node: that publishes; spin it.

    Attributes:
        sent: images.
    """

    def __init__(self, node: Node) -> None:
        self._node, self.sent = node, 0
        height, width = SIZE
        intrinsics = np.array([[500.0, 0, width / 2], [0, 500.0, height / 2], [0, 0, 1]])
        self._camera = CameraModel(intrinsics, SIZE)
        self._images = node.create_publisher(Image, "image_raw", SENSOR)
        self._infos = node.create_publisher(CameraInfo, "camera_info", SENSOR)
        self._frames = transform_sender(node)
        self._texture = np.random.default_rng(0).integers(0, 256, (height, 2 * width, 3), dtype=np.uint8)
        now = node.get_clock().now().to_msg()
        self._frames.send_static([transform_message("base_link", FRAME, _T_BASE_OPTICAL, now)])
        node.create_timer(1 / HZ, self._take)

    def _take(self) -> None:
        now = self._node.get_clock().now()
        stamp, seconds = now.to_msg(), now.nanoseconds / 1e9
        yaw = _SWING_RAD * math.sin(0.7 * seconds)
        R = np.array([[math.cos(yaw), -math.sin(yaw), 0], [math.sin(yaw), math.cos(yaw), 0], [0, 0, 1.0]])
        T = poses_from(R, np.array([_SWING_M * math.sin(seconds), 0.0, 0.0]))
        self._frames.send([transform_message("odom", "base_link", T, stamp)])
        header = Header(stamp=stamp, frame_id=FRAME)
        begin = self.sent * _STEP % SIZE[1]
        picture = np.ascontiguousarray(self._texture[:, begin : begin + SIZE[1]])
        self._infos.publish(camera_info(self._camera, header))
        self._images.publish(image_message(picture, "rgb8", header))
        self.sent += 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Send until interrupted; then write how many images there were.

    Args:
        arguments: of the command line; None takes those of this process.
    """
    use_large_message_profile()
    with ros_context(arguments):
        node = rclpy.create_node("bench_camera")
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        camera = Camera(node)
        spin_until_signal(executor)
        executor.shutdown(timeout_sec=1.0)
        node.destroy_node()
    sys.stdout.write(f"sent {camera.sent}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
