"""PointCloud2 between messages and arrays."""

import array
import contextlib
import struct
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("rclpy", reason="ROS is not installed")

from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

from gen3r_core.errors import InputError
from gen3r_ros.conversions.clouds import (
    Points,
    cloud_message,
    cloud_points,
    cloud_records,
)
from gen3r_ros.conversions.problems import MessageError


def random_points(count, seed=0):
    rng = np.random.default_rng(seed)
    xyz = rng.normal(size=(count, 3)).astype(np.float32)
    rgb = rng.integers(0, 256, (count, 3), dtype=np.uint8)
    return Points(xyz, rgb, rng.uniform(1, 9, count).astype(np.float32))


@pytest.mark.parametrize("count", [0, 1, 77])
@pytest.mark.parametrize("parts", [("rgb", "confidence"), ("rgb",), ("confidence",), ()])
def test_points_come_back(count, parts):
    full = random_points(count)
    points = Points(full.xyz, *(getattr(full, name) if name in parts else None for name in ("rgb", "confidence")))
    message = cloud_message(points, Header(frame_id="map"))
    assert [field.name for field in message.fields] == ["x", "y", "z", *parts]
    assert (message.width, message.height, message.is_dense) == (count, 1, True)
    assert len(message.data) == message.row_step == count * message.point_step
    read = cloud_points(message)
    np.testing.assert_array_equal(read.xyz, points.xyz)
    for name in ("rgb", "confidence"):
        if name in parts:
            np.testing.assert_array_equal(getattr(read, name), getattr(points, name))
        else:
            assert getattr(read, name) is None


def test_colours_lie_as_pcl_and_rviz_have_them():
    points = Points(np.zeros((1, 3), np.float32), np.array([[1, 2, 3]], np.uint8))
    assert struct.unpack("=I", bytes(cloud_message(points, Header()).data[12:16])) == (1 << 16 | 2 << 8 | 3,)


def test_points_that_are_not_finite_are_marked_and_left_out():
    points = random_points(5)
    points.xyz[1, 2], points.xyz[3, 0] = np.nan, np.inf
    message = cloud_message(points, Header())
    assert not message.is_dense
    read, kept = cloud_points(message), [0, 2, 4]
    np.testing.assert_array_equal(read.xyz, points.xyz[kept])
    np.testing.assert_array_equal(read.rgb, points.rgb[kept])
    np.testing.assert_array_equal(read.confidence, points.confidence[kept])


@pytest.mark.parametrize("big", [False, True])
def test_foreign_layouts(big):
    """Rows with padding, gaps between fields, doubles, colours as whole numbers, either byte order."""
    order = ">" if big else "<"
    dtype = np.dtype(
        {
            "names": ["x", "y", "z", "rgba", "ring", "pair"],
            "formats": [f"{order}f8"] * 3 + [f"{order}u4", f"{order}u2", f"(2,){order}i2"],
            "offsets": [0, 8, 16, 28, 32, 34],
            "itemsize": 40,
        }
    )
    records = np.zeros((2, 3), dtype)
    for n, name in enumerate("xyz"):
        records[name] = np.arange(6).reshape(2, 3) + 10 * n
    records["rgba"] = 0xFF010203
    records["ring"] = 700
    records["pair"] = [-5, 6]
    rows = np.pad(records.view(np.uint8).reshape(2, -1), ((0, 0), (0, 9)))
    codes = {"x": 8, "y": 8, "z": 8, "rgba": 6, "ring": 4, "pair": 3}
    fields = [
        PointField(name=name, offset=dtype.fields[name][1], datatype=codes[name], count=2 if name == "pair" else 1)
        for name in dtype.names
    ]
    message = PointCloud2(height=2, width=3, fields=fields, is_bigendian=big, point_step=40, row_step=129)
    message.data = array.array("B", rows.tobytes())
    read = cloud_records(message)
    assert read.shape == (6,)
    assert read.dtype.isnative
    assert (read["ring"] == 700).all()
    assert (read["pair"] == [-5, 6]).all()
    points = cloud_points(message)
    np.testing.assert_array_equal(points.xyz, np.arange(6)[:, None] + [0, 10, 20])
    assert (points.rgb == (1, 2, 3)).all()


@pytest.mark.parametrize(
    "points",
    [
        Points(np.zeros((2, 2), np.float32)),
        Points(np.zeros((2, 3), np.float32), np.zeros((1, 3), np.uint8)),
        Points(np.zeros((2, 3), np.float32), np.zeros((2, 3))),
        Points(np.zeros((2, 3), np.float32), None, np.zeros(3)),
    ],
)
def test_parts_that_do_not_go_together(points):
    with pytest.raises(InputError, match="a cloud has xyz"):
        cloud_message(points, Header())


def broken(**values):
    message = cloud_message(random_points(4), Header())
    for name, value in values.items():
        setattr(message, name, value)
    return message


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (broken(width=5), "5x1 points"),
        (broken(row_step=3), "rows of 3"),
        (broken(fields=[]), "0 fields"),
        (broken(point_step=8), "does not fit"),
        (broken(fields=[PointField(name="x", offset=0, datatype=99, count=1)]), "type 99"),
        (broken(fields=[PointField(name="x", offset=0, datatype=7, count=1)] * 2), "there twice"),
        (broken(fields=[PointField(name="a", offset=0, datatype=7, count=1)]), "x, y and z are needed"),
    ],
)
def test_broken_clouds_are_refused(message, words):
    with pytest.raises(MessageError, match=words) as caught:
        cloud_points(message)
    assert caught.value.reason == "cloud"


@settings(max_examples=200)
@given(
    *(st.integers(0, 40) | st.integers(0, 2**32 - 1) for _ in range(4)),
    st.booleans(),
    st.binary(max_size=300),
    st.lists(
        st.tuples(
            st.sampled_from(["x", "y", "z", "rgb", "confidence", ""]),
            st.integers(0, 20) | st.integers(0, 2**32 - 1),
            st.integers(0, 9),
            st.integers(0, 3) | st.integers(0, 2**32 - 1),
        ),
        max_size=5,
    ),
)
def test_no_cloud_does_worse_than_being_refused(height, width, point_step, row_step, big, data, fields):
    message = PointCloud2(height=height, width=width, point_step=point_step, row_step=row_step, is_bigendian=big)
    message.fields = [PointField(name=n, offset=o, datatype=d, count=c) for n, o, d, c in fields]
    message.data = array.array("B", data)
    with contextlib.suppress(MessageError):
        assert len(cloud_points(message).xyz) <= height * width


def test_a_million_points_take_milliseconds():
    """Run with -rP for the figures. The limit is wide, as test machines are slow and busy."""
    points = random_points(1_000_000)
    message = cloud_message(points, Header())
    taken = {}
    for name, work in (
        ("to a message", lambda: cloud_message(points, Header())),
        ("from a message", lambda: cloud_points(message)),
    ):
        best = float("inf")
        for _ in range(3):
            start = time.perf_counter()
            work()
            best = min(best, time.perf_counter() - start)
        taken[name] = 1e3 * best
        print(f"1,000,000 points with colours and confidence {name}: {taken[name]:.1f} ms")
    assert max(taken.values()) < 300
