"""The image encoder of VGGT: a DINOv2 vision transformer with register tokens.

DINOv2: arXiv 2304.07193. Registers: arXiv 2309.16588. The position embedding is stored for one
square patch grid and resampled for every other (bicubic, with antialiasing).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gen3r_core.errors import InputError
from gen3r_core.models.vggt.blocks import Block
from gen3r_core.models.vggt.config import DinoV2Config


def patch_grid(image_size: tuple[int, int], patch_size: int) -> tuple[int, int]:
    """Patches of an image.

    Args:
        image_size: ``(height, width)`` in pixels.
        patch_size: side of a patch in pixels.

    Returns:
        ``(rows, columns)``.

    Raises:
        InputError: a side is not a positive multiple of ``patch_size``; the message gives the
            nearest sizes that are.
    """
    height, width = image_size
    if height < 1 or width < 1 or height % patch_size or width % patch_size:
        advice = " and ".join(
            f"{name} {_nearest_multiples(side, patch_size)}" for name, side in (("height", height), ("width", width))
        )
        raise InputError(
            f"image size {height}x{width} (height x width) does not divide into patches of {patch_size} pixels; "
            f"nearest usable sizes: {advice}; resize or crop the images"
        )
    return height // patch_size, width // patch_size


def _nearest_multiples(side: int, patch_size: int) -> str:
    below = side // patch_size * patch_size
    if below == side and side > 0:
        return str(side)
    above = max(below, 0) + patch_size
    return f"{below} or {above}" if below > 0 else str(above)


class DinoV2Features(NamedTuple):
    """Tokens of ``N`` images after the final norm.

    Attributes:
        cls_token: ``[N, C]``.
        register_tokens: ``[N, R, C]``.
        patch_tokens: ``[N, rows * columns, C]``, row by row.
    """

    cls_token: Tensor
    register_tokens: Tensor
    patch_tokens: Tensor


class PatchEmbedding(nn.Module):
    """Cut an image into patches and map each linearly to a token.

    Args:
        patch_size: side of a patch in pixels.
        embed_dim: channels of a token.
    """

    def __init__(self, patch_size: int, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, embed_dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """Map ``[N, 3, H, W]`` to ``[N, rows * columns, C]``."""
        patches: Tensor = self.proj(images)
        return patches.flatten(2).transpose(1, 2)


class DinoV2(nn.Module):
    """DINOv2 with registers.

    Args:
        config: sizes of the network.
    """

    def __init__(self, config: DinoV2Config) -> None:
        super().__init__()
        self.config = config
        dim, (rows, columns) = config.embed_dim, config.native_grid
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + rows * columns, dim))
        self.register_tokens = nn.Parameter(torch.empty(1, config.num_register_tokens, dim))
        # Part of the checkpoint, used only in DINOv2's own pre-training.
        self.mask_token = nn.Parameter(torch.zeros(1, dim), requires_grad=False)
        self.patch_embed = PatchEmbedding(config.patch_size, dim)
        self.blocks = nn.ModuleList(
            Block(dim, config.num_heads, config.mlp_ratio, layer_scale=1.0, norm_eps=1e-6) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for token in (self.cls_token, self.register_tokens):
            nn.init.normal_(token, std=1e-6)

    def position_embedding(self, grid: tuple[int, int]) -> Tensor:
        """Position embedding of the class token and of a patch grid.

        Args:
            grid: ``(rows, columns)`` of patches.

        Returns:
            ``[1, 1 + rows * columns, C]``, dtype of the weights; class slot first, then row by
            row. The stored embedding itself at the native grid, else resampled in float32.
        """
        if grid == self.config.native_grid:
            return self.pos_embed
        stored = self.pos_embed.float()
        native = torch.unflatten(stored[:, 1:].transpose(1, 2), 2, self.config.native_grid)
        resampled = F.interpolate(native, size=grid, mode="bicubic", antialias=True)
        return torch.cat([stored[:, :1], resampled.flatten(2).transpose(1, 2)], dim=1).to(self.pos_embed.dtype)

    def forward(self, images: Tensor) -> DinoV2Features:
        """Encode images.

        Args:
            images: ``[N, 3, H, W]``, normalised by the ImageNet mean and standard deviation, any
                floating dtype (cast to that of the weights); sides multiples of the patch size.

        Returns:
            The tokens after the final norm, dtype of the weights.

        Raises:
            InputError: the image size does not divide into patches.
        """
        grid = patch_grid((images.shape[-2], images.shape[-1]), self.config.patch_size)
        count, registers = images.shape[0], self.config.num_register_tokens
        patches = self.patch_embed(images.to(self.pos_embed.dtype))
        tokens = torch.cat([self.cls_token.expand(count, -1, -1), patches], dim=1) + self.position_embedding(grid)
        # Registers carry no position.
        tokens = torch.cat([tokens[:, :1], self.register_tokens.expand(count, -1, -1), tokens[:, 1:]], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.norm(tokens)
        return DinoV2Features(tokens[:, 0], tokens[:, 1 : 1 + registers], tokens[:, 1 + registers :])
