"""The blocks of Wan's autoencoder (diffusers) with few passes over memory between their convolutions.

A plain block writes and reads its activations about ten times for each convolution: bias, four passes of the norm,
SiLU, the join with earlier frames, padding, the skip connection. Here one compiled kernel does all of that and writes
to where the convolution reads. Activations are ``[B, T, H, W, C]`` in memory, the order that matrix units read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_wan import WanResample, WanResidualBlock
from torch import Tensor, nn

from gen3r_core.execution import fused_steps as steps
from gen3r_core.execution.graphs import RowFunctions

PAST = 2
"""Frames that a causal convolution of three looks back."""


@dataclass
class Activations:
    """A sum that the next kernel computes while it reads the terms.

    Attributes:
        frames: ``[B, T, H, W, C]``, contiguous.
        bias: ``[C]``, of the convolution that made the frames.
        skip: as the frames, of the skip connection.
    """

    frames: Tensor
    bias: Tensor | None = None
    skip: Tensor | None = None

    def settle(self, total: Tensor) -> None:
        """Have the sum in place of its terms, which nobody holds from then on."""
        self.frames, self.bias, self.skip = total, None, None

    def release(self) -> None:
        """Hold nothing any more: the memory is wanted."""
        self.settle(self.frames.new_empty(0))

    def terms(self, *shape: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Frames, bias and skip, frames and skip as ``[*shape, C]``."""
        shape = (*shape, self.frames.shape[-1])
        bias = None if self.bias is None else self.bias.view(-1)
        return self.frames.view(shape), bias, None if self.skip is None else self.skip.view(shape)

    def entries(self) -> list[Activations]:
        """The entries of the batch, each a batch of one."""
        skips = [None] * len(self.frames) if self.skip is None else self.skip.split(1)
        return [Activations(one, self.bias, skip) for one, skip in zip(self.frames.split(1), skips, strict=True)]


class Past:
    """What convolutions remember of earlier chunks, in the order in which they run.

    Args:
        slots: one for each convolution, None at first; diffusers keeps them from chunk to chunk.
        position: ``[index]`` of the next convolution's, counted up here.
    """

    def __init__(self, slots: list[Any], position: list[int]) -> None:
        self._slots = slots
        self._position = position

    def next(self) -> PastFrames:
        """The memory of the next convolution."""
        self._position[0] += 1
        return PastFrames(self._slots, self._position[0] - 1)


class PastFrames:
    """The latest frames that one convolution has seen.

    Args:
        slots: of all convolutions.
        index: its own.
    """

    def __init__(self, slots: list[Any], index: int) -> None:
        self._slots = slots
        self._index = index

    @property
    def started(self) -> bool:
        """Whether there was an earlier chunk."""
        return self._slots[self._index] is not None

    def start_empty(self) -> None:
        """Have the next chunk see zeros, as if this one did not exist."""
        self._slots[self._index] = ()

    def recall(self, out: Tensor) -> None:
        """Write the frames (zeros, where there are none) to ``out`` ``[B, T, H, W, C]``."""
        frames = self._slots[self._index]
        if isinstance(frames, Tensor):
            out.copy_(frames)
        else:
            out.zero_()

    def keep(self, frames: Tensor) -> None:
        """Remember a copy of frames ``[B, T, H, W, C]``."""
        known = self._slots[self._index]
        if isinstance(known, Tensor):
            known.copy_(frames)
        else:
            self._slots[self._index] = frames.clone()


