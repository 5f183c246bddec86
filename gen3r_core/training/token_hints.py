"""What every patch token of VGGT is asked for besides the dense heads' work, while it is trained.

Dense heads are dear, so only some views of a step pass them. A linear layer on the tokens of all views costs almost
nothing: it tells the depth of the patch's centre, its point in the first camera's frame, and where the first view
sees that point. The last is what a tracking head teaches in VGGT's recipe (arXiv 2503.11651): without it a small
network is long in finding out that patches of different views belong together. The layers are thrown away afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gen3r_core.training.losses import masked_mean
from gen3r_core.training.scene_units import SceneTruth

__all__ = ["HintTruth", "TokenHints", "hint_truth"]

NEAREST = 0.02
"""Scene units; points nearer to the first camera's plane are not projected into it."""

SAME_SURFACE = 0.05
"""Relative difference of depth up to which the first view sees the same point."""

_PLACE_WEIGHT = 4.0


class HintTruth(NamedTuple):
    """What the tokens shall tell, at the centres of ``h`` by ``w`` patches.

    Attributes:
        depth: ``[B, S, h, w]`` in scene units.
        points: ``[B, S, h, w, 3]`` in the first camera's frame, scene units.
        known: ``[B, S, h, w]`` bool, where the two mean something.
        shift: ``[B, S, h, w, 2]`` from the patch's centre to where the first view sees its point, columns then rows,
            in widths and heights of the image.
        seen: ``[B, S, h, w]`` bool, where the first view does see it.
    """

    depth: Tensor
    points: Tensor
    known: Tensor
    shift: Tensor
    seen: Tensor


def hint_truth(truth: SceneTruth, intrinsics: Tensor, patch: int) -> HintTruth:
    """Ground truth at the centres of patches; never waits for the device.

    Args:
        truth: of B clips of S views of H by W pixels.
        intrinsics: ``[B, S, 3, 3]`` pixels, pixel centres at +0.5.
        patch: side of a patch in pixels; divides H and W.
    """
    height, width = truth.depth.shape[2:]
    start = patch // 2
    depth, points = truth.depth[:, :, start::patch, start::patch], truth.points[:, :, start::patch, start::patch]
    known = truth.mask[:, :, start::patch, start::patch]
    x, y, z = points.unbind(dim=-1)
    safe = z.clamp(min=NEAREST)
    first = intrinsics[:, 0].float()[:, None, None, None]
    column = (x / safe * first[..., 0, 0] + first[..., 0, 2]) / width
    row = (y / safe * first[..., 1, 1] + first[..., 1, 2]) / height
    inside = known & (z > NEAREST) & (column > 0) & (column < 1) & (row > 0) & (row < 1)
    pixel = (row * height).long().clamp(0, height - 1) * width + (column * width).long().clamp(0, width - 1)
    there = truth.depth[:, 0].flatten(1).gather(1, pixel.flatten(1)).view_as(z)
    seen = inside & ((there - z).abs() < SAME_SURFACE * z)
    shift = torch.stack((column, row), dim=-1) - _centres(height, width, patch, depth.device)
    return HintTruth(depth, points, known, torch.where(seen[..., None], shift, torch.zeros_like(shift)), seen)


class TokenHints(nn.Module):
    """A layer norm and a linear layer on each kept layer of VGGT's tokens.

    Args:
        dim: channels of a token, twice the network's width.
        layers: kept layers.
        special_tokens: tokens before the patches.
    """

    def __init__(self, dim: int, layers: int, special_tokens: int) -> None:
        super().__init__()
        self.special_tokens = special_tokens
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(layers))
        self.heads = nn.ModuleList(nn.Linear(dim, 6) for _ in range(layers))

    def forward(self, tokens: Sequence[Tensor], truth: HintTruth) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and the last layer's mean errors.

        Depth: absolute error of the logarithm. Points: Euclidean error over depth. Places: absolute error in widths
        and heights, where the point is seen, times four. Layers count alike.

        Args:
            tokens: one ``[B, S, special + h w, dim]`` a kept layer.
            truth: of :func:`hint_truth`.
        """
        total = torch.zeros((), device=truth.depth.device)
        figures: dict[str, Tensor] = {}
        safe = torch.where(truth.known, truth.depth, torch.ones_like(truth.depth))
        for norm, head, layer in zip(self.norms, self.heads, tokens, strict=True):
            told = head(norm(layer[:, :, self.special_tokens :])).float().unflatten(2, truth.depth.shape[2:])
            depth = masked_mean((told[..., 0] - safe.log()).abs(), truth.known)
            distance = (told[..., 1:4] - truth.points).square().sum(dim=-1).add(1e-12).sqrt() / safe
            points = masked_mean(distance, truth.known)
            place = masked_mean((told[..., 4:] - truth.shift).abs().mean(dim=-1), truth.seen)
            total = total + (depth + points + _PLACE_WEIGHT * place) / len(self.heads)
            figures = {"hint_depth": depth.detach(), "hint_points": points.detach(), "hint_places": place.detach()}
        return total, figures


def _centres(height: int, width: int, patch: int, device: torch.device) -> Tensor:
    """``[h, w, 2]`` column and row of the pixels that stand for patches, in widths and heights."""
    column = (torch.arange(patch // 2, width, patch, device=device) + 0.5) / width
    row = (torch.arange(patch // 2, height, patch, device=device) + 0.5) / height
    return torch.stack(torch.broadcast_tensors(column[None, :], row[:, None]), dim=-1)
