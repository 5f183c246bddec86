"""The whole-clip pass of the video VAE equals the shipped class's chunked one, gradients included."""

import pytest
import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanUpsample
from lively import redraw
from torch import nn

from gen3r_core.errors import InputError
from gen3r_core.training.whole_clip import channels_last, decode_clip, encode_clip, temporal_ratio

CONFIGS = {
    "plain": {"dim_mult": [1, 2, 2, 2], "num_res_blocks": 1},
    "two_blocks": {"dim_mult": [1, 1, 1, 2], "num_res_blocks": 2},
    "early_time": {"dim_mult": [1, 1, 2, 2], "num_res_blocks": 1, "temperal_downsample": [True, True, False]},
    "split_time": {"dim_mult": [1, 2, 2, 2], "num_res_blocks": 1, "temperal_downsample": [True, False, True]},
    "patch_2": {
        "dim_mult": [1, 2, 2], "num_res_blocks": 1, "temperal_downsample": [True, True],
        "patch_size": 2, "in_channels": 12, "out_channels": 12,
    },
    "wide_decoder": {
        "dim_mult": [1, 2, 2], "num_res_blocks": 1, "temperal_downsample": [True, True], "decoder_base_dim": 8,
        "patch_size": 2, "in_channels": 12, "out_channels": 12,
    },
    "residual": {"dim_mult": [1, 2, 2, 2], "num_res_blocks": 1, "is_residual": True},
    "residual_patch": {
        "dim_mult": [1, 2, 2], "num_res_blocks": 1, "temperal_downsample": [True, True], "is_residual": True,
        "patch_size": 2, "in_channels": 12, "out_channels": 12,
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def exact_upsampling(monkeypatch):
    """The class rounds to float32 before it repeats pixels, which would hide differences below 1e-7."""
    monkeypatch.setattr(WanUpsample, "forward", nn.Upsample.forward)


def network(name, dtype=torch.float64):
    vae = AutoencoderKLWan(base_dim=4, z_dim=3, latents_mean=[0.0] * 3, latents_std=[1.0] * 3, **CONFIGS[name])
    redraw(vae, seed=len(name))
    with torch.no_grad():
        vae.decoder.conv_out.weight.mul_(0.1)  # most pixels stay within [-1, 1]
    return vae.to(dtype)


def clip(frames, dtype=torch.float64, size=(8, 16)):
    draw = torch.Generator().manual_seed(frames)
    return torch.rand(2, 3, frames, *size, generator=draw, dtype=dtype) * 2 - 1


@pytest.mark.parametrize("frames", [1, 5, 9, 17])
@pytest.mark.parametrize("name", CONFIGS)
def test_equals_the_chunked_pass(name, frames):
    vae = network(name)
    stacked = len(name) % 2 == 0  # the gradients below compare both
    assert temporal_ratio(vae) == 4
    with torch.no_grad():
        posterior = vae.encode(clip(frames)).latent_dist
        mean, logvar = encode_clip(vae, clip(frames), stacked=stacked)
        assert mean.shape[2] == 1 + (frames - 1) // 4
        assert mean.std() > 1e-2
        torch.testing.assert_close(mean, posterior.mean, rtol=0, atol=1e-12)
        torch.testing.assert_close(logvar, posterior.logvar, rtol=0, atol=1e-12)
        video = decode_clip(vae, mean, stacked=stacked)
        assert video.shape == clip(frames).shape
        assert float((video.abs() < 1).double().mean()) > 0.7
        torch.testing.assert_close(video.clamp(-1, 1), vae.decode(mean).sample, rtol=0, atol=1e-12)


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize(("name", "frames"), [("plain", 9), ("wide_decoder", 9), ("residual_patch", 9), ("plain", 1)])
def test_gradients_equal_those_of_the_chunked_pass(name, frames, stacked):
    vae = network(name)
    with torch.no_grad():
        vae.decoder.conv_out.weight.mul_(0.1)  # nothing is clamped

    def gradients(mean, video):
        loss = (mean**2).mean() + (video * clip(frames)).mean()
        return torch.autograd.grad(loss, list(vae.parameters()), allow_unused=True)

    whole_mean, _ = encode_clip(vae, clip(frames), stacked=stacked)
    whole = gradients(whole_mean, decode_clip(vae, whole_mean, stacked=stacked))
    mean = vae.encode(clip(frames)).latent_dist.mean
    video = vae.decode(mean).sample
    assert video.abs().max() < 1
    chunked = gradients(mean, video)
    for (key, parameter), a, b in zip(vae.named_parameters(), whole, chunked, strict=True):
        zero = torch.zeros_like(parameter)
        torch.testing.assert_close(zero if a is None else a, zero if b is None else b, rtol=0, atol=1e-12, msg=key)
        assert frames == 1 or a is not None, key


def test_frames_beyond_the_last_chunk_are_dropped_as_the_class_does():
    vae = network("plain")
    mean, _ = encode_clip(vae, clip(7))
    torch.testing.assert_close(mean, vae.encode(clip(7)).latent_dist.mean, rtol=0, atol=1e-12)
    assert mean.shape[2] == 2


def test_a_frame_influences_no_earlier_one():
    vae = network("plain")
    video = clip(9)
    changed = video.clone()
    changed[:, :, 5:] += 0.5
    before, after = (decode_clip(vae, encode_clip(vae, each)[0]) for each in (video, changed))
    assert torch.equal(before[:, :, :5], after[:, :, :5])
    assert (before[:, :, 5:] - after[:, :, 5:]).abs().max() > 1e-5


def test_float32_and_channels_last_give_the_same():
    vae = network("patch_2", torch.float32)
    mean, _ = encode_clip(vae, clip(9, torch.float32))
    last = network("patch_2", torch.float32)
    channels_last(last)
    assert last.encoder.conv_in.weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert last.encoder.down_blocks[1].resample[1].weight.is_contiguous(memory_format=torch.channels_last)
    other, _ = encode_clip(last, clip(9, torch.float32).contiguous(memory_format=torch.channels_last_3d))
    torch.testing.assert_close(mean, other, rtol=1e-4, atol=1e-5)


def test_sixteen_bit_autocast_equals_the_chunked_pass_under_it():
    vae = network("plain", torch.float32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        latents = torch.randn(1, 3, 3, 2, 3, generator=torch.Generator().manual_seed(0))
        video = decode_clip(vae, latents)
        assert video.dtype == torch.bfloat16
        assert (video.clamp(-1, 1) - vae.decode(latents).sample).abs().max() < 0.02


def test_unsuitable_clips_are_refused():
    vae = network("patch_2")
    with pytest.raises(InputError, match=r"a clip must be \[B, 3, F, H, W\] with at least one frame, got \[3, 5, 8\]"):
        encode_clip(vae, torch.zeros(3, 5, 8))
    with pytest.raises(InputError, match=r"frames of \(15, 16\) pixels do not divide into patches of 2"):
        encode_clip(vae, torch.zeros(1, 3, 1, 15, 16, dtype=torch.float64))
