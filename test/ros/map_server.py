"""Publishes a grid on ``map``, as Nav2 and SLAM do."""

from __future__ import annotations

import rclpy
from nav_msgs.msg import OccupancyGrid
from scripted_node import until_told

from gen3r_ros.qos import LATCHED


def main() -> None:
    rclpy.init()
    node = rclpy.create_node("map_server")
    node.create_publisher(OccupancyGrid, "map", LATCHED).publish(OccupancyGrid())
    with until_told(node):
        rclpy.spin(node)


if __name__ == "__main__":
    main()
