"""Diagnostics out: through diagnostic_updater where a ROS distribution has it, else by the topic itself."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, Protocol

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node

TOPIC = "/diagnostics"
_NEVER_S = 86400.0
_DEPTH = 10


class DiagnosticSender(Protocol):
    """Publishes on /diagnostics."""

    def send(self, statuses: Sequence[DiagnosticStatus]) -> None:
        """All that a node says of itself at a time.

        Args:
            statuses: named by the part they are about; they go out with the node's full name before it, as
                ``robot1/gen3r: worker``.
        """


def diagnostic_sender(node: Node) -> DiagnosticSender:
    """By the means that there are."""
    updater = updater_module()
    return TopicDiagnostics(node) if updater is None else UpdaterDiagnostics(node, updater)


def updater_module() -> Any:
    """diagnostic_updater, or None where there is none or it does not load."""
    try:
        return importlib.import_module("diagnostic_updater")
    except ImportError:
        return None


class TopicDiagnostics:
    """:class:`DiagnosticSender` by the topic itself."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._publisher = node.create_publisher(DiagnosticArray, TOPIC, _DEPTH)

    def send(self, statuses: Sequence[DiagnosticStatus]) -> None:
        """See :class:`DiagnosticSender`."""
        message = DiagnosticArray()
        message.header.stamp = self._node.get_clock().now().to_msg()
        for one in statuses:
            message.status.append(
                DiagnosticStatus(
                    level=one.level,
                    name=f"{self._node.get_fully_qualified_name().lstrip('/')}: {one.name}",
                    message=one.message,
                    hardware_id=one.hardware_id,
                    values=one.values,
                )
            )
        self._publisher.publish(message)


class UpdaterDiagnostics:
    """:class:`DiagnosticSender` by diagnostic_updater.

    Args:
        node: whose diagnostics they are.
        module: diagnostic_updater.
    """

    def __init__(self, node: Node, module: Any) -> None:
        # Its own timer goes by the node's clock, which may be that of a recording, or stand still.
        self._updater = module.Updater(node, period=_NEVER_S)
        self._updater.setHardwareID("gen3r")
        # Of several robots each has its own; by itself it takes the name without the namespace.
        self._updater.node_name = node.get_fully_qualified_name().lstrip("/")

    def send(self, statuses: Sequence[DiagnosticStatus]) -> None:
        """See :class:`DiagnosticSender`."""
        self._updater.publish(list(statuses))
