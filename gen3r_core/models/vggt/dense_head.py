"""The dense heads of VGGT: depth or points for every pixel, with a confidence.

The design is that of DPT (arXiv 2103.13413): tokens of four blocks become maps at 4, 2, 1 and 1/2
times the patch grid and are fused from coarse to fine. VGGT (arXiv 2503.11651) adds a sinusoidal
embedding of image coordinates and predicts values and confidence together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gen3r_core.errors import InputError
from gen3r_core.models.vggt.config import DenseHeadConfig
from gen3r_core.models.vggt.dinov2 import patch_grid

_MAX_ELEMENTS = 2**31 - 1  # interpolation kernels index with 32 bits
_POSITION_WEIGHT = 0.1
_POSITION_BASE = 100.0


class DenseActivation(StrEnum):
    """How raw values become predictions: ``exp(y)``, or ``sign(y) * (exp(|y|) - 1)``."""

    EXP = "exp"
    INVERSE_LOG = "inverse_log"


def position_map(
    channels: int, grid: tuple[int, int], image_size: tuple[int, int], device: torch.device | str | None = None
) -> Tensor:
    """Sinusoidal embedding of where the cells of a map lie in the image.

    Coordinates are those of cell centres, with the image centre at 0 and half the image
    diagonal at 1. For coordinate ``u`` and ``n = channels / 4``, the embedding is ``sin(u * w_i)`` and
    ``cos(u * w_i)`` with ``w_i = 100 ** (-i / n)``; x comes before y.

    Args:
        channels: channels of the map, a multiple of 4.
        grid: ``(rows, columns)`` of the map.
        image_size: ``(height, width)`` of the image, which gives the aspect ratio.
        device: where to build the map.

    Returns:
        ``[channels, rows, columns]`` float32.
    """
    (rows, columns), (height, width) = grid, image_size
    diagonal = math.hypot(height, width)
    quarter = channels // 4
    frequencies = _POSITION_BASE ** -(torch.arange(quarter, device=device, dtype=torch.float32) / quarter)

    def waves(half_extent: float, cells: int) -> Tensor:
        edge = half_extent * (cells - 1) / cells
        angles = frequencies[:, None] * torch.linspace(-edge, edge, cells, device=device, dtype=torch.float32)
        return torch.cat([angles.sin(), angles.cos()])

    horizontal = waves(width / diagonal, columns)[:, None, :].expand(-1, rows, -1)
    vertical = waves(height / diagonal, rows)[:, :, None].expand(-1, -1, columns)
    return torch.cat([horizontal, vertical])


def resize_bilinear(maps: Tensor, size: tuple[int, int], max_elements: int = _MAX_ELEMENTS) -> Tensor:
    """Bilinear interpolation with corners aligned, in parts where the result is huge.

    Args:
        maps: ``[N, C, h, w]``.
        size: ``(height, width)`` of the result.
        max_elements: elements that one call of the kernel may write.

    Returns:
        ``[N, C, height, width]``.
    """
    if maps.shape[0] * maps.shape[1] * size[0] * size[1] <= max_elements:
        return F.interpolate(maps, size=size, mode="bilinear", align_corners=True)
    planes = maps.flatten(0, 1)[:, None]
    step = max(1, max_elements // (size[0] * size[1]))
    parts = [F.interpolate(part, size=size, mode="bilinear", align_corners=True) for part in torch.split(planes, step)]
    return torch.unflatten(torch.cat(parts).squeeze(1), 0, maps.shape[:2])


class ResidualConvolutions(nn.Module):
    """Two 3x3 convolutions, each after a ReLU, around a skip connection.

    The skip carries the rectified input: VGGT was trained so.

    Args:
        features: channels in and out.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(features, features, kernel_size=3, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        """Map ``[N, C, h, w]`` to the same shape."""
        rectified = F.relu(maps)
        refined: Tensor = self.conv2(F.relu(self.conv1(rectified)))
        return refined + rectified


class FusionStage(nn.Module):
    """Add a finer map to the coarser result, refine, enlarge.

    Args:
        features: channels of all maps.
        merges: whether there is a coarser result to merge with.
    """

    def __init__(self, features: int, *, merges: bool) -> None:
        super().__init__()
        if merges:
            self.resConfUnit1 = ResidualConvolutions(features)
        self.resConfUnit2 = ResidualConvolutions(features)
        self.out_conv = nn.Conv2d(features, features, kernel_size=1)

    def forward(self, maps: Tensor, coarser: Tensor | None, size: tuple[int, int]) -> Tensor:
        """Fuse ``[N, C, h, w]`` with ``coarser`` of the same shape into ``[N, C, *size]``."""
        merged = maps if coarser is None else coarser + self.resConfUnit1(maps)
        fused: Tensor = self.out_conv(resize_bilinear(self.resConfUnit2(merged), size))
        return fused


class Fusion(nn.Module):
    """From four maps to one, and the convolutions after it.

    Args:
        config: sizes of the head.
        output_channels: values and confidence.
    """

    def __init__(self, config: DenseHeadConfig, output_channels: int) -> None:
        super().__init__()
        features, (first, second, third, fourth) = config.features, config.out_channels
        self.layer1_rn = nn.Conv2d(first, features, kernel_size=3, padding=1, bias=False)
        self.layer2_rn = nn.Conv2d(second, features, kernel_size=3, padding=1, bias=False)
        self.layer3_rn = nn.Conv2d(third, features, kernel_size=3, padding=1, bias=False)
        self.layer4_rn = nn.Conv2d(fourth, features, kernel_size=3, padding=1, bias=False)
        self.refinenet1 = FusionStage(features, merges=True)
        self.refinenet2 = FusionStage(features, merges=True)
        self.refinenet3 = FusionStage(features, merges=True)
        self.refinenet4 = FusionStage(features, merges=False)
        self.output_conv1 = nn.Conv2d(features, features // 2, kernel_size=3, padding=1)
        self.output_conv2 = nn.Sequential(
            nn.Conv2d(features // 2, config.hidden, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(config.hidden, output_channels, kernel_size=1),
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Fuse four maps, finest first, to ``[N, features / 2, 2h, 2w]`` where ``h, w`` is the finest."""
        first, second = self.layer1_rn(maps[0]), self.layer2_rn(maps[1])
        third, fourth = self.layer3_rn(maps[2]), self.layer4_rn(maps[3])
        fused = self.refinenet4(fourth, None, _size(third))
        fused = self.refinenet3(third, fused, _size(second))
        fused = self.refinenet2(second, fused, _size(first))
        fused = self.refinenet1(first, fused, (2 * first.shape[-2], 2 * first.shape[-1]))
        reduced: Tensor = self.output_conv1(fused)
        return reduced


class DenseHead(nn.Module):
    """Depth or points of every pixel.

    Args:
        dim: channels of a token.
        value_channels: predicted values per pixel, 1 for depth and 3 for points.
        activation: what turns raw values into predictions.
        config: sizes of the head.
        patch_size: side of a patch in pixels.
    """

    def __init__(
        self, dim: int, value_channels: int, activation: DenseActivation, config: DenseHeadConfig, patch_size: int
    ) -> None:
        super().__init__()
        self.activation = activation
        self.patch_size = patch_size
        first, second, _, fourth = config.out_channels
        self.norm = nn.LayerNorm(dim)
        self.projects = nn.ModuleList(nn.Conv2d(dim, channels, kernel_size=1) for channels in config.out_channels)
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(first, first, kernel_size=4, stride=4),
                nn.ConvTranspose2d(second, second, kernel_size=2, stride=2),
                nn.Identity(),
                nn.Conv2d(fourth, fourth, kernel_size=3, stride=2, padding=1),
            ]
        )
        self.scratch = Fusion(config, value_channels + 1)
        self.one_shape = False
        """Whether a last chunk of fewer frames starts with some of the one before, so that all have one shape."""

    def forward(
        self, tokens: Sequence[Tensor], image_size: tuple[int, int], *, frames_per_chunk: int = 8
    ) -> tuple[Tensor, Tensor]:
        """Predict values and confidences.

        Args:
            tokens: four ``[B, S, special + P, dim]``; the last ``P`` tokens of a frame are its
                patches, row by row. Cast to the dtype of the head's weights.
            image_size: ``(height, width)`` of the images, multiples of the patch size.
            frames_per_chunk: frames, of any batch entry, that go through the head at a time.
                Changes the memory needed, not the result.

        Returns:
            Values ``[B, S, H, W, value_channels]`` and confidences ``[B, S, H, W]`` (at least 1),
            both float32.

        Raises:
            InputError: ``frames_per_chunk`` or ``image_size`` cannot be used.
        """
        grid = patch_grid(image_size, self.patch_size)
        if frames_per_chunk < 1:
            raise InputError(f"frames_per_chunk must be at least 1, got {frames_per_chunk}")
        by_frame = [layer[:, :, -grid[0] * grid[1] :].flatten(0, 1) for layer in tokens]
        positions = self._positions(grid, image_size, tokens[0].device)
        frames = len(by_frame[0])
        size = -(-frames // -(-frames // frames_per_chunk))
        values, confidence = [], []
        for start in range(0, frames, size):
            first = min(start, frames - size) if self.one_shape else start
            chunk = [layer[first : first + size] for layer in by_frame]
            value, certain = self.predict_chunk(chunk, positions, grid, image_size)
            values.append(value[start - first :])
            confidence.append(certain[start - first :])
        batch = tokens[0].shape[:2]
        return torch.unflatten(torch.cat(values), 0, batch), torch.unflatten(torch.cat(confidence), 0, batch)

    def _positions(self, grid: tuple[int, int], image_size: tuple[int, int], device: torch.device) -> list[Tensor]:
        """What is added to the four maps at the patch grid, and to the fused one at the size of the image."""
        dtype = self.norm.weight.dtype
        layers: list[tuple[Any, tuple[int, int]]] = [(project, grid) for project in self.projects]
        layers.append((self.scratch.output_conv1, image_size))
        maps = [position_map(layer.out_channels, size, image_size, device) for layer, size in layers]
        # In the order in memory that convolutions of tokens have.
        return [(_POSITION_WEIGHT * one).to(dtype).movedim(0, -1).contiguous().movedim(-1, 0) for one in maps]

    def predict_chunk(
        self,
        patches: Sequence[Tensor],
        positions: Sequence[Tensor],
        grid: tuple[int, int],
        image_size: tuple[int, int],
    ) -> tuple[Tensor, Tensor]:
        """Values and confidences of ``N`` frames.

        Args:
            patches: four ``[N, P, dim]``.
            positions: embeddings ``[C, rows, columns]`` for the four maps, and ``[C, H, W]`` for the fused one.
            grid: ``(rows, columns)`` of the patches.
            image_size: ``(height, width)``.

        Returns:
            ``[N, H, W, V]`` and ``[N, H, W]``, float32.
        """
        maps = []
        *coarse, fine = positions
        for layer, where, project, resize in zip(patches, coarse, self.projects, self.resize_layers, strict=True):
            normed = self.norm(layer.to(self.norm.weight.dtype))
            maps.append(resize(project(torch.unflatten(normed.transpose(1, 2), 2, grid)) + where))
        fused = resize_bilinear(self.scratch(maps), image_size)
        raw = self.scratch.output_conv2(fused + fine).float().movedim(1, -1)
        values, confidence = raw[..., :-1], 1 + raw[..., -1].exp()
        if self.activation is DenseActivation.EXP:
            return values.exp(), confidence
        return values.sign() * values.abs().expm1(), confidence


def _size(maps: Tensor) -> tuple[int, int]:
    return maps.shape[-2], maps.shape[-1]
