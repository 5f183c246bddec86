"""Depth images: every kind of them, their way to the image of the same view, and the scale that they tell."""

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS is not installed")

from camera_messages import (
    CAMERA,
    SECOND,
    SIZE,
    TRUE,
    Frames,
    header,
    later,
    millimetres,
    parameters_of,
    picture,
)
from camera_tracks import arc, as_modelled, base_camera, yawed
from sensor_msgs.msg import CompressedImage

from gen3r_core.geometry.sim3 import Sim3
from gen3r_core.messages.problems import MessageError
from gen3r_core.reconstruction.keyframes import Keyframe, Verdict
from gen3r_core.serving.results import SceneResult
from gen3r_core.serving.shared import SharedArrays, write_block
from gen3r_ros.camera_image import CameraImage
from gen3r_ros.camera_input import CameraInput
from gen3r_ros.conversions.cameras import camera_info
from gen3r_ros.conversions.compressed import compressed_message
from gen3r_ros.conversions.compressed_depth import compressed_depth, compressed_depth_message, metric_depth
from gen3r_ros.conversions.images import image_message
from gen3r_ros.conversions.poses import stamp_message
from gen3r_ros.scene import Scene
from gen3r_ros.silence import input_trouble


def compressed_png(depth):
    """As the transport `compressed` sends 16UC1."""
    whole = compressed_depth_message(depth, header())
    return CompressedImage(header=header(), format="16UC1; png compressed ", data=whole.data[12:])


@pytest.mark.parametrize(
    ("message", "tolerance"),
    [
        (image_message(TRUE, "32FC1", header()), 0),
        (millimetres(), 6e-4),
        (compressed_depth_message(np.rint(1000 * TRUE).astype(np.uint16), header()), 6e-4),
        (compressed_depth_message(TRUE, header()), 1e-3),
        (compressed_png(np.rint(1000 * TRUE).astype(np.uint16)), 6e-4),
    ],
    ids=["32FC1", "16UC1", "compressedDepth 16UC1", "compressedDepth 32FC1", "compressed 16UC1"],
)
def test_depth_of_every_kind_is_metres(message, tolerance):
    np.testing.assert_allclose(metric_depth(message), TRUE, atol=tolerance)


def test_depth_that_is_not_there_is_nan():
    holes = TRUE.copy()
    holes[:10], holes[10:20] = 0, np.nan
    for message in (compressed_depth_message(holes, header()), millimetres(depth=holes)):
        depth = metric_depth(message)
        assert np.isnan(depth[:20]).all()
        np.testing.assert_allclose(depth[20:], TRUE[20:], atol=1e-3)


def test_what_is_no_depth_is_told():
    pixels = np.zeros((8, 8, 3), np.uint8)
    jpeg, png = (compressed_message(pixels, header(), kind) for kind in ("jpeg", "png"))
    for message, words in ((jpeg, "holds no PNG; set the publisher's compressedDepth.format to png"),
                           (png, "8 bits, depth has 16"), (CompressedImage(), "holds no PNG")):  # fmt: skip
        with pytest.raises(MessageError, match=words) as caught:
            compressed_depth(message)
        assert caught.value.reason == "encoding"
    bare = compressed_png(np.ones((8, 8), np.uint16))
    bare.format = "32FC1; png"
    with pytest.raises(MessageError, match="lacks the header of compressedDepth"):
        compressed_depth(bare)
    cut = compressed_depth_message(np.ones((80, 80), np.uint16), header())
    cut.data = cut.data[:60]
    with pytest.raises(MessageError) as caught:
        compressed_depth(cut)
    assert caught.value.reason == "compression"


@pytest.fixture
def camera(client):
    """With depth; a test calls its callbacks."""
    made = CameraInput(client.node, Frames(), parameters_of(client.node, depth_transport="raw"), lambda _taken: None)
    yield made
    made.close()


def test_an_image_waits_for_the_depth_of_its_stamp(camera):
    assert camera.depth.topic == "/depth/image_raw"
    camera._take_info(camera_info(CAMERA, header()))
    camera.depth.take(millimetres(0.99))
    camera._take_image(picture(1.0))
    assert not camera.window(1)  # a nearer one may come
    camera.depth.take(millimetres(1.0))
    (keyframe,) = camera.window(1)
    np.testing.assert_allclose(keyframe.payload.measured_depth(SIZE, SIZE), TRUE, atol=6e-4)
    assert camera.without_depth == 0


