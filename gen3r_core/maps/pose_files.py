"""A map's cameras as ``transforms.json`` (nerfstudio's fields, OpenCV axes), TUM trajectories and a COLMAP model.

Texts are made without PyTorch: a robot's node writes them as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen3r_core.errors import InputError
from gen3r_core.geometry.poses import Array, invert_poses, matrix_to_quaternion
from gen3r_core.io.atomic import atomic_path
from gen3r_core.maps.facts import FrameFacts, camera_names
from gen3r_core.maps.scene_map import MapCloud
from gen3r_core.maps.stamps import complete_stamps

__all__ = ["parse_transforms", "transforms_text", "tum_texts", "write_colmap_text"]

_COLMAP_POINTS = 200_000
"""Most in ``points3D.txt``: text is large and slow to read, and splats are begun with less."""


def transforms_text(frames: Sequence[FrameFacts], *, metric: bool) -> str:
    """The text of a ``transforms.json``.

    Args:
        frames: in order.
        metric: whether translations are metres.
    """
    rows = []
    for frame in frames:
        K = frame.intrinsics
        row: dict[str, Any] = {} if frame.image is None else {"file_path": frame.image}
        if frame.depth is not None:
            row["depth_file_path"] = frame.depth
        row |= {
            "fl_x": float(K[0, 0]),
            "fl_y": float(K[1, 1]),
            "cx": float(K[0, 2]),
            "cy": float(K[1, 2]),
            "w": frame.size[1],
            "h": frame.size[0],
            "transform_matrix": (frame.T_world_cam + 0.0).tolist(),
            "stamp_ns": frame.stamp_ns,
            "camera": frame.camera,
            "generated": frame.generated,
        }
        rows.append(row)
    top: dict[str, Any] = {"camera_model": "OPENCV", "camera_axes": "opencv", "metric": metric}
    if any(frame.depth is not None for frame in frames):
        top["depth_unit_scale_factor"] = 0.001
    top |= {"ply_file_path": "cloud.ply", "frames": rows}
    return json.dumps(top, indent=1, allow_nan=False) + "\n"


def parse_transforms(path: Path) -> list[FrameFacts]:
    """Reads what :func:`transforms_text` made; perhaps no frame.

    Raises:
        InputError: naming the file and the frame that is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = content["frames"]
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file; is this the folder of a map?") from error
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise InputError(f"{path}: this is no transforms.json of a map: {error}") from error
    if content.get("camera_axes") != "opencv" or not isinstance(rows, list):
        raise InputError(f"{path}: this transforms.json is not one of a map (its camera_axes are not 'opencv')")
    return [_parsed(path, index, row) for index, row in enumerate(rows)]


def _parsed(path: Path, index: int, row: Mapping[str, Any]) -> FrameFacts:
    try:
        pose = np.array(row["transform_matrix"], dtype=np.float64)
        fx, fy, cx, cy = (float(row[name]) for name in ("fl_x", "fl_y", "cx", "cy"))
        size = (int(row["h"]), int(row["w"]))
        stamp = None if row.get("stamp_ns") is None else int(row["stamp_ns"])
        files = [row.get(name) for name in ("file_path", "depth_file_path")]
        camera, generated = str(row.get("camera", "")), bool(row.get("generated", False))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(f"{path}: frame {index} is damaged: {error!r}") from error
    K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])
    names = [name for name in files if name is not None]
    safe = all(
        isinstance(name, str) and ".." not in Path(name).parts and not Path(name).is_absolute() for name in names
    )
    sane = pose.shape == (4, 4) and np.isfinite(pose).all() and np.isfinite(K).all() and min(fx, fy) > 0
    if not (safe and sane and min(size) >= 1 and max(size) <= 1 << 16):
        raise InputError(f"{path}: frame {index} is damaged: size {size}, pose {pose.tolist()}, files {names}")
    return FrameFacts(pose, K, size, stamp, camera, generated, files[0], files[1])


def _stays_inside(name: Any) -> bool:
    return isinstance(name, str) and ".." not in Path(name).parts and not Path(name).is_absolute()


def tum_texts(frames: Sequence[FrameFacts]) -> dict[str, str]:
    """Trajectories of the cameras that saw something: lines ``stamp tx ty tz qx qy qz qw``, camera to world.

    Args:
        frames: in order; generated ones are left out. Stamps that are missing are made up, see
            :func:`gen3r_core.maps.stamps.complete_stamps`.

    Returns:
        text by name of its file: ``poses.tum`` of the first camera, ``poses_NAME.tum`` of each further one.
    """
    names = camera_names(frame.camera for frame in frames)
    texts: dict[str, list[str]] = {}
    files: dict[str, str] = {}
    for frame, stamp in zip(frames, complete_stamps([frame.stamp_ns for frame in frames]), strict=True):
        if frame.generated:
            continue
        file = files.setdefault(frame.camera, f"poses_{names[frame.camera]}.tum" if files else "poses.tum")
        numbers = [*frame.T_world_cam[:3, 3], *matrix_to_quaternion(frame.T_world_cam[:3, :3])]
        line = " ".join(f"{value + 0.0:.9g}" for value in numbers)
        texts.setdefault(file, []).append(f"{stamp // 10**9}.{stamp % 10**9:09d} {line}\n")
    return {file: "".join(lines) for file, lines in texts.items()} or {"poses.tum": ""}


