"""Publishes predicted views as the node does, once somebody listens: arguments are views, pixels and predictions."""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))

import rclpy
from made_predictions import along_x, made_prediction
from scripted_node import until_told

from gen3r_ros.outputs import Outputs


def main() -> None:
    views, size, predictions = map(int, sys.argv[1:])
    rclpy.init()
    node = rclpy.create_node("views_source")
    outputs = Outputs(node, "odom", "gen3r")
    with until_told(node):
        while not all(node.count_subscribers(f"/novel_view{end}") for end in ("", "/image", "/depth", "/camera_info")):
            rclpy.spin_once(node, timeout_sec=0.05)
        time.sleep(1)  # both sides know of each other
        for number in range(predictions):
            outputs.views(*made_prediction(along_x(views), node.get_clock().now().nanoseconds, number, size))
        print(f"published {predictions}")
        rclpy.spin(node)  # a view is gone with its publisher


if __name__ == "__main__":
    main()