class FusedBlocks:
    """Runs layers of Wan's autoencoder.

    Args:
        backend: torch's name of a compiler, or the compiler.
    """

    def __init__(self, backend: str | Callable[..., Any] = "inductor") -> None:
        self._compiled = RowFunctions(backend)
        self._layers: dict[type[nn.Module], Callable[[Any, Activations, Past | None], Activations]] = {
            WanResidualBlock: self.residual,
            WanResample: self.resample,
        }

    def layer(self, layer: nn.Module, x: Activations, past: Past | None) -> Activations:
        """Run a residual block, or one that changes the size.

        Args:
            layer: of diffusers.
            x: its input, whose memory it frees.
            past: memory of earlier chunks; None where the clip comes in one.
        """
        return self._layers[type(layer)](layer, x, past)

    def middle(self, block: Any, x: Activations, past: Past | None) -> Activations:
        """Run a ``WanMidBlock``."""
        x = self.residual(block.resnets[0], x, past)
        for attention, residual in zip(block.attentions, block.resnets[1:], strict=True):
            x = self.residual(residual, self.attention(attention, x), past)
        return x

    def enter(self, conv: Any, x: Tensor, past: Past | None) -> Activations:
        """A causal convolution of ``[B, C, T, H, W]`` as it is, the first of a network."""
        frames = x.permute(0, 2, 3, 4, 1)
        memory = None if past is None else past.next()
        joined = _room(frames, memory)
        joined[:, PAST:].copy_(frames)
        return Activations(_convolved(conv, joined, memory), conv.bias)

    def leave(self, norm: Any, conv: Any, x: Activations, past: Past | None) -> Tensor:
        """Norm, SiLU and a causal convolution, the last of a network: ``[B, C, T, H, W]``."""
        return self._norm_conv(norm, conv, x, past, bias=conv.bias).permute(0, 4, 1, 2, 3)

    def residual(self, block: Any, x: Activations, past: Past | None) -> Activations:
        """Run a ``WanResidualBlock``; ``x`` is settled."""
        inner = Activations(self._norm_conv(block.norm1, block.conv1, x, past, settle=True), block.conv1.bias)
        frames = self._norm_conv(block.norm2, block.conv2, inner, past)
        del inner
        shortcut = block.conv_shortcut
        skip = x.frames if isinstance(shortcut, nn.Identity) else _pointwise(shortcut, x.frames)
        return Activations(frames, block.conv2.bias, skip)

    def attention(self, block: Any, x: Activations) -> Activations:
        """Run a ``WanAttentionBlock``, frame by frame; ``x`` is settled."""
        batch, frames, height, width, channels = x.frames.shape
        normed = torch.empty_like(x.frames)
        self._normalise(block.norm, x, normed, activate=False, settle=True)
        places = normed.view(batch * frames, 1, height * width, channels)
        query, key, value = _pointwise(block.to_qkv, places).chunk(3, dim=-1)
        attended = F.scaled_dot_product_attention(query, key, value)
        projected = _pointwise(block.proj, attended.contiguous())
        return Activations(projected.view(x.frames.shape), None, x.frames)

    def resample(self, block: Any, x: Activations, past: Past | None) -> Activations:
        """Run a ``WanResample``."""
        if past is None:
            raise ValueError("layers that change the size know chunks only")
        return (self._down if block.mode.startswith("down") else self._up)(block, x, past)

    def added(self, x: Activations) -> Tensor:
        """The sum ``[B, T, H, W, C]`` itself."""
        total: Tensor = self._compiled(steps.added, *x.terms(-1))
        return total.view(x.frames.shape)

    def joined(self, x: Activations, memory: PastFrames | None, length: int = PAST) -> Tensor:
        """Remembered frames (zeros, where there are none), and the sum of ``x``."""
        joined = _room(x.frames, memory, length)
        for one, out in zip(x.entries(), joined, strict=True):
            self._compiled(steps.add_into, *one.terms(-1), _rows(out[length:]))
        x.release()
        return joined

    def in_pairs(self, conv: Any, frames: Tensor, out: Tensor) -> None:
        """Have each frame of a convolution ``[B, T, H, W, 2C]`` become two, in ``out`` ``[B, 2T, H, W, C]``."""
        for one, place in zip(frames, out, strict=True):
            pairs, single = one.flatten(1, 2), place.flatten(1, 2)
            self._compiled(steps.pairs_into, pairs, conv.bias.view(-1), single)

    # ------------------------------------------------------------------ what these are made of

    def _up(self, block: Any, x: Activations, past: Past) -> Activations:
        batch, frames, height, width, channels = x.frames.shape
        conv = block.resample[1]
        memory = past.next() if block.mode == "upsample3d" else None
        if memory is not None and memory.started:
            time = _convolved(block.time_conv, self.joined(x, memory), memory)
            time = time.view(batch * frames, height, width, 2 * channels)
            frames *= 2
            large = self._compiled(steps.enlarge_pairs, time, block.time_conv.bias.view(-1))
        else:
            if memory is not None:
                memory.start_empty()
            large = self._compiled(steps.enlarge, *x.terms(batch * frames * height, width))
            x.release()
        return convolve_images(conv, large.view(batch * frames, 2 * height, 2 * width, channels), batch)

    def _down(self, block: Any, x: Activations, past: Past) -> Activations:
        batch, frames, height, width, _ = x.frames.shape
        x = convolve_images(
            block.resample[1], self._compiled(steps.border, *x.terms(batch * frames, height, width)), batch
        )
        if block.mode != "downsample3d":
            return x
        memory = past.next()
        if not memory.started:
            x.settle(self.added(x))
            memory.keep(x.frames[:, -1:])
            return x
        joined = self.joined(x, memory, length=1)
        return Activations(_convolved(block.time_conv, joined, memory, length=1), block.time_conv.bias)

    def _norm_conv(
        self,
        norm: Any,
        conv: Any,
        x: Activations,
        past: Past | None,
        *,
        bias: Tensor | None = None,
        settle: bool = False,
    ) -> Tensor:
        """Norm, SiLU and a causal convolution."""
        memory = None if past is None else past.next()
        joined = _room(x.frames, memory)
        self._normalise(norm, x, joined[:, PAST:], activate=True, settle=settle)
        if not settle:
            x.release()
        return _convolved(conv, joined, memory, bias=bias)

    def _normalise(self, norm: Any, x: Activations, out: Tensor, *, activate: bool, settle: bool) -> None:
        """Write a norm of ``x`` to ``out``, both ``[B, T, H, W, C]``."""
        gamma = norm.gamma.view(-1)
        options = {"activate": activate, "keep": settle and not (x.bias is None and x.skip is None)}
        totals = [
            self._compiled(steps.normalise_into, *one.terms(-1), gamma, _rows(place), **options)
            for one, place in zip(x.entries(), out, strict=True)
        ]
        if options["keep"]:
            total = totals[0] if len(totals) == 1 else torch.stack(totals)
            x.settle(total.view(x.frames.shape))


