"""Publishes numbered images like a camera, once it is told to on ``go``: arguments are their count and the rate in Hz.

Each image's frame is its number, and it is filled with it, so that a reader can tell images and their damage.
"""

from __future__ import annotations

import array
import sys
import time

import rclpy
from scripted_node import until_told
from sensor_msgs.msg import Image
from std_msgs.msg import Empty

from gen3r_ros.qos import LATCHED, SENSOR
from gen3r_ros.transport import use_large_message_profile

WIDTH, HEIGHT = 640, 480


def main() -> None:
    count, rate = int(sys.argv[1]), float(sys.argv[2])
    use_large_message_profile()
    rclpy.init()
    node = rclpy.create_node("image_source")
    publisher = node.create_publisher(Image, "image_raw", SENSOR)
    images = [array.array("B", bytes([number % 256]) * (WIDTH * HEIGHT * 3)) for number in range(count)]
    go = []
    node.create_subscription(Empty, "go", go.append, LATCHED)
    with until_told(node):
        while not go or publisher.get_subscription_count() == 0:
            rclpy.spin_once(node, timeout_sec=0.01)
        start = time.monotonic()
        for number, data in enumerate(images):
            message = Image(height=HEIGHT, width=WIDTH, encoding="rgb8", step=3 * WIDTH)
            message.header.frame_id = str(number)
            message.data = data
            time.sleep(max(0.0, start + number / rate - time.monotonic()))
            message.header.stamp = node.get_clock().now().to_msg()
            publisher.publish(message)
        print(f"published {count}")
        rclpy.spin(node)  # an image is gone with its publisher


if __name__ == "__main__":
    main()
