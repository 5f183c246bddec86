"""A plain reference of the geometry adapter: chunk after chunk, each causal convolution keeping its last frames.

Written from the rules of the causal video autoencoder (Wan2.1, arXiv 2503.20314) and not from the code
under test, of which it uses weights only: chunk 0 is frame 0 (encoder) or latent frame 0 (decoder); every
later chunk is four frames or one latent frame.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_wan import WanAttentionBlock, WanMidBlock, WanResidualBlock
from torch import Tensor, nn

from gen3r_core.models.geometry_adapter import GeometryAdapter


def rms(norm: nn.Module, x: Tensor) -> Tensor:
    """Channel vectors at length sqrt(C), times the gain."""
    length = x.square().sum(dim=1, keepdim=True).sqrt()
    gain = norm.gamma.reshape(1, -1, *[1] * (x.ndim - 2))
    return x / length.clamp(min=1e-12) * x.shape[1] ** 0.5 * gain


class Chunked:
    """One pass over a clip; the memory is keyed by layer."""

    def __init__(self) -> None:
        self.last: dict[nn.Module, Tensor] = {}

    def causal(self, conv: nn.Conv3d, x: Tensor) -> Tensor:
        """A 3x3x3 convolution: the two frames before the chunk are remembered, zero at the start."""
        if conv.kernel_size == (1, 1, 1):
            return F.conv3d(x, conv.weight, conv.bias)
        before = self.last.get(conv, x.new_zeros(*x.shape[:2], 2, *x.shape[3:]))
        x = torch.cat((before, x), dim=2)
        self.last[conv] = x[:, :, -2:]
        return F.conv3d(F.pad(x, (1, 1, 1, 1)), conv.weight, conv.bias)

    def residual(self, block: WanResidualBlock, x: Tensor) -> Tensor:
        h = x if isinstance(block.conv_shortcut, nn.Identity) else self.causal(block.conv_shortcut, x)
        x = self.causal(block.conv1, F.silu(rms(block.norm1, x)))
        return h + self.causal(block.conv2, F.silu(rms(block.norm2, x)))

    def attention(self, block: WanAttentionBlock, x: Tensor) -> Tensor:
        """Within each frame, one head."""
        frames = []
        for frame in x.unbind(dim=2):
            qkv = F.conv2d(rms(block.norm, frame), block.to_qkv.weight, block.to_qkv.bias)
            q, k, v = qkv.flatten(2).transpose(1, 2).chunk(3, dim=-1)
            weights = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(dim=-1)
            mixed = (weights @ v).transpose(1, 2).reshape(frame.shape)
            frames.append(frame + F.conv2d(mixed, block.proj.weight, block.proj.bias))
        return torch.stack(frames, dim=2)

    def middle(self, block: WanMidBlock, x: Tensor) -> Tensor:
        x = self.residual(block.resnets[0], x)
        return self.residual(block.resnets[1], self.attention(block.attentions[0], x))

    def per_frame(self, conv: nn.Conv2d, x: Tensor, padding: int) -> Tensor:
        convolved = [F.conv2d(f, conv.weight, conv.bias, conv.stride, padding) for f in x.unbind(dim=2)]
        return torch.stack(convolved, dim=2)

    def down(self, layer: nn.Module, x: Tensor) -> Tensor:
        """Convolution per frame; then frame 0 as it is, later chunks with the last frame before them, stride 2."""
        x = self.per_frame(layer.conv, x, padding=1)
        time = layer.time_conv
        if time is None:
            return x
        before = self.last.get(time)
        self.last[time] = x[:, :, -1:]
        if before is None:
            return x
        x = torch.cat((before, x), dim=2)
        w, b = time.weight[:, :, :, 0, 0], time.bias[:, None, None]
        taps = [
            torch.einsum("oc,bcthw->bothw", w[:, :, tap], x[:, :, tap : x.shape[2] - 2 + tap : 2]) for tap in range(3)
        ]
        return sum(taps) + b[:, None]

    def up(self, layer: nn.Module, x: Tensor) -> Tensor:
        """Frame 0 as it is and never seen again; each later one becomes two; then a convolution per frame."""
        time = layer.time_conv
        if time is not None:
            if time not in self.last:
                self.last[time] = x.new_zeros(*x.shape[:2], 2, *x.shape[3:])
            else:
                window = torch.cat((self.last[time], x), dim=2)
                self.last[time] = window[:, :, -2:]
                w, b = time.weight[:, :, :, 0, 0], time.bias[:, None, None]
                results = []
                for k in range(x.shape[2]):
                    p = sum(torch.einsum("oc,bchw->bohw", w[:, :, tap], window[:, :, k + tap]) for tap in range(3)) + b
                    results += list(p.chunk(2, dim=1))
                x = torch.stack(results, dim=2)
        return self.per_frame(layer.conv, x, padding=1)

    def levels(self, layers: nn.Sequential, x: Tensor, step: str) -> Tensor:
        for layer in layers:
            x = self.residual(layer, x) if isinstance(layer, WanResidualBlock) else getattr(self, step)(layer, x)
        return x


def constants(adapter: GeometryAdapter) -> list[Tensor]:
    return [torch.tensor(v).view(1, -1, 1, 1, 1) for v in (adapter.config.latents_mean, adapter.config.latents_std)]


def encode(adapter: GeometryAdapter, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Normalised mean and clamped log variance."""
    encoder, run, chunks = adapter.encoder, Chunked(), []
    frames = tokens.shape[2]
    for chunk in (tokens[:, :, :1], *(tokens[:, :, i : i + 4] for i in range(1, frames, 4))):
        rows, columns = (side * 7 // 4 for side in chunk.shape[3:])
        row, column = ((((torch.arange(n) + 0.5) * 4 / 7).floor().long()) for n in (rows, columns))
        x = run.per_frame(encoder.reduce, chunk[:, :, :, row][..., column], padding=1)
        x = run.causal(encoder.conv_in, x)
        x = run.middle(encoder.mid_block, run.levels(encoder.levels, x, "down"))
        x = run.causal(encoder.conv_out, F.silu(rms(encoder.norm_out, x)))
        chunks.append(run.causal(adapter.quant_conv, x))
    mean, logvar = torch.cat(chunks, dim=2).chunk(2, dim=1)
    shift, scale = constants(adapter)
    return (mean - shift) / scale, logvar.clamp(-30, 20)


def decode(adapter: GeometryAdapter, latents: Tensor) -> Tensor:
    """The token map on the grid of 4/7 of the latents'."""
    decoder, run, chunks = adapter.decoder, Chunked(), []
    shift, scale = constants(adapter)
    rows, columns = (side * 4 // 7 * 2 for side in latents.shape[3:])
    row, column = (
        (((torch.arange(n) + 0.5) * side / n).floor().long())
        for n, side in ((rows, latents.shape[3]), (columns, latents.shape[4]))
    )
    for chunk in (latents * scale + shift).split(1, dim=2):
        x = run.causal(decoder.conv_in, run.causal(adapter.post_quant_conv, chunk))
        x = run.levels(decoder.levels, run.middle(decoder.mid_block, x), "up")
        x = run.causal(decoder.conv_out, F.silu(rms(decoder.norm_out, x)))
        x = F.pad(x[:, :, :, row][..., column], (0, 1, 0, 1))
        chunks.append(run.per_frame(decoder.expand, x, padding=0))
    return torch.cat(chunks, dim=2)
