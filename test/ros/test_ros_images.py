"""Camera images between processes, through the profile for large messages."""

import os
import statistics

import pytest

pytest.importorskip("rclpy", reason="ROS is not installed")

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.time import Time
from ros_graph import own_segments
from sensor_msgs.msg import Image
from std_msgs.msg import Empty

from gen3r_ros.qos import LATCHED

COUNT = 90


def has_large_segment(pid):
    """Whether the profile is in force in this process."""
    return max(own_segments(pid), default=0) >= 64 << 20


def watch(client, take, depth):
    """Subscribes, and tells the source to start when both ends know of each other: best effort repeats nothing."""
    matched = []
    client.node.create_subscription(
        Image,
        "image_raw",
        take,
        QoSProfile(depth=depth, reliability=ReliabilityPolicy.BEST_EFFORT),
        event_callbacks=SubscriptionEventCallbacks(matched=matched.append),
    )
    go = client.node.create_publisher(Empty, "go", LATCHED)
    client.until(lambda: matched)
    go.publish(Empty())


def test_a_camera_at_30_hz_arrives_complete_by_best_effort(client, start):
    """640x480, three seconds. The queue holds them all: the transport is tested, not how busy the machine is."""
    delays, numbers = [], []

    def take(image):
        now = client.node.get_clock().now()
        delays.append((now - Time.from_msg(image.header.stamp)).nanoseconds / 1e6)
        numbers.append(int(image.header.frame_id))
        assert image.data.tobytes() == bytes([numbers[-1] % 256]) * (640 * 480 * 3)

    source = start("image_source.py", COUNT, 30)
    watch(client, take, COUNT)
    client.until(lambda: len(numbers) == COUNT or "published" in source.output.read_text(), timeout=30)
    client.until(lambda: len(numbers) == COUNT, timeout=3)
    assert numbers == list(range(COUNT))
    print(f"median delay {statistics.median(delays):.1f} ms, longest {max(delays):.1f} ms")
    assert statistics.median(delays) < 100
    assert has_large_segment(os.getpid())
    assert has_large_segment(source.pid)


def test_the_profile_needs_no_environment_script(client, start):
    """A process whose environment names no profile has it from use_large_message_profile."""
    source = start("image_source.py", 3, 30, FASTDDS_DEFAULT_PROFILES_FILE="")
    numbers = []
    watch(client, lambda image: numbers.append(image.header.frame_id), 3)
    client.until(lambda: "published" in source.output.read_text())
    client.until(lambda: len(numbers) == 3, timeout=5)
    assert has_large_segment(source.pid)
