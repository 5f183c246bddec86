"""Leaving out solids that a tile of a picture cannot see, and that cannot shade what it sees.

Only what cannot be hit is left out: a tile's rays stay within four planes through the camera, a shadow
ray within the box that holds the surface points and the light.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gen3r_core.worlds.intersection import nearest_hit
from gen3r_core.worlds.packing import PackedWorlds, SolidTensors
from gen3r_core.worlds.shading import OPENNESS_REACH, Trace, hits_at, shade

_SLACK = 1e-3
"""Metres (and lengths of unit vectors) that bounds are widened by, against rounding."""


@dataclass(frozen=True)
class TilePart:
    """What one tile needs.

    Attributes:
        seen: the world with only those solids that the tile can see.
        shade: as :func:`gen3r_core.worlds.rendering.trace_colors`, shadows of the whole world included.
    """

    seen: PackedWorlds
    shade: Trace


class TileCuller:
    """Tiles of one frame of one world, with what each can see.

    Args:
        packed: one world.
        pose: ``[4, 4]`` camera to world, metres.
        K: ``[3, 3]`` pixels.
        size: ``(height, width)``.
        tile: edge of a tile in pixels.
    """

    def __init__(self, packed: PackedWorlds, pose: Tensor, K: Tensor, size: tuple[int, int], tile: int) -> None:
        self._packed = packed
        height, width = size
        self._tiles = [
            (slice(top, min(height, top + tile)), slice(left, min(width, left + tile)))
            for top in range(0, height, tile)
            for left in range(0, width, tile)
        ]
        solids = packed.solids
        rotation = solids.to_local[0] * solids.half[0][:, :, None]  # rows: the solid's axes in the world
        center = -(solids.offset[0][:, None, :] * solids.half[0][:, None, :] @ rotation)[:, 0]
        reach = solids.half[0][:, :, None] * rotation
        extent = reach.abs().sum(dim=1)
        self._low, self._high = center - extent - _SLACK, center + extent + _SLACK
        self._visible = self._in_view(pose, K, center, reach)

    def _in_view(self, pose: Tensor, K: Tensor, center: Tensor, reach: Tensor) -> Tensor:
        """``[tiles, K]`` bool."""
        u = torch.tensor([[c.start, c.stop, c.stop, c.start] for _, c in self._tiles], dtype=K.dtype)
        v = torch.tensor([[r.start, r.start, r.stop, r.stop] for r, _ in self._tiles], dtype=K.dtype)
        corners = torch.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], torch.ones_like(u)], dim=-1)
        corners = corners @ pose[:3, :3].T
        # Corners run clockwise as the camera sees them: with y down, the cross products point inwards.
        planes = torch.linalg.cross(corners, corners.roll(-1, dims=1), dim=-1)
        planes = planes / planes.norm(dim=-1, keepdim=True)
        away = planes @ (center - pose[:3, 3]).T
        towards = (planes[:, :, None, None, :] * reach).sum(dim=-1).abs().sum(dim=-1)
        visible: Tensor = (away + towards > -_SLACK).all(dim=1)
        return visible

    def __iter__(self) -> Iterator[tuple[slice, slice, TilePart]]:
        for (rows, columns), visible in zip(self._tiles, self._visible, strict=True):
            index = visible.nonzero().flatten()
            if not len(index):  # a world that is open to the sky: any solid will do to be missed
                index = torch.zeros(1, dtype=torch.int64)
            yield rows, columns, TilePart(_selected(self._packed, index), self._shade)

    def _shade(self, seen: PackedWorlds, origins: Tensor, directions: Tensor, pixel: Tensor) -> Tensor:
        distance, index = nearest_hit(seen.solids, origins, directions)
        found = torch.isfinite(distance)
        hits = hits_at(seen, origins, directions, torch.where(found, distance, 1.0), index, pixel)
        low, high = hits.points.amin(dim=(0, 1, 2)), hits.points.amax(dim=(0, 1, 2))
        occluders: list[SolidTensors | None] = []
        for light in range(seen.light_position.shape[1]):
            position, radius = seen.light_position[0, light], seen.light_radius[0, light]
            if not ((hits.normals * (position - hits.points)).sum(dim=-1) > 0).any():
                occluders.append(None)
                continue
            occluders.append(
                self._touching(torch.minimum(low, position - radius), torch.maximum(high, position + radius))
            )
        neighbours = self._touching(low - 2 * OPENNESS_REACH, high + 2 * OPENNESS_REACH)
        colors = shade(seen, hits, origins, occluders=occluders, neighbours=neighbours)
        return (colors * found[..., None]).mean(dim=2)

    def _touching(self, low: Tensor, high: Tensor) -> SolidTensors:
        """Solids that reach into a box."""
        inside = ((self._low < high) & (self._high > low)).all(dim=1)
        return self._packed.solids.select(inside.nonzero().flatten())


def _selected(packed: PackedWorlds, index: Tensor) -> PackedWorlds:
    by_solid = ("anchor", "color", "accent", "scale", "glow", "codes", "source")
    chosen = {name: getattr(packed, name)[:, index] for name in by_solid}
    return packed._replace(solids=packed.solids.select(index), **chosen)
