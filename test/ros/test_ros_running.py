"""A process that is told to end does so in peace."""

import os
import signal
import threading
import time

import pytest

pytest.importorskip("rclpy", reason="ROS is not installed")

import rclpy
from rclpy.executors import SingleThreadedExecutor
from std_msgs.msg import String

from gen3r_ros import running
from gen3r_ros.running import check_command_line, ros_context, spin_until_signal


@pytest.fixture
def node(graph):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with ros_context([]):
        made = rclpy.create_node("busy")
        yield made
        made.destroy_node()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def spin_with(node, work, *signals):
    """Runs a callback during which these signals come."""
    done = []

    def callback():
        timer.cancel()
        for number in signals:
            os.kill(os.getpid(), number)
        work()
        done.append(True)

    timer = node.create_timer(0.01, callback)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        spin_until_signal(executor)
    finally:
        executor.shutdown(timeout_sec=1)
    return done


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_callback_may_end_and_publish(node, number):
    publisher = node.create_publisher(String, "said", 1)
    assert spin_with(node, lambda: publisher.publish(String(data="the end")), number) == [True]
    assert rclpy.ok()


def test_a_second_interrupt_stops_the_callback(node, monkeypatch):
    monkeypatch.setattr(running, "_TWICE_SECONDS", 0.1)
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        spin_with(node, lambda: time.sleep(5), signal.SIGINT)
    assert time.monotonic() - start < 4


def test_one_that_comes_twice_is_one(node):
    """As it does where the terminal and `ros2 launch` pass the same Ctrl-C on, also while the process tidies up."""
    assert spin_with(node, lambda: time.sleep(0.1), signal.SIGINT, signal.SIGINT, signal.SIGTERM) == [True]
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.05)


def test_one_that_came_with_a_fault_is_not_forgotten(node):
    def fail():
        raise ValueError("of the callback")

    with pytest.raises(ValueError, match="of the callback"):
        spin_with(node, fail, signal.SIGTERM)
    start = time.monotonic()
    spin_until_signal(SingleThreadedExecutor())
    assert time.monotonic() - start < 1


def test_an_idle_node_ends_too(node):
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
    start = time.monotonic()
    spin_until_signal(executor)
    assert time.monotonic() - start < 2
    executor.shutdown(timeout_sec=1)


def test_what_a_callback_raises_comes_out(node):
    def fail():
        raise ValueError("of the callback")

    with pytest.raises(ValueError, match="of the callback"):
        spin_with(node, fail)


def test_the_context_goes_with_the_block(graph):
    with ros_context(["--ros-args", "-p", "a:=1"]):
        assert rclpy.ok()
    assert not rclpy.ok()


def test_help_is_shown_and_what_is_no_argument_of_ros_is_refused(capsys):
    with pytest.raises(SystemExit) as end:
        check_command_line("gen3r_sim", "A robot.", ["gen3r_sim", "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert "A robot." in shown
    assert "--ros-args -p NAME:=VALUE" in shown
    with pytest.raises(SystemExit) as end:
        check_command_line("gen3r_sim", "A robot.", ["gen3r_sim", "world:=4"])
    assert end.value.code == 2
    assert "world:=4" in capsys.readouterr().err
    check_command_line("gen3r_sim", "A robot.", ["gen3r_sim", "--ros-args", "-p", "world:=4", "--log-level", "debug"])
