import pytest
import torch

from gen3r_core.errors import InputError
from gen3r_core.io.colormap import colorize_depth, spectral


def test_near_is_red_and_far_is_violet():
    red, yellow, violet = spectral(torch.tensor([0.0, 0.5, 1.0])).tolist()
    assert red[0] > 2 * max(red[1:])
    assert min(yellow[:2]) > yellow[2] > 150
    assert violet[2] > violet[0] > violet[1]


def test_colours_change_smoothly_and_are_clamped():
    ramp = spectral(torch.linspace(0, 1, 1000)).int()
    assert int((ramp[1:] - ramp[:-1]).abs().max()) <= 1
    assert torch.equal(spectral(torch.tensor([-1.0, 2.0])), spectral(torch.tensor([0.0, 1.0])))


def test_one_range_for_the_whole_clip():
    depth = torch.stack([torch.linspace(1, 2, 100), torch.linspace(2, 3, 100)]).view(2, 10, 10)
    colors = colorize_depth(depth)
    assert colors.shape == (2, 10, 10, 3)
    assert colors.dtype == torch.uint8
    assert torch.equal(colors[0, 9, 9], colors[1, 0, 0])
    assert torch.equal(colors[0, 0, 0], spectral(torch.tensor(0.0)))
    assert torch.equal(colors[1, 9, 9], spectral(torch.tensor(1.0)))


def test_a_few_far_points_do_not_change_the_range():
    depth = torch.linspace(1, 2, 1000).view(1, 10, 100)
    far = depth.clone()
    far[0, 9, 99] = 1e6
    assert float((colorize_depth(far)[0, :9].int() - colorize_depth(depth)[0, :9].int()).abs().max()) <= 2


def test_invalid_pixels_are_black_and_do_not_count():
    depth = torch.tensor([[[1.0, 2.0, 3.0, float("nan"), 1e9, float("inf")]]])
    valid = torch.tensor([[[True, True, True, True, False, True]]])
    colors = colorize_depth(depth, valid)
    assert torch.equal(colors[0, 0, :3], colorize_depth(depth[..., :3])[0, 0])
    assert colors[0, 0, 3:].max() == 0


def test_nothing_valid_and_all_the_same():
    depth = torch.ones(1, 2, 2)
    assert colorize_depth(depth, torch.zeros(1, 2, 2)).max() == 0
    assert torch.equal(colorize_depth(depth), spectral(torch.zeros(1, 2, 2)))


def test_wrong_shapes():
    with pytest.raises(InputError, match=r"\[F, H, W\], got \(2, 2\)"):
        colorize_depth(torch.ones(2, 2))
    with pytest.raises(InputError, match=r"shape \(1, 2, 2\) as the depth has, got \(2, 2\)"):
        colorize_depth(torch.ones(1, 2, 2), torch.ones(2, 2))
