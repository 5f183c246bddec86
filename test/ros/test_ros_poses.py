"""Poses, paths and stamps between messages and numbers."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

pytest.importorskip("rclpy", reason="ROS is not installed")

from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, Pose, PoseStamped, Quaternion
from nav_msgs.msg import Path
from std_msgs.msg import Header

from gen3r_core.errors import InputError
from gen3r_ros.conversions.poses import (
    matrix_pose,
    matrix_transform,
    path_matrices,
    path_message,
    pose_matrix,
    stamp_message,
    stamp_ns,
    transform_matrix,
    transform_message,
)
from gen3r_ros.conversions.problems import MessageError

numbers = st.floats(-1e4, 1e4)
UNIT = Quaternion(w=1.0)


@given(st.tuples(numbers, numbers, numbers), st.lists(st.floats(-1, 1), min_size=4, max_size=4))
def test_poses_and_transforms_come_back(xyz, q):
    length = math.hypot(*q)
    assume(length > 0.1)
    x, y, z, w = (value / length for value in q)
    pose = Pose(position=Point(**dict(zip("xyz", xyz, strict=True))), orientation=Quaternion(x=x, y=y, z=z, w=w))
    T = pose_matrix(pose)
    np.testing.assert_array_equal(T[:3, 3], xyz)
    np.testing.assert_allclose(T[:3, :3] @ T[:3, :3].T, np.eye(3), atol=1e-12)
    # A vector turned by the quaternion itself: q v q*.
    v, u = np.array([0.3, -0.2, 0.9]), np.array([x, y, z])
    turned = v + 2 * np.cross(u, np.cross(u, v) + w * v)
    np.testing.assert_allclose(T[:3, :3] @ v, turned, atol=1e-12)
    np.testing.assert_allclose(pose_matrix(matrix_pose(T)), T, atol=1e-12)
    np.testing.assert_allclose(transform_matrix(matrix_transform(T)), T, atol=1e-12)


@pytest.mark.parametrize(
    ("position", "orientation", "words"),
    [
        (Point(x=math.nan), UNIT, "not finite"),
        (Point(), Quaternion(x=math.inf), "not finite"),
        (Point(), Quaternion(x=0.0, y=0.0, z=0.0, w=0.0), "length 0, not 1; for no rotation w is 1"),
        (Point(), Quaternion(w=1.2), "length 1.2"),
    ],
)
def test_what_is_no_pose_is_refused(position, orientation, words):
    with pytest.raises(MessageError, match=words) as caught:
        pose_matrix(Pose(position=position, orientation=orientation))
    assert caught.value.reason == "pose"


@given(st.integers(-(2**31) * 10**9, 2**31 * 10**9 - 1))
def test_stamps_come_back(nanoseconds):
    stamp = stamp_message(nanoseconds)
    assert 0 <= stamp.nanosec < 10**9
    assert stamp_ns(stamp) == nanoseconds


def test_stamps_that_do_not_fit():
    with pytest.raises(InputError, match="does not fit"):
        stamp_message(2**31 * 10**9)


def test_transforms_name_both_frames():
    T = np.eye(4)
    T[0, 3] = 2.0
    message = transform_message("map", "odom", T, Time(sec=3))
    assert (message.header.frame_id, message.child_frame_id, message.header.stamp.sec) == ("map", "odom", 3)
    assert message.transform.translation.x == 2.0


def test_paths_come_back():
    poses = np.repeat(np.eye(4)[None], 3, axis=0)
    poses[:, 0, 3] = [0, 1, 2]
    frame, read = path_matrices(path_message(poses, Header(frame_id="map")))
    assert frame == "map"
    np.testing.assert_array_equal(read, poses)


def stamped(frame, pose=None):
    return PoseStamped(header=Header(frame_id=frame), pose=pose or Pose(orientation=UNIT))


def test_a_poses_frame_may_be_empty_or_the_only_one_there_is():
    assert path_matrices(Path(header=Header(frame_id="odom"), poses=[stamped(""), stamped("odom")]))[0] == "odom"
    assert path_matrices(Path(poses=[stamped("map"), stamped("map")]))[0] == "map"
    frame, poses = path_matrices(Path(header=Header(frame_id="map")))
    assert (frame, poses.shape) == ("map", (0, 4, 4))


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (Path(header=Header(frame_id="map"), poses=[stamped("odom"), stamped("")]), r"\['map', 'odom'\]"),
        (Path(poses=[stamped("")]), "in one frame that its header names"),
        (Path(), "in one frame"),
        (
            Path(header=Header(frame_id="map"), poses=[stamped(""), stamped("", Pose(position=Point(x=math.nan)))]),
            "pose 1 of the path: a position",
        ),
    ],
)
def test_bad_paths_are_refused(path, words):
    with pytest.raises(MessageError, match=words):
        path_matrices(path)
