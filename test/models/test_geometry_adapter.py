"""The geometry adapter: one pass over the clip against a chunked reference, causality, and errors."""

import chunked_adapter
import pytest
import torch
from lively import redraw

from gen3r_core.errors import CheckpointError, InputError
from gen3r_core.models.geometry_adapter import GeometryAdapter, GeometryAdapterConfig

LIMIT = 2e-5
"""Float32, largest difference over the largest value."""

SHAPES = {
    "published": {},
    "time_first": {"temporal_downsample": (True, True, False)},
    "one_block": {"num_res_blocks": 1},
}


def build(**values):
    adapter = GeometryAdapter(GeometryAdapterConfig(token_channels=40, hidden_dim=4, **values)).eval()
    redraw(adapter)
    return adapter.requires_grad_(False)


@pytest.fixture(scope="module")
def adapter():
    """Shared by tests: never changed in place."""
    return build()


def tokens(frames, height=8, width=4, batch=1):
    return torch.randn(batch, 40, frames, height, width, generator=torch.Generator().manual_seed(frames))


def latents(frames, height=7, width=14, batch=1):
    return torch.randn(batch, 16, frames, height, width, generator=torch.Generator().manual_seed(frames))


def assert_near(actual, expected):
    assert actual.shape == expected.shape
    assert float((actual - expected).abs().max()) <= LIMIT * float(expected.abs().max())


