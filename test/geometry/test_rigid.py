import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gen3r_core.errors import InputError
from gen3r_core.geometry.rigid import (
    compose,
    homogeneous,
    invert_rigid,
    matrix_to_quaternion,
    quaternion_to_matrix,
    relative_to_first,
)

numbers = st.floats(-1, 1, allow_nan=False, width=32)
quaternions = st.tuples(numbers, numbers, numbers, numbers).filter(lambda q: sum(x * x for x in q) > 1e-2)


def random_poses(frames, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    rotation = quaternion_to_matrix(torch.randn(frames, 4, generator=generator, dtype=dtype))
    return homogeneous(torch.cat([rotation, torch.randn(frames, 3, 1, generator=generator, dtype=dtype)], dim=-1))


def test_known_rotation_about_z():
    half = math.radians(90) / 2
    R = quaternion_to_matrix(torch.tensor([0, 0, math.sin(half), math.cos(half)], dtype=torch.float64))
    expected = torch.tensor([[0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.float64)
    torch.testing.assert_close(R, expected)


@given(quaternions, st.floats(0.1, 10))
@settings(deadline=None, max_examples=100)
def test_quaternion_round_trip(q, factor):
    q = torch.tensor(q, dtype=torch.float64)
    R = quaternion_to_matrix(q * factor)
    torch.testing.assert_close(R @ R.T, torch.eye(3, dtype=torch.float64), atol=1e-12, rtol=0)
    assert torch.linalg.det(R) == pytest.approx(1)
    back = matrix_to_quaternion(R)
    assert back[3] >= 0
    assert abs(float(back @ (q / q.norm()))) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("axis", range(3))
def test_quaternion_of_half_turns_is_exact(axis):
    q = torch.zeros(4)
    q[axis] = 1
    torch.testing.assert_close(matrix_to_quaternion(quaternion_to_matrix(q)).abs(), q, atol=0, rtol=0)


def test_quaternion_near_half_turn_keeps_float32_accuracy():
    angle = math.pi - 1e-4
    axis = torch.tensor([1.0, 2.0, -3.0], dtype=torch.float64)
    axis /= axis.norm()
    q = torch.cat([axis * math.sin(angle / 2), torch.tensor([math.cos(angle / 2)], dtype=torch.float64)])
    found = matrix_to_quaternion(quaternion_to_matrix(q).float())
    torch.testing.assert_close(found.double(), q, atol=2e-7, rtol=0)


@pytest.mark.parametrize("rows", [3, 4])
def test_inverse_cancels(rows):
    T = random_poses(5).unflatten(0, (5, 1))
    inverse = invert_rigid(T[..., :rows, :])
    assert inverse.shape == (5, 1, 4, 4)
    torch.testing.assert_close(inverse @ T, torch.eye(4, dtype=T.dtype).expand_as(T), atol=1e-12, rtol=0)


def test_homogeneous_adds_the_last_row():
    T = random_poses(2)
    assert torch.equal(homogeneous(T[:, :3]), T)
    assert homogeneous(T) is T


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_relative_to_first(dtype):
    T = random_poses(4, seed=3)
    relative = relative_to_first(T.to(dtype))
    assert relative.dtype == dtype
    assert torch.equal(relative[0], torch.eye(4, dtype=dtype))
    expected = torch.linalg.inv(T[0]) @ T
    torch.testing.assert_close(relative.double(), expected, atol=0.05 if dtype == torch.bfloat16 else 1e-6, rtol=0)


def test_relative_to_first_cancels_poses_with_few_digits():
    T = (random_poses(3) * 100).round() / 100
    torch.testing.assert_close(T[0] @ relative_to_first(T), T, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: invert_rigid(torch.zeros(4)), r"rigid transforms must have shape .*got \(4,\)"),
        (lambda: homogeneous(torch.zeros(2, 4, 3)), r"rigid transforms must have shape .*got \(2, 4, 3\)"),
        (lambda: relative_to_first(torch.zeros(0, 4, 4)), r"at least one frame, got \(0, 4, 4\)"),
        (lambda: relative_to_first(torch.zeros(3, 3, 4)), r"\[F, 4, 4\].*got \(3, 3, 4\)"),
        (lambda: quaternion_to_matrix(torch.zeros(3)), r"x, y, z, w, got \(3,\)"),
        (lambda: matrix_to_quaternion(torch.zeros(3, 4)), r"\[\.\.\., 3, 3\], got \(3, 4\)"),
    ],
)
def test_wrong_shapes(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_transforms_are_composed_in_order_and_broadcast():
    first, second = random_poses(5, 1), random_poses(5, 2)
    torch.testing.assert_close(compose(first, second), first @ second)
    torch.testing.assert_close(compose(first[:1], second), first[:1] @ second)
    points = torch.rand(5, 4, 1, dtype=torch.float64)
    torch.testing.assert_close(compose(first, second) @ points, first @ (second @ points))
