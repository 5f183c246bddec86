"""Placing a model's world in the robot's: metric where the cameras tell, upright and said so where they do not."""

import math

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS is not installed")

from camera_tracks import arc, as_modelled, random_sim3

from gen3r_core.serving.results import SceneResult
from gen3r_core.serving.shared import SharedArrays, write_block
from gen3r_ros.conversions.clouds import Points
from gen3r_ros.placement import joined, place, placed_cameras, placed_points


@pytest.fixture
def result():
    """Two views, the second generated, with three points."""
    poses = np.tile(np.eye(4, dtype=np.float32), (2, 1, 1))
    poses[1, :3, 3] = [0, 0, 0.5]
    descriptor, layout = write_block(
        {
            "T_world_cam": poses,
            "observed": np.array([True, False]),
            "points": np.array([[0, 0, 1], [0, 0, 2], [1, 0, 3]], dtype=np.float32),
            "point_colors": np.arange(9, dtype=np.uint8).reshape(3, 3),
            "point_confidence": np.array([1, 2, 3], dtype=np.float32),
            "point_view": np.array([0, 1, 1], dtype=np.int32),
        }
    )
    with SceneResult(SharedArrays(descriptor, layout), "model") as made:
        yield made


def test_cameras_in_metres_place_the_model():
    rng = np.random.default_rng(1)
    truth, world = random_sim3(rng), arc(6)
    unknown = [*world[:3], None, *world[4:]]
    placement = place(as_modelled(world, truth), unknown)
    assert placement.metric
    assert placement.reason == ""
    assert placement.metres_per_unit == pytest.approx(truth.scale)
    assert placement.residual_m == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(placement.world_from_model.translation, truth.translation, atol=1e-6)


def test_without_poses_the_first_camera_is_the_origin_and_z_is_up(result):
    model = as_modelled(arc(2), random_sim3(np.random.default_rng(2)))
    placement = place(model, [None, None])
    assert not placement.metric
    assert "have a known pose" in placement.reason
    assert math.isnan(placement.metres_per_unit)
    assert math.isnan(placement.residual_m)
    first = placement.world_from_model.apply_poses(model)[0]
    np.testing.assert_allclose(first[:3, 3], 0, atol=1e-9)
    np.testing.assert_allclose(first[:3, 2], [1, 0, 0], atol=1e-9)  # looks along x
    np.testing.assert_allclose(first[:3, 1], [0, 0, -1], atol=1e-9)  # its down is down


def test_a_known_scale_needs_one_camera():
    world = arc(2)[:1]
    placement = place(np.eye(4)[None], world, known_scale=2.5)
    assert placement.metric
    assert placement.metres_per_unit == 2.5
    np.testing.assert_allclose(placement.world_from_model.apply_poses(np.eye(4)), world[0], atol=1e-9)


def test_points_are_placed_by_what_they_are(result):
    placement = place(np.eye(4)[None], arc(2)[:1], known_scale=2.0)
    seen = placed_points(result, placement, generated=False)
    made = placed_points(result, placement, generated=True)
    assert seen.rgb.tolist() == [[0, 1, 2]]
    assert made.confidence.tolist() == [2, 3]
    T = arc(2)[0]
    np.testing.assert_allclose(seen.xyz[0], T[:3, :3] @ [0, 0, 2] + T[:3, 3], rtol=1e-6)
    assert seen.xyz.dtype == np.float32
    np.testing.assert_allclose(placed_cameras(result, placement)[1, :3, 3], T[:3, :3] @ [0, 0, 1] + T[:3, 3])


def test_clouds_are_joined():
    one = Points(np.ones((2, 3), np.float32), np.zeros((2, 3), np.uint8), np.ones(2, np.float32))
    assert joined(one, None) is one
    assert joined(None, one) is one
    assert len(joined(None, None).xyz) == 0
    both = joined(one, one)
    assert (both.xyz.shape, both.rgb.shape, both.confidence.shape) == ((4, 3), (4, 3), (4,))