@pytest.mark.parametrize("frames", [1, 5, 9, 17])
@pytest.mark.parametrize("values", SHAPES.values(), ids=SHAPES)
def test_encoding_equals_chunk_after_chunk(values, frames):
    network = build(**values)
    mean, logvar = network.encode(tokens(frames))
    assert mean.shape == logvar.shape == (1, 16, (frames + 3) // 4, 14, 7)
    expected_mean, expected_logvar = chunked_adapter.encode(network, tokens(frames))
    assert_near(mean, expected_mean)
    assert_near(logvar, expected_logvar)
    assert expected_mean.std() > 0.05


@pytest.mark.parametrize("frames", [1, 2, 3, 5])
@pytest.mark.parametrize("values", SHAPES.values(), ids=SHAPES)
def test_decoding_equals_chunk_after_chunk(values, frames):
    network = build(**values)
    decoded = network.decode(latents(frames))
    assert decoded.shape == (1, 40, 4 * frames - 3, 4, 8)
    expected = chunked_adapter.decode(network, latents(frames))
    assert_near(decoded, expected)
    assert expected.std() > 0.05


def test_later_frames_do_not_change_earlier_latents(adapter):
    clip = tokens(13)
    before = adapter.encode(clip)[0]
    for first_changed in (1, 5, 9):
        changed = clip.clone()
        changed[:, :, first_changed:] += 1
        after = adapter.encode(changed)[0]
        same = (first_changed + 3) // 4
        torch.testing.assert_close(after[:, :, :same], before[:, :, :same], rtol=1e-5, atol=1e-5)
        assert (after[:, :, same:] - before[:, :, same:]).abs().amax(dim=(0, 1, 3, 4)).min() > 1e-3


def test_later_latents_do_not_change_earlier_frames(adapter):
    z = latents(4)
    before = adapter.decode(z)
    for first_changed in (1, 2, 3):
        changed = z.clone()
        changed[:, :, first_changed:] += 1
        after = adapter.decode(changed)
        same = 4 * first_changed - 3
        torch.testing.assert_close(after[:, :, :same], before[:, :, :same], rtol=1e-5, atol=1e-5)
        assert (after[:, :, same:] - before[:, :, same:]).abs().amax(dim=(0, 1, 3, 4)).min() > 1e-3


def test_the_first_chunk_of_a_clip_is_the_clip_cut_there(adapter):
    assert_near(adapter.encode(tokens(9)[:, :, :5])[0], adapter.encode(tokens(9))[0][:, :, :2])
    assert_near(adapter.decode(latents(3)[:, :, :2]), adapter.decode(latents(3))[:, :, :5])


def test_a_batch_equals_its_samples(adapter):
    clips, z = tokens(5, batch=2), latents(2, batch=2)
    mean, logvar = adapter.encode(clips)
    for index in range(2):
        one_mean, one_logvar = adapter.encode(clips[index : index + 1])
        assert_near(mean[index : index + 1], one_mean)
        assert_near(logvar[index : index + 1], one_logvar)
        assert_near(adapter.decode(z)[index : index + 1], adapter.decode(z[index : index + 1]))


def test_the_mean_is_normalised_and_the_log_variance_is_clamped_only():
    plain = build(latents_mean=(0.0,) * 16, latents_std=(1.0,) * 16)
    shifted = build(latents_mean=tuple(range(16)), latents_std=tuple(range(1, 17)))
    mean, logvar = plain.encode(tokens(1))
    other_mean, other_logvar = shifted.encode(tokens(1))
    shift, scale = torch.arange(16.0).view(1, 16, 1, 1, 1), torch.arange(1.0, 17).view(1, 16, 1, 1, 1)
    torch.testing.assert_close(other_mean, (mean - shift) / scale)
    assert torch.equal(other_logvar, logvar)
    # Decoding takes the normalisation back.
    assert_near(shifted.decode((latents(2) - shift) / scale), plain.decode(latents(2)))
    for bias, limit in ((100.0, 20.0), (-100.0, -30.0)):
        extreme = build()
        extreme.quant_conv.bias.data[16:] = bias
        assert torch.equal(extreme.encode(tokens(1))[1], torch.full((1, 16, 1, 14, 7), limit))


def test_the_grid_can_be_given(adapter):
    by_default = adapter.decode(latents(2))
    assert torch.equal(adapter.decode(latents(2), (4, 8)), by_default)
    assert adapter.decode(latents(2), [6, 5]).shape == (1, 40, 5, 6, 5)
    assert adapter.decode(latents(1, 10, 9), (6, 5)).shape == (1, 40, 1, 6, 5)


def test_16_bit_weights_take_and_give_what_is_documented(adapter):
    narrow = build().to(torch.bfloat16)
    mean, logvar = narrow.encode(tokens(5))
    assert mean.dtype == logvar.dtype == torch.float32
    assert narrow.decode(latents(2)).dtype == torch.bfloat16
    assert float((mean - adapter.encode(tokens(5))[0]).norm() / adapter.encode(tokens(5))[0].norm()) < 0.1


@pytest.mark.parametrize("frames", [2, 4, 8])
def test_frame_counts_that_would_lose_frames_are_refused(adapter, frames):
    with pytest.raises(InputError, match=f"geometry adapter takes 4k\\+1 frames, got {frames}"):
        adapter.encode(tokens(frames))


@pytest.mark.parametrize("size", [(8, 7), (7, 8)])
def test_latents_between_token_grids_are_refused(adapter, size):
    with pytest.raises(
        InputError, match=rf"latents of {size[0]}x{size[1]} do not .*multiples of 7 needed, .*of 56 pixels"
    ):
        adapter.decode(latents(1, *size))


def test_configurations_come_from_files():
    ours = GeometryAdapterConfig(token_channels=40, hidden_dim=4)
    assert GeometryAdapterConfig.from_dict(ours.to_dict()) == ours
    as_json = {key: list(value) if isinstance(value, tuple) else value for key, value in ours.to_dict().items()}
    assert GeometryAdapterConfig.from_dict(as_json) == ours
    published = {"input_dim": 40, "output_dim": 40, "hidden_dim": 4, "latent_channels": 16, "resample_scale": 10}
    assert GeometryAdapterConfig.from_published(published) == ours
    assert GeometryAdapterConfig.from_published({}) == GeometryAdapterConfig()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temporal_downsample": (True,)}, "temporal_downsample must have one entry less than dim_mult"),
        ({"latents_mean": (0.0,)}, "latents_mean and latents_std must have latent_channels = 16 values"),
        ({"width": 3}, "geometry adapter: config.json has unknown keys width; known are"),
    ],
)
def test_configurations_that_make_no_sense(values, message):
    with pytest.raises(CheckpointError, match=message):
        GeometryAdapterConfig.from_dict(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"input_dim": 40, "output_dim": 20}, "input_dim 40 and output_dim 20 differ"),
        ({"spatial_compression_ratio": 16}, r"compression ratios \(4, 16\) are not the supported \(4, 8\)"),
        ({"temporal_compression_ratio": 2}, r"compression ratios \(2, 8\)"),
    ],
)
def test_published_adapters_of_another_kind_are_refused(values, message):
    with pytest.raises(CheckpointError, match=message):
        GeometryAdapterConfig.from_published(values)
