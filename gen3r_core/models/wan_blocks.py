"""The blocks of Gen3R's transformer: Wan2.1's with rotary positions of two halves and a float32 residual stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.models.activations import GELU
from diffusers.models.transformers.transformer_wan import WanAttention, WanTransformerBlock
from torch import Tensor, nn

from gen3r_core.errors import InputError
from gen3r_core.models.attention import attention


def per_branch(tensor: Tensor, batch: int) -> Tensor:
    """``[B, ...]`` repeated to ``[batch, ...]``: samples lie together, branch by branch, as in a batch of contexts."""
    times = batch // len(tensor)
    return tensor if times == 1 else tensor.repeat(times, *[1] * (tensor.ndim - 1))


class ProductWithGELU(GELU):  # type: ignore[misc]
    """A linear layer and its GELU (tanh form), in one kernel where a GPU's matrix library has it."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """``[..., dim_in]`` to ``[..., dim_out]``."""
        proj = self.proj
        if not hidden_states.is_cuda or torch.is_grad_enabled() or type(proj) is not nn.Linear:
            result: Tensor = super().forward(hidden_states)
            return result
        rows = torch.ops.aten._addmm_activation(  # pragma: gpu-only  # noqa: SLF001 - there is no public name for it
            proj.bias, hidden_states.flatten(0, -2), proj.weight.t(), use_gelu=True
        )
        return rows.unflatten(0, hidden_states.shape[:-1])  # type: ignore[no-any-return]  # pragma: gpu-only


