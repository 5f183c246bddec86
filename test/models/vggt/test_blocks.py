from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gen3r_core.models.vggt.blocks import MLP, Block, SelfAttention, rotary_table, rotate


def test_rotary_planes_and_angles():
    """Eight channels: planes (0,2) and (1,3) turn with the row, (4,6) and (5,7) with the column."""
    table = rotary_table((2, 3), special_tokens=1, head_dim=8, base=100.0)
    row, column = 1, 2
    token = 1 + row * 3 + column
    features = torch.zeros(1, 1, table.shape[1], 8)
    features[..., token, :] = torch.tensor([1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0])
    down, right = 1.0 + row, 1.0 + column
    expected = [
        *(math.cos(down), math.cos(0.1 * down), math.sin(down), math.sin(0.1 * down)),
        *(math.cos(right), math.cos(0.1 * right), math.sin(right), math.sin(0.1 * right)),
    ]
    torch.testing.assert_close(rotate(features, table)[0, 0, token], torch.tensor(expected))


def test_special_tokens_are_not_turned():
    table = rotary_table((2, 2), special_tokens=3, head_dim=12, base=100.0)
    features = torch.randn(2, 2, 7, 12)
    turned = rotate(features, table)
    torch.testing.assert_close(turned[:, :, :3], features[:, :, :3], rtol=0, atol=0)
    assert ((turned - features)[:, :, 3:].abs().amax(dim=-1) > 1e-3).all()


@settings(max_examples=40, deadline=None)
@given(
    start=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    offset=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    shift=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    seed=st.integers(0, 99),
)
def test_scores_depend_on_relative_position_only(start, offset, shift, seed):
    side, generator = 20, torch.Generator().manual_seed(seed)
    table = rotary_table((side, side), special_tokens=0, head_dim=16, base=100.0)
    query, key = torch.randn(2, 16, generator=generator)

    def score(a, b):
        turned_query = rotate(query.expand(1, 1, side * side, 16), table)[0, 0].unflatten(0, (side, side))
        turned_key = rotate(key.expand(1, 1, side * side, 16), table)[0, 0].unflatten(0, (side, side))
        return turned_query[a] @ turned_key[b]

    here = score(start, (start[0] + offset[0], start[1] + offset[1]))
    moved = (start[0] + shift[0], start[1] + shift[1])
    there = score(moved, (moved[0] + offset[0], moved[1] + offset[1]))
    torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-4)


def test_rows_and_columns_are_told_apart():
    table = rotary_table((3, 3), special_tokens=0, head_dim=8, base=100.0)
    cosines = table[0].unflatten(0, (3, 3))
    assert torch.equal(cosines[0, 0, :4], cosines[0, 2, :4])
    assert not torch.allclose(cosines[0, 0, 4:], cosines[0, 2, 4:])
    assert torch.equal(cosines[0, 0, 4:], cosines[2, 0, 4:])
    assert not torch.allclose(cosines[0, 0, :4], cosines[2, 0, :4])


def test_rotation_repeats_for_every_frame_and_keeps_length():
    table = rotary_table((2, 3), special_tokens=2, head_dim=8, base=100.0)
    features = torch.randn(2, 3, 4 * 8, 8)
    turned = rotate(features, table)
    by_frame = [rotate(frame, table) for frame in features.split(8, dim=2)]
    torch.testing.assert_close(turned, torch.cat(by_frame, dim=2), rtol=0, atol=0)
    torch.testing.assert_close(turned.norm(dim=-1), features.norm(dim=-1))


def test_half_precision_is_rounded_once():
    table = rotary_table((2, 3), special_tokens=1, head_dim=8, base=100.0)
    assert table.dtype == torch.float32
    features = torch.randn(1, 2, 7, 8).bfloat16()
    assert torch.equal(rotate(features, table), rotate(features.float(), table).bfloat16())


def test_attention_matches_the_formula():
    module = SelfAttention(8, 2, normalise_queries=True)
    tokens = torch.randn(3, 5, 8)
    query, key, value = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in module.qkv(tokens).chunk(3, dim=-1))
    query, key = module.q_norm(query), module.k_norm(key)
    weights = ((query @ key.transpose(-1, -2)) / 2.0).softmax(dim=-1)
    expected = module.proj((weights @ value).transpose(1, 2).reshape(3, 5, 8))
    torch.testing.assert_close(module(tokens), expected)


def test_mlp_uses_the_exact_gelu():
    module, features = MLP(4, 6, 3), torch.randn(7, 4)
    hidden = module.fc1(features).double()
    hidden = 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2)))
    torch.testing.assert_close(module(features), module.fc2(hidden.float()), rtol=1e-6, atol=1e-6)


def test_block_adds_scaled_branches():
    block, tokens = Block(8, 2, layer_scale=0.0), torch.randn(2, 5, 8)
    assert torch.equal(block(tokens), tokens)
    torch.nn.init.constant_(block.ls2.gamma, 0.5)
    torch.testing.assert_close(block(tokens), tokens + 0.5 * block.mlp(block.norm2(tokens)))
    torch.nn.init.zeros_(block.ls2.gamma)
    torch.nn.init.constant_(block.ls1.gamma, 0.5)
    torch.testing.assert_close(block(tokens), tokens + 0.5 * block.attn(block.norm1(tokens)))


@pytest.mark.parametrize("normalise", [True, False])
def test_query_norms_are_optional_parameters(normalise):
    names = {name for name, _ in Block(8, 2, normalise_queries=normalise).named_parameters()}
    assert ("attn.q_norm.weight" in names) is normalise
    assert ("attn.k_norm.bias" in names) is normalise
