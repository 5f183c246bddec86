"""Baselines that need no model, by hand."""

import pytest
import torch

from gen3r_core.evaluation.baselines import cross_fade, nearest_known

CLIP = torch.tensor([0.0, 1, 2, 3, 10]).view(5, 1, 1)


@pytest.mark.parametrize(
    ("known", "nearest", "faded"),
    [
        ([0, 4], [0, 0, 0, 10, 10], [0, 2.5, 5, 7.5, 10]),
        ([0], [0] * 5, [0] * 5),
        ([1, 4], [1, 1, 1, 10, 10], [1, 1, 4, 7, 10]),
        ([1, 3], [1, 1, 1, 3, 3], [1, 1, 2, 3, 3]),
        ([0, 1, 2, 3, 4], [0, 1, 2, 3, 10], [0, 1, 2, 3, 10]),
    ],
)
def test_known_frames_repeated_and_blended(known, nearest, faded):
    assert nearest_known(CLIP, known).flatten().tolist() == nearest
    assert cross_fade(CLIP, known).flatten().tolist() == pytest.approx(faded)
