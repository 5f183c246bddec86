"""Depth as colours."""

from __future__ import annotations

import torch
from torch import Tensor

from gen3r_core.errors import InputError
from gen3r_core.geometry.unprojection import percentiles

# Near to far, evenly spaced: dark red, orange, pale yellow, green, blue, violet (sRGB, 0 to 255).
_ANCHORS = (
    (150, 10, 60),
    (225, 85, 70),
    (250, 175, 100),
    (255, 250, 195),
    (165, 220, 165),
    (60, 145, 185),
    (90, 75, 160),
)
RANGE_PERCENTILES = (2.0, 98.0)
"""The valid depths that get the first and the last colour."""


def spectral(values: Tensor) -> Tensor:
    """Colours between the anchors, red at 0 over yellow to violet at 1, linear in sRGB.

    Args:
        values: ``[...]`` float, clamped to [0, 1].

    Returns:
        ``[..., 3]`` uint8 RGB on the device of the values.
    """
    anchors = torch.tensor(_ANCHORS, dtype=torch.float32, device=values.device)
    position = values.float().clamp(0, 1) * (len(_ANCHORS) - 1)
    lower = position.floor().clamp(max=len(_ANCHORS) - 2)
    weight = (position - lower)[..., None]
    index = lower.long()
    colors = anchors[index] * (1 - weight) + anchors[index + 1] * weight
    return colors.round().to(torch.uint8)


def colorize_depth(depth: Tensor, valid: Tensor | None = None) -> Tensor:
    """A depth video: near is red, far is violet, invalid pixels are black.

    One range serves the whole clip, so that colours do not flicker and can be compared between
    frames: from the 2nd to the 98th percentile of all valid finite depths.

    Args:
        depth: ``[F, H, W]`` float, any unit.
        valid: ``[F, H, W]`` bool; None where all pixels count.

    Returns:
        ``[F, H, W, 3]`` uint8 RGB on the device of the depth. All black if nothing is valid.

    Raises:
        InputError: if shapes do not fit.
    """
    if depth.ndim != 3:
        raise InputError(f"depth must have shape [F, H, W], got {tuple(depth.shape)}")
    if valid is not None and valid.shape != depth.shape:
        raise InputError(f"the mask must have shape {tuple(depth.shape)} as the depth has, got {tuple(valid.shape)}")
    depth = depth.float()
    usable = torch.isfinite(depth) if valid is None else torch.isfinite(depth) & valid.bool()
    chosen = depth[usable]
    if chosen.numel() == 0:
        return torch.zeros((*depth.shape, 3), dtype=torch.uint8, device=depth.device)
    low, high = percentiles(chosen, RANGE_PERCENTILES)
    scaled = ((depth - low) / (high - low).clamp(min=1e-12)).nan_to_num()
    return spectral(scaled) * usable[..., None]
