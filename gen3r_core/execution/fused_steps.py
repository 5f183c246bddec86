"""What lies between the convolutions of Wan's autoencoder, as functions that compile to one kernel each.

Tensors have their channels last. Sums and norms are computed in float32, whatever the tensors' type.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def _sum(x: Tensor, bias: Tensor | None, skip: Tensor | None) -> Tensor:
    total = x.float()
    if bias is not None:
        total = total + bias
    return total if skip is None else total + skip


def added(x: Tensor, bias: Tensor | None, skip: Tensor | None) -> Tensor:
    """``x + bias + skip``; ``[N, C]``, ``[C]`` and ``[N, C]``, of which the last two may be absent."""
    return _sum(x, bias, skip).to(x.dtype)


def add_into(x: Tensor, bias: Tensor | None, skip: Tensor | None, out: Tensor) -> None:
    """The same, written to ``out`` ``[N, C]``."""
    out.copy_(_sum(x, bias, skip))


def normalise_into(
    x: Tensor, bias: Tensor | None, skip: Tensor | None, gamma: Tensor, out: Tensor, *, activate: bool, keep: bool
) -> Tensor | None:
    """Root-mean-square norm (and SiLU) of a sum, written where the next convolution reads it.

    Args:
        x: ``[N, C]``.
        bias: ``[C]``, added to x.
        skip: ``[N, C]``, the same.
        gamma: ``[C]``, scales.
        out: ``[N, C]``, written.
        activate: whether SiLU follows.
        keep: whether the sum itself is needed.

    Returns:
        the sum ``[N, C]``, if it is.
    """
    total = _sum(x, bias, skip)
    normed = F.normalize(total, dim=-1) * x.shape[-1] ** 0.5 * gamma
    out.copy_(F.silu(normed) if activate else normed)
    return total.to(x.dtype) if keep else None


def enlarge(x: Tensor, bias: Tensor | None, skip: Tensor | None) -> Tensor:
    """A sum of ``[R, W, C]`` (rows of images) with each value four times: ``[R, 2, W, 2, C]``."""
    rows, columns, channels = x.shape
    total = _sum(x, bias, skip).to(x.dtype)
    return total[:, None, :, None].expand(rows, 2, columns, 2, channels).contiguous()


def enlarge_pairs(x: Tensor, bias: Tensor) -> Tensor:
    """Each frame of ``[T, H, W, 2C]`` becomes two, each value four: ``[T, 2, H, 2, W, 2, C]``."""
    frames, rows, columns, channels = x.shape
    pairs = (x.float() + bias).to(x.dtype).unflatten(3, (2, channels // 2)).permute(0, 3, 1, 2, 4)
    large: Tensor = pairs[:, :, :, None, :, None].expand(frames, 2, rows, 2, columns, 2, channels // 2)
    return large.contiguous()


def pairs_into(x: Tensor, bias: Tensor, out: Tensor) -> None:
    """Each frame of ``[T, P, 2C]`` becomes two, written to ``out`` ``[2T, P, C]``."""
    pairs = (x.float() + bias).unflatten(2, (2, out.shape[-1])).transpose(1, 2)
    out.copy_(pairs.flatten(0, 1))


def border(x: Tensor, bias: Tensor | None, skip: Tensor | None) -> Tensor:
    """A sum of ``[T, H, W, C]`` with a row and a column of zeros after it: ``[T, H + 1, W + 1, C]``."""
    return F.pad(_sum(x, bias, skip).to(x.dtype), (0, 0, 0, 1, 0, 1)).contiguous()
