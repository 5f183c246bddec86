"""VGGT (arXiv 2503.11651): feed-forward cameras, depth and points, and the packing of its tokens."""

from gen3r_core.models.vggt.config import CameraHeadConfig, DenseHeadConfig, DinoV2Config, VGGTConfig
from gen3r_core.models.vggt.model import VGGT, VGGTPrediction
from gen3r_core.models.vggt.tokens import pack_tokens, unpack_tokens

__all__ = [
    "VGGT",
    "CameraHeadConfig",
    "DenseHeadConfig",
    "DinoV2Config",
    "VGGTConfig",
    "VGGTPrediction",
    "pack_tokens",
    "unpack_tokens",
]
