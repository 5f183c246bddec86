"""Errors of depth against known ones."""

import pytest
import torch

from gen3r_core.metrics.depth import depth_errors, median_scale


def test_depth_errors_ignore_one_scale_a_clip():
    truth = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)) + 1
    mask = torch.ones_like(truth, dtype=torch.bool)
    absrel, within = depth_errors(truth * torch.tensor([3.0, 0.1]).view(2, 1, 1, 1), truth, mask)
    torch.testing.assert_close(absrel, torch.zeros(2), atol=1e-6, rtol=0)
    assert torch.equal(within, torch.ones(2))


def test_depth_errors_by_hand():
    truth = torch.full((1, 1, 1, 5), 2.0)
    prediction = torch.tensor([2.0, 2.0, 2.0, 3.0, 9.0]).view(1, 1, 1, 5)
    mask = torch.tensor([True, True, True, True, False]).view(1, 1, 1, 5)
    absrel, within = depth_errors(prediction, truth, mask)
    assert absrel == pytest.approx(0.5 / 4)
    assert within == pytest.approx(3 / 4)


def test_a_clip_without_known_depth_has_no_scale():
    nothing = torch.zeros(1, 1, 2, 2)
    assert median_scale(nothing + 1, nothing + 1, nothing > 0).isnan().all()
