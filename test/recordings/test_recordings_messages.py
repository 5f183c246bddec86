"""Recorded messages: what is read of them, and that damage in them is an error with a reason."""

import contextlib

import numpy as np
import pytest
from bag_writer import HFOV, SIZE, STORES, Messages, S, camera_pose, encoded, picture
from hypothesis import given, settings
from hypothesis import strategies as st

from gen3r_core.errors import InputError
from gen3r_core.messages.problems import MessageError
from gen3r_core.recordings.messages import KINDS, RawMessage, pose_of
from gen3r_core.recordings.pictures import MessageDepth, MessagePicture, looks_like_depth
from gen3r_core.worlds.camera import intrinsics_of

STAMP = 12 * S + 345


def raw(message, version):
    kind, store = message.__msgtype__, STORES[version]
    data = store.serialize_ros1(message, kind) if version == 1 else store.serialize_cdr(message, kind)
    return RawMessage(kind, bytes(data), "ros1" if version == 1 else "cdr")


def examples(version):
    make, T = Messages(version), camera_pose(1.0)
    return [
        make.image(picture(0), "rgb8", STAMP, "camera"),
        make.compressed(encoded(picture(0)), "jpeg", STAMP, "camera"),
        make.info(STAMP, "camera"),
        make.tf(STAMP, ("map", "odom", T), ("odom", "base", T)),
        make.odometry(STAMP, "odom", "base", T),
        make.pose_stamped(STAMP, "map", T),
        make["geometry_msgs/PoseWithCovarianceStamped"](
            header=make.header(STAMP, "map"),
            pose=make["geometry_msgs/PoseWithCovariance"](pose=make.pose(T), covariance=np.zeros(36)),
        ),
        make.tf(STAMP, ("map", "odom", T)).transforms[0],
    ]


@pytest.mark.parametrize("version", [1, 2])
def test_headers_and_poses(version):
    for message in examples(version):
        found = raw(message, version)
        assert found.type in KINDS
        if KINDS[found.type] in ("image", "camera_info", "odometry", "pose"):
            assert found.header() == (STAMP, message.header.frame_id)
        if KINDS[found.type] in ("tf", "odometry", "pose"):
            for placed in found.placements():
                np.testing.assert_allclose(pose_of(placed), camera_pose(1.0), atol=1e-12)
                assert placed.stamp_ns == STAMP
                assert placed.parent in ("map", "odom")
                assert bool(placed.child) == (KINDS[found.type] != "pose")


@pytest.mark.parametrize("version", [1, 2])
def test_intrinsics(version):
    model = raw(Messages(version).info(STAMP, "camera"), version).camera()
    np.testing.assert_allclose(model.intrinsics, intrinsics_of(SIZE, HFOV), atol=1e-9)
    assert raw(Messages(version).info(STAMP, "camera"), version).camera(rectified=True).size == SIZE


def test_messages_of_ros_1_as_ros_2_writes_them():
    for old, new in zip(examples(1), examples(2), strict=True):
        wanted = raw(new, 2)
        read = RawMessage(wanted.type, raw(old, 1).cdr(), "cdr").decode()
        assert bytes(STORES[2].serialize_cdr(read, wanted.type)) == wanted.data
        assert wanted.cdr() == wanted.data
    for data, kind in ((b"damaged", "sensor_msgs/msg/Image"), (b"1234", "odd_msgs/msg/Odd")):
        with pytest.raises(MessageError, match=f"a {kind} of {len(data)} bytes cannot be had"):
            RawMessage(kind, data, "ros1").cdr()


def test_depth_is_told_from_pictures():
    make = Messages()
    depth = raw(make.image(np.full(SIZE, 1500, np.uint16), "16UC1", STAMP, "camera"), 2)
    assert looks_like_depth(depth)
    assert np.nanmean(MessageDepth(depth, STAMP).depth()) == pytest.approx(1.5)
    assert not looks_like_depth(raw(make.image(picture(0), "rgb8", STAMP, "camera"), 2))
    assert not looks_like_depth(raw(make.compressed(encoded(picture(0)), "jpeg", STAMP, "camera"), 2))
    assert not looks_like_depth(RawMessage("sensor_msgs/msg/Image", b"\0\1", "cdr"))
    png = encoded(np.full(SIZE, 1500, np.uint16), "png")
    packed = raw(make.compressed(bytes(12) + png, "16UC1; compressedDepth png", STAMP, "camera"), 2)
    assert looks_like_depth(packed)
    assert np.nanmean(MessageDepth(packed, STAMP).depth()) == pytest.approx(1.5)


@pytest.mark.parametrize("version", [1, 2])
def test_cut_messages(version):
    for message in examples(version):
        whole = raw(message, version)
        for end in range(0, len(whole.data) - 1, max(1, len(whole.data) // 40)):
            with contextlib.suppress(InputError):
                use(RawMessage(whole.type, whole.data[:end], whole.codec))
        with pytest.raises(MessageError):
            RawMessage(whole.type, whole.data[: len(whole.data) // 2], whole.codec).decode()


@settings(max_examples=200)
@given(
    st.sampled_from([1, 2]),
    st.integers(0, 7),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=8),
)
def test_changed_bytes(version, which, changes):
    whole = raw(examples(version)[which], version)
    data = bytearray(whole.data)
    for at, value in changes:
        data[at % len(data)] = value
    with contextlib.suppress(InputError):
        use(RawMessage(whole.type, bytes(data), whole.codec))


@given(st.binary(max_size=200), st.sampled_from(sorted(KINDS)), st.sampled_from(["cdr", "ros1"]))
def test_any_bytes(data, kind, codec):
    with contextlib.suppress(InputError):
        use(RawMessage(kind, data, codec))


def use(message):
    """All that is done with a message of its type."""
    kind = KINDS[message.type]
    if kind == "image":
        looks_like_depth(message)
        for method in (message.header, MessagePicture(message).size, MessagePicture(message).thumbnail):
            method()
        MessagePicture(message).rgb()
    elif kind == "camera_info":
        message.camera()
    else:
        for placed in message.placements():
            pose_of(placed)
