"""The fused cloud and mesh in a work folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gen3r_core.io.atomic import atomic_path
from gen3r_core.maps.scene_map import MapCloud, MapMesh

__all__ = ["load_cloud", "load_mesh", "save_cloud", "save_mesh"]


def save_cloud(path: Path, cloud: MapCloud) -> None:
    """Keep a cloud, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    with atomic_path(path) as partial, partial.open("wb") as file:
        np.savez(file, points=cloud.points, colors=cloud.colors, confidence=cloud.confidence,
                 generated=cloud.generated, frame=cloud.frame)  # fmt: skip


def load_cloud(path: Path) -> MapCloud:
    """What :func:`save_cloud` kept."""
    with np.load(path) as file:
        return MapCloud(file["points"], file["colors"], file["confidence"], file["generated"], file["frame"])


def save_mesh(path: Path, mesh: MapMesh) -> None:
    """Keep a mesh, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    with atomic_path(path) as partial, partial.open("wb") as file:
        np.savez(file, vertices=mesh.vertices, colors=mesh.colors, triangles=mesh.triangles)


def load_mesh(path: Path) -> MapMesh:
    """What :func:`save_mesh` kept."""
    with np.load(path) as file:
        return MapMesh(file["vertices"], file["colors"], file["triangles"])