def _rows(frames: Tensor) -> Tensor:
    return frames.view(-1, frames.shape[-1])


def _room(frames: Tensor, memory: PastFrames | None, length: int = PAST) -> Tensor:
    """``[B, length + T, H, W, C]``: remembered frames (zeros, where there are none), and room for these."""
    batch, count, *rest = frames.shape
    joined = frames.new_empty(batch, length + count, *rest)
    if memory is None:
        joined[:, :length].zero_()
    else:
        memory.recall(joined[:, :length])
    return joined


def _convolved(
    conv: Any, joined: Tensor, memory: PastFrames | None, length: int = PAST, bias: Tensor | None = None
) -> Tensor:
    """A convolution over frames that have their past before them, whose last are remembered."""
    if memory is not None:
        memory.keep(joined[:, -length:])
    return convolve(conv, joined, bias)


def convolve(conv: Any, frames: Tensor, bias: Tensor | None = None) -> Tensor:
    """A ``WanCausalConv3d`` over ``[B, T, H, W, C]``: no padding in time, and no bias unless it is given."""
    height, width = (size // 2 for size in conv.kernel_size[1:])
    found = F.conv3d(frames.permute(0, 4, 1, 2, 3), conv.weight, bias, conv.stride, (0, height, width))
    return found.permute(0, 2, 3, 4, 1).contiguous()


def convolve_images(conv: nn.Conv2d, images: Tensor, batch: int) -> Activations:
    """A convolution of images ``[B * T, H, W, C]``, its bias still to be added."""
    found = F.conv2d(images.permute(0, 3, 1, 2), conv.weight, None, conv.stride, conv.padding)
    return Activations(found.permute(0, 2, 3, 1).contiguous().unflatten(0, (batch, -1)), conv.bias)


def _pointwise(conv: Any, places: Tensor) -> Tensor:
    """A convolution of one place ``[..., C]``, as a matrix product."""
    return F.linear(places, conv.weight.flatten(1), conv.bias)
