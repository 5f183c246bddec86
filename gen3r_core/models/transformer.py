"""Gen3R's video diffusion transformer: Wan2.1 (image-to-video) with cameras and two halves.

Built on diffusers' ``WanTransformer3DModel``; what differs is stated where it differs:

* appearance and geometry lie side by side along the width and share column positions
  (Gen3R, arXiv 2601.04090);
* a camera adapter adds packed Plücker rays to the patch embeddings (VideoX-Fun's
  Control-Camera variant of Wan2.1);
* the residual stream is float32 whatever the weights' type, and so are the time embedding
  and modulation, with sinusoids computed in float64;
* any text length, not just 512.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from gen3r_core.errors import InputError
from gen3r_core.models.wan_blocks import Float32ResidualBlock, SideBySideRotary, TwoContextAttention, per_branch

CAMERA_UNSHUFFLE = 8
"""Pixels of one latent cell along each side; the camera adapter folds them into channels."""

Through = Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]
"""Given tokens ``[B, L, dim]`` and what takes them through the blocks: the tokens behind the blocks."""


def _no_autocast(device_type: str) -> AbstractContextManager[Any]:
    # The meta device, on which memory is predicted, knows no autocast.
    return nullcontext() if device_type == "meta" else torch.autocast(device_type, enabled=False)


class CameraAdapter(nn.Module):
    """Packed Plücker rays to token offsets: pixel-unshuffle by 8, 2x2 convolution, one residual block."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.unshuffle = nn.PixelUnshuffle(CAMERA_UNSHUFFLE)
        self.project = nn.Conv2d(channels * CAMERA_UNSHUFFLE**2, dim, kernel_size=2, stride=2)
        self.residual = nn.Sequential(
            nn.Conv2d(dim, dim, kernel_size=3, padding=1), nn.ReLU(), nn.Conv2d(dim, dim, kernel_size=3, padding=1)
        )

    def forward(self, camera_latents: Tensor) -> Tensor:
        """``[B, channels, f, 8h, 8w]`` packed rays to ``[B, dim, f, h/2, w/2]``."""
        batch = camera_latents.shape[0]
        x = self.project(self.unshuffle(camera_latents.transpose(1, 2).flatten(0, 1)))
        tokens: Tensor = (x + self.residual(x)).unflatten(0, (batch, -1))
        return tokens.transpose(1, 2)


