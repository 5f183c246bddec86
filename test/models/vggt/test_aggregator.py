from __future__ import annotations

import pytest
import torch

from gen3r_core.errors import InputError
from gen3r_core.models.vggt.aggregator import normalise_pixels
from gen3r_core.models.vggt.blocks import rotary_table

PATCHES = 2 * 3


def test_pixels_are_normalised_in_float32():
    images = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1).expand(2, 3, 4, 5)
    torch.testing.assert_close(normalise_pixels(images), torch.zeros(2, 3, 4, 5))
    white = normalise_pixels(torch.ones(1, 1, 3, 2, 2, dtype=torch.bfloat16))
    assert white.dtype == torch.float32
    expected = torch.tensor([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225])
    torch.testing.assert_close(white[0, 0, :, 0, 0], expected)


def test_only_the_configured_layers_are_kept(model, images, config):
    tokens = model.aggregate(images)
    assert [tuple(layer.shape) for layer in tokens] == [(2, 4, config.special_tokens + PATCHES, 32)] * 4
    every = model.aggregate(images, layers=range(config.depth))
    for index, layer in zip(config.layers, tokens, strict=True):
        assert torch.equal(every[index], layer)


def test_layers_come_in_the_order_asked_for_and_later_blocks_are_not_run(model, images):
    calls = []
    handles = [
        block.register_forward_hook(lambda *_, index=index: calls.append(index))
        for index, block in enumerate(model.aggregator.global_blocks)
    ]
    try:
        second, first = model.aggregate(images, layers=[2, 0])
    finally:
        for handle in handles:
            handle.remove()
    assert calls == [0, 1, 2]
    assert torch.equal(first, model.aggregate(images, layers=[0])[0])
    assert not torch.equal(first, second)


def test_channels_are_frame_then_global_attention(model, images):
    tokens = model.aggregate(images, layers=[0])[0]
    within, across = tokens.chunk(2, dim=-1)
    alone, _ = model.aggregate(images[:, :1], layers=[0])[0].chunk(2, dim=-1)
    torch.testing.assert_close(within[:, :1], alone, rtol=1e-5, atol=1e-5)
    changed = images.clone()
    changed[:, 3] = 0
    within_changed, across_changed = model.aggregate(changed, layers=[0])[0].chunk(2, dim=-1)
    torch.testing.assert_close(within_changed[:, :3], within[:, :3], rtol=1e-5, atol=1e-5)
    assert (across_changed - across)[:, :3].abs().amax() > 1e-3


def test_frames_after_the_first_are_interchangeable(model, images):
    order = [0, 3, 1, 2]
    straight = torch.stack(model.aggregate(images))
    permuted = torch.stack(model.aggregate(images[:, order]))
    torch.testing.assert_close(permuted, straight[:, :, order], rtol=1e-4, atol=1e-4)


def test_the_first_frame_is_special(model, images):
    order = [1, 0, 2, 3]
    straight = torch.stack(model.aggregate(images))
    permuted = torch.stack(model.aggregate(images[:, order]))
    assert (permuted - straight[:, :, order]).abs().amax() > 1e-2


def test_batch_entries_do_not_see_each_other(model, images):
    together = torch.stack(model.aggregate(images))
    for index in range(images.shape[0]):
        alone = torch.stack(model.aggregate(images[index : index + 1]))
        torch.testing.assert_close(together[:, index : index + 1], alone, rtol=1e-4, atol=1e-4)


def test_first_frame_block_by_hand(model, images, config):
    """A single frame that is wider than high: rows and columns must not be swapped."""
    body, frame = model.aggregator, images[:, :1]
    patches = body.patch_embed(normalise_pixels(frame[:, 0])).patch_tokens
    special = torch.cat([body.camera_token[:, 0], body.register_token[:, 0]], dim=1).expand(2, -1, -1)
    table = rotary_table((2, 3), config.special_tokens, config.embed_dim // config.num_heads, config.rope_base)
    within = body.frame_blocks[0](torch.cat([special, patches], dim=1), table)
    across = body.global_blocks[0](within, table)
    expected = torch.cat([within, across], dim=-1)[:, None]
    torch.testing.assert_close(model.aggregate(frame, layers=[0])[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((4, 3, 28, 42), r"\[batch, frames, 3, height, width\], got \(4, 3, 28, 42\)"),
        ((1, 2, 1, 28, 28), r"got \(1, 2, 1, 28, 28\)"),
        ((1, 0, 3, 28, 28), r"got \(1, 0, 3, 28, 28\)"),
        ((1, 1, 3, 30, 28), "30x28 .*nearest usable sizes: height 28 or 42 and width 28"),
    ],
)
def test_unusable_images(model, shape, message):
    with pytest.raises(InputError, match=message):
        model.aggregate(torch.zeros(shape))


def test_integer_images_are_refused(model):
    with pytest.raises(InputError, match=r"floating point images in \[0, 1\], got torch.uint8; divide by 255"):
        model.aggregate(torch.zeros(1, 1, 3, 28, 28, dtype=torch.uint8))


@pytest.mark.parametrize("layers", [[5], [-1, 2], []])
def test_unusable_layers(model, images, layers):
    with pytest.raises(InputError, match="must be between 0 and 4 and at least one"):
        model.aggregate(images, layers=layers)
