"""A bond with a lifecycle manager that wants one, as Nav2's does: it notices when this process is gone."""

from __future__ import annotations

import importlib
from typing import Any

from rclpy.node import Node

from gen3r_core.errors import InputError

TOPIC = "bond"
"""Of the node's namespace, as Nav2 has it; the bond bears the node's name."""

HEARTBEAT_S = 0.1
TIMEOUT_S = 4.0
_END_S = 2.0


def bondpy_module() -> Any:
    """What defines bonds, or None where there is none or it does not load."""
    try:
        return importlib.import_module("bondpy.bondpy")
    except ImportError:
        return None


class ManagerBond:
    """The node's end of a bond, from activation to deactivation.

    Args:
        node: that is managed.
        wanted: False: there is none, and nothing happens.

    Raises:
        InputError: it is wanted, and there is no bondpy.
    """

    def __init__(self, node: Node, *, wanted: bool) -> None:
        self._node = node
        self._bond: Any = None
        if not wanted:
            return
        bondpy = bondpy_module()
        if bondpy is None:
            raise InputError(
                "the parameter bond is true, and there is no bondpy here: install it (ros-DISTRIBUTION-bondpy), or set "
                "bond false, and the manager's bond_timeout 0"
            )
        self._bond = bondpy.Bond(node, TOPIC, node.get_name(), on_broken=self._broken)
        self._bond.set_heartbeat_period(HEARTBEAT_S)
        self._bond.set_heartbeat_timeout(TIMEOUT_S)
        self._bond.start()

    def close(self) -> None:
        """Break it in order: the other end is told."""
        bond, self._bond = self._bond, None
        if bond is None:
            return
        bond.break_bond()
        # Its own shutdown() takes the subscription from below the executor, which raises then.
        with bond.lock:
            bond.is_shutdown = True
            bond.condition.notify_all()
        for timer in (bond.connect_timer, bond.heartbeat_timer, bond.disconnect_timer):
            timer.cancel()
        bond.thread.join(_END_S)
        self._node.destroy_subscription(bond.sub)
        self._node.destroy_publisher(bond.pub)

    def _broken(self) -> None:
        if self._bond is not None:
            self._node.get_logger().warning(f"the bond with the lifecycle manager on {TOPIC} is broken, or none came")
