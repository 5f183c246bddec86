"""Depth corrected by neighbouring images: towards the truth where they show something, untouched where they do not."""

import numpy as np
import pytest
import torch
from textured_room import SIZE, K, poses, window

from gen3r_core.errors import InputError
from gen3r_core.reconstruction.sweeping import SweepOptions, sweep_depth

CAMERAS = poses(np.linspace(0, 12, 5), np.stack([np.linspace(-0.5, 0.5, 5), np.zeros(5), np.linspace(-1, -0.6, 5)], 1))
BENT = torch.exp(0.15 * torch.cos(torch.linspace(0, 3.1, SIZE[1])))[None, None]
"""What a network may be off by: near on one side, far on the other."""


def given(plain=False, cameras=CAMERAS):
    room = window(cameras, plain=plain)
    intrinsics = torch.from_numpy(np.repeat(K[None], len(room), 0)).float()
    intrinsics[:, :2, 2] += 0.5
    images = torch.from_numpy(room.colors).permute(0, 3, 1, 2).float() / 255
    return images, torch.from_numpy(room.depth).float(), intrinsics, torch.from_numpy(cameras).float()


def off(depth, true):
    return float((depth / true).log().abs().median())


@pytest.mark.parametrize("longest", [112, 160])
def test_bent_depth_comes_closer_to_the_truth(longest):
    images, true, K_corner, T = given()
    found = sweep_depth(images, BENT * true, K_corner, T, SweepOptions(longest=longest))
    assert found.shape == true.shape
    assert found.dtype == torch.float32
    assert off(found, true) < 0.35 * off(BENT * true, true)


def test_right_depth_stays():
    images, true, K_corner, T = given()
    assert off(sweep_depth(images, true, K_corner, T), true) < 0.02


def test_nothing_to_see_nothing_changed():
    images, true, K_corner, T = given(plain=True)
    torch.testing.assert_close(sweep_depth(images, BENT * true, K_corner, T), BENT * true, rtol=1e-3, atol=0)


def test_views_without_neighbours_stay():
    cameras = poses([0, 90, 180], np.zeros((3, 3)))
    images, true, K_corner, T = given(cameras=cameras)
    torch.testing.assert_close(sweep_depth(images, true, K_corner, T), true)


def test_unknown_depth_stays_unknown():
    images, true, K_corner, T = given()
    true[1] = 0
    true[2, :40] = 0
    found = sweep_depth(images, BENT * true, K_corner, T)
    assert (found[1] == 0).all()
    assert (found[2, :40] == 0).all()
    assert (found[2, 40:] > 0).all()
    assert torch.isfinite(found).all()


def test_what_cannot_be_swept():
    images, true, K_corner, T = given()
    with pytest.raises(InputError, match="5 images of 120x160"):
        sweep_depth(images, true[:4], K_corner, T)
    with pytest.raises(InputError, match="odd patch"):
        SweepOptions(patch=4)
    with pytest.raises(InputError, match="positive"):
        SweepOptions(blur=0)
