"""The video VAE over a whole clip at once, for training: equal to the chunked pass of diffusers' class.

`AutoencoderKLWan` walks a clip in chunks of four frames and keeps the last two frames of every convolution's input.
That is thousands of small operations. Here each layer sees all frames; the rules that make the two equal:

- a causal 3x3x3 convolution has two zero frames in front, once for the clip;
- norms, attention and 2-D convolutions see one frame at a time;
- `downsample3d` leaves frame 0 out of its time convolution: `out[0] = y[0]`, and `out[k]` filters `y[2k-2..2k]`;
- `upsample3d` leaves frame 0 as it is and filters the others as if it did not exist (zeros in its place);
- only the first `1 + 4 * floor((F - 1) / 4)` frames count;
- with `is_residual`, the averaging shortcut pads in front and the duplicating one drops what the first frame repeats.

The architecture is Wan2.1's (arXiv 2503.20314); the rules were derived from the class's behaviour.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from torch import Tensor, nn

from gen3r_core.errors import InputError

__all__ = ["channels_last", "decode_clip", "encode_clip", "temporal_ratio"]


def encode_clip(vae: AutoencoderKLWan, video: Tensor, *, stacked: bool = False) -> tuple[Tensor, Tensor]:
    """Posterior of the latents, not normalised, with gradients.

    Args:
        vae: the video VAE.
        video: `[B, 3, F, H, W]` in [-1, 1].
        stacked: compute 3x3x3 convolutions as 2-D ones on three frames stacked in channels; the same numbers, another
            kernel.

    Returns:
        mean and log variance (clamped to [-30, 20]), each `[B, z, 1 + (F - 1) // 4, H / 8, W / 8]`.

    Raises:
        InputError: the clip is no `[B, 3, F, H, W]`, or its sides are no multiples of the patch size.
    """
    if video.ndim != 5 or video.shape[2] < 1:
        raise InputError(f"a clip must be [B, 3, F, H, W] with at least one frame, got {list(video.shape)}")
    encoder = vae.encoder
    x = _patchify(video[:, :, : 1 + 4 * ((video.shape[2] - 1) // 4)], vae.config.patch_size or 1)
    x = _causal(encoder.conv_in, x, stacked)
    for block in encoder.down_blocks:
        x = _down_block(block, x, stacked)
    x = _middle(encoder.mid_block, x, stacked)
    x = _causal(encoder.conv_out, _norm_act(encoder.norm_out, x), stacked)
    mean, logvar = _causal(vae.quant_conv, x, stacked).chunk(2, dim=1)
    return mean, logvar.clamp(-30, 20)


def decode_clip(vae: AutoencoderKLWan, latents: Tensor, *, stacked: bool = False) -> Tensor:
    """Frames of latents, not clamped, with gradients.

    Args:
        vae: the video VAE.
        latents: `[B, z, f, h, w]`, not normalised.
        stacked: as for :func:`encode_clip`.

    Returns:
        `[B, 3, 1 + 4 (f - 1), 8 h, 8 w]`, about [-1, 1]; the shipped class clamps to that range, where a training
        would lose its gradient.
    """
    decoder = vae.decoder
    x = _causal(decoder.conv_in, _causal(vae.post_quant_conv, latents, stacked), stacked)
    x = _middle(decoder.mid_block, x, stacked)
    for block in decoder.up_blocks:
        x = _up_block(block, x, stacked)
    x = _causal(decoder.conv_out, _norm_act(decoder.norm_out, x), stacked)
    return _unpatchify(x, vae.config.patch_size or 1)


def temporal_ratio(vae: AutoencoderKLWan) -> int:
    """Frames to one latent frame; the class's chunks of four frames fit two steps in time only."""
    ratio: int = 2 ** sum(bool(flag) for flag in vae.config.temperal_downsample)
    return ratio


def channels_last(module: nn.Module) -> None:
    """Lays the weights of convolutions out channels-last, in place: what cuDNN's 16-bit kernels want.

    torch's own `Module.to(memory_format=...)` stops at the first tensor of another rank.
    """
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Conv3d):
            layer.weight.data = layer.weight.data.contiguous(memory_format=formats[layer.weight.ndim])


# --- layers --------------------------------------------------------------------------------------------


def _norm_act(norm: nn.Module, x: Tensor) -> Tensor:
    """Norm and SiLU; the norm's float32 gain promotes 16-bit values, which the next convolution would round again."""
    y: Tensor = F.silu(norm(x)).to(x.dtype)
    return y


