"""Which stamps are used: pure judgement, and a real clock that jumps."""

import pytest

pytest.importorskip("rclpy", reason="ROS is not installed")

import rclpy
from hypothesis import given
from hypothesis import strategies as st
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock

from gen3r_ros.camera_settings import all_cameras
from gen3r_ros.cameras import RobotCameras
from gen3r_ros.conversions.poses import stamp_message
from gen3r_ros.parameters import declare
from gen3r_ros.qos import CLOCK
from gen3r_ros.silence import input_trouble
from gen3r_ros.stamps import RESTART_BACK_NS, RESTART_COUNT, SECOND, StampCheck

T = 1000 * SECOND


def judged(stamps, now=0, tolerance=SECOND):
    check = StampCheck("images")
    return [check.judge(stamp, now, tolerance) for stamp in stamps]


def reasons(stamps, **more):
    return ["restart" if one.restart else one.reason for one in judged(stamps, **more)]


def test_each_kind_has_its_reason():
    assert reasons([0, -5, T, T, T + 1, T - 5]) == ["no stamp", "no stamp", "", "stamp twice", "", "stamp went back"]
    assert reasons([T + 2 * SECOND, T + SECOND], now=T) == ["stamp in the future", ""]
    assert judged([T, T - SECOND // 2])[1].words == "stamps of images went back from 1000.000 to 999.500"
    assert judged([T + 3 * SECOND], now=T)[0].words == "stamps of images are 3.000 s ahead of this node's clock"


def test_a_recording_that_begins_again_is_a_restart():
    again = [T - 60 * SECOND + n for n in range(RESTART_COUNT)]
    assert reasons([T, *again, again[-1] + 1]) == ["", *["stamp went back"] * (RESTART_COUNT - 1), "restart", ""]
    assert judged([T, *again])[-1].words == "stamps of images went back by 60.000 s"


def test_a_straggler_and_a_small_step_are_none():
    assert "restart" not in reasons([T, T - 9 * SECOND, T + 1, T - 9 * SECOND, T + 2, T - 9 * SECOND, T + 3])
    back = [T - RESTART_BACK_NS + 1 + n for n in range(20)]  # the machine's clock was corrected
    assert reasons([T, *back]) == ["", *["stamp went back"] * 20]
    # Without order among them they are no recording either; twice the same counts as that.
    falling = [T - 5 * SECOND - n for n in range(20)]
    assert reasons([T, *falling]) == ["", *["stamp went back"] * 20]
    assert reasons([T, falling[0], falling[0]])[-1] == "stamp twice"


@given(st.lists(st.integers(-10, 60 * 10), max_size=60))
def test_what_is_used_ascends_but_for_restarts(tenths):
    check, last = StampCheck("images"), 0
    for tenth in tenths:
        stamp = tenth * SECOND // 10
        one = check.judge(stamp, 30 * SECOND, SECOND)
        if one.reason:
            assert one.words
            continue
        assert 0 < stamp <= 31 * SECOND
        assert one.restart or stamp > last
        assert not one.restart or stamp <= last - RESTART_BACK_NS
        last = stamp


class Frames:
    """Counts how often it was cleared."""

    cleared = 0

    def clear(self):
        self.cleared += 1


@pytest.fixture
def simulated(client):
    """A node whose time is that of /clock, its cameras, what they told, and how to tell it the time."""
    override = [Parameter("use_sim_time", value=True), Parameter("cameras", value="front,back")]
    node = rclpy.create_node("simulated", context=client.context, parameter_overrides=override)
    client._executor.add_node(node)
    frames, told = Frames(), []
    parameters = declare(node)
    cameras = RobotCameras(node, frames, parameters, all_cameras(node, parameters), lambda: None, told.append)
    publisher = client.node.create_publisher(Clock, "/clock", CLOCK)
    client.until(publisher.get_subscription_count)

    def set_time(seconds):
        publisher.publish(Clock(clock=stamp_message(round(seconds * SECOND))))
        client.until(lambda: node.get_clock().now().nanoseconds == round(seconds * SECOND))

    yield cameras, frames, told, set_time
    cameras.close()
    client._executor.remove_node(node)
    node.destroy_node()


def test_a_clock_that_jumps_begins_another_scene(simulated):
    cameras, frames, told, set_time = simulated
    assert "no time comes on /clock" in input_trouble(with_image(cameras.inputs[0]))
    set_time(5000)  # the first is no jump
    set_time(5005)
    set_time(5004.5)  # messages that overtook each other
    assert (told, cameras.restarts, frames.cleared) == ([], 0, 0)
    assert input_trouble(cameras.inputs[0]) == ""
    cameras.inputs[1]._pending.append("an image")
    set_time(4000)
    assert told == ["the clock jumped back by 1004.500 s"]
    assert (cameras.restarts, cameras.last_restart, frames.cleared) == (1, told[0], 1)
    assert cameras.inputs[1].queues == (0, 0)
    set_time(4100)
    assert told[1:] == ["the clock jumped forward by 100.000 s"]


def with_image(camera):
    """As if images were used."""
    camera.infos, camera.last_image = 1, 1e12
    return camera
