"""Lenses, and several cameras: their parameters, their windows and their time. In this process."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS is not installed")

import rclpy
from camera_messages import CAMERA, SECOND, SIZE, Frames, K, header, millimetres, parameters_of, picture
from camera_tracks import base_camera, yawed
from rclpy.parameter import Parameter

from gen3r_core.errors import InputError
from gen3r_core.geometry.rectification import distort
from gen3r_ros.camera_image import common_size
from gen3r_ros.camera_input import CameraInput
from gen3r_ros.camera_settings import CameraSettings, all_cameras
from gen3r_ros.cameras import RobotCameras
from gen3r_ros.conversions.cameras import CameraModel, camera_info
from gen3r_ros.conversions.compressed import compressed_message
from gen3r_ros.conversions.images import image_message
from gen3r_ros.launch_arguments import NODE_ARGUMENTS
from gen3r_ros.launching import node_start
from gen3r_ros.memory import available_mb, resident_mb
from gen3r_ros.parameters import check_change, declare, declare_cameras, read


@pytest.fixture
def camera(client):
    """With depth; a test calls its callbacks."""
    made = CameraInput(client.node, Frames(), parameters_of(client.node, depth_transport="raw"), lambda _taken: None)
    yield made
    made.close()


# --- lenses ----------------------------------------------------------------------------------------------


def test_a_lens_is_rectified_when_its_picture_is_wanted(camera):
    lens = CameraModel(K, SIZE, "plumb_bob", (-0.2, 0.05, 0.0, 0.0, 0.0))
    camera._take_info(camera_info(lens, header()))
    pixels = np.zeros((*SIZE, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(120), np.arange(90)[:, None]
    camera._take_image(image_message(pixels, "rgb8", header()))
    camera.depth.take(millimetres(depth=np.where(np.arange(120) < 60, 1, 2) * np.ones(SIZE)))
    (keyframe,) = camera.window(1)
    pinhole = keyframe.payload.pinhole
    assert (pinhole.distortion_model, pinhole.size) == ("", SIZE)
    made, depth = keyframe.payload.rgb(), keyframe.payload.measured_depth(SIZE, SIZE)
    row, column = 20, 100
    ray = (np.array([column, row]) + 0.5 - pinhole.intrinsics[:2, 2]) / pinhole.intrinsics[0, 0]
    x, y = distort("plumb_bob", lens.distortion, ray) * 100 + (60, 45) - 0.5
    np.testing.assert_allclose(made[row, column, :2], [x, y], atol=0.6)
    assert (depth[row, column], depth[row, 20]) == (2, 1)
    nonsense = CameraModel(K, SIZE, "plumb_bob", (0.0, 0.0, 50.0, 0.0))
    camera._take_info(camera_info(nonsense, header(2.0)))
    camera.depth.take(millimetres(2.0))
    camera._take_image(picture(2.0))
    assert camera.dropped["intrinsics"] == 1
    assert "leaves nothing of a picture" in camera.last_problem


# --- several cameras -------------------------------------------------------------------------------------


def test_one_camera_has_no_name(client):
    assert all_cameras(client.node, declare(client.node)) == (CameraSettings(),)
    assert CameraSettings().depth_topic(client.node) == ""


def test_cameras_have_topics_transports_and_frames_of_their_own(client):
    values = {
        "cameras": "front, /oak/rgb,left",
        "depth_transport": "raw",
        "front.frame": "front_optical",
        "oak.rgb.image": "/oak/rgb/image_rect",
        "oak.rgb.rectified": True,
        "left.image_transport": "compressed",
        "left.depth_transport": "compressedDepth",
        "left.depth": "/left/aligned",
        "left.camera_info": "/left/info",
    }
    front, oak, left = all_cameras(client.node, parameters_of(client.node, **values))
    node = client.node
    assert (front.image_topic(node), front.camera_info, front.depth_topic(node), front.frame) == (
        "front/image_raw", "front/camera_info", "front/depth/image_raw", "front_optical")  # fmt: skip
    assert (oak.image_topic(node), oak.camera_info, oak.rectified) == (
        "/oak/rgb/image_rect",
        "/oak/rgb/camera_info",
        True,
    )
    assert (left.image_topic(node), left.camera_info, left.depth_topic(node)) == (
        "left/image_raw/compressed", "/left/info", "/left/aligned/compressedDepth")  # fmt: skip
    changed = [Parameter("left.depth_transport", value="rvl")]
    assert "cannot be 'rvl'; it is one of" in check_change(client.node, changed, configured=False)
    changed = [Parameter("left.depth", value="elsewhere")]
    assert "clean it up, set left.depth" in check_change(client.node, changed, configured=True)
    client.node.set_parameters([Parameter("cameras", value="right")])
    declare_cameras(client.node, read(client.node))
    assert [one.name for one in all_cameras(client.node, read(client.node))] == ["right"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"cameras": "front,front"}, "each has a name of its own"),
        ({"cameras": "a b"}, r"'a b' is no name that topics can begin with"),
        ({"cameras": "a", "a.image_transport": "theora"}, r"a\.image_transport cannot be 'theora'"),
        ({"cameras": "a", "a.rectified": "yes"}, r"the parameter a\.rectified"),
    ],
)
def test_cameras_that_cannot_be_are_refused(client, values, words):
    with pytest.raises(InputError, match=words):
        parameters_of(client.node, **values)


def test_two_cameras_on_one_topic_are_refused(client):
    values = parameters_of(client.node, cameras="a,b", **{"b.image": "a/image_raw"})
    with pytest.raises(InputError, match=r"have one topic: a/image_raw, a/image_raw; set NAME.image"):
        all_cameras(client.node, values)


@pytest.fixture
def three(client):
    """Three cameras, one of which has larger pictures."""
    values = parameters_of(client.node, cameras="front,left,right", **{"right.frame": "right_optical"})
    taken = []
    made = RobotCameras(client.node, Frames(), values, all_cameras(client.node, values), lambda: taken.append(1),
                        taken.append)  # fmt: skip
    made.taken = taken
    yield made
    made.close()


def shoot(camera, seconds, size=SIZE, frame="cam"):
    """An image, and its camera_info."""
    camera._take_info(camera_info(CameraModel(np.diag([size[1] / 120, size[0] / 90, 1]) @ K, size), header(seconds)))
    camera._transforms.pose = yawed(seconds, 2, 0) @ base_camera()
    camera._take_image(picture(seconds, size, frame))


def test_a_window_takes_frames_of_all_cameras(three):
    front, left, right = three.inputs
    for seconds in range(1, 7):
        shoot(front, seconds)
    shoot(left, 2.0)
    shoot(right, 1.5, (180, 320), frame="")
    assert len(three.taken) == 8
    window = three.window(6)
    assert [keyframe.stamp_ns for keyframe in window] == sorted(keyframe.stamp_ns for keyframe in window)
    assert [one.payload.source for one in window] == ["right", "left", "front", "front", "front", "front"]
    assert {one.payload.frame for one in window} == {"cam", "right_optical"}
    assert len(three.window(20)) == 8
    assert three.window(0) == ()
    assert common_size(window) == SIZE
    pixels, intrinsics = window[0].payload.view(SIZE)
    assert pixels.shape == (*SIZE, 3)
    np.testing.assert_allclose(intrinsics[0, 0], 320 / 120 * 100 / 2)  # scaled by the height, its sides cut off
    assert intrinsics[0, 2] == pytest.approx(60)
    assert three.newest().payload.source == "front"
    assert (three.images, three.infos) == (8, 8)
    assert three.counts["first"] == 3
    assert three.topic == "/front/image_raw, /left/image_raw, /right/image_raw"
    assert three.info_topic.startswith("/front/camera_info, ")
    assert three.last_problem == ""
    three.take(replace(three.inputs[0].parameters, keyframe_capacity=50))
    assert {camera._selector.options.capacity for camera in three.inputs} == {50}
    three.clear()
    assert three.newest() is None


def test_time_is_that_of_all_cameras(three):
    front, left, _ = three.inputs
    shoot(left, 99.0)
    shoot(front, 100.0)
    for number in range(5):
        shoot(front, 10.0 + number / 10)
    assert three.restarts == 1
    assert three.last_restart == "stamps of images on /front/image_raw went back by 89.600 s"
    assert three.taken[-2:] == [three.last_restart, 1]
    assert [keyframe.stamp_ns for keyframe in three.window(9)] == [round(10.4 * SECOND)]
    shoot(left, 10.0)
    assert len(three.window(9)) == 2


def test_images_that_wait_to_be_decoded_are_forgotten_too(client):
    values = parameters_of(client.node, image_transport="compressed")
    camera = CameraInput(client.node, Frames(), values, lambda _taken: None)
    camera._take_info(camera_info(CAMERA, header()))
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    camera._offered.put((None, None, None, -1))  # of before: not even looked at
    camera._take_image(compressed_message(pixels, header()))
    client.until(lambda: camera.window(1))
    assert not camera.dropped
    camera.close()


# --- the rest ---------------------------------------------------------------------------------------------


def test_memory_is_what_the_kernel_tells(monkeypatch):
    own = resident_mb()
    assert 20 < own < 1e5
    assert resident_mb(os.getpid()) == pytest.approx(own, rel=0.2)
    assert resident_mb(2**30) is None
    assert available_mb() > 0
    monkeypatch.setattr(Path, "read_text", lambda *_args, **_more: "MemTotal: 5 kB")
    assert available_mb() is None


LAUNCH = {**{one.name: one.default for one in NODE_ARGUMENTS}, "image": "/camera/image_raw"}


def test_a_depth_topic_tells_its_transport():
    assert node_start(LAUNCH).parameters == {"autostart": True}
    for topic, base, transport in (
        ("/camera/depth/image_raw", "/camera/depth/image_raw", "raw"),
        ("/camera/aligned/compressedDepth", "/camera/aligned", "compressedDepth"),
        ("depth", "depth", "raw"),
    ):
        start = node_start({**LAUNCH, "depth": topic})
        assert start.parameters["depth_transport"] == transport
        end = "" if transport == "raw" else f"/{transport}"
        assert (f"depth/image_raw{end}", f"{base}{end}") in start.remappings
    with pytest.raises(InputError, match=r"^depth:=/a-b "):
        node_start({**LAUNCH, "depth": "/a-b"})


@pytest.fixture
def listens_to(client):
    """The topics of images and depth of a node with these remappings and parameters, in the namespace robot."""
    nodes = []

    def listens_to(*remappings, **values):
        words = ["--ros-args", *(word for one in remappings for word in ("-r", one))]
        node = rclpy.create_node(f"remapped{len(nodes)}", context=client.context, namespace="robot", cli_args=words)
        nodes.append(node)
        camera = CameraInput(node, Frames(), parameters_of(node, **values), lambda _taken: None)
        camera.close()
        return camera.topic, camera.depth.topic

    yield listens_to
    for node in nodes:
        node.destroy_node()


JPEG = {"image_transport": "compressed", "depth_transport": "compressedDepth"}


@pytest.mark.parametrize(
    ("remappings", "image", "depth"),
    [
        ((), "/robot/image_raw/compressed", "/robot/depth/image_raw/compressedDepth"),
        (("image_raw:=/camera/image_raw",), "/camera/image_raw/compressed", "/robot/depth/image_raw/compressedDepth"),
        (("image_raw:=rgb", "depth/image_raw:=/d"), "/robot/rgb/compressed", "/d/compressedDepth"),
        (
            ("image_raw:=/a", "image_raw/compressed:=/jpeg", "depth/image_raw/compressedDepth:=png"),
            "/jpeg",
            "/robot/png",
        ),
    ],
)
def test_a_transport_goes_where_its_base_topic_is_remapped_to(listens_to, remappings, image, depth):
    assert listens_to(*remappings, **JPEG) == (image, depth)


@pytest.mark.parametrize(("name", "depth"), [("/c/rgb", "/c/d"), ("/c/rgb/compressed", "/c/d/compressedDepth")])
def test_remappings_of_the_launch_files_name_the_topics_that_were_given(listens_to, name, depth):
    start = node_start({**LAUNCH, "image": name, "depth": depth})
    remappings = [f"{old}:={new}" for old, new in start.remappings]
    transports = {key: value for key, value in start.parameters.items() if key.endswith("_transport")}
    assert listens_to(*remappings, **transports) == (name, depth)


def test_two_cameras_that_are_remapped_to_one_topic_are_refused(client):
    words = ["--ros-args", "-r", "a/image_raw:=/x", "-r", "b/image_raw:=/x"]
    node = rclpy.create_node("two", context=client.context, cli_args=words)
    with pytest.raises(InputError, match=r"have one topic: /x/compressed, /x/compressed; set NAME.image"):
        all_cameras(node, parameters_of(node, cameras="a,b", image_transport="compressed"))
    node.destroy_node()
