from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gen3r_core.errors import InputError
from gen3r_core.models.vggt.config import DinoV2Config
from gen3r_core.models.vggt.dinov2 import DinoV2, PatchEmbedding, patch_grid

CONFIG = DinoV2Config(image_size=42, patch_size=14, embed_dim=8, depth=1, num_heads=2, num_register_tokens=2)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 20))
def test_patch_grid_of_multiples(rows, columns, patch):
    assert patch_grid((rows * patch, columns * patch), patch) == (rows, columns)


@given(st.integers(-5, 2000), st.integers(-5, 2000))
def test_patch_grid_advises_usable_sizes(height, width):
    if height > 0 and width > 0 and height % 14 == 0 and width % 14 == 0:
        assert patch_grid((height, width), 14) == (height / 14, width / 14)
        return
    with pytest.raises(InputError, match=f"{height}x{width}") as caught:
        patch_grid((height, width), 14)
    advice = str(caught.value).split("sizes: height ")[1].split(";")[0]
    for side, sizes in zip((height, width), advice.split(" and width "), strict=True):
        offered = [int(size) for size in sizes.split(" or ")]
        assert all(size > 0 and size % 14 == 0 for size in offered)
        assert min(abs(size - side) for size in offered) == min(abs(14 * n - side) for n in range(1, 200))


def test_patch_grid_message():
    with pytest.raises(InputError, match=r"57x84 .* patches of 14 pixels; .*height 56 or 70 and width 84; resize"):
        patch_grid((57, 84), 14)
    with pytest.raises(InputError, match="height 14 and width 14 or 28"):
        patch_grid((0, 15), 14)


def test_patches_come_row_by_row():
    embedding, images = PatchEmbedding(14, 8), torch.zeros(1, 3, 28, 42)
    plain = embedding(images)
    images[0, :, 14:28, 28:42] = 1.0
    changed = (embedding(images) - plain).abs().amax(dim=-1)[0] > 0
    assert changed.tolist() == [False, False, False, False, False, True]


def test_stored_positions_are_used_as_they_are_at_the_native_size():
    model = DinoV2(CONFIG)
    assert model.position_embedding((3, 3)) is model.pos_embed


@pytest.mark.parametrize("grid", [(2, 5), (5, 2), (4, 4), (1, 9), (6, 3)])
def test_resampled_positions_keep_rows_and_columns(grid):
    """Channel 0 grows with the row, channel 1 with the column, channel 2 is constant."""
    model = DinoV2(CONFIG)
    rows, columns = torch.meshgrid(torch.arange(3.0), torch.arange(3.0), indexing="ij")
    with torch.no_grad():
        model.pos_embed[0, 1:, 0], model.pos_embed[0, 1:, 1] = rows.flatten(), columns.flatten()
        model.pos_embed[0, 1:, 2] = 0.7
    positions = model.position_embedding(grid)
    assert positions.shape == (1, 1 + grid[0] * grid[1], 8)
    assert torch.equal(positions[:, 0], model.pos_embed[:, 0])
    table = positions[0, 1:].unflatten(0, grid)
    torch.testing.assert_close(table[..., 2], torch.full(grid, 0.7))
    torch.testing.assert_close(table[..., 0], table[:, :1, 0].expand(grid))
    torch.testing.assert_close(table[..., 1], table[:1, :, 1].expand(grid))
    assert (table[:, 0, 0].diff() > 0).all()
    assert (table[0, :, 1].diff() > 0).all()


def test_shrinking_averages():
    """Without antialiasing, the one remaining cell would be the centre of the three by three."""
    model = DinoV2(CONFIG)
    with torch.no_grad():
        model.pos_embed[0, 1:] = 1.0
        model.pos_embed[0, 1 + 4] = 0.0
    assert (model.position_embedding((1, 1))[0, 1] > 0.5).all()


def test_norms_are_those_of_dinov2():
    epsilons = {module.eps for module in DinoV2(CONFIG).modules() if isinstance(module, torch.nn.LayerNorm)}
    assert epsilons == {1e-6}


def test_token_groups_and_their_shapes():
    model = DinoV2(CONFIG).eval()
    features = model(torch.randn(2, 3, 28, 56))
    assert features.cls_token.shape == (2, 8)
    assert features.register_tokens.shape == (2, 2, 8)
    assert features.patch_tokens.shape == (2, 8, 8)


def test_registers_carry_no_position_and_the_class_token_does():
    model, images = DinoV2(CONFIG).eval(), torch.randn(1, 3, 42, 42)
    torch.nn.init.zeros_(model.blocks[0].ls1.gamma)  # tokens do not see each other
    before = model(images)
    with torch.no_grad():
        model.pos_embed += torch.randn(8)
    after = model(images)
    assert torch.equal(before.register_tokens, after.register_tokens)
    assert not torch.allclose(before.cls_token, after.cls_token)
    assert not torch.allclose(before.patch_tokens, after.patch_tokens)


def test_mask_token_is_not_trained():
    model = DinoV2(CONFIG)
    assert [name for name, value in model.named_parameters() if not value.requires_grad] == ["mask_token"]


def test_images_are_cast_to_the_dtype_of_the_weights():
    model = DinoV2(CONFIG).bfloat16()
    assert model(torch.randn(1, 3, 28, 28)).patch_tokens.dtype == torch.bfloat16
