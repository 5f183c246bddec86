"""What sizes of generations are multiples of."""

from __future__ import annotations

FOLD = 4
"""Frames in one latent frame."""

SIZE_MULTIPLE = 112
"""Sides of generated images are multiples of 8 (VAE), 14 (VGGT patches) and an even token grid."""
