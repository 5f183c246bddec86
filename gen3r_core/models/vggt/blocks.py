"""Transformer blocks of VGGT and DINOv2, and the rotary position encoding in two dimensions.

All blocks are pre-norm with layer scale: ``x = x + g1 * attention(norm(x))`` and then
``x = x + g2 * mlp(norm(x))`` (arXiv 2304.07193). The alternating blocks of VGGT also normalise
queries and keys and rotate them by their place on the patch grid (arXiv 2503.11651; rotary
encoding: arXiv 2104.09864).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gen3r_core.models.attention import attention


def rotary_table(
    grid: tuple[int, int], special_tokens: int, head_dim: int, base: float, device: torch.device | str | None = None
) -> Tensor:
    """Cosines and signed sines that rotate the queries and keys of one frame.

    The first half of the channels follows the row, the second half the column. Within a half
    of ``2n`` channels, channel ``i`` and channel ``i + n`` form a plane turned by the angle
    ``position * base ** (-i / n)``. Patches count from 1; special tokens stand at (0, 0) and
    are not turned.

    Args:
        grid: ``(rows, columns)`` of patches.
        special_tokens: tokens before the patches.
        head_dim: channels of an attention head, a multiple of 4.
        base: base of the frequencies.
        device: where to build the table.

    Returns:
        ``[2, special_tokens + rows * columns, head_dim]`` float32; index 0 cosines, index 1
        sines with the sign that :func:`rotate` needs.
    """
    rows, columns = grid
    pairs = head_dim // 4
    frequencies = base ** -(torch.arange(pairs, device=device, dtype=torch.float32) / pairs)
    row_angles = torch.arange(1, rows + 1, device=device, dtype=torch.float32)[:, None] * frequencies
    column_angles = torch.arange(1, columns + 1, device=device, dtype=torch.float32)[:, None] * frequencies
    vertical = row_angles[:, None].expand(rows, columns, pairs).reshape(-1, pairs)
    horizontal = column_angles[None].expand(rows, columns, pairs).reshape(-1, pairs)
    cosines = torch.cat([vertical.cos(), vertical.cos(), horizontal.cos(), horizontal.cos()], dim=1)
    sines = torch.cat([-vertical.sin(), vertical.sin(), -horizontal.sin(), horizontal.sin()], dim=1)
    still = torch.stack([torch.ones_like(cosines[:1]), torch.zeros_like(sines[:1])])
    return torch.cat([still.expand(2, special_tokens, head_dim), torch.stack([cosines, sines])], dim=1)


def rotate(features: Tensor, table: Tensor) -> Tensor:
    """Turn queries or keys by the angles of a :func:`rotary_table`.

    Args:
        features: ``[B, heads, frames * N, D]``, any floating dtype; the ``N`` tokens of a frame
            lie together.
        table: ``[2, N, D]`` float32.

    Returns:
        ``[B, heads, frames * N, D]``, dtype of ``features``; computed in float32, rounded once.
    """
    cosines, sines = table.unbind(0)
    by_frame = torch.unflatten(features, 2, (-1, table.shape[1]))
    first, second, third, fourth = by_frame.chunk(4, dim=-1)
    partner = torch.cat([second, first, fourth, third], dim=-1)
    return (by_frame * cosines + partner * sines).to(features.dtype).flatten(2, 3)


Merging = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Given keys and values ``[B, heads, N, D]``: fewer of them."""


class SelfAttention(nn.Module):
    """Multi-head self-attention, with normalised and rotated queries and keys on request.

    Attributes:
        merging: makes fewer keys and values of many, which changes the result; None leaves them.

    Args:
        dim: channels of a token.
        num_heads: attention heads; divides ``dim``.
        normalise_queries: whether queries and keys pass a layer norm of their own per head.
    """

    def __init__(self, dim: int, num_heads: int, *, normalise_queries: bool = False) -> None:
        super().__init__()
        head_dim = dim // num_heads
        self.num_heads = num_heads
        self.merging: Merging | None = None
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm: nn.Module = nn.LayerNorm(head_dim) if normalise_queries else nn.Identity()
        self.k_norm: nn.Module = nn.LayerNorm(head_dim) if normalise_queries else nn.Identity()
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor, rotary: Tensor | None = None) -> Tensor:
        """Attend among all tokens of a batch entry.

        Args:
            tokens: ``[B, N, dim]``.
            rotary: a :func:`rotary_table` whose length divides ``N``, or None for no rotation.

        Returns:
            ``[B, N, dim]``.
        """
        heads = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
        query, key = self.q_norm(query), self.k_norm(key)
        if rotary is not None:
            query, key = rotate(query, rotary), rotate(key, rotary)
        if self.merging is not None:
            key, value = self.merging(key, value)
        mixed: Tensor = self.proj(attention(query, key, value).transpose(1, 2).flatten(2))
        return mixed


class MLP(nn.Module):
    """Two linear layers with the exact GELU between them.

    Args:
        dim: channels in.
        hidden: channels between.
        out: channels out; ``dim`` where left out.
    """

    def __init__(self, dim: int, hidden: int, out: int | None = None) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim if out is None else out)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``[..., dim]`` to ``[..., out]``."""
        mapped: Tensor = self.fc2(F.gelu(self.fc1(features)))
        return mapped


class LayerScale(nn.Module):
    """A learned factor per channel (arXiv 2103.17239).

    Args:
        dim: channels.
        initial: value of all factors before training.
    """

    def __init__(self, dim: int, initial: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), initial))

    def forward(self, features: Tensor) -> Tensor:
        """Scale ``[..., dim]``."""
        return features * self.gamma


class Block(nn.Module):
    """One pre-norm transformer block with layer scale.

    Args:
        dim: channels of a token.
        num_heads: attention heads; divides ``dim``.
        mlp_ratio: hidden channels of the MLP over ``dim``.
        layer_scale: layer scale before training.
        norm_eps: epsilon of the two layer norms.
        normalise_queries: whether queries and keys are normalised per head.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        *,
        layer_scale: float = 0.01,
        norm_eps: float = 1e-5,
        normalise_queries: bool = False,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = SelfAttention(dim, num_heads, normalise_queries=normalise_queries)
        self.ls1 = LayerScale(dim, layer_scale)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = MLP(dim, int(dim * mlp_ratio))
        self.ls2 = LayerScale(dim, layer_scale)

    def forward(self, tokens: Tensor, rotary: Tensor | None = None) -> Tensor:
        """Run the block.

        Args:
            tokens: ``[B, N, dim]``.
            rotary: as in :meth:`SelfAttention.forward`.

        Returns:
            ``[B, N, dim]``.
        """
        tokens = tokens + self.ls1(self.attn(self.norm1(tokens), rotary))
        result: Tensor = tokens + self.ls2(self.mlp(self.norm2(tokens)))
        return result
