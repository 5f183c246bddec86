"""The video VAE: configuration, normalised latents, and what is refused."""

import pytest
import torch
from diffusers import AutoencoderKLWan
from lively import redraw

from gen3r_core.errors import CheckpointError, InputError
from gen3r_core.models.video_vae import config_from_published, decode_video, encode_video, sample_latents


@pytest.fixture(scope="module")
def vae():
    """Shared by tests: never changed in place."""
    network = AutoencoderKLWan(base_dim=8).eval()
    redraw(network)
    return network.requires_grad_(False)


def clip(frames=5, height=16, width=24, batch=1):
    draw = torch.Generator().manual_seed(frames)
    return torch.rand(batch, 3, frames, height, width, generator=draw) * 2 - 1


def constants(vae):
    return (torch.tensor(vae.config[key]).view(1, 16, 1, 1, 1) for key in ("latents_mean", "latents_std"))


@pytest.mark.parametrize("frames", [1, 5, 9])
def test_encoding_normalises_the_mean_only(vae, frames):
    mean, logvar = encode_video(vae, clip(frames))
    assert mean.shape == logvar.shape == (1, 16, (frames + 3) // 4, 2, 3)
    posterior = vae.encode(clip(frames)).latent_dist
    shift, scale = constants(vae)
    torch.testing.assert_close(mean * scale + shift, posterior.mean, rtol=1e-5, atol=1e-5)
    assert torch.equal(logvar, posterior.logvar)
    assert mean.std() > 0.05


@pytest.mark.parametrize("latent_frames", [1, 2, 3])
def test_decoding_takes_normalised_latents(vae, latent_frames):
    z = torch.randn(1, 16, latent_frames, 2, 3, generator=torch.Generator().manual_seed(0))
    video = decode_video(vae, z)
    assert video.shape == (1, 3, 4 * latent_frames - 3, 16, 24)
    assert video.abs().max() <= 1
    shift, scale = constants(vae)
    assert torch.equal(video, vae.decode(z * scale + shift).sample)


def test_drawing_from_the_posterior():
    mean, logvar = torch.tensor([1.0, 2.0]), torch.log(torch.tensor([4.0, 0.25]))
    torch.testing.assert_close(sample_latents(mean, logvar, torch.zeros(2)), mean)
    torch.testing.assert_close(sample_latents(mean, logvar, torch.tensor([3.0, -2.0])), torch.tensor([7.0, 1.0]))


def test_16_bit_networks_give_float32(vae):
    narrow = AutoencoderKLWan(base_dim=8).eval()
    narrow.load_state_dict(vae.state_dict())
    narrow = narrow.to(torch.bfloat16)
    with torch.no_grad():
        mean, logvar = encode_video(narrow, clip())
        video = decode_video(narrow, mean)
    assert mean.dtype == logvar.dtype == video.dtype == torch.float32


@pytest.mark.parametrize("frames", [2, 4, 8])
def test_frame_counts_that_would_lose_frames_are_refused(vae, frames):
    with pytest.raises(InputError, match=rf"the video VAE takes 4k\+1 frames, got {frames}"):
        encode_video(vae, clip(frames))


@pytest.mark.parametrize("size", [(12, 16), (16, 20)])
def test_sizes_between_latent_cells_are_refused(vae, size):
    with pytest.raises(InputError, match=f"sizes in multiples of 8 pixels, got {size[0]}x{size[1]}"):
        encode_video(vae, clip(1, *size))


def test_the_published_configuration():
    published = {"latent_channels": 16, "temporal_compression_ratio": 4, "spacial_compression_ratio": 8}
    assert config_from_published(published) == {"z_dim": 16}
    inner = {"dim": 8, "z_dim": 4, "dim_mult": [1, 2], "num_res_blocks": 1, "temperal_downsample": [True], "dropout": 0}
    assert config_from_published(inner) == {
        "base_dim": 8, "z_dim": 4, "dim_mult": [1, 2], "num_res_blocks": 1, "temperal_downsample": [True],
    }  # fmt: skip
    with pytest.raises(CheckpointError, match=r"compression ratios \(4, 16\) are not the supported \(4, 8\)"):
        config_from_published({"spacial_compression_ratio": 16})