def _causal(conv: Any, x: Tensor, stacked: bool) -> Tensor:
    """A causal convolution over all frames; `x` is `[B, C, F, H, W]`."""
    depth, height, width = conv.kernel_size
    if depth == 1:
        return F.conv3d(x, conv.weight, conv.bias)
    if x.shape[2] == 1:  # the earlier taps see zeros
        padding = (height // 2, width // 2)
        return F.conv2d(x[:, :, 0], conv.weight[:, :, -1], conv.bias, padding=padding).unsqueeze(2)
    padded = F.pad(x, (0, 0, 0, 0, depth - 1, 0))
    if not stacked:
        return F.conv3d(padded, conv.weight, conv.bias, padding=(0, height // 2, width // 2))
    frames = x.shape[2]
    taps = torch.cat([padded[:, :, tap : tap + frames] for tap in range(depth)], dim=1)
    weight = conv.weight.transpose(1, 2).flatten(1, 2)
    return _clips(F.conv2d(_frames(taps), weight, conv.bias, padding=(height // 2, width // 2)), frames)


def _frames(x: Tensor) -> Tensor:
    """`[B, C, F, H, W]` to `[B F, C, H, W]`; a view where `x` is channels-last."""
    return x.transpose(1, 2).flatten(0, 1)


def _clips(x: Tensor, frames: int) -> Tensor:
    """The inverse of :func:`_frames`."""
    clips: Tensor = x.unflatten(0, (-1, frames)).transpose(1, 2)
    return clips


def _residual(block: Any, x: Tensor, stacked: bool) -> Tensor:
    shortcut = x if isinstance(block.conv_shortcut, nn.Identity) else _causal(block.conv_shortcut, x, stacked)
    x = _causal(block.conv1, _norm_act(block.norm1, x), stacked)
    x = _causal(block.conv2, block.dropout(_norm_act(block.norm2, x)), stacked)
    return x + shortcut


def _middle(block: Any, x: Tensor, stacked: bool) -> Tensor:
    x = _residual(block.resnets[0], x, stacked)
    for attention, residual in zip(block.attentions, block.resnets[1:], strict=True):
        x = _residual(residual, attention(x), stacked)
    return x


def _down_block(block: Any, x: Tensor, stacked: bool) -> Tensor:
    kind = type(block).__name__
    if kind == "WanResidualBlock":
        return _residual(block, x, stacked)
    if kind == "WanResample":
        return _downsample(block, x)
    shortcut = block.avg_shortcut(x)
    for residual in block.resnets:
        x = _residual(residual, x, stacked)
    if block.downsampler is not None:
        x = _downsample(block.downsampler, x)
    y: Tensor = x + shortcut
    return y


def _up_block(block: Any, x: Tensor, stacked: bool) -> Tensor:
    duplicate = getattr(block, "avg_shortcut", None)
    shortcut = None if duplicate is None else duplicate(x, first_chunk=True)
    for residual in block.resnets:
        x = _residual(residual, x, stacked)
    upsampler = block.upsampler if hasattr(block, "upsampler") else (block.upsamplers or [None])[0]
    if upsampler is not None:
        x = _upsample(upsampler, x)
    return x if shortcut is None else x + shortcut


def _downsample(layer: Any, x: Tensor) -> Tensor:
    conv = layer.resample[1]
    halved = F.conv2d(F.pad(_frames(x), (0, 1, 0, 1)), conv.weight, conv.bias, stride=conv.stride)
    y = _clips(halved, x.shape[2])
    if layer.mode != "downsample3d" or y.shape[2] == 1:
        return y
    conv = layer.time_conv
    later = F.conv3d(y, conv.weight, conv.bias, stride=conv.stride)
    return torch.cat([y[:, :, :1], later], dim=2)


def _upsample(layer: Any, x: Tensor) -> Tensor:
    if layer.mode == "upsample3d" and x.shape[2] > 1:
        conv = layer.time_conv
        both = F.conv3d(F.pad(x[:, :, 1:], (0, 0, 0, 0, 2, 0)), conv.weight, conv.bias)
        earlier, later = both.chunk(2, dim=1)
        x = torch.cat([x[:, :, :1], torch.stack([earlier, later], dim=3).flatten(2, 3)], dim=2)
    conv = layer.resample[1]
    doubled = F.interpolate(_frames(x), scale_factor=2.0, mode="nearest-exact")
    return _clips(F.conv2d(doubled, conv.weight, conv.bias, padding=conv.padding), x.shape[2])


def _patchify(x: Tensor, patch: int) -> Tensor:
    """`[B, C, F, H, W]` to `[B, C p p, F, H/p, W/p]`: channel, then column in the patch, then row."""
    if patch == 1:
        return x
    if x.shape[3] % patch or x.shape[4] % patch:
        raise InputError(f"frames of {tuple(x.shape[3:])} pixels do not divide into patches of {patch}")
    split: Tensor = x.unflatten(4, (-1, patch)).unflatten(3, (-1, patch))  # B C F h p w q
    return split.permute(0, 1, 6, 4, 2, 3, 5).flatten(1, 3)


def _unpatchify(x: Tensor, patch: int) -> Tensor:
    """The inverse of :func:`_patchify`."""
    if patch == 1:
        return x
    split: Tensor = x.unflatten(1, (-1, patch, patch))  # B C q p F h w
    return split.permute(0, 1, 4, 5, 3, 6, 2).flatten(5, 6).flatten(3, 4)
