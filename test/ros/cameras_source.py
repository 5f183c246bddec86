"""Three cameras on a robot that turns, until SIGINT: each with topics, a size, a transport and a frame of its own.

``front`` has a lens and depth of a wall, ``left`` sends larger JPEG, ``/oak/rgb`` sends YUV.
"""

from __future__ import annotations

import math

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

K = np.array([[100.0, 0, 60], [0, 100.0, 45], [0, 0, 1]])
CAMERAS = {
    "front": CameraModel(K, (90, 120), "plumb_bob", (-0.1, 0.01, 0.0, 0.0, 0.0)),
    "left": CameraModel(np.diag([2, 2, 1]) @ K, (180, 240)),
    "/oak/rgb": CameraModel(K, (90, 120)),
}
OPTICAL = np.array([[0, 0, 1.0], [-1, 0, 0], [0, -1, 0]])


def turned(yaw):
    return np.array([[math.cos(yaw), -math.sin(yaw), 0], [math.sin(yaw), math.cos(yaw), 0], [0, 0, 1.0]])


def frame(name):
    return f"{name.strip('/').replace('/', '_')}_optical_frame"


def main() -> None:
    use_large_message_profile()
    rclpy.init()
    node = rclpy.create_node("cameras_source")
    frames, rng = transform_sender(node), np.random.default_rng(0)
    now = node.get_clock().now().to_msg()
    mounts = [poses_from(turned(yaw) @ OPTICAL, np.array([0.02, yaw / 50, 0.4])) for yaw in (0, 1, -1)]
    frames.send_static([transform_message("base_link", frame(n), T, now) for n, T in zip(CAMERAS, mounts, strict=True)])
    infos = {name: node.create_publisher(CameraInfo, f"{name}/camera_info", SENSOR) for name in CAMERAS}
    front, oak = (node.create_publisher(Image, f"{name}/image_raw", SENSOR) for name in ("front", "/oak/rgb"))
    left = node.create_publisher(CompressedImage, "left/image_raw/compressed", SENSOR)
    depth = node.create_publisher(Image, "front/depth/image_raw", SENSOR)

    def take() -> None:
        now = node.get_clock().now()
        stamp = now.to_msg()
        T = poses_from(turned(math.sin(now.nanoseconds / 1e9)), np.zeros(3))
        frames.send([transform_message("odom", "base_link", T, stamp)])
        for name, camera in CAMERAS.items():
            header = Header(stamp=stamp, frame_id=frame(name))
            infos[name].publish(camera_info(camera, header))
            pixels = rng.integers(0, 256, (*camera.size, 3), dtype=np.uint8)
            if name == "front":
                front.publish(image_message(pixels, "rgb8", header))
                depth.publish(image_message(np.full((45, 60), 2000, np.uint16), "16UC1", header))
            elif name == "left":
                left.publish(compressed_message(pixels, header))
            else:
                oak.publish(image_message(pixels[..., :2], "yuyv", header))

    node.create_timer(0.1, take)
    with until_told(node):
        rclpy.spin(node)


if __name__ == "__main__":
    main()
