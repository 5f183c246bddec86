"""The image encoder: preprocessing, tokens, and configuration."""

import numpy as np
import pytest
import torch
from lively import redraw

from gen3r_core.errors import CheckpointError
from gen3r_core.models.image_encoder import (
    PIXEL_MEAN,
    PIXEL_STD,
    ImageEncoder,
    ImageEncoderConfig,
    quantize_like_upstream,
)

CONFIG = ImageEncoderConfig(
    image_size=28, patch_size=7, hidden_size=24, intermediate_size=48, num_heads=2, num_layers=2
)


@pytest.fixture(scope="module")
def encoder():
    """Shared by tests: never changed in place."""
    network = ImageEncoder(CONFIG).eval()
    redraw(network)
    return network.requires_grad_(False)


def test_images_of_any_size_give_the_same_number_of_tokens(encoder):
    assert encoder.num_tokens == 17
    for size in ((28, 28), (60, 45), (14, 100)):
        images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
        assert encoder(images).shape == (2, 17, 24)


def test_an_image_of_the_right_size_is_only_normalised(encoder):
    images = torch.rand(1, 3, 28, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD))
    torch.testing.assert_close(encoder.preprocess(images), (images / 2 + 0.5 - mean) / std)


def test_a_plain_image_stays_plain_when_resized(encoder):
    colour = torch.tensor([-1.0, 0.2, 1.0]).view(1, 3, 1, 1)
    pixels = encoder.preprocess(colour.expand(1, 3, 50, 70))
    torch.testing.assert_close(pixels, encoder.preprocess(colour.expand(1, 3, 28, 28)))


def test_every_patch_is_seen_and_all_blocks_run(encoder):
    images = torch.rand(1, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    before = encoder(images)
    changed = images.clone()
    changed[..., -1, -1] = -1  # the last pixel
    assert (encoder(changed) - before).abs().amax(dim=2).min() > 1e-5
    deeper = ImageEncoder(ImageEncoderConfig(**CONFIG.to_dict() | {"num_layers": 1})).eval()
    deeper.load_state_dict(encoder.state_dict(), strict=False)
    with torch.no_grad():
        assert (deeper(images) - before).abs().max() > 1e-2


def test_tokens_come_straight_from_the_last_block(encoder):
    """No norm follows: CLIP's own after the tower serves its pooled output only."""
    last = {}
    hook = encoder.tower.encoder.layers[-1].register_forward_hook(
        lambda _m, _a, output: last.update(output=output[0] if isinstance(output, tuple) else output)
    )
    tokens = encoder(torch.zeros(1, 3, 28, 28))
    hook.remove()
    assert torch.equal(tokens, last["output"])


def test_16_bit_weights(encoder):
    narrow = ImageEncoder(CONFIG).eval()
    narrow.load_state_dict(encoder.state_dict())
    narrow = narrow.to(torch.bfloat16)
    assert narrow(torch.zeros(1, 3, 28, 28)).dtype == torch.bfloat16
    assert narrow.preprocess(torch.zeros(1, 3, 28, 28)).dtype == torch.float32


def test_quantisation_truncates_as_numpy_does():
    values = torch.tensor([0.0, 0.00391, 0.5, 0.99999, 1.0, -0.1, 1.2])
    expected = np.array([0, 0, 127, 254, 255, 0, 255], dtype=np.float32) / 255 * 2 - 1
    np.testing.assert_array_equal(quantize_like_upstream(values).numpy(), expected)
    every_level = torch.arange(256) / 255
    again = (quantize_like_upstream(every_level) / 2 + 0.5) * 255
    assert (again.round() - torch.arange(256)).abs().max() <= 1


def test_configurations_come_from_files():
    assert ImageEncoderConfig.from_dict(CONFIG.to_dict()) == CONFIG
    published = {"image_size": 28, "patch_size": 7, "vision_dim": 24, "vision_mlp_ratio": 2, "vision_heads": 2}
    assert ImageEncoderConfig.from_published(published | {"vision_layers": 3}) == CONFIG  # the last is never run
    assert ImageEncoderConfig.from_published({}) == ImageEncoderConfig()
    with pytest.raises(CheckpointError, match=r"image encoder: config\.json has unknown keys width"):
        ImageEncoderConfig.from_dict({"width": 3})