def write_colmap_text(folder: Path, frames: Sequence[FrameFacts], cloud: MapCloud) -> None:
    """Writes ``cameras.txt``, ``images.txt`` and ``points3D.txt`` (colmap.github.io/format.html).

    Only what was seen: the format has no mark for what was generated. There is a PINHOLE camera for each set of
    intrinsics, and an image for each frame, whose name is its file's in ``images/``. Of a large cloud an even choice of
    points is written. A point is marked in the frame that saw it first, where that has it in its picture.

    Args:
        folder: must exist.
        frames: in order; image i + 1 is frame i.
        cloud: the map's.

    Raises:
        OutputError: a file cannot be written.
    """
    cameras: dict[tuple[float, ...], int] = {}
    chosen = _chosen(cloud)
    place, pixels = _observations(frames, cloud, chosen)
    by_frame = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[by_frame], np.arange(len(frames) + 1))
    order = np.zeros(len(chosen), dtype=np.int64)  # of a point among those of its image
    with atomic_path(folder / "images.txt") as partial, partial.open("w", encoding="utf-8") as file:
        file.write("# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, then X Y POINT3D_ID of each point seen\n")
        for index, frame in enumerate(frames):
            if frame.generated:
                continue
            K, (height, width) = frame.intrinsics, frame.size
            key = tuple(float(value) for value in (width, height, K[0, 0], K[1, 1], K[0, 2], K[1, 2]))
            camera = cameras.setdefault(key, len(cameras) + 1)
            T = invert_poses(frame.T_world_cam)
            x, y, z, w = matrix_to_quaternion(T[:3, :3])
            numbers = " ".join(f"{value + 0.0:.17g}" for value in (w, x, y, z, *T[:3, 3]))
            name = Path(frame.image).name if frame.image is not None else f"{index:06d}.jpg"
            seen = by_frame[starts[index] : starts[index + 1]]
            order[seen] = np.arange(len(seen))
            points = " ".join(f"{u:.2f} {v:.2f} {point + 1}" for point, (u, v) in zip(seen, pixels[seen], strict=True))
            file.write(f"{index + 1} {numbers} {camera} {name}\n{points}\n")
    with atomic_path(folder / "cameras.txt") as partial, partial.open("w", encoding="utf-8") as file:
        file.write("# CAMERA_ID MODEL WIDTH HEIGHT fx fy cx cy\n")
        for key, number in cameras.items():
            file.write(f"{number} PINHOLE {key[0]:.0f} {key[1]:.0f} {' '.join(f'{value:.17g}' for value in key[2:])}\n")
    with atomic_path(folder / "points3D.txt") as partial, partial.open("w", encoding="utf-8") as file:
        file.write("# POINT3D_ID X Y Z R G B ERROR, then IMAGE_ID POINT2D_IDX of each image that sees it\n")
        for row, point in enumerate(chosen):
            xyz = " ".join(f"{value:.9g}" for value in cloud.points[point].tolist())
            rgb = " ".join(map(str, cloud.colors[point].tolist()))
            track = f" {place[row] + 1} {order[row]}" if place[row] < len(frames) else ""
            file.write(f"{row + 1} {xyz} {rgb} 0{track}\n")


def _chosen(cloud: MapCloud) -> NDArray[np.int64]:
    """``[M]`` points to write: what was seen, evenly thinned."""
    seen = np.flatnonzero(~cloud.generated)
    if len(seen) <= _COLMAP_POINTS:
        return seen
    # Neighbours in a voxel map stand together, so that every n-th is an even choice.
    return seen[np.linspace(0, len(seen) - 1, _COLMAP_POINTS).round().astype(np.int64)]


def _observations(
    frames: Sequence[FrameFacts], cloud: MapCloud, chosen: NDArray[np.int64]
) -> tuple[NDArray[np.int64], Array]:
    """Frame ``[M]`` (F for none) and pixels ``[M, 2]`` where chosen points are in the pictures of their frames."""
    none = len(frames)
    pixels = np.zeros((len(chosen), 2))
    place = cloud.frame[chosen].astype(np.int64)
    place[(place < 0) | (place >= none)] = none
    if not none:
        return place, pixels
    known = np.flatnonzero(place < none)
    to_camera = invert_poses(np.stack([frame.T_world_cam for frame in frames]))
    intrinsics = np.stack([frame.intrinsics for frame in frames])
    sizes = np.array([frame.size for frame in frames])
    usable = ~np.array([frame.generated for frame in frames])
    index = place[known]
    T, K = to_camera[index], intrinsics[index]
    local = np.einsum("nij,nj->ni", T[:, :3, :3], cloud.points[chosen[known]].astype(np.float64)) + T[:, :3, 3]
    z = np.where(local[:, 2] > 1e-9, local[:, 2], np.nan)
    u = local[:, 0] / z * K[:, 0, 0] + K[:, 0, 2]
    v = local[:, 1] / z * K[:, 1, 1] + K[:, 1, 2]
    with np.errstate(invalid="ignore"):
        inside = (u >= 0) & (u < sizes[index, 1]) & (v >= 0) & (v < sizes[index, 0]) & usable[index]
    pixels[known[inside]] = np.stack([u, v], axis=1)[inside]
    place[known[~inside]] = none
    return place, pixels
