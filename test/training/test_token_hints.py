"""What VGGT's tokens are asked for: the truth against geometry, and that it is learnt."""

import torch
from room_clips import VGGT_TINY, room_batch, train

from gen3r_core.training import vggt
from gen3r_core.training.batch import ClipBatch
from gen3r_core.training.losses import relative_pose_loss
from gen3r_core.training.scene_units import normalised_truth
from gen3r_core.training.token_hints import TokenHints, hint_truth

SIDE, FOCAL, WALL, STEP = 56, 50.0, 2.0, 0.2


def wall(views=3):
    """Cameras that move to the right before a wall: what they see moves to the left by focal * way / distance."""
    intrinsics = torch.tensor([[FOCAL, 0, SIDE / 2], [0, FOCAL, SIDE / 2], [0, 0, 1]]).expand(1, views, 3, 3)
    poses = torch.eye(4).repeat(1, views, 1, 1)
    poses[0, :, 0, 3] = STEP * torch.arange(views)
    depth = torch.full((1, views, SIDE, SIDE), WALL)
    return ClipBatch(torch.rand(1, views, 3, SIDE, SIDE), depth, intrinsics, poses, ["a wall"])


def test_a_wall_seen_from_the_side_is_found_in_the_first_view():
    batch = wall()
    truth = hint_truth(normalised_truth(batch), batch.intrinsics, 14)
    assert truth.depth.shape == (1, 3, 4, 4)
    assert truth.seen[0, 0].all()
    for view in range(3):
        moved = FOCAL * view * STEP / WALL / SIDE
        expected = torch.tensor([moved, 0.0]).expand(4, 4, 2)
        seen = truth.seen[0, view]
        torch.testing.assert_close(truth.shift[0, view][seen], expected[seen], atol=1e-5, rtol=0)
        columns = (14 * torch.arange(4) + 7.5) / SIDE
        assert torch.equal(seen, (columns + moved < 1).expand(4, 4))


def test_what_stands_in_front_in_the_first_view_is_not_seen_there():
    batch = wall()
    batch.depth[0, 0] = WALL / 2
    truth = hint_truth(normalised_truth(batch), batch.intrinsics, 14)
    assert truth.known.all()
    assert truth.seen[0, 0].all()
    assert not truth.seen[0, 1:].any()


def test_points_behind_the_first_camera_and_unknown_depth_ask_for_nothing():
    batch = wall()
    batch.T_world_cam[0, 2] = torch.diag(torch.tensor([-1.0, 1, -1, 1]))
    batch.depth[0, 1] = 0
    truth = hint_truth(normalised_truth(batch), batch.intrinsics, 14)
    assert not truth.seen[0, 1:].any()
    assert not truth.known[0, 1].any()
    loss, figures = TokenHints(8, 1, 5)([torch.randn(1, 3, 21, 8)], truth)
    assert torch.isfinite(loss)
    assert set(figures) == {"hint_depth", "hint_points", "hint_places"}


def test_hints_are_learnt_and_leave_no_trace_in_the_export(tmp_path):
    sizes = VGGT_TINY | {"image_size": 28, "patch_embed": VGGT_TINY["patch_embed"] | {"image_size": 28}}
    stage = vggt.from_config({"config": sizes, "hint_weight": 1.0, "pair_weight": 0.5}, "cpu")
    batch = room_batch(0, 2, 4, (28, 28))
    _, first = stage.loss(batch, 0, torch.Generator().manual_seed(0))
    train(stage, batch, 25, 4e-3)
    _, last = stage.loss(batch, 0, torch.Generator().manual_seed(0))
    assert all(last[name] < 0.7 * first[name] for name in ("hint_depth", "hint_points"))
    state = {key: value * 2 for key, value in stage.module.state_dict().items()}
    stage.export(tmp_path / "vggt", state)
    again = vggt.from_config({"initial": str(tmp_path / "vggt")}, "cpu")
    for key, value in again.network.state_dict().items():
        assert torch.equal(value, state[f"network.{key}"]), key


def test_relative_poses_are_compared_whatever_the_world():
    batch = room_batch(0, 1, 4, (28, 28))
    truth = normalised_truth(batch).pose_encoding
    assert relative_pose_loss(truth, truth) < 1e-5
    longer = truth.clone()
    longer[..., 3:7] *= 3
    assert relative_pose_loss(longer, truth) < 1e-5
    wrong = truth.clone()
    wrong[:, 2, 0] += 0.05
    near, far = relative_pose_loss(wrong, truth), relative_pose_loss(wrong, truth, shortest=10.0)
    assert near > 10 * far > 0
    assert relative_pose_loss(truth[:, :1], truth[:, :1]) == 0
