"""What needs no model: the known frames repeated, or blended into each other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["cross_fade", "nearest_known"]


def nearest_known(frames: Tensor, known: Sequence[int]) -> Tensor:
    """Every frame replaced by the known one that is nearest in time; of two equally near, the earlier.

    Args:
        frames: ``[F, ...]``.
        known: Indices of known frames, ascending, at least one.

    Returns:
        ``[F, ...]``.
    """
    nearest = [min(known, key=lambda other: (abs(other - index), other)) for index in range(len(frames))]
    return frames[nearest]


def cross_fade(frames: Tensor, known: Sequence[int]) -> Tensor:
    """Every frame as the blend of the known ones before and after it, linear in time and in pixel values.

    Args:
        frames: ``[F, ...]`` float.
        known: Indices of known frames, ascending, at least one; beyond the first and last they are repeated.

    Returns:
        ``[F, ...]``.
    """
    before = [max((other for other in known if other <= index), default=known[0]) for index in range(len(frames))]
    after = [min((other for other in known if other >= index), default=known[-1]) for index in range(len(frames))]
    shares = [(i - a) / (b - a) if b > a else 0.0 for i, (a, b) in enumerate(zip(before, after, strict=True))]
    weight = torch.tensor(shares, dtype=frames.dtype, device=frames.device).view(-1, *[1] * (frames.ndim - 1))
    return frames[before] * (1 - weight) + frames[after] * weight