def rotate_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate neighbouring channel pairs (2i, 2i+1) by per-position angles, in float32.

    Args:
        x: ``[B, L, heads, D]`` queries or keys, any floating dtype.
        cos: ``[L, 1, D/2]`` float32 cosines.
        sin: ``[L, 1, D/2]`` float32 sines.

    Returns:
        ``[B, L, heads, D]``, dtype of ``x``.
    """
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).to(x.dtype)


class SideBySideRotary(nn.Module):
    """Rotary angles over (frame, row, column) for a grid whose width holds one or two halves.

    The head's channels are split as Wan2.1 does: two thirds for rows and columns (each
    ``2 * (D // 6)`` channels), the rest for frames; base 10000. Angles are computed in float64.
    """

    def __init__(self, head_dim: int, patch_size: Sequence[int], base: float = 10000.0) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.patch_size = tuple(patch_size)
        self.base = base

    def _angles(self, positions: Tensor, channels: int) -> Tensor:
        exponent = torch.arange(0, channels, 2, dtype=torch.float64, device=positions.device) / channels
        return torch.outer(positions.double(), self.base**-exponent)

    def forward(self, latents: Tensor, *, side_by_side: bool = True) -> tuple[Tensor, Tensor]:
        """Tables for ``latents`` of shape ``[B, C, f, h, w]``.

        Args:
            latents: only its shape and device are used.
            side_by_side: both halves of the width count columns from 0.

        Returns:
            cosines and sines, each ``[f*h*w / prod(patch), 1, D/2]`` float32.
        """
        frames, rows, columns = (size // patch for size, patch in zip(latents.shape[2:], self.patch_size, strict=True))
        space = 2 * (self.head_dim // 6)
        device = latents.device
        column = torch.arange(columns, device=device)
        if side_by_side:
            column = column % (columns // 2)
        grid = (frames, rows, columns)
        parts = [
            self._angles(torch.arange(frames, device=device), self.head_dim - 2 * space)[:, None, None],
            self._angles(torch.arange(rows, device=device), space)[None, :, None],
            self._angles(column, space)[None, None, :],
        ]
        angles = torch.cat([part.expand(*grid, -1) for part in parts], dim=-1).flatten(0, 2)[:, None]
        return angles.cos().float(), angles.sin().float()


class TwoContextAttention:
    """Attention processor for Wan blocks: rotary self-attention, or image plus text cross-attention.

    The context of cross-attention is image tokens followed by ``text_len`` text tokens.
    """

    def __init__(self, text_len: int) -> None:
        self.text_len = text_len

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Attend; arguments as diffusers' ``WanAttnProcessor``, whose place it takes."""
        if attention_mask is not None:
            raise InputError("Gen3R's transformer attends to all tokens: an attention mask is not supported")

        def heads(x: Tensor) -> Tensor:
            split: Tensor = x.unflatten(-1, (attn.heads, -1))
            return split

        context = hidden_states
        image: Tensor | None = None
        if encoder_hidden_states is not None:
            context = encoder_hidden_states[:, -self.text_len :]
            if attn.add_k_proj is not None:
                image = encoder_hidden_states[:, : -self.text_len]
        query = heads(attn.norm_q(attn.to_q(hidden_states)))
        key = heads(attn.norm_k(attn.to_k(context)))
        value = heads(attn.to_v(context))
        if rotary_emb is not None:
            query, key = rotate_pairs(query, *rotary_emb), rotate_pairs(key, *rotary_emb)
        query = query.transpose(1, 2)
        result = attention(query, key.transpose(1, 2), value.transpose(1, 2))
        if image is not None:
            image_key = heads(attn.norm_added_k(attn.add_k_proj(image))).transpose(1, 2)
            image_value = heads(attn.add_v_proj(image)).transpose(1, 2)
            result = result + attention(query, image_key, image_value)
        output: Tensor = attn.to_out[0](result.transpose(1, 2).flatten(2))
        return output


class Float32ResidualBlock(WanTransformerBlock):  # type: ignore[misc]
    """A Wan2.1 block whose residual stream stays float32.

    The published model was trained and is run with bf16 weights under float32 modulation,
    which promotes the stream to float32. Rounding it to bf16 after every block, as diffusers
    does, more than doubles the distance to the float32 result (1.3 % against 0.5 % over 30
    random layers).

    Attributes:
        feed_forward_parts: into how many groups of tokens the feed-forward layers are split, one after the other: their
            hidden features are six times as wide as a token and the largest tensor of a block.
    """

    feed_forward_parts: int = 1

    def __init__(self, dim: int, ffn_dim: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(dim, ffn_dim, *args, **kwargs)
        self.ffn.net[0] = ProductWithGELU(dim, ffn_dim, approximate="tanh")

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        temb: Tensor,
        rotary_emb: tuple[Tensor, Tensor],
    ) -> Tensor:
        """Apply self-attention, cross-attention and feed-forward.

        Args:
            hidden_states: ``[B, L, dim]`` float32 stream.
            encoder_hidden_states: ``[B, S, dim]`` image and text tokens, in the dtype to compute with; or
                ``[n * B, S, dim]``, branch by branch: before it sees them, the stream is the same in all branches, so
                self-attention is computed once.
            temb: ``[B, 6, dim]`` float32 modulation of the time step.
            rotary_emb: tables of :class:`SideBySideRotary`.

        Returns:
            ``[B, L, dim]`` (``[n * B, L, dim]``) float32.
        """
        dtype = encoder_hidden_states.dtype
        modulation: Tensor = self.scale_shift_table.float() + temb
        shift, scale, gate, ff_shift, ff_scale, ff_gate = modulation.chunk(6, dim=1)
        x = hidden_states
        attended: Tensor = self.attn1((self.norm1(x) * (1 + scale) + shift).to(dtype), None, None, rotary_emb)
        x = x + attended * gate
        batch = len(encoder_hidden_states)
        if batch != len(x):
            x, ff_shift, ff_scale, ff_gate = (per_branch(one, batch) for one in (x, ff_shift, ff_scale, ff_gate))
        conditioned: Tensor = self.attn2(self.norm2(x).to(dtype), encoder_hidden_states, None, None)
        x = x + conditioned
        normed = (self.norm3(x) * (1 + ff_scale) + ff_shift).to(dtype)
        if self.feed_forward_parts == 1:
            mixed: Tensor = self.ffn(normed)
        else:
            parts = normed.chunk(self.feed_forward_parts, dim=1)
            mixed = torch.cat([self.ffn(part) for part in parts], dim=1)
        return x + mixed * ff_gate
