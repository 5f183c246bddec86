"""A camera on a robot, scripted: images with texture, camera_info, and TF, until SIGINT.

The robot creeps forward and back by a tenth of a metre and turns, so that keyframes come, and a model that sees no
motion at all still agrees with it within ten centimetres. Arguments: image rate in Hz, and what to leave out (``info``,
``tf``), ``compressed`` to send JPEG, or ``vga`` for images of 640x480 pixels.
"""

from __future__ import annotations

import math
import sys

import numpy as np
import rclpy
from scripted_node import until_told
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from gen3r_core.geometry.poses import poses_from
from gen3r_ros.conversions.cameras import CameraModel, camera_info
from gen3r_ros.conversions.compressed import compressed_message
from gen3r_ros.conversions.images import image_message
from gen3r_ros.conversions.poses import transform_message
from gen3r_ros.qos import SENSOR
from gen3r_ros.transforms import transform_sender
from gen3r_ros.transport import use_large_message_profile

SIZE = (90, 120)
K = np.array([[100.0, 0, 60], [0, 100.0, 45], [0, 0, 1]])
REACH = 0.05


def T_odom_base(seconds):
    """``[4, 4]`` of the robot at a time, metres: it swings along x and turns about z."""
    yaw = 0.4 * math.sin(0.7 * seconds)
    R = np.array([[math.cos(yaw), -math.sin(yaw), 0], [math.sin(yaw), math.cos(yaw), 0], [0, 0, 1.0]])
    return poses_from(R, np.array([1.0 + REACH * math.sin(seconds), 2.0, 0.0]))


T_BASE_OPTICAL = np.array([[0, 0, 1.0, 0.0], [-1, 0, 0, 0], [0, -1, 0, 0.3], [0, 0, 0, 1]])


def main() -> None:
    rate, options = float(sys.argv[1]), sys.argv[2:]
    use_large_message_profile()
    rclpy.init()
    node = rclpy.create_node("camera_source")
    compressed = "compressed" in options
    scale = 16 / 3 if "vga" in options else 1
    height, width = (round(scale * side) for side in SIZE)
    camera = CameraModel(np.diag([scale, scale, 1]) @ K, (height, width))
    topic = "image_raw/compressed" if compressed else "image_raw"
    images = node.create_publisher(CompressedImage if compressed else Image, topic, SENSOR)
    infos = node.create_publisher(CameraInfo, "camera_info", SENSOR)
    frames = transform_sender(node)
    texture = np.random.default_rng(0).integers(0, 256, (height, 4 * width, 3), dtype=np.uint8)
    now = node.get_clock().now().to_msg()
    frames.send_static([transform_message("base_link", "camera_optical_frame", T_BASE_OPTICAL, now)])
    taken = 0

    def take() -> None:
        nonlocal taken
        taken += 1
        now = node.get_clock().now()
        stamp = now.to_msg()
        if "tf" not in options:
            frames.send([transform_message("odom", "base_link", T_odom_base(now.nanoseconds / 1e9), stamp)])
        header = Header(stamp=stamp, frame_id="camera_optical_frame")
        picture = np.ascontiguousarray(np.roll(texture, -5 * taken, axis=1)[:, :width])
        if "info" not in options:
            infos.publish(camera_info(camera, header))
        images.publish(compressed_message(picture, header) if compressed else image_message(picture, "rgb8", header))

    node.create_timer(1 / rate, take)
    with until_told(node):
        print("sending")
        rclpy.spin(node)


if __name__ == "__main__":
    main()
