"""The body of VGGT: alternating attention within frames and across all frames.

arXiv 2503.11651, "alternating attention": each frame's patch tokens are joined by a camera
token and register tokens, of one kind for the first frame (whose camera is the world frame)
and another for all others. Then blocks over the tokens of one frame and blocks over the tokens
of all frames take turns. Nothing else marks the order of frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gen3r_core.errors import InputError
from gen3r_core.models.vggt.blocks import Block, rotary_table
from gen3r_core.models.vggt.config import VGGTConfig
from gen3r_core.models.vggt.dinov2 import DinoV2, patch_grid

# Mean and standard deviation of ImageNet's red, green and blue in [0, 1].
PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)


def normalise_pixels(images: Tensor) -> Tensor:
    """Subtract ImageNet's mean and divide by its standard deviation, in float32.

    Args:
        images: ``[..., 3, H, W]`` RGB in [0, 1], any floating dtype.

    Returns:
        ``[..., 3, H, W]`` float32.
    """
    # Filled on the device: copying a list there would make the host wait.
    mean = torch.stack([torch.full((1, 1), value, device=images.device) for value in PIXEL_MEAN])
    std = torch.stack([torch.full((1, 1), value, device=images.device) for value in PIXEL_STD])
    return (images.float() - mean) / std


class Aggregator(nn.Module):
    """Image encoder and alternating blocks.

    Args:
        config: sizes of the network.
    """

    def __init__(self, config: VGGTConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.embed_dim
        # Index 0 belongs to the first frame, index 1 to all others.
        self.camera_token = nn.Parameter(torch.empty(1, 2, 1, dim))
        self.register_token = nn.Parameter(torch.empty(1, 2, config.num_register_tokens, dim))
        self.patch_embed = DinoV2(config.patch_embed)
        self.frame_blocks = nn.ModuleList(self._block() for _ in range(config.depth))
        self.global_blocks = nn.ModuleList(self._block() for _ in range(config.depth))
        for token in (self.camera_token, self.register_token):
            nn.init.normal_(token, std=1e-6)

    def _block(self) -> Block:
        config = self.config
        return Block(config.embed_dim, config.num_heads, config.mlp_ratio, layer_scale=0.01, normalise_queries=True)

    def forward(self, images: Tensor, layers: Sequence[int] | None = None) -> list[Tensor]:
        """Turn the frames of a scene into tokens.

        Args:
            images: ``[B, S, 3, H, W]`` RGB in [0, 1], any floating dtype; ``H`` and ``W`` multiples of
                the patch size. The first frame defines the world.
            layers: blocks to keep, counted from 0; ``config.layers`` where left out. Blocks
                after the last of them are not run.

        Returns:
            One ``[B, S, special + P, 2C]`` per entry of ``layers`` in its order, dtype of the
            weights: output of the frame block, then of the global block, on the channels;
            tokens are camera, registers, then patches row by row.

        Raises:
            InputError: the shape or dtype of ``images``, or an entry of ``layers``, cannot be used.
        """
        wanted = self._check_layers(layers)
        grid = self._check_images(images)
        batch, frames = images.shape[:2]
        patches = self.patch_embed(normalise_pixels(images).flatten(0, 1)).patch_tokens
        special = self._special_tokens(batch, frames).to(patches.dtype)
        tokens = torch.cat([special, patches], dim=1)
        rotary = rotary_table(
            grid,
            self.config.special_tokens,
            self.config.embed_dim // self.config.num_heads,
            self.config.rope_base,
            tokens.device,
        )
        kept: dict[int, Tensor] = {}
        for index in range(max(wanted) + 1):
            within = self.frame_blocks[index](tokens, rotary)
            across = self.global_blocks[index](torch.unflatten(within, 0, (batch, frames)).flatten(1, 2), rotary)
            tokens = torch.unflatten(across, 1, (frames, -1)).flatten(0, 1)
            if index in wanted:
                kept[index] = torch.unflatten(torch.cat([within, tokens], dim=-1), 0, (batch, frames))
        return [kept[index] for index in wanted]

    def _special_tokens(self, batch: int, frames: int) -> Tensor:
        """``[B * S, special, C]``: camera and register tokens, first kind for first frames."""
        both = torch.cat([self.camera_token, self.register_token], dim=2)
        first, others = both[:, :1], both[:, 1:].expand(-1, frames - 1, -1, -1)
        return torch.cat([first, others], dim=1).expand(batch, -1, -1, -1).flatten(0, 1)

    def _check_images(self, images: Tensor) -> tuple[int, int]:
        if images.ndim != 5 or images.shape[2] != 3 or 0 in images.shape[:2]:
            raise InputError(f"VGGT needs images of shape [batch, frames, 3, height, width], got {tuple(images.shape)}")
        if not images.is_floating_point():
            raise InputError(f"VGGT needs floating point images in [0, 1], got {images.dtype}; divide by 255")
        return patch_grid((images.shape[3], images.shape[4]), self.config.patch_size)

    def _check_layers(self, layers: Sequence[int] | None) -> list[int]:
        wanted = list(self.config.layers if layers is None else layers)
        if not wanted or not all(0 <= layer < self.config.depth for layer in wanted):
            raise InputError(
                f"VGGT blocks to keep must be between 0 and {self.config.depth - 1} and at least one, got {wanted}"
            )
        return wanted
