"""First weights of a video VAE: a start that single frames can train, and that a clip can go on from.

The network's 3x3x3 convolutions see one frame through their last tap only. torch's default counts all three taps and
attenuates; here every weight is drawn for the taps that are live, the earlier ones are zero, and the time convolutions
pass the newest frame on. Such a network decodes a still clip exactly as its picture, and frames 4k of any clip as those
pictures, so that training can begin with single frames and turn to clips without a jump.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn

__all__ = ["inflate", "initialize"]

_BRANCH_SCALE = 0.1
"""Of what ends a residual branch: blocks begin close to the identity."""

_LOGVAR_BIAS = -4.0


@torch.no_grad()
def initialize(vae: AutoencoderKLWan, generator: torch.Generator) -> None:
    """Draws all weights: normal with variance 1 / (live inputs), biases zero, log variances about -4.

    Args:
        vae: the network, float32, changed in place.
        generator: on the CPU, so that a seed means the same weights on every device.
    """
    for name, layer in vae.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Conv3d):
            live = layer.in_channels * layer.kernel_size[-1] * layer.kernel_size[-2]
            scale = _BRANCH_SCALE if name.endswith((".conv2", ".proj")) else 1.0
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * (scale / live**0.5))
            if layer.bias is not None:
                layer.bias.zero_()
        elif hasattr(layer, "gamma"):
            layer.gamma.fill_(1.0)
    vae.quant_conv.bias[vae.config.z_dim :] = _LOGVAR_BIAS
    inflate(vae)


@torch.no_grad()
def inflate(vae: AutoencoderKLWan) -> None:
    """Makes a network that was trained on single frames one for clips, in place: what it learnt stays.

    Earlier taps, which single frames never reach, become zero; time convolutions become the identity on the newest
    frame (on both frames that they make of one).
    """
    for name, layer in vae.named_modules():
        if not isinstance(layer, nn.Conv3d) or layer.kernel_size[0] == 1:
            continue
        layer.weight[:, :, :-1] = 0
        if name.endswith("time_conv"):
            layer.weight.zero_()
            layer.weight[:, :, -1, 0, 0] = _identities(layer.out_channels, layer.in_channels).to(layer.weight)
            if layer.bias is not None:
                layer.bias.zero_()


def _identities(rows: int, columns: int) -> Tensor:
    return torch.eye(columns).repeat(rows // columns, 1)
