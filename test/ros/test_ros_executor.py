"""Callbacks that wait hold up no others, and what all of them take is told."""

import threading
import time

import pytest

pytest.importorskip("rclpy", reason="ROS is not installed")

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from std_msgs.msg import Empty
from std_srvs.srv import Trigger

from gen3r_ros.executor import CallbackExecutor, CallbackTimes, Durations, PatientGroup


@pytest.fixture
def served(client):
    """A node and its executor, beside the client's."""
    import rclpy

    node = rclpy.create_node("served", context=client.context)
    executor = CallbackExecutor(context=client.context)
    executor.add_node(node)
    yield node, executor
    executor.shutdown(1.0)
    node.destroy_node()


def spin(executor, condition, timeout=10.0):
    until = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < until
        executor.spin_once(timeout_sec=0.05)


def test_who_waits_holds_up_nobody(served):
    node, executor = served
    done, waiting, ticks = threading.Event(), [], []

    def wait():
        waiting.append(threading.current_thread())
        timer.cancel()
        done.wait()

    timer = node.create_timer(0.01, wait, callback_group=PatientGroup())
    node.create_timer(0.01, lambda: ticks.append(threading.current_thread()))
    spin(executor, lambda: waiting and len(ticks) > 10)
    assert set(ticks) == {threading.current_thread()}
    assert waiting[0] is not threading.current_thread()
    assert not executor.shutdown(0.05)
    done.set()
    waiting[0].join(5)
    assert executor.shutdown(5)


def test_tasks_are_done_beside_the_callbacks(served):
    """As goals of actions are."""
    _, executor = served
    done = threading.Event()
    waiting = [executor.create_task(done.wait) for _ in range(20)]
    last = executor.create_task(lambda: "done")
    spin(executor, last.done)
    assert not any(task.done() for task in waiting)
    done.set()
    spin(executor, lambda: all(task.done() for task in waiting))
    assert last.result() == "done"


@pytest.mark.parametrize("group", [MutuallyExclusiveCallbackGroup, PatientGroup])
def test_what_a_callback_raises_comes_out(served, group):
    node, executor = served

    def fail():
        timer.cancel()
        raise ValueError("no")

    timer = node.create_timer(0.01, fail, callback_group=group())
    with pytest.raises(ValueError, match="no"):
        spin(executor, lambda: False)
    executor.spin_once(timeout_sec=0)  # and that is all


def test_callbacks_have_names_and_times(served, client):
    node, executor = served
    node.create_subscription(Empty, "ping", lambda _message: time.sleep(0.02), 1)
    node.create_service(Trigger, "pull", lambda _request, response: response)
    publisher = client.node.create_publisher(Empty, "ping", 1)
    pull = client.node.create_client(Trigger, "pull")
    client.until(lambda: publisher.get_subscription_count() and pull.service_is_ready())

    def ticked():
        pass

    node.create_timer(0.001, ticked)
    publisher.publish(Empty())
    spin(executor, lambda: executor.times.longest()[0] == "/ping")
    assert 20 <= executor.times.longest()[1] < 500
    pull.call_async(Trigger.Request())
    spin(executor, lambda: executor.times.slowest()[0])
    assert executor.times.slowest()[0].endswith("ticked")
    assert 0 < executor.times.slowest()[1] < 20


def test_times():
    times = CallbackTimes()
    assert times.slowest() == times.longest() == ("", 0.0)
    for _ in range(98):
        times.add("many", 0.001)
    times.add("few", 9.0)
    times.add("many", 0.002)
    assert times.slowest() == ("", 0.0)  # of none there are many
    times.add("many", 0.003)
    assert times.slowest() == ("many", 2.0)
    assert times.longest() == ("few", 9000.0)
    short = Durations()
    assert (short.milliseconds, len(short)) == ((0.0, 0.0), 0)
    short.add(0.5)
    assert short.milliseconds == (500.0, 500.0)
