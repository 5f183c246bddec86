"""Point clouds as PLY files."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from gen3r_core.errors import InputError
from gen3r_core.io.atomic import atomic_path
from gen3r_core.reconstruction.cloud import PointCloud

_VERTEX = np.dtype([("xyz", "<f8", 3), ("rgb", "u1", 3)])
_POINTS_AT_ONCE = 1_000_000
_COLORS = ("red", "green", "blue")
_HEADER_LINES = 1000
_Order = Literal["", "<", ">"]
_ORDERS: dict[str, _Order] = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
_KINDS = {
    "i1": ("char", "int8"),
    "u1": ("uchar", "uint8"),
    "i2": ("short", "int16"),
    "u2": ("ushort", "uint16"),
    "i4": ("int", "int32"),
    "u4": ("uint", "uint32"),
    "f4": ("float", "float32"),
    "f8": ("double", "float64"),
}
_TYPES = {name: kind for kind, names in _KINDS.items() for name in names}


def write_ply(path: Path, cloud: PointCloud) -> None:
    """Writes a binary PLY file, whole or not at all.

    Vertices have ``double x, y, z`` and ``uchar red, green, blue``, just as Open3D writes them. The
    file is written without Open3D, which does not tell a full disk from success.

    Args:
        path: file to write, usually ``.ply``; its folder must exist.
        cloud: points in any frame and unit; colours are rounded to 8 bits.

    Raises:
        OutputError: if the file cannot be written.
    """
    header = (
        "ply\nformat binary_little_endian 1.0\ncomment written by gen3r\n"
        f"element vertex {len(cloud)}\n"
        "property double x\nproperty double y\nproperty double z\n"
        "property uchar red\nproperty uchar green\nproperty uchar blue\n"
        "end_header\n"
    )
    with atomic_path(path) as partial, partial.open("wb") as file:
        file.write(header.encode("ascii"))
        for start in range(0, len(cloud), _POINTS_AT_ONCE):
            part = slice(start, start + _POINTS_AT_ONCE)
            vertices = np.empty(len(cloud.points[part]), dtype=_VERTEX)
            vertices["xyz"] = cloud.points[part]
            vertices["rgb"] = np.rint(cloud.colors[part] * 255)
            file.write(vertices.tobytes())


def read_ply(path: Path) -> PointCloud:
    """Reads the vertices of a PLY file: binary of either byte order, or text.

    Vertices must be the first element and have no lists, as in the files of Open3D, MeshLab,
    CloudCompare and COLMAP; properties other than ``x, y, z, red, green, blue`` and further elements are passed over.
    Open3D's own reader is not used: it returns uninitialised memory for a truncated file.

    Args:
        path: the file. Without colours, points are mid-grey.

    Returns:
        The cloud, float64.

    Raises:
        InputError: naming the file, if it is missing, no PLY file, damaged or truncated.
    """
    values = read_vertices(path)
    points = np.stack([values[name] for name in "xyz"], axis=1).astype(np.float64)
    colors = np.full_like(points, 0.5)
    if set(_COLORS) <= set(values.dtype.names or ()):
        colors = np.stack([values[name] for name in _COLORS], axis=1).astype(np.float64)
        kind = values.dtype["red"]
        colors /= 1.0 if kind.kind == "f" else np.iinfo(kind).max
    try:
        return PointCloud(points, colors)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def read_vertices(path: Path) -> NDArray[np.void]:
    """Reads the vertices of a PLY file with all their properties; which files, :func:`read_ply` says.

    Args:
        path: the file.

    Returns:
        ``[N]`` records with the properties' names, x, y and z among them, in the file's types.

    Raises:
        InputError: naming the file, if it is missing, no PLY file, damaged or truncated.
    """
    try:
        with path.open("rb") as file:
            order, count, vertex = _header(path, file)
            if order:
                return _binary_vertices(path, file, count, vertex.newbyteorder(order))
            return _text_vertices(path, file, count, vertex)
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such PLY file; check the path") from error
    except OSError as error:
        raise InputError(f"{path}: this PLY file cannot be read: {error.strerror}; check the path") from error


def _header(path: Path, file: BinaryIO) -> tuple[_Order, int, np.dtype[np.void]]:
    """Byte order ("<", ">", or "" for text), number of vertices, and their record; ``file`` is left behind it."""
    lines: list[list[str]] = []
    while len(lines) < _HEADER_LINES and (not lines or lines[-1] != ["end_header"]):
        lines.append(file.readline(1000).decode("ascii", "replace").split())
    lines = [line for line in lines if line and line[0] not in ("comment", "obj_info")]
    try:
        (magic, *_), (word, form, _), (element, name, count), *rest, end = lines
    except ValueError:
        magic = word = element = name = ""
    if (magic, word, element, name) != ("ply", "format", "element", "vertex") or end != ["end_header"]:
        raise InputError(f"{path}: this is not a PLY file whose header begins with vertices, or its header is damaged")
    fields: list[tuple[str, str]] = []
    for line in rest:
        if line[0] == "element":
            break
        if len(line) != 3 or line[0] != "property" or line[1] not in _TYPES:
            raise InputError(f"{path}: the PLY vertex property {' '.join(line)!r} is not supported")
        fields.append((line[2], _TYPES[line[1]]))
    names = {field for field, _ in fields}
    if form not in _ORDERS or not count.isdigit() or len(names) != len(fields) or not {"x", "y", "z"} <= names:
        raise InputError(f"{path}: the PLY header is damaged: format {form!r}, {count} vertices with {sorted(names)}")
    return _ORDERS[form], int(count), np.dtype(fields)


def _binary_vertices(path: Path, file: BinaryIO, count: int, vertex: np.dtype[np.void]) -> NDArray[np.void]:
    there = (path.stat().st_size - file.tell()) // vertex.itemsize
    if there < count:
        raise _truncated(path, count, there)
    return np.frombuffer(file.read(count * vertex.itemsize), dtype=vertex)


def _text_vertices(path: Path, file: BinaryIO, count: int, vertex: np.dtype[np.void]) -> NDArray[np.void]:
    lines = list(itertools.islice(file, count))
    if len(lines) < count:
        raise _truncated(path, count, len(lines))
    try:
        return np.loadtxt(lines, dtype=vertex, ndmin=1, comments=None) if lines else np.empty(0, vertex)
    except ValueError as error:
        raise InputError(f"{path}: the PLY file is damaged: {error}; copy it again") from error


def _truncated(path: Path, promised: int, there: int) -> InputError:
    return InputError(
        f"{path}: the PLY file is truncated: its header promises {promised} points, {there} are there; copy it again"
    )
