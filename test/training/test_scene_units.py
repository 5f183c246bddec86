"""Ground truth in scene units: frames, points, the unit, and its recovery from a prediction."""

from dataclasses import replace

import pytest
import torch
from room_clips import WALLS, room_batch

from gen3r_core.errors import InputError
from gen3r_core.geometry.cameras import decode_pose_encoding
from gen3r_core.geometry.rigid import invert_rigid
from gen3r_core.training import scene_units


def test_points_lie_on_the_walls():
    """Unprojected along the rays through pixel centres and moved to the world, every point is on the box."""
    batch = room_batch(1, 2, 3, (20, 30))
    points = scene_units.clip_points(batch.depth, invert_rigid(batch.T_world_cam), batch.intrinsics)
    distance = torch.minimum((points - WALLS[0]).abs(), (points - WALLS[1]).abs()).amin(-1)
    assert distance.max() < 1e-5


def test_normalised_truth():
    batch = room_batch(2, 2, 4, (20, 30))
    truth = scene_units.normalised_truth(batch)
    assert torch.equal(truth.T_cam_world[:, 0], torch.eye(4).expand(2, 4, 4))
    torch.testing.assert_close(truth.points.norm(dim=-1).mean(dim=(1, 2, 3)), torch.ones(2))
    torch.testing.assert_close(truth.depth * truth.metres_per_unit.view(2, 1, 1, 1), batch.depth)
    T, K = decode_pose_encoding(truth.pose_encoding, (20, 30))
    torch.testing.assert_close(T, truth.T_cam_world[..., :3, :])
    torch.testing.assert_close(K, batch.intrinsics, atol=1e-4, rtol=1e-5)
    # In metres and in the world, the points are the clip's own.
    metres = truth.points * truth.metres_per_unit.view(2, 1, 1, 1, 1)
    expected = scene_units.clip_points(batch.depth, invert_rigid(batch.T_world_cam), batch.intrinsics)
    R, t = batch.T_world_cam[:, 0, :3, :3], batch.T_world_cam[:, 0, :3, 3]
    torch.testing.assert_close(torch.einsum("bij,bfhwj->bfhwi", R, metres) + t.view(2, 1, 1, 1, 3), expected)


def test_the_unit_does_not_depend_on_metres_or_world():
    batch = room_batch(3, 1, 4, (20, 30))
    T = batch.T_world_cam.clone()
    T[..., :3, 3] *= 7
    moved = torch.linalg.inv(torch.linalg.matrix_exp(torch.tensor([[0, 1, 0], [-1, 0, 2.0], [0, -2, 0]])))
    shift = torch.eye(4)
    shift[:3, :3], shift[:3, 3] = moved, torch.tensor([1.0, 2, 3])
    other = replace(batch, depth=7 * batch.depth, T_world_cam=shift @ T)
    a, b = scene_units.normalised_truth(batch), scene_units.normalised_truth(other)
    torch.testing.assert_close(b.metres_per_unit, 7 * a.metres_per_unit)
    for name in ("depth", "points", "T_cam_world", "pose_encoding"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), atol=1e-5, rtol=1e-4)


def test_unknown_depth_does_not_count():
    batch = room_batch(4, 1, 2, (20, 30))
    whole = scene_units.normalised_truth(batch)
    depth = batch.depth.clone()
    depth[:, 1] = 0
    depth[0, 1, 0, 0] = torch.nan
    truth = scene_units.normalised_truth(replace(batch, depth=depth))
    assert not truth.mask[:, 1].any()
    assert torch.isfinite(truth.depth).all()
    first = whole.points[:, 0].norm(dim=-1).mean() * whole.metres_per_unit
    torch.testing.assert_close(truth.metres_per_unit, first)
    nothing = scene_units.normalised_truth(replace(batch, depth=torch.zeros_like(depth)))
    assert torch.isfinite(nothing.pose_encoding).all()


@pytest.mark.parametrize("missing", [{"depth": False}, {"cameras": False}])
def test_truth_needs_depth_and_cameras(missing):
    with pytest.raises(InputError, match="stage x needs clips with depth and cameras, and this source has none"):
        scene_units.normalised_truth(room_batch(0, 1, 2, **missing), "stage x")


def test_metres_per_unit_from_depth_is_the_median_ratio():
    batch = room_batch(5, 2, 3, (20, 32))
    predicted = batch.depth / torch.tensor([2.5, 0.5]).view(2, 1, 1, 1)
    predicted[:, :, :8] = 1e3  # less than half of the pixels is wrong
    scale = scene_units.metres_per_unit(predicted, batch, invert_rigid(batch.T_world_cam))
    torch.testing.assert_close(scale, torch.tensor([2.5, 0.5]))


def test_metres_per_unit_from_cameras():
    batch = room_batch(6, 2, 4, (8, 8), depth=False)
    T = invert_rigid(batch.T_world_cam)
    T[..., :3, 3] /= torch.tensor([3.0, 0.25]).view(2, 1, 1)
    scale = scene_units.metres_per_unit(torch.ones(2, 4, 8, 8), batch, T)
    torch.testing.assert_close(scale, torch.tensor([3.0, 0.25]))


def test_metres_per_unit_is_one_where_nothing_tells():
    batch = room_batch(7, 1, 2, (8, 8))
    T = invert_rigid(batch.T_world_cam)
    nothing = replace(batch, depth=torch.zeros_like(batch.depth))
    assert scene_units.metres_per_unit(torch.ones(1, 2, 8, 8), nothing, T) == 1
    still = replace(batch, depth=None, T_world_cam=batch.T_world_cam[:, :1].expand(-1, 2, -1, -1))
    assert scene_units.metres_per_unit(torch.ones(1, 2, 8, 8), still, T[:, :1].expand(-1, 2, -1, -1)) == 1
    with pytest.raises(InputError, match="cannot be told without its cameras"):
        scene_units.metres_per_unit(torch.ones(1, 2, 8, 8), room_batch(7, 1, 2, (8, 8), cameras=False), T)
