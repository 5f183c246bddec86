"""CameraInfo between messages and intrinsics."""

import contextlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("rclpy", reason="ROS is not installed")

from sensor_msgs.msg import CameraInfo, RegionOfInterest
from std_msgs.msg import Header

from gen3r_ros.conversions.cameras import CameraModel, camera_info, camera_model
from gen3r_ros.conversions.problems import MessageError

K = [500.0, 0.0, 319.5, 0.0, 510.0, 239.5, 0.0, 0.0, 1.0]


def info(**values):
    made = CameraInfo(header=Header(frame_id="front"), height=480, width=640, k=K, distortion_model="plumb_bob")
    made.p = [400.0, 0.0, 300.5, 0.0, 0.0, 401.0, 200.5, 0.0, 0.0, 0.0, 1.0, 0.0]
    for name, value in values.items():
        setattr(made, name, value)
    return made


def test_the_middle_of_the_image_is_half_its_size():
    """ROS counts from the first pixel's centre, this project from its corner."""
    model = camera_model(info())
    np.testing.assert_array_equal(model.intrinsics, [[500, 0, 320], [0, 510, 240], [0, 0, 1]])
    assert model.size == (480, 640)
    assert (model.distortion_model, model.distortion) == ("", ())


@pytest.mark.parametrize(
    ("name", "count"), [("plumb_bob", 4), ("plumb_bob", 5), ("rational_polynomial", 8), ("equidistant", 4)]
)
def test_distortion_comes_back(name, count):
    values = tuple(0.01 * (n + 1) for n in range(count))
    model = CameraModel(camera_model(info()).intrinsics, (480, 640), name, values)
    message = camera_info(model, Header(frame_id="front"))
    assert camera_model(message) == model
    assert hash(camera_model(message)) == hash(model)
    assert message.distortion_model == name
    assert camera_model(message, rectified=True) == CameraModel(model.intrinsics, (480, 640))
    assert model != "another"
    assert model != CameraModel(model.intrinsics + 1, (480, 640), name, values)


@given(st.floats(50, 2000), st.floats(50, 2000), st.floats(0, 640), st.floats(0, 480))
def test_intrinsics_come_back(fx, fy, cx, cy):
    model = CameraModel(np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), (480, 640))
    read = camera_model(camera_info(model, Header()))
    np.testing.assert_allclose(read.intrinsics, model.intrinsics, rtol=1e-12, atol=1e-12)


def test_without_distortion_the_model_does_not_matter():
    for name, d in (("", []), ("none", []), ("mei", [0.0] * 4), ("plumb_bob", [0.0] * 5)):
        assert camera_model(info(distortion_model=name, d=d)).distortion == ()


def test_rectified_images_have_the_projection_matrix():
    model = camera_model(info(d=[0.1] * 5), rectified=True)
    np.testing.assert_array_equal(model.intrinsics, [[400, 0, 301], [0, 401, 201], [0, 0, 1]])
    assert model.distortion == ()


def test_region_and_binning_are_those_of_the_images():
    roi = RegionOfInterest(x_offset=100, y_offset=40, width=400, height=300)
    model = camera_model(info(roi=roi, binning_x=2, binning_y=4))
    assert model.size == (75, 200)
    np.testing.assert_allclose(model.intrinsics, [[250, 0, 110], [0, 127.5, 50], [0, 0, 1]])
    # A point in front of the camera lies at the same place of the scene in both.
    full = camera_model(info()).intrinsics @ [0.1, -0.05, 1]
    part = model.intrinsics @ [0.1, -0.05, 1]
    np.testing.assert_allclose(part[:2] * (2, 4) + (100, 40), full[:2])


def with_k(**places):
    values = list(K)
    for place, value in places.items():
        values[int(place[1:])] = value
    return info(k=values)


@pytest.mark.parametrize(
    ("message", "reason", "words"),
    [
        (info(k=[0.0] * 9), "intrinsics", "'front' is not calibrated"),
        (with_k(_0=math.nan), "intrinsics", "not finite"),
        (with_k(_5=math.inf), "intrinsics", "not finite"),
        (with_k(_0=-500.0), "intrinsics", "makes no sense for 640x480"),
        (with_k(_4=5.0), "intrinsics", "makes no sense"),
        (with_k(_2=9000.0), "intrinsics", "makes no sense"),
        (with_k(_1=40.0), "intrinsics", "makes no sense"),
        (with_k(_8=0.0), "intrinsics", "makes no sense"),
        (with_k(_6=1.0), "intrinsics", "makes no sense"),
        (info(d=[0.1, 0.2]), "intrinsics", r"coefficients \[0.1, 0.2\]"),
        (info(d=[math.nan] * 5), "intrinsics", "nan"),
        (info(distortion_model="mei", d=[0.1] * 4), "intrinsics", "'mei'"),
        (info(height=0), "size", "has no size: 640x0"),
        (info(roi=RegionOfInterest(x_offset=600, width=100, height=100)), "size", "does not lie in 640x480"),
        (info(roi=RegionOfInterest(width=100)), "size", "region of interest of 100x0"),
        (info(binning_x=1000), "size", "binning"),
    ],
)
def test_nonsense_is_refused(message, reason, words):
    with pytest.raises(MessageError, match=words) as caught:
        camera_model(message)
    assert caught.value.reason == reason


@given(
    st.lists(st.floats(width=64), min_size=9, max_size=9),
    st.lists(st.floats(width=64), max_size=9),
    st.integers(0, 2000),
    st.integers(0, 2**32 - 1),
    st.sampled_from(["plumb_bob", "equidistant", "rational_polynomial", "x"]),
)
def test_no_camera_info_does_worse_than_being_refused(k, d, height, binning, name):
    with contextlib.suppress(MessageError):
        model = camera_model(info(k=k, d=d, height=height, binning_x=binning, distortion_model=name))
        assert np.isfinite(model.intrinsics).all()
