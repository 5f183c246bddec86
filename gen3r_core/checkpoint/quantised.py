"""Weights in 8 bits: symmetric, with one scale for each row of a matrix or output channel of a convolution.

On disk a tensor ``KEY`` is int8 in [-127, 127], and ``KEY.scale`` beside it holds a float32 scale for each index of its
first dimension; the weight is their product. What is small or sensitive stays a 16-bit float. The file's metadata say
so (:data:`METADATA`), and all of such a file reads as float32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from gen3r_core.checkpoint.keymap import Shape
from gen3r_core.checkpoint.tensors import SafetensorsSource, TensorInfo, TensorSource
from gen3r_core.errors import CheckpointError

SCALE_SUFFIX = ".scale"
METADATA = {"gen3r_weights": "int8, one scale a row"}
"""What the metadata of such a safetensors file hold."""

OTHERS = torch.float16
"""Of tensors that are not quantised in a quantised component; finer than bfloat16, and wide enough for weights."""

CLIPS = (*(1 - 0.01 * step for step in range(16)), 0.8, 0.7, 0.6, 0.5)
"""Largest representable value over the row's largest, to try. In rows of thousands of numbers it pays to clip a few far
ones; in the others some scales happen to fit better (1 to 3 % less squared error). All are at most 1, so that the
largest of a row is always 127 steps and what has been rounded stays as it is."""

_LEVELS = 127
_LEAST_SIZE = 4096
_LEAST_ROW = 16
_BLOCK = 2**18
"""Numbers that are quantised at a time, which bounds the memory."""


def is_quantised(shape: Shape) -> bool:
    """Whether a weight of this shape is stored in 8 bits: large, several rows, and rows that outweigh their scale."""
    size = math.prod(shape)
    return len(shape) >= 2 and shape[0] > 1 and size >= _LEAST_SIZE and size // shape[0] >= _LEAST_ROW


def quantise_rows(weight: Tensor, clips: tuple[float, ...] = CLIPS) -> tuple[Tensor, Tensor]:
    """Round a weight to 8 bits, each row with the scale that has the smallest squared error.

    Args:
        weight: ``[rows, ...]``, floating.
        clips: what to try; ``(1.0,)`` scales each row by its largest value.

    Returns:
        int8 of the same shape and its scales ``[rows]`` float32, positive. Rounding what has been rounded changes
        nothing but a scale's last bit.

    Raises:
        CheckpointError: a value is not finite.
    """
    rows = weight.flatten(1) if weight.ndim > 1 else weight[:, None]
    numbers = torch.empty(rows.shape, dtype=torch.int8)
    scales = torch.empty(len(rows), dtype=torch.float32)
    step = max(1, _BLOCK // max(1, rows.shape[1]))
    for start in range(0, len(rows), step):
        block = rows[start : start + step].float()
        if not bool(torch.isfinite(block).all()):
            raise CheckpointError("a weight is not finite and cannot be stored in 8 bits; train or download it again")
        numbers[start : start + step], scales[start : start + step] = _quantise_block(block, clips)
    return numbers.reshape(weight.shape), scales


def _quantise_block(block: Tensor, clips: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    largest = block.abs().amax(dim=1, keepdim=True)
    usual = torch.where(largest > 0, largest / _LEVELS, torch.ones_like(largest))
    # Of numbers below float32's normal range the division would leave nothing.
    usual = usual.clamp(min=torch.finfo(torch.float32).tiny)
    best = torch.full_like(usual, torch.inf)
    numbers, scales = torch.zeros_like(block), usual.clone()
    for clip in clips:
        scale = usual * clip
        rounded = (block / scale).round_().clamp_(-_LEVELS, _LEVELS)
        error = (rounded * scale - block).square_().sum(dim=1, keepdim=True)
        better = error < best
        best = torch.where(better, error, best)
        scales = torch.where(better, scale, scales)
        numbers = torch.where(better, rounded, numbers)
    return numbers.to(torch.int8), scales[:, 0]


def dequantise_rows(numbers: Tensor, scales: Tensor) -> Tensor:
    """The weight in float32: ``numbers`` ``[rows, ...]`` int8 times ``scales`` ``[rows]``."""
    return numbers.float().mul_(scales.float().view(-1, *[1] * (numbers.ndim - 1)))


class QuantisedSource:
    """Safetensors files with quantised weights; reads as float32 under the weights' own keys.

    Args:
        source: the files.

    Raises:
        CheckpointError: the files say nothing or something unknown about their 8-bit weights, or a scale is missing,
            of another shape or type, not finite or not positive.
    """

    def __init__(self, source: SafetensorsSource) -> None:
        self._source = source
        _check_metadata(source)
        stored = source.infos
        self._scales = {key: _read_scale(source, key, info) for key, info in stored.items() if info.dtype == torch.int8}
        used = {key + SCALE_SUFFIX for key in self._scales}
        self.infos: Mapping[str, TensorInfo] = {key: _as_read(info) for key, info in stored.items() if key not in used}

    @property
    def files(self) -> list[Path]:
        """The files behind it."""
        return self._source.files

    def read(self, key: str) -> Tensor:
        """The tensor, in float32; no view of the file where it had to be computed."""
        value = self._source.read(key)
        if key in self._scales:
            return dequantise_rows(value, self._scales[key])
        return value.float() if value.is_floating_point() else value

    def release(self, key: str) -> None:
        """Nothing to do: only the files' mapping is kept."""


def dequantised(source: TensorSource) -> TensorSource:
    """The source itself, or where it is of quantised weights, one that reads them as floats.

    Raises:
        CheckpointError: see :class:`QuantisedSource`.
    """
    if not isinstance(source, SafetensorsSource):
        return source
    marked = any(set(METADATA) & set(metadata) for metadata in source.metadata.values())
    if not marked and not any(info.dtype == torch.int8 for info in source.infos.values()):
        return source
    return QuantisedSource(source)


def _as_read(info: TensorInfo) -> TensorInfo:
    if info.dtype != torch.int8 and not info.dtype.is_floating_point:
        return info
    return TensorInfo(info.shape, torch.float32, stored=info.dtype)


def _check_metadata(source: SafetensorsSource) -> None:
    ((key, ours),) = METADATA.items()
    for path, metadata in source.metadata.items():
        found = metadata.get(key)
        if found is None:
            raise CheckpointError(
                f"{path} belongs to weights in 8 bits, but its metadata do not say how they are stored ({key!r} is "
                f"missing). Convert the original weights with 'gen3r convert --dtype int8'"
            )
        if found != ours:
            raise CheckpointError(
                f"{path} stores weights as {found!r}; this release reads {ours!r}. Use a newer release, or convert the "
                f"original weights again"
            )


def _read_scale(source: SafetensorsSource, key: str, info: TensorInfo) -> Tensor:
    where, name = source.files[0].parent, key + SCALE_SUFFIX
    found = source.infos.get(name)
    advice = "Convert the original weights again"
    if found is None:
        raise CheckpointError(f"{where}: {key} is stored in 8 bits, but its scales {name} are missing. {advice}")
    wanted = info.shape[:1]
    if found.shape != wanted or not info.shape or not found.dtype.is_floating_point:
        raise CheckpointError(
            f"{where}: the scales {name} are {found.dtype} of shape {list(found.shape)} instead of floats of shape "
            f"{list(wanted)}, one for each row of {key}. {advice}"
        )
    scales = source.read(name).float()
    if not bool((torch.isfinite(scales) & (scales > 0)).all()):
        raise CheckpointError(f"{where}: some scales in {name} are not finite and positive. {advice}")
    return scales
