"""Coloured surfaces for a browser: cut, made lighter, and packed as binary glTF 2.0."""

from __future__ import annotations

import json
import struct

import numpy as np
from numpy.typing import NDArray

from gen3r_core.maps.scene_map import MapMesh

__all__ = ["MOST_TRIANGLES", "cut_mesh", "glb", "lighter"]

MOST_TRIANGLES = 1_000_000
"""What browsers still turn without a stutter."""

_FLOAT, _SHORT, _INDEX = 5126, 5123, 5125
_VERTICES, _INDICES = 34962, 34963


def cut_mesh(mesh: MapMesh, heights: NDArray[np.float32], below: float | None) -> MapMesh:
    """The triangles that lie below a height as a whole.

    Args:
        mesh: any.
        heights: ``[V]`` of its vertices.
        below: in the same unit; None keeps all.
    """
    if below is None:
        return mesh
    kept = (heights <= below)[mesh.triangles].all(axis=1)
    return MapMesh(mesh.vertices, mesh.colors, mesh.triangles[kept])


def lighter(mesh: MapMesh, most: int = MOST_TRIANGLES) -> MapMesh:
    """The same surface with fewer triangles, where it has too many.

    Vertices within one cell of a grid become their mean (Rossignac and Borrel 1993); cells grow until the
    triangles that are left are few enough.

    Args:
        mesh: any.
        most: triangles wanted.
    """
    if len(mesh.triangles) <= most:
        return mesh
    low = mesh.vertices.min(axis=0)
    corners = mesh.vertices[mesh.triangles]
    edge = float(np.median(np.linalg.norm(corners[:, 0] - corners[:, 1], axis=1)))
    size = max(edge, 1e-9 * float(np.ptp(mesh.vertices)), 1e-30)
    smaller = mesh
    while len(smaller.triangles) > most:
        size *= 1.5
        smaller = _clustered(mesh, np.floor((mesh.vertices - low) / size).astype(np.int64))
    return smaller


def _clustered(mesh: MapMesh, cells: NDArray[np.int64]) -> MapMesh:
    _, member, counts = np.unique(cells, axis=0, return_inverse=True, return_counts=True)
    member = member.reshape(-1)

    def means(values: NDArray[np.float32] | NDArray[np.uint8]) -> NDArray[np.float64]:
        return np.stack([np.bincount(member, values[:, axis]) for axis in range(3)], axis=1) / counts[:, None]

    triangles = member[mesh.triangles].astype(np.int32)
    a, b, c = triangles.T
    triangles = triangles[(a != b) & (b != c) & (c != a)]
    _, first = np.unique(np.sort(triangles, axis=1), axis=0, return_index=True)
    return MapMesh(
        means(mesh.vertices).astype(np.float32), means(mesh.colors).round().astype(np.uint8), triangles[np.sort(first)]
    )


def glb(mesh: MapMesh) -> bytes:
    """A mesh as a binary glTF 2.0 file: vertex colours, no light, both sides.

    glTF has vertex colours linear, ours are sRGB (IEC 61966-2-1); 16 bits keep the dark ones apart.

    Args:
        mesh: with at least one triangle.
    """
    srgb = np.arange(256) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    table = (linear * 65535).round().astype("<u2")
    colors = np.full((len(mesh.vertices), 4), 65535, "<u2")
    colors[:, :3] = table[mesh.colors]
    blobs = [mesh.vertices.astype("<f4").tobytes(), colors.tobytes(), mesh.triangles.astype("<u4").tobytes()]
    offsets = np.cumsum([0, *(len(blob) for blob in blobs)]).tolist()
    views = [
        {"buffer": 0, "byteOffset": offset, "byteLength": len(blob), "target": target}
        for offset, blob, target in zip(offsets[:-1], blobs, (_VERTICES, _VERTICES, _INDICES), strict=True)
    ]
    vertices = len(mesh.vertices)
    accessors = [
        {
            "bufferView": 0,
            "componentType": _FLOAT,
            "count": vertices,
            "type": "VEC3",
            "min": mesh.vertices.min(axis=0).tolist(),
            "max": mesh.vertices.max(axis=0).tolist(),
        },
        {"bufferView": 1, "componentType": _SHORT, "normalized": True, "count": vertices, "type": "VEC4"},
        {"bufferView": 2, "componentType": _INDEX, "count": int(mesh.triangles.size), "type": "SCALAR"},
    ]
    material = {
        "doubleSided": True,
        "pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0},
        "extensions": {"KHR_materials_unlit": {}},
    }
    header = {
        "asset": {"version": "2.0", "generator": "gen3r"},
        "extensionsUsed": ["KHR_materials_unlit"],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0, "COLOR_0": 1}, "indices": 2, "material": 0}]}],
        "materials": [material],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": offsets[-1]}],
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    # Every part is a multiple of four bytes already: floats, four shorts, and integers.
    chunks = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", offsets[-1], 0x004E4942)
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks) + offsets[-1]) + chunks + b"".join(blobs)
