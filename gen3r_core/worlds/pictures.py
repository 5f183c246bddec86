"""Pictures of clips and worlds for people: colours beside depth, contact sheets, floor plans."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gen3r_core.errors import InputError
from gen3r_core.io.colormap import colorize_depth
from gen3r_core.worlds.clips import Clip
from gen3r_core.worlds.freespace import blocking
from gen3r_core.worlds.world import World

Image = NDArray[np.uint8]
_PIXELS_PER_METRE = 60
_MARGIN = 0.3
_PAPER, _WALL, _FLOOR = (250, 250, 250), (60, 60, 65), (226, 220, 208)
_PATH, _START = (200, 30, 40), (30, 140, 60)


def to_bytes(clip: Clip) -> Image:
    """``[F, H, W, 3]`` the colours in 8 bits."""
    return np.asarray((clip.colors.clamp(0, 1) * 255).round().byte().cpu().numpy(), dtype=np.uint8)


def beside_depth(clip: Clip) -> Image:
    """``[F, H, 2 W, 3]`` colours, and right of them depth: near is red, far is violet."""
    depth = colorize_depth(clip.depth, clip.depth > 0).cpu().numpy()
    return np.concatenate([to_bytes(clip), depth], axis=2)


def contact_sheet(clip: Clip, columns: int = 5) -> Image:
    """``[2 H, columns W, 3]`` frames evenly spaced over the clip, and their depth below.

    Args:
        clip: F frames.
        columns: frames to show, at most F.
    """
    both = beside_depth(clip)
    chosen = both[np.linspace(0, len(both) - 1, min(columns, len(both))).round().astype(np.int64)]
    width = clip.image_size[1]
    rows = [np.concatenate(list(part), axis=1) for part in (chosen[:, :, :width], chosen[:, :, width:])]
    return np.concatenate(rows, axis=0)


def stack_sheets(sheets: Sequence[Image]) -> Image:
    """Sheets below each other, narrower ones filled up with white.

    Raises:
        InputError: if there is none.
    """
    if not sheets:
        raise InputError("there is no picture to stack")
    width = max(sheet.shape[1] for sheet in sheets)
    filled = [np.pad(sheet, ((0, 0), (0, width - sheet.shape[1]), (0, 0)), constant_values=255) for sheet in sheets]
    return np.concatenate(filled, axis=0)


def floor_plan(world: World, positions: NDArray[np.float64] | None = None) -> Image:
    """A map seen from above: x to the right, y up, 60 pixels a metre.

    Args:
        world: rooms, walls and furniture (by the mean colour of each piece's first solid).
        positions: ``[F, 2]`` or ``[F, 3]`` camera path in metres, drawn in red from a green start.

    Returns:
        ``[H, W, 3]``.
    """
    x0, y0, x1, y1 = world.plan.bounds
    width, height = (math.ceil((span + 2 * _MARGIN) * _PIXELS_PER_METRE) for span in (x1 - x0, y1 - y0))
    x = x0 - _MARGIN + (np.arange(width) + 0.5) / _PIXELS_PER_METRE
    y = y1 + _MARGIN - (np.arange(height) + 0.5) / _PIXELS_PER_METRE
    points = np.stack(np.meshgrid(x, y), axis=-1)
    picture = np.full((height, width, 3), _PAPER, dtype=np.uint8)
    for room in world.rooms:
        a, b, c, d = room.cell
        picture[(points[..., 0] > a) & (points[..., 0] < c) & (points[..., 1] > b) & (points[..., 1] < d)] = _FLOOR
    walls = [solid for solid, owner in zip(world.solids, world.owners, strict=True) if owner < 0]
    for footprint in blocking(walls):
        picture[footprint.distance(points) < 0] = _WALL
    for placed in world.placed:
        color = np.array(placed.piece.solids[0].material.color) ** (1 / 2.2) * 255
        distance = placed.footprint.distance(points)
        picture[distance < 0] = color.round()
        picture[(distance < 0) & (distance > -0.03)] = _WALL
    if positions is not None:
        for index, position in enumerate(positions[::-1]):
            away = np.hypot(points[..., 0] - position[0], points[..., 1] - position[1])
            last = index == len(positions) - 1
            picture[away < (0.1 if last else 0.04)] = _START if last else _PATH
    return picture
