"""PSNR and SSIM against known values and an independent reference; which frames they are about."""

import math

import numpy as np
import pytest
import torch

from gen3r_core.conditioning import Task
from gen3r_core.errors import InputError
from gen3r_core.metrics.frames import frame_classes, measured_frames, middle_frames
from gen3r_core.metrics.images import frame_psnr, ssim


def pictures(seed, *shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def slow_ssim(x, y):
    """Wang et al. 2004, window by window; [H, W, C] float64."""
    offsets = np.arange(11) - 5
    weights = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    values = []
    for channel in range(x.shape[2]):
        for row in range(x.shape[0] - 10):
            for column in range(x.shape[1] - 10):
                a = x[row : row + 11, column : column + 11, channel]
                b = y[row : row + 11, column : column + 11, channel]
                mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
                var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
                both = (weights * (a - mean_a) * (b - mean_b)).sum()
                values.append(
                    (2 * mean_a * mean_b + 1e-4)
                    * (2 * both + 9e-4)
                    / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4))
                )
    return np.mean(values)


def test_psnr_of_each_frame():
    truth = torch.full((2, 3, 4, 5), 0.5)
    prediction = truth + torch.tensor([0.1, 0.01]).view(2, 1, 1, 1)
    torch.testing.assert_close(frame_psnr(prediction, truth), torch.tensor([20.0, 40.0]), atol=1e-2, rtol=0)
    assert frame_psnr(truth, truth).tolist() == [100, 100]
    torch.testing.assert_close(
        frame_psnr(prediction.movedim(1, -1), truth.movedim(1, -1)), frame_psnr(prediction, truth)
    )
    assert frame_psnr(torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 2, 2)) == 0
    assert math.isnan(frame_psnr(truth * math.nan, truth)[0])


def test_ssim_against_a_slow_reference():
    truth = pictures(0, 2, 3, 15, 18)
    prediction = (truth + 0.3 * pictures(1, 2, 3, 15, 18)).clamp(0, 1)
    expected = [slow_ssim(p.movedim(0, -1).double().numpy(), t.movedim(0, -1).double().numpy())
                for p, t in zip(prediction, truth, strict=True)]  # fmt: skip
    assert ssim(prediction, truth).tolist() == pytest.approx(expected, abs=1e-6)
    assert 0.1 < expected[0] < 0.95


def test_ssim_of_flat_pictures_by_its_formula():
    a, b = 0.25, 0.75
    flat = torch.ones(1, 3, 12, 12)
    expected = (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)
    assert float(ssim(a * flat, b * flat)) == pytest.approx(expected, abs=1e-6)
    assert ssim(a * flat, a * flat) == 1


def test_ssim_sees_structure_where_psnr_does_not():
    """Brighter and noisier by the same squared error: brightness costs little."""
    truth = pictures(2, 1, 3, 32, 32) * 0.5 + 0.2
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(3))
    noise *= 0.1 / noise.square().mean().sqrt()
    assert float(frame_psnr(truth + noise, truth)) == pytest.approx(float(frame_psnr(truth + 0.1, truth)), abs=1e-3)
    assert ssim(truth + 0.1, truth) > ssim(truth + noise, truth) + 0.05


def test_frames_smaller_than_the_window():
    with pytest.raises(InputError, match=r"SSIM needs frames of at least 11x11 pixels, got 10x20; use a larger size"):
        ssim(torch.zeros(1, 3, 10, 20), torch.zeros(1, 3, 10, 20))


def test_frames_that_are_measured():
    assert measured_frames(Task.ONE_VIEW, 5) == [1, 2, 3, 4]
    assert measured_frames(Task.TWO_VIEW, 5) == [1, 2, 3]
    assert measured_frames(Task.ALL_VIEW, 3) == measured_frames(None, 3) == [0, 1, 2]
    assert measured_frames(Task.ONE_VIEW, 1) == []


def test_middle_frames():
    assert middle_frames(17) == [7, 8, 9]
    assert middle_frames(5) == [1, 2, 3]
    assert middle_frames(1) == [0]
    assert middle_frames(2) == [0, 1]


def test_frame_classes_cover_a_clip():
    classes = frame_classes(9)
    assert classes == {"first": [0], "whole": [4, 8], "between": [1, 2, 3, 5, 6, 7], "last": [5, 6, 7, 8]}
    assert sorted(classes["first"] + classes["whole"] + classes["between"]) == list(range(9))
    assert frame_classes(1) == {"first": [0], "last": [0]}
