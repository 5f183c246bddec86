"""What the scripted nodes of the tests have in common: how they end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node


@contextmanager
def until_told(node: Node) -> Iterator[None]:
    """Ctrl-C in the block ends it, the node and ROS, and is no error."""
    try:
        yield
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
