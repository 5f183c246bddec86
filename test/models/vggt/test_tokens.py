from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gen3r_core.errors import InputError
from gen3r_core.models.vggt import pack_tokens, unpack_tokens


@settings(max_examples=50, deadline=None)
@given(
    layers=st.integers(1, 5),
    batch=st.integers(1, 2),
    frames=st.integers(1, 3),
    grid=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    channels=st.integers(1, 4),
    special=st.integers(1, 5),
)
def test_round_trip(layers, batch, frames, grid, channels, special):
    height, width = grid
    tokens = [torch.randn(batch, frames, special + height * width, channels) for _ in range(layers)]
    packed = pack_tokens(tokens, grid)
    assert packed.shape == (batch, (layers + 1) * channels, frames, height, width)
    restored = unpack_tokens(packed, special, num_layers=layers)
    assert len(restored) == layers
    camera = tokens[-1][:, :, :1].expand(-1, -1, special, -1)
    for before, after in zip(tokens, restored, strict=True):
        assert torch.equal(after[:, :, special:], before[:, :, special:])
        torch.testing.assert_close(after[:, :, :special], camera)


def test_layout():
    """The value of a patch token says its layer, frame, row, column and channel."""
    grid, special = (2, 3), 2
    rows, columns, channels = torch.meshgrid(torch.arange(2), torch.arange(3), torch.arange(4), indexing="ij")
    place = (100 * rows + 10 * columns + channels).flatten(0, 1).float()
    tokens = [torch.full((1, 5, special + 6, 4), -1.0) for _ in range(2)]
    for layer, values in enumerate(tokens):
        for frame in range(5):
            values[0, frame, special:] = place + 1000 * frame + 10_000 * layer
    packed = pack_tokens(tokens, grid)
    assert packed[0, 4 + 3, 2, 1, 2] == 10_000 + 2000 + 100 + 20 + 3
    assert packed[0, 0, 4, 0, 1] == 4000 + 10
    assert (packed[0, 8:] == -1).all()


def test_camera_tokens_can_be_given():
    tokens = [torch.zeros(1, 2, 5, 3)]
    cameras = torch.randn(1, 2, 3)
    packed = pack_tokens(tokens, (2, 2), camera_tokens=cameras)
    torch.testing.assert_close(packed[:, 3:], cameras.movedim(2, 1)[..., None, None].expand(-1, -1, -1, 2, 2))


def test_camera_group_is_averaged_in_float32():
    token_map = torch.zeros(1, 4, 1, 40, 40, dtype=torch.bfloat16)
    token_map[:, 2:] = torch.rand(40, 40).bfloat16()
    (tokens,) = unpack_tokens(token_map, 3, num_layers=1)
    assert tokens.dtype == torch.bfloat16
    expected = token_map[0, 2, 0].float().mean().bfloat16()
    assert (tokens[0, 0, :3] == expected).all()


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([], "must all have one shape"),
        ([(1, 2, 5, 3), (1, 2, 6, 3)], r"must all have one shape .* \(1, 2, 6, 3\)"),
        ([(2, 5, 3)], r"\[batch, frames, tokens, channels\]"),
        ([(1, 2, 4, 3)], "hold 4 tokens a frame, too few for a camera token and 2x2 patches"),
    ],
)
def test_tokens_that_cannot_be_packed(shapes, message):
    with pytest.raises(InputError, match=message):
        pack_tokens([torch.zeros(shape) for shape in shapes], (2, 2))


def test_camera_tokens_of_another_shape():
    with pytest.raises(InputError, match=r"camera tokens must have shape \[1, 2, 3\], got \(1, 2, 1, 3\)"):
        pack_tokens([torch.zeros(1, 2, 5, 3)], (2, 2), camera_tokens=torch.zeros(1, 2, 1, 3))


@pytest.mark.parametrize("shape", [(1, 9, 2, 2, 2), (10, 2, 2, 2)])
def test_maps_that_cannot_be_unpacked(shape):
    with pytest.raises(InputError, match=r"\[batch, 5 \* D, frames, rows, columns\] \(4 blocks and the camera token\)"):
        unpack_tokens(torch.zeros(shape))
