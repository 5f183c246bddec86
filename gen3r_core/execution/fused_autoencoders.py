"""The video VAE and the geometry adapter on fused blocks; see :mod:`gen3r_core.execution.fused_blocks`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn

from gen3r_core.execution.fused_blocks import Activations, FusedBlocks, Past, convolve, convolve_images
from gen3r_core.models.geometry_adapter import GeometryAdapter, TimeDown, TimeUp


class _Fused:
    """Other forwards of some networks; :meth:`remove` undoes it exactly."""

    def __init__(self, forwards: list[tuple[nn.Module, Callable[..., Tensor]]]) -> None:
        self._changed = forwards
        for network, forward in forwards:
            network.forward = partial(forward, network)

    def remove(self) -> None:
        """Back to plain execution."""
        while self._changed:
            del self._changed.pop()[0].forward


class FusedVideoVAE(_Fused):
    """Has the encoder and the decoder of a video VAE run on fused blocks, chunk by chunk as before.

    The result is the same but for the last bits. For use without gradients.

    Args:
        vae: whose weights may lie anywhere and move.
        backend: torch's name of a compiler, or the compiler.
    """

    def __init__(self, vae: AutoencoderKLWan, *, backend: str | Callable[..., Any] = "inductor") -> None:
        self._blocks = FusedBlocks(backend)
        super().__init__([(vae.encoder, self._encode), (vae.decoder, self._decode)])

    def _encode(self, encoder: Any, x: Tensor, feat_cache: list[Any], feat_idx: list[int]) -> Tensor:
        blocks, past = self._blocks, Past(feat_cache, feat_idx)
        hidden = blocks.enter(encoder.conv_in, x, past)
        for layer in encoder.down_blocks:
            hidden = blocks.layer(layer, hidden, past)
        hidden = blocks.middle(encoder.mid_block, hidden, past)
        return blocks.leave(encoder.norm_out, encoder.conv_out, hidden, past)

    def _decode(
        self, decoder: Any, x: Tensor, feat_cache: list[Any], feat_idx: list[int], **_first_chunk: bool
    ) -> Tensor:
        blocks, past = self._blocks, Past(feat_cache, feat_idx)
        hidden = blocks.middle(decoder.mid_block, blocks.enter(decoder.conv_in, x, past), past)
        for level in decoder.up_blocks:
            for layer in (*level.resnets, *(level.upsamplers or ())):
                hidden = blocks.layer(layer, hidden, past)
        return blocks.leave(decoder.norm_out, decoder.conv_out, hidden, past)


class FusedGeometryAdapter(_Fused):
    """Has the encoder and the decoder of a geometry adapter run on fused blocks, the clip in one pass as before.

    The result is the same but for the last bits. For use without gradients.

    Args:
        adapter: whose weights may lie anywhere and move.
        backend: torch's name of a compiler, or the compiler.
    """

    def __init__(self, adapter: GeometryAdapter, *, backend: str | Callable[..., Any] = "inductor") -> None:
        self._blocks = FusedBlocks(backend)
        super().__init__([(adapter.encoder, self._encode), (adapter.decoder, self._decode)])

    def _encode(self, encoder: Any, tokens: Tensor) -> Tensor:
        hidden = self._blocks.enter(encoder.conv_in, encoder.from_tokens(tokens), None)
        hidden = self._blocks.middle(encoder.mid_block, self._levels(encoder.levels, hidden), None)
        return self._blocks.leave(encoder.norm_out, encoder.conv_out, hidden, None)

    def _decode(self, decoder: Any, z: Tensor, grid: tuple[int, int]) -> Tensor:
        hidden = self._blocks.middle(decoder.mid_block, self._blocks.enter(decoder.conv_in, z, None), None)
        hidden = self._levels(decoder.levels, hidden)
        tokens: Tensor = decoder.to_tokens(self._blocks.leave(decoder.norm_out, decoder.conv_out, hidden, None), grid)
        return tokens

    def _levels(self, layers: nn.Sequential, hidden: Activations) -> Activations:
        for layer in layers:
            if isinstance(layer, TimeDown):
                hidden = self._down(layer, hidden)
            elif isinstance(layer, TimeUp):
                hidden = self._up(layer, hidden)
            else:
                hidden = self._blocks.layer(layer, hidden, None)
        return hidden

    def _down(self, layer: TimeDown, x: Activations) -> Activations:
        """A convolution per frame; the first frame as it is, the others halved in number."""
        x = self._per_frame(layer, self._blocks.added(x))
        if layer.time_conv is None or x.frames.shape[1] == 1:
            return x
        total = self._blocks.added(x)
        return Activations(torch.cat((total[:, :1], convolve(layer.time_conv, total, layer.time_conv.bias)), dim=1))

    def _up(self, layer: TimeUp, x: Activations) -> Activations:
        """The first frame as it is, the others doubled in number; a convolution per frame."""
        batch, frames, *rest = x.frames.shape
        if layer.time_conv is None or frames == 1:
            return self._per_frame(layer, self._blocks.added(x))
        doubled = x.frames.new_empty(batch, 2 * frames - 1, *rest)
        joined = self._blocks.joined(x, None, 1)
        doubled[:, 0].copy_(joined[:, 1])
        joined[:, 1].zero_()  # the later frames are filtered with two of zeros before them
        self._blocks.in_pairs(layer.time_conv, convolve(layer.time_conv, joined), doubled[:, 1:])
        return self._per_frame(layer, doubled)

    def _per_frame(self, layer: TimeDown | TimeUp, frames: Tensor) -> Activations:
        return convolve_images(layer.conv, frames.flatten(0, 1), len(frames))
