"""Figures of merit against known errors."""

import math

import pytest
import torch
from room_clips import room_batch

from gen3r_core.geometry.rigid import invert_rigid
from gen3r_core.training import measures


def _turned(T, degrees):
    angle = math.radians(degrees)
    turn = torch.eye(4)
    turn[0, 0] = turn[1, 1] = math.cos(angle)
    turn[0, 1], turn[1, 0] = -math.sin(angle), math.sin(angle)
    return turn @ T


def test_depth_errors_ignore_one_scale_a_clip():
    truth = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)) + 1
    mask = torch.ones_like(truth, dtype=torch.bool)
    absrel, within = measures.depth_errors(truth * torch.tensor([3.0, 0.1]).view(2, 1, 1, 1), truth, mask)
    torch.testing.assert_close(absrel, torch.zeros(2), atol=1e-6, rtol=0)
    assert torch.equal(within, torch.ones(2))


def test_depth_errors_by_hand():
    truth = torch.full((1, 1, 1, 5), 2.0)
    prediction = torch.tensor([2.0, 2.0, 2.0, 3.0, 9.0]).view(1, 1, 1, 5)
    mask = torch.tensor([True, True, True, True, False]).view(1, 1, 1, 5)
    absrel, within = measures.depth_errors(prediction, truth, mask)
    assert absrel == pytest.approx(0.5 / 4)
    assert within == pytest.approx(3 / 4)


def test_camera_errors_of_the_same_path_in_another_world_and_scale():
    T = invert_rigid(room_batch(0, 2, 4).T_world_cam)
    world = invert_rigid(room_batch(5, 1, 1).T_world_cam)
    moved = T @ world
    moved[..., :3, 3] *= 4
    errors = measures.camera_errors(moved, T)
    assert errors.rotation.shape == (2, 6)
    assert errors.rotation.max() < 0.1
    assert measures.area_under_curve(measures.camera_errors(T, T)).min() > 0.999


def test_camera_errors_by_hand():
    """The last camera of three is turned by 10 degrees: two of three pairs are off, in rotation and in direction."""
    truth = torch.eye(4).repeat(1, 3, 1, 1)
    truth[0, 1, 0, 3], truth[0, 2, 0, 3] = 1, 2
    prediction = truth.clone()
    prediction[0, 2] = _turned(truth[0, 2], 10)
    errors = measures.camera_errors(prediction, truth)
    torch.testing.assert_close(errors.rotation, torch.tensor([[0.0, 10, 10]]), atol=1e-3, rtol=0)
    assert errors.translation[0, 0] == 0
    # Off by 10 degrees and more: right at thresholds 11 to 30 at best, 20 of 30.
    assert measures.area_under_curve(errors) <= (30 + 20 + 20) / 90 + 1e-6
    turned = measures.CameraErrors(torch.tensor([[0.5, 10.0]]), torch.tensor([[29.5, 0.0]]))
    assert measures.area_under_curve(turned) == pytest.approx((1 + 20) / 60)


def test_direction_of_cameras_at_one_place_does_not_count():
    truth = torch.eye(4).repeat(1, 2, 1, 1)
    prediction = truth.clone()
    prediction[0, 1, 0, 3] = 5
    assert measures.camera_errors(prediction, truth).translation == 0
    truth[0, 1, 1, 3] = 1
    assert measures.camera_errors(prediction, truth).translation == pytest.approx(90)


def test_points_error():
    truth = torch.zeros(1, 1, 1, 4, 3)
    truth[..., 0] = 2
    prediction = truth * 5
    mask = torch.ones(1, 1, 1, 4, dtype=torch.bool)
    assert measures.points_error(prediction, truth, mask) == pytest.approx(0, abs=1e-6)
    prediction[0, 0, 0, 0] = torch.tensor([0.0, 10.0, 0.0])
    assert measures.points_error(prediction, truth, mask) == pytest.approx(2 * 2**0.5 / 8)


def test_psnr():
    assert measures.psnr(torch.full((3,), 0.6), torch.full((3,), 0.5)) == pytest.approx(20, abs=1e-4)
    assert measures.psnr(torch.ones(3), torch.ones(3)) == 100
