"""The image encoder: the vision tower of OpenCLIP ViT-H/14, output of the block before the last.

The tower is transformers' ``CLIPVisionModel`` built without its last block, which Gen3R never
runs, and without the norm that only serves CLIP's pooled output.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from gen3r_core.models.config import from_values

PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
"""CLIP's channel means (arXiv 2103.00020)."""

PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)
"""CLIP's channel standard deviations."""


@dataclass(frozen=True)
class ImageEncoderConfig:
    """Sizes of the vision tower.

    Attributes:
        image_size: side of the square input in pixels.
        patch_size: side of a patch in pixels.
        hidden_size: token width.
        intermediate_size: width of the feed-forward layers.
        num_heads: attention heads.
        num_layers: blocks that are run (one less than the CLIP tower has).
        hidden_act: activation of the feed-forward layers, transformers' name.
    """

    image_size: int = 224
    patch_size: int = 14
    hidden_size: int = 1280
    intermediate_size: int = 5120
    num_heads: int = 16
    num_layers: int = 31
    hidden_act: str = "gelu"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ImageEncoderConfig:
        """Build from our own ``config.json``.

        Raises:
            CheckpointError: a key is unknown.
        """
        return from_values(cls, values, "image encoder")

    @classmethod
    def from_published(cls, values: Mapping[str, Any]) -> ImageEncoderConfig:
        """Build from the published ``config.json``.

        That file is empty (the size is fixed in upstream's code); the constructor arguments of the
        inner network (``vision_dim``, ``vision_layers``, ...) are honoured where they are given.
        """
        width = values.get("vision_dim", 1280)
        return cls(
            image_size=values.get("image_size", 224),
            patch_size=values.get("patch_size", 14),
            hidden_size=width,
            intermediate_size=int(width * values.get("vision_mlp_ratio", 4)),
            num_heads=values.get("vision_heads", 16),
            num_layers=values.get("vision_layers", 32) - 1,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for ``config.json``."""
        return asdict(self)


class ImageEncoder(nn.Module):
    """Image to conditioning tokens."""

    def __init__(self, config: ImageEncoderConfig | None = None) -> None:
        super().__init__()
        self.config = config or ImageEncoderConfig()
        model = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=self.config.hidden_size,
                intermediate_size=self.config.intermediate_size,
                num_hidden_layers=self.config.num_layers,
                num_attention_heads=self.config.num_heads,
                image_size=self.config.image_size,
                patch_size=self.config.patch_size,
                hidden_act=self.config.hidden_act,
                attn_implementation="sdpa",
            )
        )
        # Some transformers releases wrap the tower once more.
        self.tower = getattr(model, "vision_model", model)
        self.tower.post_layernorm = nn.Identity()

    @property
    def num_tokens(self) -> int:
        """Tokens of one image: the class token and all patches."""
        return 1 + (self.config.image_size // self.config.patch_size) ** 2

    def preprocess(self, images: Tensor) -> Tensor:
        """Resize (bicubic, no antialiasing, as the published model does) and normalise.

        Args:
            images: ``[B, 3, H, W]`` in [-1, 1].

        Returns:
            ``[B, 3, image_size, image_size]`` float32.
        """
        size = (self.config.image_size, self.config.image_size)
        pixels = F.interpolate(images.float(), size=size, mode="bicubic", align_corners=False) * 0.5 + 0.5
        mean = torch.tensor(PIXEL_MEAN, device=pixels.device).view(1, 3, 1, 1)
        std = torch.tensor(PIXEL_STD, device=pixels.device).view(1, 3, 1, 1)
        return (pixels - mean) / std

    def forward(self, images: Tensor) -> Tensor:
        """Tokens ``[B, num_tokens, hidden_size]`` of ``[B, 3, H, W]`` images in [-1, 1]."""
        pixels = self.preprocess(images).to(self.tower.embeddings.patch_embedding.weight.dtype)
        tokens: Tensor = self.tower(pixel_values=pixels).last_hidden_state
        return tokens


def quantize_like_upstream(image: Tensor) -> Tensor:
    """Truncate to 8 bits, as upstream's pipeline does before its image encoder.

    Args:
        image: ``[..., 3, H, W]`` in [0, 1].

    Returns:
        same shape, float32 in [-1, 1].
    """
    return (image.float() * 255).clamp(0, 255).to(torch.uint8).float() / 255 * 2 - 1
