"""Camera paths: clear of everything, with a view, at the speed asked for, through doorways."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gen3r_core.errors import Gen3RError, InputError
from gen3r_core.worlds.captions import rooms_visited
from gen3r_core.worlds.freespace import Footprint, FreeSpace
from gen3r_core.worlds.intersection import signed_distance
from gen3r_core.worlds.motion import PATH_KINDS, Starts, camera_poses, robot_candidates, smooth_noise
from gen3r_core.worlds.packing import pack_worlds
from gen3r_core.worlds.paths import CLEARANCE, MEDIAN_DEPTH, draw_intrinsics, drive, make_path
from gen3r_core.worlds.routes import Routes, follow, nearest_phase, resample

SIZE = (48, 64)
SEEDS = range(12)


def steps_of(path):
    return np.linalg.norm(np.diff(path.T_world_cam[:, :3, 3], axis=0), axis=1)


def turns_of(path):
    R = path.T_world_cam[:, :3, :3]
    cos = (np.einsum("nij,nij->n", R[1:], R[:-1]) - 1) / 2
    return np.degrees(np.arccos(cos.clip(-1, 1)))


def check(world, sight, path):
    poses = path.T_world_cam
    R = poses[:, :3, :3]
    np.testing.assert_allclose(R @ R.transpose(0, 2, 1), np.broadcast_to(np.eye(3), R.shape), atol=1e-9)
    np.testing.assert_allclose(np.linalg.det(R), 1, atol=1e-9)
    packed = pack_worlds([world], dtype=torch.float64)
    distance = signed_distance(packed.solids, torch.from_numpy(poses[:, :3, 3])[None, :, None])
    assert float(distance.min()) >= CLEARANCE
    assert all(world.room_at((x, y)) is not None for x, y in poses[:, :2, 3])
    tangents = (path.size[0] / 2 / path.intrinsics[0, 1, 1], path.size[1] / 2 / path.intrinsics[0, 0, 0])
    depth, ids = sight.look(poses, tangents)
    assert np.median(depth, axis=1).min() > MEDIAN_DEPTH
    assert (ids >= 0).all()


@pytest.mark.parametrize("kind", PATH_KINDS)
@pytest.mark.parametrize("seed", SEEDS)
def test_short_paths(world_of, sight_of, seed, kind):
    world = world_of(seed)
    path = make_path(world, kind, 17, SIZE, sight=sight_of(seed))
    assert len(path) == 17
    assert path.kind == kind
    assert path.intrinsics.shape == (17, 3, 3)
    check(world, sight_of(seed), path)
    assert turns_of(path).max() < 15
    low, high = (0.009, 0.051) if kind == "hand" else (0.019, 0.101)
    assert low < steps_of(path).mean() < high
    z = path.T_world_cam[:, 2, 3]
    if kind == "robot":
        assert np.ptp(z) < 1e-9
        assert 0.3 <= z[0] <= 1.5
        assert np.abs(np.degrees(np.arcsin(path.T_world_cam[:, 2, 2]))).max() < 7
        np.testing.assert_allclose(path.T_world_cam[:, 2, 0], 0, atol=1e-9)  # no roll
        assert world.free_space.at(path.T_world_cam[:, :2, 3]).min() >= 0.2
    else:
        assert np.ptp(z) > 1e-4


@pytest.mark.parametrize("kind", PATH_KINDS)
@pytest.mark.parametrize("seed", [1, 2, 4])
def test_long_paths(world_of, sight_of, seed, kind):
    path = make_path(world_of(seed), kind, 90, SIZE, speed=0.1, sight=sight_of(seed))
    assert len(path) == 90
    check(world_of(seed), sight_of(seed), path)
    assert steps_of(path).max() < 0.16
    assert turns_of(path).max() < 15


def test_speed_is_what_was_asked_for(world_of):
    for kind in PATH_KINDS:
        slow, fast = (steps_of(make_path(world_of(3), kind, 9, SIZE, speed=speed)).mean() for speed in (0.02, 0.08))
        assert slow == pytest.approx(0.02, rel=1e-3)
        assert fast == pytest.approx(0.08, rel=1e-3)


def test_one_frame_is_a_path_too(world_of, sight_of):
    for kind in PATH_KINDS:
        check(world_of(2), sight_of(2), make_path(world_of(2), kind, 1, SIZE))


def test_the_same_seed_gives_the_same_path(world_of):
    one, same, other = (make_path(world_of(4), "drone", 9, SIZE, seed=seed).T_world_cam for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0.1


def test_doorways_are_driven_through(world_of, sight_of):
    crossed = 0
    for seed in range(16):
        world = world_of(seed, "rooms")
        path = make_path(world, "robot", 17, SIZE, speed=0.1, sight=sight_of(seed, "rooms"))
        rooms = rooms_visited(world, path.T_world_cam[:, :3, 3])
        for first, second in itertools.pairwise(rooms):
            assert any(set(opening.rooms) == {first, second} for opening in world.openings)
        crossed += len(rooms) > 1
    assert crossed >= 3


@pytest.mark.parametrize("seed", [4, 7])
def test_a_drive_visits_all_rooms_and_comes_back(world_of, sight_of, seed):
    world = world_of(seed)
    path = drive(world, 60, 0.1, size=SIZE, height=0.7, hfov=math.radians(80))
    check(world, sight_of(seed), path)
    steps = steps_of(path)
    assert steps.max() < 0.1 + 1e-6
    assert steps.sum() == pytest.approx(60, rel=0.03)
    assert turns_of(path).max() < 10.5
    xy = path.T_world_cam[:, :2, 3]
    assert set(rooms_visited(world, path.T_world_cam[:, :3, 3])) == set(range(len(world.rooms)))
    far = np.linalg.norm(xy - xy[0], axis=1)
    away = int(far.argmax())
    assert far[away] > 3
    assert far[away:].min() < 0.15  # a loop: it comes back to where it began
    np.testing.assert_allclose(path.T_world_cam[:, 2, 3], 0.7)
    assert 2 * math.degrees(math.atan(SIZE[1] / 2 / path.intrinsics[0, 0, 0])) == pytest.approx(80)
    repeated = drive(world, 60, 0.1, size=SIZE, height=0.7, hfov=math.radians(80))
    np.testing.assert_array_equal(path.T_world_cam, repeated.T_world_cam)


@given(st.integers(0, 10_000), st.integers(16, 640), st.integers(16, 640))
def test_intrinsics(seed, height, width):
    K = draw_intrinsics((height, width), np.random.default_rng(seed))
    assert K[0, 0] == K[1, 1]
    assert 50 <= 2 * math.degrees(math.atan(width / 2 / K[0, 0])) <= 90
    assert abs(K[0, 2] / width - 0.5) <= 0.02
    assert abs(K[1, 2] / height - 0.5) <= 0.02
    np.testing.assert_array_equal(K[[0, 1, 2, 2, 2], [1, 0, 0, 1, 2]], [0, 0, 0, 0, 1])


def test_intrinsics_vary(world_of):
    focal = {round(make_path(world_of(seed), "robot", 1, SIZE).intrinsics[0, 0, 0], 3) for seed in range(6)}
    assert len(focal) == 6


@given(st.floats(-3, 3), st.floats(-1.4, 1.4), st.floats(-1, 1))
def test_camera_axes(yaw, pitch, roll):
    pose = camera_poses(np.array([1.0, 2.0, 3.0]), np.array(yaw), np.array(pitch), np.array(roll))
    right, down, forward, position = pose[:3].T
    np.testing.assert_allclose(np.cross(right, down), forward, atol=1e-12)
    np.testing.assert_allclose(
        forward, [math.cos(pitch) * math.cos(yaw), math.cos(pitch) * math.sin(yaw), math.sin(pitch)], atol=1e-12
    )
    np.testing.assert_array_equal(position, [1, 2, 3])
    assert down[2] < 0
    # Clockwise roll: the camera's right side goes down.
    assert math.copysign(1, -right[2]) == math.copysign(1, roll) or abs(roll) < 1e-9


def test_a_unicycle_moves_where_it_heads():
    starts = Starts(np.zeros((40, 2)), np.zeros(40), np.full(40, 2.5), np.zeros(40, dtype=bool))
    drawn = robot_candidates(starts, 30, 0.05, np.random.default_rng(0))
    steps = np.diff(drawn.positions[..., :2], axis=1)
    course = np.unwrap(np.arctan2(steps[..., 1], steps[..., 0]), axis=1)
    # Course and view differ by a fixed angle: the camera's mounting, or half a turn in reverse.
    difference = course - (drawn.yaw[:, 1:] + drawn.yaw[:, :-1]) / 2
    assert np.abs(difference - difference[:, :1]).max() < 1e-6


def test_noise_has_the_size_it_says():
    noise = smooth_noise(np.random.default_rng(0), (500, 60), 3.0)
    assert np.sqrt((noise**2).mean()) == pytest.approx(1, rel=0.1)


def test_resampling_keeps_ends_and_spacing():
    points = resample(np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [1.0, 2.0]]), 0.1)
    np.testing.assert_allclose(points[[0, -1]], [[0, 0], [1, 2]])
    assert len(points) == 31
    assert len(resample(np.zeros((3, 2)), 0.1)) == 1


def test_following_a_route_turns_on_the_spot_at_corners():
    square = np.array([[0.0, 0.0], [2.0, 0.0], [2.0, 2.0], [0.0, 2.0], [0.0, 0.0]])
    route = resample(square, 0.05)
    xy, heading = follow(route, 0.1, length=8.0, most_turn=math.radians(5))
    assert np.abs(np.diff(heading)).max() <= math.radians(5) + 1e-9
    steps = np.linalg.norm(np.diff(xy, axis=0), axis=1)
    assert steps.sum() == pytest.approx(8, abs=0.2)
    assert (steps < 1e-9).sum() > 10
    assert heading[-1] - heading[0] == pytest.approx(2 * math.pi, abs=0.5)
    xy, heading = follow(route, 0.1, frames=7, start=0.5)
    assert len(xy) == len(heading) == 7
    np.testing.assert_allclose(xy[0], [0.5, 0])
    assert nearest_phase(route, [(2.0, 1.0)], 0.5) == [pytest.approx(2.5, abs=0.03)]


def test_routes_keep_away_from_everything(world_of):
    for seed in (1, 4, 5, 8):
        loop = Routes(world_of(seed)).loop(np.random.default_rng(0))
        np.testing.assert_allclose(loop[0], loop[-1])
        assert world_of(seed).free_space.at(loop).min() >= 0.2


def test_a_world_with_nowhere_to_stand(bare_world, white):
    world = bare_world([])
    object.__setattr__(world, "free_space", FreeSpace.of(world.plan, [Footprint((0.0, 0.0), (20.0, 20.0))]))
    with pytest.raises(Gen3RError, match="world 0 has no free floor to move on; take another seed"):
        Routes(world)


def test_what_is_no_path(world_of):
    world = world_of(2)
    with pytest.raises(InputError, match="camera paths are robot, drone, hand, got 'fish'"):
        make_path(world, "fish", 5, SIZE)
    with pytest.raises(InputError, match="needs frames, a size and a speed in metres a frame, got 0"):
        make_path(world, "robot", 0, SIZE)
    with pytest.raises(InputError, match="needs frames, a size and a speed"):
        make_path(world, "robot", 5, SIZE, speed=-1.0)
    with pytest.raises(InputError, match="a drive needs a length, a smaller frame spacing"):
        drive(world, 1.0, 2.0)


def test_clearance_outside_of_the_building_is_none(sight_of):
    assert sight_of(2).clearance(np.array([[99.0, 0.0, 1.0], [1.0, 1.0, -3.0]])).tolist() == [-1, -1]