def test_the_nearest_depth_counts_within_the_tolerance(camera):
    camera._take_info(camera_info(CAMERA, header()))
    camera.depth.take(millimetres(0.985))
    camera._take_image(picture(1.0))
    camera.depth.take(millimetres(1.05))
    assert camera.window(1)[0].payload.depth.header.stamp == stamp_message(985 * SECOND // 1000)
    camera._transforms.pose = yawed(2, 2, 0) @ base_camera()
    camera._take_image(picture(2.0))
    later(camera)  # too far: none
    assert camera.window(1)[0].stamp_ns == 2 * SECOND
    assert camera.window(1)[0].payload.depth is None
    assert camera.window(1)[0].payload.measured_depth(SIZE, SIZE) is None
    assert camera.without_depth == 1


def test_bad_depth_is_counted_and_the_image_used(camera):
    camera._take_info(camera_info(CAMERA, header()))
    short = millimetres(1.0)
    short.step = 1
    camera.depth.take(short)
    camera.depth.take(millimetres(0.0))
    camera.depth.take(millimetres(1.0, frame="elsewhere"))
    camera.depth.take(millimetres(1.0, frame="elsewhere"))
    camera._take_image(picture(1.0))
    assert camera.window(1)[0].payload.depth is None
    assert camera.dropped == {"depth: step": 1, "depth: no stamp": 1, "depth: stamp twice": 1, "depth: frame": 1}
    assert "give depth that is registered to the images" in camera.last_problem
    camera.depth.last -= 10
    camera.last_image += 1e3
    camera.last_used += 1e3
    assert input_trouble(camera) == (
        "no depth comes on /depth/image_raw, and images wait for it in vain: nobody publishes it"
    )
    again = [millimetres(0.1 + n / 100) for n in range(5)]
    camera.depth.take(millimetres(9.0))
    for message in again:
        camera.depth.take(message)
    assert len(camera.depth._known) == 1  # a recording that began again
    camera.restart()
    assert not camera.depth._known


# --- the scale that it tells -----------------------------------------------------------------------------

WORLD = arc(4)
MODEL = as_modelled(WORLD, Sim3(2.0, np.eye(3), np.zeros(3)))


def result(depth, poses=MODEL):
    count = len(poses)
    descriptor, layout = write_block(
        {
            "T_world_cam": poses.astype(np.float32),
            "observed": np.full(count, True),
            "depth": depth.astype(np.float32),
            "valid": np.full(depth.shape, True),
            "points": np.ones((10, 3), np.float32),
            "point_colors": np.zeros((10, 3), np.uint8),
            "point_confidence": np.ones(10, np.float32),
            "point_view": np.zeros(10, np.int32),
        }
    )
    return SceneResult(SharedArrays(descriptor, layout), "model")


def window(poses, depth, why=""):
    return tuple(
        Keyframe(index + 1, CameraImage(picture(), CAMERA, "cam", why, depth), T, None, Verdict.MOVED)
        for index, T in enumerate(poses)
    )


SEEN = np.repeat(TRUE[None, 1::3, 1::3] / 1.5, 4, axis=0)
"""Depth of a model whose unit is 1.5 m, in a third of the resolution."""


def test_depth_tells_the_scale_without_tf():
    scene = Scene(0.01, 1000)
    made = scene.reconstructed(window([None] * 4, millimetres(), "no TF"), result(SEEN), 0.0, 1.0)
    placement = made.placement
    assert placement.metres_per_unit == pytest.approx(1.5, rel=2e-3)
    assert not placement.metric
    assert placement.scale_from == "depth"
    assert placement.reason.startswith("in metres by depth, but not in the robot's world: only 0 of 4 keyframes")
    assert placement.reason.endswith(": no TF")
    assert np.linalg.norm(made.poses[1, :3, 3] - made.poses[0, :3, 3]) == pytest.approx(
        1.5 * np.linalg.norm(MODEL[1, :3, 3] - MODEL[0, :3, 3]), rel=2e-3
    )
    assert scene.depth_scale.spread < 0.01


def test_with_one_pose_depth_places_the_scene_too():
    standing = np.repeat(WORLD[:1], 4, axis=0)  # TF that does not move tells no scale
    scene = Scene(0.01, 1000)
    still = np.repeat(np.eye(4)[None], 4, axis=0)
    made = scene.reconstructed(window(standing, millimetres()), result(SEEN, still), 0.0, 1.0)
    assert made.placement.metric
    assert made.placement.reason == ""
    assert made.placement.scale_from == "depth"
    assert made.placement.metres_per_unit == pytest.approx(1.5, rel=2e-3)
    np.testing.assert_allclose(made.poses[0], WORLD[0], atol=1e-6)


def test_depth_that_disagrees_leaves_it_to_tf():
    noise = np.random.default_rng(0).uniform(0.3, 6, SEEN.shape)
    scene = Scene(0.01, 1000)
    made = scene.reconstructed(window(WORLD, millimetres()), result(noise), 0.0, 1.0)
    assert made.placement.scale_from == "TF"
    assert made.placement.metres_per_unit == pytest.approx(2.0, rel=1e-3)
    assert "disagree" in scene.depth_scale.reason
    # A scale that the camera path contradicts is not believed either.
    made = scene.reconstructed(window(WORLD, millimetres()), result(SEEN / 20), 0.0, 1.0)
    assert (made.placement.metric, made.placement.scale_from) == (True, "TF")
    damaged = millimetres()
    damaged.encoding = "rgb8"
    made = scene.reconstructed(window(WORLD, damaged), result(SEEN), 0.0, 1.0)
    assert "0 of" in scene.depth_scale.reason
    made = scene.reconstructed(window(WORLD, millimetres()), result(SEEN), 2.0, 1.0)
    assert made.placement.scale_from == "metres_per_unit"
