"""Errors of camera paths against known ones."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from room_clips import room_batch

from gen3r_core.geometry.rigid import compose, invert_rigid, quaternion_to_matrix
from gen3r_core.metrics.cameras import CameraErrors, area_under_curve, camera_errors, trajectory_error


def _turned(T, degrees):
    angle = math.radians(degrees)
    turn = torch.eye(4)
    turn[0, 0] = turn[1, 1] = math.cos(angle)
    turn[0, 1], turn[1, 0] = -math.sin(angle), math.sin(angle)
    return turn @ T


def test_camera_errors_of_the_same_path_in_another_world_and_scale():
    T = invert_rigid(room_batch(0, 2, 4).T_world_cam)
    world = invert_rigid(room_batch(5, 1, 1).T_world_cam)
    moved = T @ world
    moved[..., :3, 3] *= 4
    errors = camera_errors(moved, T)
    assert errors.rotation.shape == (2, 6)
    assert errors.rotation.max() < 0.1
    assert area_under_curve(camera_errors(T, T)).min() > 0.999


def test_camera_errors_by_hand():
    """The last camera of three is turned by 10 degrees: two of three pairs are off, in rotation and in direction."""
    truth = torch.eye(4).repeat(1, 3, 1, 1)
    truth[0, 1, 0, 3], truth[0, 2, 0, 3] = 1, 2
    prediction = truth.clone()
    prediction[0, 2] = _turned(truth[0, 2], 10)
    errors = camera_errors(prediction, truth)
    torch.testing.assert_close(errors.rotation, torch.tensor([[0.0, 10, 10]]), atol=1e-3, rtol=0)
    assert errors.translation[0, 0] == 0
    # Off by 10 degrees and more: right at thresholds 11 to 30 at best, 20 of 30.
    assert area_under_curve(errors) <= (30 + 20 + 20) / 90 + 1e-6
    turned = CameraErrors(torch.tensor([[0.5, 10.0]]), torch.tensor([[29.5, 0.0]]))
    assert area_under_curve(turned) == pytest.approx((1 + 20) / 60)


def test_direction_of_cameras_at_one_place_does_not_count():
    truth = torch.eye(4).repeat(1, 2, 1, 1)
    prediction = truth.clone()
    prediction[0, 1, 0, 3] = 5
    assert camera_errors(prediction, truth).translation == 0
    truth[0, 1, 1, 3] = 1
    assert camera_errors(prediction, truth).translation == pytest.approx(90)


numbers = st.floats(-3, 3, allow_nan=False, width=32)


@given(st.lists(numbers, min_size=4, max_size=4), st.lists(numbers, min_size=3, max_size=3), st.floats(0.1, 10))
def test_a_similarity_of_the_path_is_no_error(quaternion, shift, scale):
    truth = room_batch(3, 1, 6).T_world_cam[0]
    q = torch.tensor(quaternion)
    world = torch.eye(4)
    world[:3, :3] = quaternion_to_matrix(q if q.norm() > 0.1 else torch.tensor([0.0, 0, 0, 1]))
    world[:3, 3] = torch.tensor(shift)
    moved = compose(world, truth)
    moved[:, :3, 3] *= scale
    assert trajectory_error(moved, truth) < 1e-4


def test_trajectory_error_is_the_smallest_of_all_similarities():
    """A search over scales and turns about the best finds nothing better; the errors of a square by hand."""
    truth = torch.eye(4).repeat(4, 1, 1)
    truth[:, 0, 3] = torch.tensor([1.0, 0, -1, 0])
    truth[:, 1, 3] = torch.tensor([0.0, 1, 0, -1])
    prediction = truth.clone()
    prediction[:, :3, 3] *= torch.tensor([2.0, 1, 2, 1])[:, None]
    # Scale s brings lengths 2, 1, 2, 1 to 1: least squares s = (2 + 1 + 2 + 1) / (4 + 1 + 4 + 1).
    s = 6 / 10
    expected = math.sqrt((2 * (2 * s - 1) ** 2 + 2 * (s - 1) ** 2) / 4)
    assert trajectory_error(prediction, truth) == pytest.approx(expected, rel=1e-6)
    for factor in (0.55, 0.6, 0.65):
        for angle in (-0.05, 0.0, 0.05):
            turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
            left = factor * prediction[:, :2, 3] @ turn.T - truth[:, :2, 3]
            assert left.square().sum(dim=1).mean().sqrt() >= expected - 1e-6


def test_trajectories_that_cannot_be_compared():
    still = torch.eye(4).repeat(4, 1, 1)
    path = room_batch(0, 1, 4).T_world_cam[0]
    assert trajectory_error(path, still) is None
    assert trajectory_error(path[:2], path[:2]) is None
    # A prediction that stays where it is misses by the spread of the true path.
    spread = (path[:, :3, 3] - path[:, :3, 3].mean(dim=0)).square().sum(dim=1).mean().sqrt()
    assert trajectory_error(still, path) == pytest.approx(float(spread), rel=1e-5)
    broken = path.clone()
    broken[2, 0, 3] = math.inf
    assert math.isnan(trajectory_error(broken, path))
