"""Placed windows made one cloud (and a mesh), which knows what frame saw each point first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gen3r_core.errors import InputError
from gen3r_core.io.atomic import atomic_path
from gen3r_core.mapping.fusion import PlacedView, fuse_mesh
from gen3r_core.maps.scene_map import MapCloud, MapMesh
from gen3r_core.reconstruction.voxel_map import VoxelMap, cells_of

__all__ = ["choose_voxel", "fuse_cloud", "make_mesh", "read_view", "save_view"]

METRIC_VOXEL = 0.02
_DEPTHS_IN_A_VOXEL = 150
_UNSEEN = np.int32(-1)


def choose_voxel(wanted: float | None, metric: bool, typical_depth: float) -> float:
    """The edge of voxels: as asked for, 2 cm, or a share of the typical depth where nothing is known of metres."""
    if wanted is not None:
        return wanted
    return METRIC_VOXEL if metric else max(typical_depth / _DEPTHS_IN_A_VOXEL, 1e-6)


def save_view(path: Path, view: PlacedView) -> None:
    """Keep a placed view, whole or not at all; its picture is with the keyframes.

    Raises:
        OutputError: it cannot be written.
    """
    with atomic_path(path) as partial, partial.open("wb") as file:
        np.savez(file, frame=view.frame, T_world_cam=view.T_world_cam, intrinsics=view.intrinsics,
                 depth=view.depth, confidence=view.confidence.astype(np.float32))  # fmt: skip


def read_view(path: Path, colors: NDArray[np.uint8]) -> PlacedView:
    """A view that was kept.

    Raises:
        InputError: it is damaged.
    """
    try:
        with np.load(path) as file:
            return PlacedView(int(file["frame"]), file["T_world_cam"], file["intrinsics"], file["depth"],
                              file["confidence"], colors)  # fmt: skip
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise InputError(f"{path}: a view of the run before is damaged: {error}; remove it") from error


def fuse_cloud(
    views: Iterable[tuple[PlacedView, bool]], again: Iterable[tuple[PlacedView, bool]], voxel: float, max_points: int
) -> tuple[MapCloud, int]:
    """One cloud of all views.

    Args:
        views: each with whether it was generated. One is in memory.
        again: the same once more; their order is the frames' in the map.
        voxel: edge, world units.
        max_points: of the cloud; the least sure ones go.

    Returns:
        The cloud in order of its voxels, and how many voxels had to go.
    """
    fused = VoxelMap(voxel, max_points)
    evicted = 0
    for view, generated in views:
        points, colors, confidence = view.points()
        evicted += fused.insert(points, colors, confidence, generated=generated).evicted
    found = fused.points(include_generated=True)
    seen = [_FirstSeen(fused.observed.keys), _FirstSeen(fused.generated.keys)]
    for number, (view, generated) in enumerate(again):
        points, colors, confidence = view.points()
        if len(points):
            cells, _ = cells_of(points, colors, confidence, voxel)
            seen[generated].note(cells.keys, number)
    frame = np.concatenate([one.frame for one in seen])
    return MapCloud(
        found.points.astype(np.float32), found.colors, found.confidence.astype(np.float32), found.generated, frame
    ), evicted


class _FirstSeen:
    """Which frame saw each voxel first."""

    def __init__(self, keys: NDArray[np.int64]) -> None:
        self._keys = keys
        self.frame = np.full(len(keys), _UNSEEN, dtype=np.int32)

    def note(self, keys: NDArray[np.int64], frame: int) -> None:
        if not len(self._keys):
            return
        place = np.searchsorted(self._keys, keys).clip(0, len(self._keys) - 1)
        place = place[self._keys[place] == keys]
        self.frame[place] = np.where(self.frame[place] == _UNSEEN, frame, self.frame[place])


def make_mesh(views: Iterator[PlacedView], voxel: float) -> MapMesh:
    """A mesh of the surfaces that views agree on (:func:`~gen3r_core.mapping.fusion.fuse_mesh`)."""
    made = fuse_mesh(views, voxel)
    colors = np.asarray(made.vertex_colors)
    vertices = np.asarray(made.vertices, dtype=np.float32).reshape(-1, 3)
    colors = colors if len(colors) == len(vertices) else np.zeros((len(vertices), 3))
    return MapMesh(vertices, np.rint(colors.clip(0, 1) * 255).astype(np.uint8),
                   np.asarray(made.triangles, dtype=np.int32).reshape(-1, 3))  # fmt: skip
