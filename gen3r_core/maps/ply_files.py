"""A map's cloud and mesh as PLY files that keep all that is known of each point."""

from __future__ import annotations

import re
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from gen3r_core.errors import InputError
from gen3r_core.io.atomic import atomic_path
from gen3r_core.io.ply import read_vertices
from gen3r_core.maps.scene_map import UNKNOWN_FRAME, MapCloud, MapMesh

__all__ = ["read_map_cloud", "read_map_mesh", "write_map_cloud", "write_map_mesh"]

_AT_ONCE = 1_000_000
_HEADER_BYTES = 1 << 16
_WORDS = MappingProxyType({"f4": "float", "u1": "uchar", "i4": "int"})
_COLORED = (("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1"))
_POINT = np.dtype([*_COLORED, ("confidence", "<f4"), ("generated", "u1"), ("frame", "<i4")])
_CORNER = np.dtype([*_COLORED])
_FACE = np.dtype([("count", "u1"), ("corners", "<i4", 3)])
_LIST = "property list uchar int vertex_indices"


def write_map_cloud(path: Path, cloud: MapCloud, *, metric: bool) -> None:
    """Writes a binary PLY file, whole or not at all.

    Vertices have ``float x, y, z``, ``uchar red, green, blue``, ``float confidence``, ``uchar generated`` (0 or 1) and
    ``int frame`` (-1 where not known).

    Args:
        path: file to write; its folder must exist.
        cloud: to write.
        metric: what a comment says of the unit.

    Raises:
        OutputError: it cannot be written.
    """
    with atomic_path(path) as partial, partial.open("wb") as file:
        file.write(_header(_POINT, len(cloud), metric=metric, more=""))
        for start in range(0, len(cloud), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            rows = _colored(_POINT, cloud.points[part], cloud.colors[part])
            rows["confidence"], rows["generated"] = cloud.confidence[part], cloud.generated[part]
            rows["frame"] = cloud.frame[part]
            file.write(rows.tobytes())


def read_map_cloud(path: Path) -> MapCloud:
    """Reads what :func:`write_map_cloud` wrote, or any PLY file with points.

    Args:
        path: the file. What it does not say is filled in: mid-grey, confidence 1, observed, no frame.

    Raises:
        InputError: naming the file, if it is missing, damaged, truncated, or has points that are not finite.
    """
    rows = read_vertices(path)
    names, count = set(rows.dtype.names or ()), len(rows)
    points = np.stack([rows[name].astype(np.float32) for name in "xyz"], axis=1)
    generated = rows["generated"] != 0 if "generated" in names else np.zeros(count, np.bool_)
    confidence = rows["confidence"].astype(np.float32) if "confidence" in names else np.ones(count, np.float32)
    frame = rows["frame"].astype(np.int32) if "frame" in names else np.full(count, UNKNOWN_FRAME, np.int32)
    try:
        return MapCloud(points, _colors(rows), confidence, generated, frame)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def write_map_mesh(path: Path, mesh: MapMesh, *, metric: bool) -> None:
    """Writes a mesh as a binary PLY file, whole or not at all; arguments and errors as :func:`write_map_cloud`."""
    faces = np.empty(len(mesh.triangles), _FACE)
    faces["count"], faces["corners"] = 3, mesh.triangles
    more = f"element face {len(faces)}\n{_LIST}\n"
    with atomic_path(path) as partial, partial.open("wb") as file:
        file.write(_header(_CORNER, len(mesh.vertices), metric=metric, more=more))
        file.write(_colored(_CORNER, mesh.vertices, mesh.colors).tobytes())
        file.write(faces.tobytes())


def read_map_mesh(path: Path) -> MapMesh:
    """Reads what :func:`write_map_mesh` wrote.

    Raises:
        InputError: naming the file, if it is missing, damaged, truncated or of another kind.
    """
    rows = read_vertices(path)
    vertices = np.stack([rows[name].astype(np.float32) for name in "xyz"], axis=1)
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES).partition(b"end_header\n")[0].decode("ascii", "replace")
            found = re.search(rf"^element face (\d+)\n{_LIST}\n$", header, re.MULTILINE)
            if found is None or "binary_little_endian" not in header:
                raise InputError(f"{path}: this PLY file has no triangles of the kind that gen3r writes")
            file.seek(len(header) + len("end_header\n") + rows.nbytes)
            data, count = file.read(), int(found[1])
    except OSError as error:
        raise InputError(f"{path}: this PLY file cannot be read: {error.strerror}; check the path") from error
    if len(data) < count * _FACE.itemsize:
        raise InputError(
            f"{path}: the PLY file is truncated: its header promises {count} triangles, "
            f"{len(data) // _FACE.itemsize} are there; copy it again"
        )
    faces = np.frombuffer(data, _FACE, count)
    if not (faces["count"] == 3).all():
        raise InputError(f"{path}: the PLY file is damaged, or has other faces than triangles")
    try:
        return MapMesh(vertices, _colors(rows), faces["corners"].astype(np.int32))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _header(vertex: np.dtype[np.void], count: int, *, metric: bool, more: str) -> bytes:
    names = vertex.names or ()
    properties = "".join(f"property {_WORDS[vertex[name].str[1:]]} {name}\n" for name in names)
    unit = "metres" if metric else "the map's own"
    return (
        f"ply\nformat binary_little_endian 1.0\ncomment written by gen3r\ncomment unit {unit}\n"
        f"element vertex {count}\n{properties}{more}end_header\n"
    ).encode("ascii")


def _colored(kind: np.dtype[np.void], points: NDArray[np.float32], colors: NDArray[np.uint8]) -> NDArray[np.void]:
    rows = np.empty(len(points), kind)
    for axis, name in enumerate("xyz"):
        rows[name] = points[:, axis]
    for channel, name in enumerate(("red", "green", "blue")):
        rows[name] = colors[:, channel]
    return rows


def _colors(rows: NDArray[np.void]) -> NDArray[np.uint8]:
    if not {"red", "green", "blue"} <= set(rows.dtype.names or ()):
        return np.full((len(rows), 3), 128, np.uint8)
    found = np.stack([rows[name] for name in ("red", "green", "blue")], axis=1)
    if found.dtype.kind == "f":
        found = np.rint(np.nan_to_num(found).clip(0, 1) * 255)
    elif found.dtype != np.uint8:
        found = found.astype(np.float64) * (255 / np.iinfo(found.dtype).max)
    rounded: NDArray[np.uint8] = np.rint(found).clip(0, 255).astype(np.uint8)
    return rounded
