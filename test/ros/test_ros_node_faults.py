"""A fault of ours in a transition: the node is unconfigured again, has freed everything, and works the next time."""

import os

import pytest

pytest.importorskip("rclpy", reason="ROS is not installed")

from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from ros_graph import children

from gen3r_ros.node import Gen3RNode


class FaultyNode(Gen3RNode):
    """Raises when it is activated."""

    def _wait_for_model(self, loop):
        del loop
        raise ZeroDivisionError("a fault")


@pytest.fixture
def faulty(client):
    node = FaultyNode(context=client.context, parameter_overrides=[Parameter("checkpoint", value="random:tiny")])
    yield node
    node.close()
    node.destroy_node()


def test_an_error_in_a_transition_leads_back_to_the_start(faulty):
    assert faulty.trigger_configure() is TransitionCallbackReturn.SUCCESS
    worker = faulty._loop.worker
    assert faulty.trigger_activate() is TransitionCallbackReturn.ERROR
    assert faulty.state == "unconfigured"
    assert faulty._failure == (
        "a transition from the state inactive raised ZeroDivisionError: a fault; the node is unconfigured again"
    )
    assert worker.status.state == "stopped"
    assert worker.join(0)
    assert faulty.trigger_configure() is TransitionCallbackReturn.SUCCESS
    assert faulty.state == "inactive"
    assert faulty._failure == ""
    worker = faulty._loop.worker
    assert faulty.trigger_shutdown() is TransitionCallbackReturn.SUCCESS
    assert faulty.state == "finalized"
    assert worker.status.pid is None
    assert children(os.getpid()) == []
