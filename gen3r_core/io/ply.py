"""Point clouds as PLY files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gen3r_core.errors import InputError
from gen3r_core.io.atomic import atomic_path
from gen3r_core.reconstruction.cloud import PointCloud, import_open3d

_VERTEX = np.dtype([("xyz", "<f8", 3), ("rgb", "u1", 3)])
_POINTS_AT_ONCE = 1_000_000


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
    """Reads the vertices of any PLY file that Open3D knows (binary or text).

    Args:
        path: the file. Without colours, points are mid-grey.

    Returns:
        The cloud, float64.

    Raises:
        InputError: naming the file, if it is missing, no PLY file, damaged or truncated.
        Gen3RError: if Open3D cannot be loaded.
    """
    promised = _vertex_count(path)
    o3d = import_open3d()
    with o3d.utility.VerbosityContextManager(o3d.utility.VerbosityLevel.Error):
        cloud = o3d.io.read_point_cloud(str(path), format="ply", remove_nan_points=False)
    points, colors = np.asarray(cloud.points), np.asarray(cloud.colors)
    if len(points) != promised:
        raise InputError(
            f"{path}: the PLY file is damaged or truncated: its header promises {promised} points, "
            f"{len(points)} can be read; copy it again"
        )
    if len(colors) != len(points):
        colors = np.full_like(points, 0.5)
    try:
        return PointCloud(points.copy(), colors.copy())
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _vertex_count(path: Path) -> int:
    try:
        with path.open("rb") as file:
            header = file.read(65_536)
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such PLY file; check the path") from error
    except OSError as error:
        raise InputError(f"{path}: this PLY file cannot be read: {error.strerror}; check the path") from error
    lines = header.partition(b"end_header")[0].split(b"\n")
    counts = [
        line.split()[2] for line in lines if line.split()[:2] == [b"element", b"vertex"] and len(line.split()) == 3
    ]
    if lines[0].strip() != b"ply" or b"end_header" not in header or not (counts and counts[0].isdigit()):
        raise InputError(f"{path}: this is not a PLY file with vertices (its header is missing or damaged)")
    return int(counts[0])
