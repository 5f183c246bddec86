from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from gen3r_core.errors import InputError
from gen3r_core.models.vggt.dense_head import (
    FusionStage,
    ResidualConvolutions,
    position_map,
    resize_bilinear,
)

SIZE = (28, 42)


@pytest.fixture
def tokens(config) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(2, 5, config.special_tokens + 6, 32, generator=generator) for _ in config.layers]


def test_position_map_by_hand():
    """A 3-4-5 image: half extents 0.8 and 0.6 of the half diagonal, shrunk to cell centres."""
    positions = position_map(8, (3, 4), (30, 40))
    assert positions.shape == (8, 3, 4)
    x, y = -0.8 * 3 / 4, 0.6 * 2 / 3
    expected = [
        *(math.sin(x), math.sin(0.1 * x), math.cos(x), math.cos(0.1 * x)),
        *(math.sin(y), math.sin(0.1 * y), math.cos(y), math.cos(0.1 * y)),
    ]
    torch.testing.assert_close(positions[:, 2, 0], torch.tensor(expected))
    torch.testing.assert_close(positions[:4, 0], positions[:4, 2])
    torch.testing.assert_close(positions[4:, :, 0], positions[4:, :, 3])


def test_a_tenth_of_the_positions_is_added_to_the_maps(model, tokens, monkeypatch):
    seen = []
    plain = model.depth_head.predict_chunk
    monkeypatch.setattr(model.depth_head, "predict_chunk", lambda *args: seen.append(args[1]) or plain(*args))
    model.depth_head(tokens, SIZE)
    *coarse, fine = seen[0]
    assert [len(one) for one in coarse] == [project.out_channels for project in model.depth_head.projects]
    for positions in coarse:
        torch.testing.assert_close(positions, 0.1 * position_map(len(positions), (2, 3), SIZE))
    torch.testing.assert_close(fine, 0.1 * position_map(len(fine), SIZE, SIZE))


def test_position_map_of_one_cell_is_the_centre():
    torch.testing.assert_close(position_map(4, (1, 1), (14, 28)).flatten(), torch.tensor([0.0, 1.0, 0.0, 1.0]))


def test_resize_keeps_corners():
    maps = torch.arange(6.0).view(1, 1, 2, 3)
    large = resize_bilinear(maps, (3, 5))
    torch.testing.assert_close(large[0, 0, 0], torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0]))
    torch.testing.assert_close(large[0, 0, :, 0], torch.tensor([0.0, 1.5, 3.0]))


@pytest.mark.parametrize("limit", [1, 40, 100, 10_000])
def test_resize_in_parts_changes_nothing(limit):
    maps = torch.randn(3, 4, 2, 3)
    whole = F.interpolate(maps, size=(4, 7), mode="bilinear", align_corners=True)
    assert torch.equal(resize_bilinear(maps, (4, 7), max_elements=limit), whole)


def test_residual_convolutions_skip_the_rectified_input():
    module, maps = ResidualConvolutions(4), torch.randn(1, 4, 5, 5)
    before = maps.clone()
    for convolution in (module.conv1, module.conv2):
        torch.nn.init.zeros_(convolution.weight)
        torch.nn.init.zeros_(convolution.bias)
    torch.testing.assert_close(module(maps), F.relu(maps))
    assert torch.equal(maps, before)


def test_coarsest_fusion_stage_has_nothing_to_merge():
    names = {name.split(".")[0] for name, _ in FusionStage(4, merges=False).named_parameters()}
    assert names == {"resConfUnit2", "out_conv"}


@pytest.mark.parametrize("chunk", [1, 3, 4, 10])
def test_chunks_change_nothing(model, tokens, chunk):
    values, confidence = model.point_head(tokens, SIZE, frames_per_chunk=100)
    assert values.shape == (2, 5, *SIZE, 3)
    assert confidence.shape == (2, 5, *SIZE)
    chunked_values, chunked_confidence = model.point_head(tokens, SIZE, frames_per_chunk=chunk)
    torch.testing.assert_close(chunked_values, values, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(chunked_confidence, confidence, rtol=1e-5, atol=1e-5)


def test_at_most_a_chunk_of_frames_is_in_the_head(model, tokens):
    seen = []
    handle = model.depth_head.scratch.register_forward_hook(lambda *args: seen.append(args[2].shape[0]))
    try:
        model.depth_head(tokens, SIZE, frames_per_chunk=4)
    finally:
        handle.remove()
    assert seen == [4, 4, 2]


def test_chunks_of_one_shape(model, tokens, monkeypatch):
    """The last takes some frames of the one before, whose results are not taken twice."""
    seen = []
    plain = model.depth_head.predict_chunk
    expected = model.depth_head(tokens, SIZE)
    monkeypatch.setattr(model.depth_head, "one_shape", True)
    monkeypatch.setattr(model.depth_head, "predict_chunk", lambda *args: seen.append(len(args[0][0])) or plain(*args))
    for chunk, sizes in ((4, [4, 4, 4]), (8, [5, 5]), (9, [5, 5]), (20, [10])):
        seen.clear()
        found = model.depth_head(tokens, SIZE, frames_per_chunk=chunk)
        assert seen == sizes
        for mine, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_chunks_must_hold_a_frame(model, tokens):
    with pytest.raises(InputError, match="frames_per_chunk must be at least 1, got 0"):
        model.depth_head(tokens, SIZE, frames_per_chunk=0)


def test_activations(fresh_model, tokens):
    """With a last convolution that always says its bias, the formulas show."""
    bias = torch.tensor([-1.5, 0.0, 2.0, -0.7])
    for head, values in ((fresh_model.point_head, bias), (fresh_model.depth_head, bias[2:])):
        last = head.scratch.output_conv2[2]
        torch.nn.init.zeros_(last.weight)
        with torch.no_grad():
            last.bias.copy_(values)
    points, certain = fresh_model.point_head(tokens, SIZE)
    expected = torch.tensor([1 - math.exp(1.5), 0.0, math.exp(2.0) - 1])
    torch.testing.assert_close(points, expected.expand_as(points))
    torch.testing.assert_close(certain, torch.full_like(certain, 1 + math.exp(-0.7)))
    depth, _ = fresh_model.depth_head(tokens, SIZE)
    torch.testing.assert_close(depth, torch.full_like(depth, math.exp(2.0)))


def test_special_tokens_are_not_read(model, tokens, config):
    others = [layer.clone() for layer in tokens]
    for layer in others:
        layer[:, :, : config.special_tokens] = 3.0
    assert torch.equal(model.depth_head(tokens, SIZE)[0], model.depth_head(others, SIZE)[0])


def test_every_layer_counts_and_gets_a_gradient(fresh_model, tokens, config):
    for layer in tokens:
        layer.requires_grad_()
    values, confidence = fresh_model.depth_head(tokens, SIZE)
    gradients = torch.autograd.grad(values.sum() + confidence.sum(), tokens)
    for gradient in gradients:
        assert (gradient[:, :, config.special_tokens :].abs().amax(dim=-1) > 0).all()
        assert (gradient[:, :, : config.special_tokens] == 0).all()
