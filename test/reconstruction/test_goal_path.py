import numpy as np
import pytest
from camera_tracks import base_camera, random_sim3, turn, yawed
from hypothesis import given, settings
from hypothesis import strategies as st

from gen3r_core.errors import InputError
from gen3r_core.geometry.poses import matrix_to_quaternion, rotation_angles
from gen3r_core.geometry.sim3 import Sim3
from gen3r_core.reconstruction.goal_path import base_poses, goal_cameras

CAMERA = base_camera()
HERE = yawed(0, 0, 0)


def rows(poses):
    poses = np.asarray(poses)
    return poses[:, :3, 3], matrix_to_quaternion(poses[:, :3, :3])


def bases_of(goal):
    return goal.T_world_cam @ np.linalg.inv(CAMERA)


def spacing(poses, lever=0.3):
    metres = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1)
    return metres + lever * rotation_angles(poses[:-1, :3, :3].transpose(0, 2, 1) @ poses[1:, :3, :3])


def corner():
    """Two metres ahead, a quarter turn to the left on the spot, one metre on."""
    return [yawed(0, 0, 0), yawed(2, 0, 0), yawed(2, 0, np.pi / 2), yawed(2, 1, np.pi / 2)]


def test_a_turn_on_the_spot_gets_frames():
    goal = goal_cameras(*rows(corner()), CAMERA, 70)
    bases = bases_of(goal)
    np.testing.assert_allclose(bases[[0, -1]], [yawed(0, 0, 0), yawed(2, 1, np.pi / 2)], atol=1e-9)
    step = (3 + 0.3 * np.pi / 2) / 69
    assert np.sum(abs(spacing(bases) / step - 1) > 1e-6) <= 2  # where a frame on either side cuts the corner
    yaw = np.arctan2(bases[:, 1, 0], bases[:, 0, 0])
    turning = (yaw > 1e-6) & (yaw < np.pi / 2 - 1e-6)
    assert turning.sum() == pytest.approx(0.3 * np.pi / 2 / step, abs=1)
    np.testing.assert_allclose(bases[turning][:, :3, 3], np.repeat([[2.0, 0, 0]], turning.sum(), axis=0), atol=1e-9)
    assert goal.length_m == pytest.approx(3)
    assert goal.turned_rad == pytest.approx(np.pi / 2)
    assert goal.heading == "given"
    assert len(goal) == 70