class CameraTransformer(WanTransformer3DModel):  # type: ignore[misc]
    """Wan2.1 image-to-video transformer over two halves, conditioned on cameras.

    Args (beyond diffusers' own):
        text_len: text tokens that cross-attention sees; shorter prompts are zero-padded.
        camera_channels: channels of the packed rays (6 ray channels times 4 folded frames); None builds no
            camera adapter.
    """

    # Small and sensitive: kept in float32 when a checkpoint is loaded in 16 bits.
    keep_in_float32 = ("condition_embedder.time_embedder", "condition_embedder.time_proj", "scale_shift_table")
    _no_split_modules = ["Float32ResidualBlock"]  # noqa: RUF012 - diffusers' own protocol
    _repeated_blocks = ["Float32ResidualBlock"]  # noqa: RUF012

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        patch_size: tuple[int, ...] = (1, 2, 2),
        num_attention_heads: int = 12,
        attention_head_dim: int = 128,
        in_channels: int = 36,
        out_channels: int = 16,
        text_dim: int = 4096,
        text_len: int = 512,
        freq_dim: int = 256,
        ffn_dim: int = 8960,
        num_layers: int = 30,
        cross_attn_norm: bool = True,
        eps: float = 1e-6,
        image_dim: int = 1280,
        camera_channels: int | None = 24,
    ) -> None:
        dim = num_attention_heads * attention_head_dim
        patch_size = tuple(patch_size)
        super().__init__(
            patch_size=patch_size,
            num_attention_heads=num_attention_heads,
            attention_head_dim=attention_head_dim,
            in_channels=in_channels,
            out_channels=out_channels,
            text_dim=text_dim,
            freq_dim=freq_dim,
            ffn_dim=ffn_dim,
            num_layers=0,
            cross_attn_norm=cross_attn_norm,
            eps=eps,
            image_dim=image_dim,
            added_kv_proj_dim=dim,
            rope_max_seq_len=1,
        )
        self.register_to_config(num_layers=num_layers, patch_size=patch_size)
        self.rope = SideBySideRotary(attention_head_dim, patch_size)
        self.blocks = nn.ModuleList(
            Float32ResidualBlock(dim, ffn_dim, num_attention_heads, "rms_norm_across_heads", cross_attn_norm, eps, dim)
            for _ in range(num_layers)
        )
        self.set_attn_processor(TwoContextAttention(text_len))
        self.camera_adapter = None if camera_channels is None else CameraAdapter(camera_channels, dim)

    def split_feed_forward(self, parts: int) -> None:
        """Have the blocks' feed-forward layers take so many groups of tokens in turn, which spares memory."""
        for block in self.blocks:
            block.feed_forward_parts = parts  # type: ignore[assignment]

    def pad_text(self, prompts: Sequence[Tensor]) -> Tensor:
        """Zero-pad text embeddings to the model's text length.

        Args:
            prompts: one ``[length, text_dim]`` tensor a sample, length at most ``text_len``.

        Returns:
            ``[B, text_len, text_dim]``.

        Raises:
            InputError: a prompt is longer, or of another width.
        """
        text_len, text_dim = self.config.text_len, self.config.text_dim
        for index, prompt in enumerate(prompts):
            if prompt.ndim != 2 or prompt.shape[0] > text_len or prompt.shape[1] != text_dim:
                raise InputError(
                    f"prompt embedding {index} has shape {tuple(prompt.shape)}; this transformer takes "
                    f"[at most {text_len}, {text_dim}]. Were the embeddings made for another checkpoint?"
                )
        return torch.stack([nn.functional.pad(prompt, (0, 0, 0, text_len - len(prompt))) for prompt in prompts])

    def embed_time(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """Embed time steps: float64 sinusoids, then float32 layers.

        Args:
            timestep: ``[B]``, in [0, 1000].

        Returns:
            ``[B, dim]`` embedding and ``[B, 6, dim]`` block modulation, float32.
        """
        embedder = self.condition_embedder
        half = self.config.freq_dim // 2
        exponent = torch.arange(half, dtype=torch.float64, device=timestep.device) / half
        angles = torch.outer(timestep.double(), 10000.0**-exponent)
        sinusoids = torch.cat((angles.cos(), angles.sin()), dim=1)
        dtype = embedder.time_proj.weight.dtype
        with _no_autocast(timestep.device.type):  # float32 in mixed-precision training, too
            embedding = embedder.time_embedder(sinusoids.to(dtype))
            modulation = embedder.time_proj(embedder.act_fn(embedding)).unflatten(1, (6, -1))
        return embedding.float(), modulation.float()

    def embed_context(self, text: Tensor, image_tokens: Tensor) -> Tensor:
        """Project image tokens and zero-padded text: ``[B, N + text_len, dim]`` in the weights' dtype.

        Args:
            text: ``[B, text_len, text_dim]`` (see :meth:`pad_text`).
            image_tokens: ``[B, N, image_dim]``.
        """
        embedder = self.condition_embedder
        return torch.cat((embedder.image_embedder(image_tokens), embedder.text_embedder(text)), dim=1)

    def embed_cameras(self, camera_latents: Tensor) -> Tensor:
        """Token offsets of packed rays: ``[B, camera_channels, f, 8h, 8w]`` to ``[B, dim, f, h/2, w/2]``.

        Raises:
            InputError: this transformer was built without a camera adapter.
        """
        if self.camera_adapter is None:
            raise InputError("this transformer has no camera adapter: it cannot follow a camera path")
        tokens: Tensor = self.camera_adapter(camera_latents.to(self.patch_embedding.weight.dtype))
        return tokens

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor | None = None,
        encoder_hidden_states_image: Tensor | None = None,
        camera_latents: Tensor | None = None,
        camera_tokens: Tensor | None = None,
        *,
        context: Tensor | None = None,
        rotary: tuple[Tensor, Tensor] | None = None,
        through: Through | None = None,
        side_by_side: bool = True,
        **_: Any,
    ) -> Tensor:
        """Predict the flow (noise minus latents).

        Args:
            hidden_states: ``[B, in_channels, f, h, w]`` noisy latents with control latents after
                them on the channels; the width holds both halves. With a ``context`` of ``n * B`` (branches of
                guidance, one after the other) the result has that batch.
            timestep: ``[B]`` in [0, 1000].
            encoder_hidden_states: ``[B, text_len, text_dim]`` zero-padded text embeddings.
            encoder_hidden_states_image: ``[B, N, image_dim]`` tokens of the first image.
            camera_latents: ``[B or 1, camera_channels, f, 8h, 8w]`` packed rays, or None.
            camera_tokens: the camera adapter's output for them, ``[B or 1, dim, f, h/2, w/2]``,
                so that a job computes it once; takes precedence.
            context: :meth:`embed_context` of text and image tokens, for the same reason; takes precedence.
            rotary: tables of ``rope``, for the same reason; take precedence.
            through: takes the tokens through the blocks, given :meth:`run_blocks` on them; None just calls it.
            side_by_side: False gives plain Wan2.1 column positions over the whole width.

        Returns:
            ``[B, out_channels, f, h, w]`` float32.
        """
        dtype = self.patch_embedding.weight.dtype
        tables = self.rope(hidden_states, side_by_side=side_by_side) if rotary is None else rotary
        x = self.patch_embedding(hidden_states.to(dtype)).float()
        grid = x.shape[2:]
        if camera_tokens is None and camera_latents is not None:
            camera_tokens = self.embed_cameras(camera_latents)
        if camera_tokens is not None:
            x = x + camera_tokens
        x = x.flatten(2).transpose(1, 2).contiguous()
        embedding, modulation = self.embed_time(timestep)
        if context is None:
            if encoder_hidden_states is None or encoder_hidden_states_image is None:
                raise InputError("the transformer needs text and image tokens, or the context embedded of them")
            context = self.embed_context(encoder_hidden_states.to(dtype), encoder_hidden_states_image.to(dtype))
        conditions = context

        def run(tokens: Tensor) -> Tensor:
            return self.run_blocks(tokens, conditions, modulation, tables)

        x = run(x) if through is None else through(per_branch(x, len(conditions)), run)
        ends = self.scale_shift_table.float() + per_branch(embedding, len(x))[:, None]
        shift, scale = ends.chunk(2, dim=1)
        x = self.proj_out((self.norm_out(x) * (1 + scale) + shift).to(dtype)).float()
        return self._unpatch(x, grid)

    def run_blocks(self, x: Tensor, context: Tensor, modulation: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """Take the residual stream ``[B, L, dim]`` float32 through all blocks.

        Args:
            x: patch embeddings with the cameras' offsets.
            context: of :meth:`embed_context`; see :meth:`forward` for branches.
            modulation: of :meth:`embed_time`.
            rotary: tables of ``rope``.
        """
        for block in self.blocks:
            modulation = per_branch(modulation, len(x))
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                x = self._gradient_checkpointing_func(block, x, context, modulation, rotary)
            else:
                x = block(x, context, modulation, rotary)
        return x

    def _unpatch(self, x: Tensor, grid: Sequence[int]) -> Tensor:
        """``[B, L, prod(patch) * C]`` to ``[B, C, f, h, w]``; channels vary fastest within a patch."""
        patch = self.config.patch_size
        x = x.unflatten(1, tuple(grid)).unflatten(-1, (*patch, -1))
        x = x.permute(0, 7, 1, 4, 2, 5, 3, 6)
        sizes = [count * size for count, size in zip(grid, patch, strict=True)]
        return x.reshape(x.shape[0], x.shape[1], *sizes)
