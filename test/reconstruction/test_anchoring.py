"""Depth fitted to known poses, on pictures of a procedural world whose depth is known."""

import math

import numpy as np
import pytest
import torch
from robot_drive import Drive

from gen3r_core.errors import CancelledError, InputError
from gen3r_core.geometry.poses import poses_from
from gen3r_core.reconstruction.anchoring import AnchorOptions, agreeing_views, anchor_depth

FAR_AWAY = np.array([4000.0, -2500.0, 0.0])
OPTIONS = AnchorOptions(longest=128)


def anchored(drive, **changes):
    given = {"images": drive.images, "depth": drive.depth, "intrinsics": drive.K, "T_world_cam": drive.T}
    return anchor_depth(**{**given, "options": OPTIONS, **changes})


@pytest.fixture(scope="module")
def drive():
    return Drive()


def error(depth, true):
    return float(((depth - true).abs() / true).median())


def test_depth_becomes_metric_and_straight(drive):
    found = anchored(drive)
    assert found.reason == ""
    assert found.metres_per_unit == pytest.approx(float((drive.true / drive.depth).median()), rel=0.03)
    assert float((found.depth / drive.true).median()) == pytest.approx(1.0, abs=0.02)
    before = error(drive.depth * float((drive.true / drive.depth).median()), drive.true)
    assert error(found.depth, drive.true) < 0.5 * before
    assert found.needed == 2


def test_what_agrees_with_other_views_is_better(drive):
    found = anchored(drive)
    agreeing = found.agreeing >= found.needed
    assert 0.2 < float(agreeing.float().mean()) < 1
    assert error(found.depth[agreeing], drive.true[agreeing]) < error(found.depth, drive.true)


def test_place_of_the_world_and_exposure_do_not_matter(drive):
    moved = drive.T.clone()
    moved[:, :3, 3] += torch.from_numpy(FAR_AWAY)
    dimmed = drive.images * torch.tensor([1.0, 0.8, 0.9, 0.75, 1.0])[:, None, None, None]
    assert anchored(drive, T_world_cam=moved).metres_per_unit == pytest.approx(
        anchored(drive).metres_per_unit, rel=1e-3
    )
    assert float((anchored(drive, images=dimmed).depth / drive.true).median()) == pytest.approx(1.0, abs=0.03)


def test_larger_images_are_scaled_down_and_the_depth_is_not(drive):
    big = torch.nn.functional.interpolate(drive.images, scale_factor=2, mode="bilinear")
    depth = torch.nn.functional.interpolate(drive.depth[:, None], scale_factor=2)[:, 0]
    K = drive.K.clone()
    K[:, :2] *= 2
    found = anchored(drive, images=big, depth=depth, intrinsics=K)
    assert found.depth.shape == found.agreeing.shape == depth.shape
    assert found.metres_per_unit == pytest.approx(anchored(drive).metres_per_unit, rel=0.02)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"T": lambda T: T[:1].repeat(5, 1, 1)}, "too little motion"),
        ({"images": lambda images: torch.full_like(images, 0.5)}, "too little to see"),
        ({"T": lambda T: T.flip(0)}, "do not"),
    ],
)
def test_what_does_not_tell_is_not_believed(drive, changes, words):
    T = changes.get("T", lambda own: own)(drive.T)
    images = changes.get("images", lambda own: own)(drive.images)
    found = anchored(drive, T_world_cam=T, images=images)
    assert words in found.reason
    assert math.isnan(found.metres_per_unit)
    assert not found.agreeing.any()


def test_poses_of_a_bad_odometry_are_not_believed(drive):
    generator = torch.Generator().manual_seed(3)
    T = drive.T.clone()
    T[:, :3, 3] += 0.15 * torch.randn(5, 3, generator=generator, dtype=torch.float64)
    assert anchored(drive, T_world_cam=T).reason


def test_one_view_tells_nothing(drive):
    one = {"images": drive.images[:1], "depth": drive.depth[:1], "intrinsics": drive.K[:1], "T_world_cam": drive.T[:1]}
    assert "only one view" in anchor_depth(**one).reason


def test_two_views_need_each_other_only(drive):
    pair = [0, 2]
    found = anchored(
        drive, images=drive.images[pair], depth=drive.depth[pair], intrinsics=drive.K[pair], T_world_cam=drive.T[pair]
    )
    assert found.reason == ""
    assert found.needed == 1
    assert float((found.depth / drive.true[pair]).median()) == pytest.approx(1.0, abs=0.04)


def test_a_view_that_shares_nothing_takes_the_scale_of_the_others(drive):
    T = drive.T.clone()
    T[4, :3, :3] = T[4, :3, :3] @ torch.diag(torch.tensor([-1.0, 1.0, -1.0], dtype=torch.float64))  # looks back
    found = anchored(drive, T_world_cam=T)
    assert found.reason == ""
    assert float((found.depth[4] / drive.depth[4]).std()) == pytest.approx(0.0, abs=1e-3)


def test_progress_is_told_and_may_stop_it(drive):
    told = []

    def report(done, steps):
        told.append((done, steps))
        if done == 3:
            raise CancelledError("enough")

    with pytest.raises(CancelledError, match="enough"):
        anchored(drive, report=report)
    assert told == [(step, OPTIONS.steps) for step in range(4)]


def test_agreeing_views_of_a_wall():
    """Two cameras before a wall 2 m away: all that both see agrees, and a step in one depth does not."""
    K = torch.tensor([[20.0, 0, 16], [0, 20, 12], [0, 0, 1]]).repeat(2, 1, 1)
    T = torch.from_numpy(poses_from(np.repeat(np.eye(3)[None], 2, axis=0), np.array([[0, 0, 0], [0.4, 0, 0.0]])))
    depth = torch.full((2, 24, 32), 2.0)
    found = agreeing_views(depth, K, T, 0.04)
    shift = 4  # 0.4 m at 2 m with a focal length of 20 pixels
    assert found[0, :, shift + 1 :].eq(1).all()
    assert found[0, :, : shift - 1].eq(0).all()
    depth[0, 5:10, 15:20] = 2.3
    assert agreeing_views(depth, K, T, 0.04)[0, 6:9, 16:19].eq(0).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": torch.zeros(5, 3, 8, 8)}, "images must be"),
        ({"intrinsics": torch.eye(3).repeat(4, 1, 1)}, "intrinsics must be 5"),
        ({"T_world_cam": torch.full((5, 4, 4), math.nan)}, "camera poses must be 5 finite"),
    ],
)
def test_wrong_input(drive, changes, words):
    with pytest.raises(InputError, match=words):
        anchored(drive, **changes)


def test_options_that_make_no_sense():
    with pytest.raises(InputError, match="range of scales"):
        AnchorOptions(smallest=3.0, largest=2.0)