def test_the_camera_looks_where_the_base_goes():
    goal = goal_cameras(*rows([yawed(1, 1, np.pi / 2), yawed(1, 3, np.pi / 2)]), CAMERA, 3)
    forward, up = goal.T_world_cam[1] @ [0, 0, 1, 0], goal.T_world_cam[1] @ [0, -1, 0, 0]
    np.testing.assert_allclose(forward, [0, 1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(up, [0, 0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(goal.T_world_cam[1, :3, 3], [1 - 0.05, 2 + 0.2, 0.6], atol=1e-12)


@given(st.integers(0, 2**31), st.integers(1, 30), st.integers(2, 50), st.booleans())
@settings(deadline=None, max_examples=60)
def test_any_path_gives_rigid_cameras_from_start_to_goal(seed, count, frames, joined):
    rng = np.random.default_rng(seed)
    positions = np.cumsum(rng.normal(size=(count, 3)) * [0.5, 0.5, 0], axis=0)
    quaternions = rng.normal(size=(count, 4)) * np.exp(rng.uniform(-5, 5, (count, 1)))
    start = yawed(*rng.uniform(-2, 2, 2), rng.uniform(-3, 3)) @ CAMERA if joined or count == 1 else None
    goal = goal_cameras(positions, quaternions, CAMERA, frames, T_world_start=start)
    R = goal.T_world_cam[:, :3, :3]
    np.testing.assert_allclose(R @ R.transpose(0, 2, 1), np.broadcast_to(np.eye(3), R.shape), atol=1e-9)
    last, _ = base_poses(positions[-1:], quaternions[-1:], "given")
    np.testing.assert_allclose(goal.T_world_cam[-1], last[0] @ CAMERA, atol=1e-9)
    if start is not None:
        np.testing.assert_array_equal(goal.T_world_cam[0], start)
    # Corners are cut by frames on both sides of them, never stretched.
    bases = bases_of(goal)
    assert spacing(bases).max() <= (goal.length_m + 0.3 * goal.turned_rad) / (frames - 1) + 1e-6


def test_quaternions_are_normalised():
    positions, quaternions = rows(corner())
    scaled = goal_cameras(positions, quaternions * [[3.0], [0.01], [-7], [1]], CAMERA, 9)
    np.testing.assert_allclose(
        scaled.T_world_cam, goal_cameras(positions, quaternions, CAMERA, 9).T_world_cam, atol=1e-12
    )


@pytest.mark.parametrize("silent", [[0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, -2]])
def test_orientations_that_say_nothing_follow_the_path(silent):
    positions = np.array([[0.0, 0, 0], [1, 0, 0], [1, 0, 0], [1, 2, 0], [0, 2, 0], [0, 2, 0]])
    poses, heading = base_poses(positions, np.repeat([silent], 6, axis=0))
    assert heading == "path"
    yaw = np.degrees(np.arctan2(poses[:, 1, 0], poses[:, 0, 0]))
    assert yaw == pytest.approx([0, 0, 45, 135, 180, 180])
    np.testing.assert_array_equal(poses[:, :3, 3], positions)


def test_heading_can_be_forced():
    positions = np.array([[0.0, 0, 0], [0, 1, 0]])
    identity = np.repeat([[0.0, 0, 0, 1]], 2, axis=0)
    sideways, used = base_poses(positions, identity, "given")
    assert used == "given"
    np.testing.assert_array_equal(sideways[:, :3, :3], np.repeat(np.eye(3)[None], 2, axis=0))
    _, quaternions = rows([yawed(0, 0, 1), yawed(0, 0, 2)])
    ahead, used = base_poses(positions, quaternions, "path")
    assert used == "path"
    np.testing.assert_allclose(ahead[:, :3, :3], np.repeat(turn(np.pi / 2)[None], 2, axis=0), atol=1e-12)


def test_a_path_that_turns_back_on_itself_looks_where_it_goes_next():
    poses, _ = base_poses([[0.0, 0, 0], [1, 0, 0], [0, 0, 0]], np.zeros((3, 4)))
    yaw = np.degrees(np.arctan2(poses[:, 1, 0], poses[:, 0, 0]))
    assert yaw[0] == pytest.approx(0)
    assert abs(yaw[1:]) == pytest.approx([180, 180])


def test_a_single_pose_is_reached_from_where_the_camera_is():
    goal = goal_cameras([[0.0, 3, 0]], [[0, 0, 0, 0]], CAMERA, 5, T_world_start=HERE @ CAMERA)
    np.testing.assert_array_equal(goal.T_world_cam[0], HERE @ CAMERA)
    np.testing.assert_allclose(bases_of(goal)[-1], yawed(0, 3, np.pi / 2), atol=1e-9)
    assert goal.heading == "path"
    turned = goal_cameras(*rows([yawed(0, 0, 2.0)]), CAMERA, 5, T_world_start=HERE @ CAMERA)
    np.testing.assert_allclose(bases_of(turned)[2], yawed(0, 0, 1.0), atol=1e-9)
    assert turned.length_m == pytest.approx(0, abs=1e-12)


def test_a_start_on_the_path_leaves_out_what_lies_behind():
    way = [yawed(x, 0, 0) for x in np.linspace(-2, 2, 9)]
    goal = goal_cameras(*rows(way), CAMERA, 5, T_world_start=yawed(0.3, 0.1, 0.1) @ CAMERA)
    assert goal.skipped_m == pytest.approx(2.3, abs=0.06)
    x = bases_of(goal)[:, 0, 3]
    assert (np.diff(x) > 0).all()
    assert x[-1] == pytest.approx(2)


def test_a_start_off_the_path_leads_to_its_first_pose():
    goal = goal_cameras(*rows(corner()), CAMERA, 41, T_world_start=yawed(-2, 0, 0) @ CAMERA)
    assert goal.skipped_m == 0
    assert goal.length_m == pytest.approx(5)
    opposite = goal_cameras(*rows(corner()), CAMERA, 41, T_world_start=yawed(0, 0, np.pi) @ CAMERA)
    assert opposite.skipped_m == 0  # near, but looking the other way: it has to turn first
    assert opposite.turned_rad == pytest.approx(1.5 * np.pi)


def test_a_loop_is_driven_as_a_whole():
    around = np.linspace(0, 2 * np.pi, 60)
    way = [yawed(3 * np.sin(a), 3 - 3 * np.cos(a), a) for a in around]
    goal = goal_cameras(*rows(way), CAMERA, 49, T_world_start=yawed(0.01, 0.02, 0) @ CAMERA)
    assert goal.length_m == pytest.approx(6 * np.pi, rel=0.01)
    assert goal.skipped_m < 0.1


def test_the_end_of_a_path_nearby_is_still_the_goal():
    way = [yawed(x, 0, 0) for x in np.linspace(-1, 0, 5)]
    goal = goal_cameras(*rows(way), CAMERA, 5, T_world_start=yawed(0.2, 0, 0) @ CAMERA)
    np.testing.assert_allclose(bases_of(goal)[-1], yawed(0, 0, 0), atol=1e-9)
    assert goal.length_m == pytest.approx(0.2)


def test_only_as_far_as_the_horizon():
    goal = goal_cameras(*rows(corner()), CAMERA, 5, horizon_m=1.0)
    np.testing.assert_allclose(bases_of(goal)[-1], yawed(1, 0, 0), atol=1e-9)
    assert goal.length_m == pytest.approx(1)
    assert goal.turned_rad == pytest.approx(0, abs=1e-9)
    assert goal_cameras(*rows(corner()), CAMERA, 5, horizon_m=99.0).length_m == pytest.approx(3)


def test_in_model_units_the_similarity_brings_it_back():
    goal, fit = goal_cameras(*rows(corner()), CAMERA, 9), random_sim3(np.random.default_rng(0), 2.5)
    np.testing.assert_allclose(fit.apply_poses(goal.in_model(fit)), goal.T_world_cam, atol=1e-9)


def test_the_pipeline_gets_rays_in_scene_units():
    from gen3r_core.conditioning import LatentShape, camera_rays
    from gen3r_core.scene import CameraPath

    far = np.array([5000.0, -3000, 0])  # a map whose origin is far away costs no digits
    positions, quaternions = rows(corner())
    start = yawed(0, 0, 0)
    start[:3, 3] += far
    goal = goal_cameras(positions + far, quaternions, CAMERA, 5)
    # The model's world is its first camera: here the one at the start of the path.
    first = start @ CAMERA
    fit = Sim3(2.5, first[:3, :3], first[:3, 3])
    K = np.array([[100.0, 0, 112], [0, 100, 112], [0, 0, 1]])
    path = goal.camera_path(K, (224, 224), fit)
    assert isinstance(path, CameraPath)
    assert path.metres_per_unit == 2.5
    rays = camera_rays(path, LatentShape(5, 224, 224), "cpu").numpy()
    model = goal.in_model(fit)
    assert np.abs(model[0] - np.eye(4)).max() < 1e-9
    # Moment and direction of the middle pixel's ray, in model units (Plücker: origin x direction).
    pixel = np.array([(112.5 - 112) / 100, (112.5 - 112) / 100, 1])
    for frame, pose in enumerate(model):
        direction = pose[:3, :3] @ pixel / np.linalg.norm(pixel)
        expected = np.concatenate([np.cross(pose[:3, 3], direction), direction])
        np.testing.assert_allclose(rays[frame, :, 112, 112], expected, atol=1e-5)
    each = goal.camera_path(np.repeat(K[None], 5, axis=0), (224, 224), fit)
    assert (each.intrinsics == path.intrinsics).all()
    with pytest.raises(InputError, match="intrinsics must have shape"):
        goal.camera_path(K[:2], (224, 224), fit)


GOOD = rows(corner())


@pytest.mark.parametrize(
    ("positions", "quaternions", "options", "message"),
    [
        ([], [], {}, "the goal path is empty; send at least one pose"),
        (GOOD[0][:, :2], GOOD[1], {}, r"positions of the goal path must have shape \[N, 3\], got \[4, 2\]"),
        (GOOD[0], GOOD[1][:, :3], {}, r"quaternions of the goal path must have shape \[N, 4\], got \[4, 3\]"),
        (GOOD[0], GOOD[1][:2], {}, "4 positions and 2 quaternions; give one for each"),
        ("here", GOOD[1], {}, "positions of the goal path must be numbers"),
        (GOOD[0] * [[1], [1], [np.nan], [1]], GOOD[1], {}, "positions .* first in pose 2: .*leave such poses out"),
        (GOOD[0] + 1e300, GOOD[1], {}, "or some over 1e.08, first in pose 0"),
        (GOOD[0], GOOD[1] + [[0], [np.inf], [0], [0]], {}, "quaternions .* first in pose 1"),
        (GOOD[0], GOOD[1] * [[1], [1], [0], [1]], {}, "quaternion of pose 2 of the goal path is zero"),
        (GOOD[0][:1], [[0, 0, 0, 0]], {}, "quaternion of pose 0 of the goal path is zero"),
        (GOOD[0][:1], GOOD[1][:1], {}, "leads nowhere: its 1 poses are all where the robot starts"),
        (GOOD[0][:1], [[0, 0, 0, 0]], {"T_world_start": HERE @ CAMERA}, "leads nowhere: .* where the robot is"),
        (*GOOD, {"T_world_start": HERE[:3]}, r"camera at the start must have shape \[4, 4\], got \[3, 4\]"),
        (*GOOD, {"T_world_start": 2 * HERE}, "start 0 is not a rigid transform"),
        (*GOOD, {"num_frames": 1}, "at least 2 frames, got 1"),
        (*GOOD, {"heading": "north"}, "auto, given or path, got 'north'"),
        (*GOOD, {"lever_m": -1.0}, "lever_m must be a number of 0 or more, got -1.0"),
        (*GOOD, {"join_distance_m": np.nan}, "join_distance_m must be"),
        (*GOOD, {"horizon_m": 0.0}, "horizon_m must be positive"),
    ],
)
def test_bad_paths_are_refused_in_words(positions, quaternions, options, message):
    with pytest.raises(InputError, match=message):
        goal_cameras(positions, quaternions, CAMERA, **{"num_frames": 5, **options})


def test_a_base_camera_that_is_none():
    with pytest.raises(InputError, match="pose of the camera in the base frame 0 is not a rigid transform"):
        goal_cameras(*GOOD, np.zeros((4, 4)), 5)
