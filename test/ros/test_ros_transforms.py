"""TF over the graph: one contract for every implementation that is there."""

import math
import time

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS is not installed")

import rclpy
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Quaternion, Transform, TransformStamped, Vector3
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

from gen3r_ros import transforms
from gen3r_ros.conversions.poses import stamp_message, transform_message
from gen3r_ros.qos import CLOCK
from gen3r_ros.transforms import (
    Tf2Sender,
    Tf2Transforms,
    TopicSender,
    TopicTransforms,
    TransformError,
    listen_to_transforms,
    tf2_ros_module,
    transform_sender,
)

S = 1_000_000_000
# Both of a ROS distribution's and ours, each with the other.
KINDS = ["topics"] if tf2_ros_module() is None else ["topics", "tf2_ros"]


def listener(kind, node):
    return TopicTransforms(node) if kind == "topics" else Tf2Transforms(node, 10.0, tf2_ros_module())


def sender(kind, node):
    return TopicSender(node) if kind == "topics" else Tf2Sender(node, tf2_ros_module())


@pytest.fixture
def other(client):
    """A second node on the same context: the one that sends."""
    node = rclpy.create_node("sender", context=client.context)
    client._executor.add_node(node)
    yield node
    client._executor.remove_node(node)
    node.destroy_node()


def settle(client, seconds=0.3):
    end = time.monotonic() + seconds
    client.until(lambda: time.monotonic() > end)


def at(seconds, x, parent="map", child="base_link"):
    T = np.eye(4)
    T[:2, :2] = [[math.cos(x), -math.sin(x)], [math.sin(x), math.cos(x)]]
    T[0, 3] = x
    return transform_message(parent, child, T, stamp_message(round(seconds * S)))


def known(tf, *arguments):
    try:
        return tf.lookup(*arguments)
    except TransformError:
        return None


@pytest.mark.parametrize("sends", KINDS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_contract(client, other, kind, sends):
    tf, out = listener(kind, client.node), sender(sends, other)
    with pytest.raises(TransformError, match=r"no transform from base_link to map at 10\.500") as caught:
        tf.lookup("map", "base_link", round(10.5 * S))
    assert caught.value.may_come
    out.send_static([at(1, 0.5, "base_link", "camera")])
    out.send_static([at(1, 0.25, "camera", "lens")])
    client.until(lambda: other.count_subscribers("/tf") == 1)
    # A subscription may be counted before it is served: what was lost is sent again.
    client.until(lambda: out.send([at(10, 1.0), at(11, 1.5)]) or known(tf, "map", "lens", 11 * S))

    found = tf.lookup("map", "base_link", round(10.5 * S))
    assert found.stamp_ns == round(10.5 * S)
    assert found.T_target_source[0, 3] == pytest.approx(1.25)
    assert math.atan2(found.T_target_source[1, 0], found.T_target_source[0, 0]) == pytest.approx(1.25)
    chain = [at(0, x) for x in (1.25, 0.5, 0.25)]
    wanted = np.eye(4)
    for one in chain:
        t, q = one.transform.translation, one.transform.rotation
        step = np.eye(4)
        step[:2, :2] = [[1 - 2 * q.z**2, -2 * q.z * q.w], [2 * q.z * q.w, 1 - 2 * q.z**2]]
        step[0, 3] = t.x
        wanted = wanted @ step
    np.testing.assert_allclose(tf.lookup("map", "lens", round(10.5 * S)).T_target_source, wanted, atol=1e-9)
    np.testing.assert_allclose(
        tf.lookup("lens", "map", round(10.5 * S)).T_target_source, np.linalg.inv(wanted), atol=1e-9
    )

    newest = tf.lookup("map", "lens")
    assert newest.stamp_ns == 11 * S
    assert tf.lookup("base_link", "lens").stamp_ns is None

    for stamp, may_come in ((12 * S, True), (9 * S, False)):
        with pytest.raises(TransformError, match=f"from base_link to map at {stamp // S}.000: ") as caught:
            tf.lookup("map", "base_link", stamp)
        assert caught.value.may_come == may_come
    with pytest.raises(TransformError, match="nowhere"):
        tf.lookup("map", "nowhere")

    tf.clear()
    assert known(tf, "map", "base_link") is None
    assert known(tf, "base_link", "lens")
    tf.close()
    out.close()
    client.until(lambda: other.count_subscribers("/tf") == other.count_publishers("/tf") == 0)


@pytest.mark.parametrize("kind", KINDS)
def test_who_comes_late_gets_all_static_transforms(client, other, kind):
    out = sender(kind, other)
    out.send_static([at(1, 0.5, "base_link", "camera")])
    out.send_static([at(1, 0.25, "base_link", "laser")])
    tf = listener(kind, client.node)
    client.until(lambda: known(tf, "base_link", "camera") and known(tf, "base_link", "laser"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_clock_set_back_clears_it(client, other, kind):
    """As when a bag begins again."""
    client.node.set_parameters([Parameter("use_sim_time", value=True)])
    tf, out = listener(kind, client.node), sender(kind, other)
    clock = other.create_publisher(Clock, "/clock", CLOCK)

    def now(seconds):
        clock.publish(Clock(clock=Time(sec=seconds)))
        return client.node.get_clock().now().nanoseconds == seconds * S

    client.until(lambda: now(100))
    client.until(lambda: out.send([at(100, 1.0)]) or known(tf, "map", "base_link"))
    client.until(lambda: now(200))
    assert known(tf, "map", "base_link")  # ahead is no jump
    settle(client)  # what is still on its way would come after the jump
    client.until(lambda: now(50))
    assert known(tf, "map", "base_link") is None
    client.until(lambda: out.send([at(50, 1.0)]) or known(tf, "map", "base_link", 50 * S))


def test_bad_transforms_are_counted_and_nothing_is_raised(client, other):
    tf = TopicTransforms(client.node)
    publisher = other.create_publisher(TFMessage, "/tf", 10)
    bad = TransformStamped(header=Header(frame_id="map"), child_frame_id="base_link")
    bad.transform = Transform(translation=Vector3(x=math.nan), rotation=Quaternion(w=1.0))
    good = at(3, 1.0, "map", "good")
    client.until(
        lambda: publisher.publish(TFMessage(transforms=[bad, at(1, 0.0, "map", "map"), good])) or tf.refused >= 2
    )
    client.until(lambda: known(tf, "map", "good"))
    assert known(tf, "map", "base_link") is None


def test_the_means_that_are_there_are_chosen(client, monkeypatch):
    wanted = (TopicTransforms, TopicSender) if tf2_ros_module() is None else (Tf2Transforms, Tf2Sender)
    assert type(listen_to_transforms(client.node)) is wanted[0]
    assert type(transform_sender(client.node)) is wanted[1]
    monkeypatch.setattr(transforms, "tf2_ros_module", lambda: None)
    assert type(listen_to_transforms(client.node)) is TopicTransforms
    assert type(transform_sender(client.node)) is TopicSender
