import numpy as np
import pytest
import torch
from camera_tracks import random_rotations, turn, yawed
from hypothesis import given, settings
from hypothesis import strategies as st

from gen3r_core.errors import InputError
from gen3r_core.geometry import rigid
from gen3r_core.geometry.poses import (
    checked_poses,
    interpolate_poses,
    invert_poses,
    matrix_to_quaternion,
    nearest_rotation,
    poses_from,
    quaternion_to_matrix,
    rotation_angles,
    slerp,
)

seeds = st.integers(0, 2**31)


def quaternions(seed, count=20):
    return np.random.default_rng(seed).normal(size=(count, 4))


@given(seeds)
@settings(deadline=None, max_examples=30)
def test_the_same_as_the_torch_ones(seed):
    q = quaternions(seed)
    R = quaternion_to_matrix(q)
    np.testing.assert_allclose(R, rigid.quaternion_to_matrix(torch.from_numpy(q)).numpy(), atol=1e-12)
    np.testing.assert_allclose(
        matrix_to_quaternion(R), rigid.matrix_to_quaternion(torch.from_numpy(R)).numpy(), atol=1e-12
    )
    T = poses_from(R, q[:, :3])
    np.testing.assert_allclose(invert_poses(T), rigid.invert_rigid(torch.from_numpy(T)).numpy(), atol=1e-12)


@pytest.mark.parametrize("axis", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.6, 0, -0.8)])
@pytest.mark.parametrize("angle", [0.0, 1e-8, 1e-4, 1.0, np.pi - 1e-6, np.pi])
def test_quaternions_and_angles_of_any_turn(axis, angle):
    R = turn(angle, axis)
    assert rotation_angles(R) == pytest.approx(angle, abs=1e-12)
    np.testing.assert_allclose(quaternion_to_matrix(matrix_to_quaternion(R)), R, atol=1e-12)


def test_half_a_turn_by_slerp():
    start, end = matrix_to_quaternion(turn(0.2)), matrix_to_quaternion(turn(1.0))
    np.testing.assert_allclose(quaternion_to_matrix(slerp(start, end, np.array(0.25))), turn(0.4), atol=1e-12)
    np.testing.assert_allclose(quaternion_to_matrix(slerp(start, -end, np.array(0.25))), turn(0.4), atol=1e-12)


@given(seeds, st.floats(0, 1), st.sampled_from([0.0, 1e-12, 1e-7, 1e-3, 1.0]))
@settings(deadline=None, max_examples=50)
def test_slerp_has_constant_speed(seed, amount, size):
    rng = np.random.default_rng(seed)
    first = random_rotations(rng, 1)[0]
    second = first @ turn(3 * size * rng.uniform(), rng.normal(size=3) / 3**0.5)
    q = slerp(matrix_to_quaternion(first), matrix_to_quaternion(second), np.array(amount))
    assert np.linalg.norm(q) == pytest.approx(1, abs=1e-12)
    whole, part = rotation_angles(first.T @ second), rotation_angles(first.T @ quaternion_to_matrix(q))
    assert part == pytest.approx(amount * whole, abs=1e-9)


def test_the_nearest_rotation_maximises_the_trace():
    rng = np.random.default_rng(0)
    M = rng.normal(size=(40, 3, 3))
    R = nearest_rotation(M)
    np.testing.assert_allclose(np.linalg.det(R), 1)
    best = np.einsum("nij,nij->n", R, M)
    for other in random_rotations(rng, 200):
        assert (np.einsum("ij,nij->n", other, M) <= best + 1e-12).all()
    np.testing.assert_allclose(nearest_rotation(3 * R), R, atol=1e-12)


def test_poses_between_poses():
    T = np.stack([yawed(0, 0, 0), yawed(2, 0, 0.4), yawed(2, 0, 0.4), yawed(2, 4, 0.4)])
    found = interpolate_poses(T, np.array([0.0, 2, 2, 6]), np.array([-1.0, 0.5, 2, 3, 9]))
    expected = [yawed(0, 0, 0), yawed(0.5, 0, 0.1), yawed(2, 0, 0.4), yawed(2, 1, 0.4), yawed(2, 4, 0.4)]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_array_equal(interpolate_poses(T[:1], np.zeros(1), np.zeros(3)), np.repeat(T[:1], 3, axis=0))


def test_the_last_of_coinciding_knots_counts():
    T = np.stack([yawed(0, 0, 0), yawed(1, 0, 0), yawed(5, 0, 0), yawed(5, 0, 1)])
    found = interpolate_poses(T, np.array([0.0, 1, 1, 1]), np.array([0.5, 1.0]))
    np.testing.assert_allclose(found, [yawed(0.5, 0, 0), yawed(5, 0, 1)], atol=1e-12)


def test_good_poses_pass():
    T = np.stack([yawed(1, 2, 3), np.full((4, 4), np.nan)])
    np.testing.assert_array_equal(checked_poses(T.astype(np.float32), "camera pose", missing=True)[1:], T[1:])
    assert checked_poses(np.empty((0, 4, 4)), "camera pose").shape == (0, 4, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda T: T[0], r"camera poses must have shape \[N, 4, 4\], got \[4, 4\]"),
        (lambda T: "far away", "must be numbers"),
        (lambda T: T * np.where(np.arange(16) == 3, np.inf, 1).reshape(4, 4), "camera pose 0 contains NaN or infinite"),
        (lambda T: T * np.array([1, 1, -1, 1]), "camera pose 0 is not a rigid transform"),
        (lambda T: np.concatenate([T[:1], 2 * T[1:]]), "camera pose 1 is not a rigid transform"),
        (lambda T: T + np.eye(4)[:, ::-1] * np.eye(4)[3][:, None], "its last row 0, 0, 0, 1"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_bad_poses_are_named(change, message):
    with pytest.raises(InputError, match=message):
        checked_poses(change(np.stack([yawed(1, 2, 3), yawed(0, 0, 0)])), "camera pose")
