"""What a camera in a world would touch and see, checked before anything is rendered."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from gen3r_core.worlds.intersection import nearest_hit, signed_distance
from gen3r_core.worlds.packing import PackedWorlds, pack_worlds
from gen3r_core.worlds.world import World

Array = NDArray[np.float64]
_GRID = 9
_EDGE = 0.5


@dataclass(frozen=True, eq=False)
class Sight:
    """Distances and coarse views in one world.

    Attributes:
        world: the world.
    """

    world: World

    @cached_property
    def packed(self) -> PackedWorlds:
        """The world as float32 tensors, as large as it is."""
        return pack_worlds([self.world])

    def clearance(self, points: Array) -> Array:
        """``[...]`` metres from ``[..., 3]`` points to the nearest surface, negative inside a solid.

        Points outside of the building have clearance -1.
        """
        flat = torch.from_numpy(points.reshape(1, -1, 1, 3)).to(torch.float32)
        distance = signed_distance(self.packed.solids, flat).reshape(points.shape[:-1]).double().numpy()
        inside = np.zeros(points.shape[:-1], dtype=bool)
        for room in self.world.rooms:
            x0, y0, x1, y1 = room.cell
            within = (points >= (x0, y0, 0.0)).all(axis=-1) & (points <= (x1, y1, room.height)).all(axis=-1)
            inside |= within
        return np.asarray(np.where(inside, distance, -1.0), dtype=np.float64)

    def look(self, T_world_cam: Array, tangents: tuple[float, float]) -> tuple[Array, NDArray[np.int64]]:
        """A coarse grid of rays through pictures.

        Args:
            T_world_cam: ``[N, 4, 4]`` camera to world, metres, OpenCV axes.
            tangents: of half the vertical and half the horizontal field of view.

        Returns:
            ``[N, R]`` z-depths in metres (0 where nothing is), and the solids seen (-1 there).
        """
        steps = (np.arange(_GRID) + _EDGE) / _GRID * 2 - 1
        y, x = np.meshgrid(steps * tangents[0], steps * tangents[1], indexing="ij")
        rays = np.stack([x.ravel(), y.ravel(), np.ones(x.size)], axis=-1)
        directions = torch.from_numpy(np.einsum("nij,rj->nri", T_world_cam[:, :3, :3], rays)).to(torch.float32)
        origins = torch.from_numpy(T_world_cam[:, None, :3, 3]).to(torch.float32)
        # Frames as pixels, rays as samples.
        distance, index = nearest_hit(self.packed.solids, origins[None], directions[None])
        source = self.packed.source[0][index[0]]
        seen = torch.isfinite(distance[0])
        depth = torch.where(seen, distance[0], 0.0).double().numpy()
        return depth, torch.where(seen, source, -1).numpy()
