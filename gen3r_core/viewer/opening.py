"""Finds out what a path is, and reads it for the viewer: a map, a scene of ``gen3r infer``, or a PLY file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen3r_core.errors import InputError
from gen3r_core.io.images import read_image
from gen3r_core.maps.facts import FrameFacts
from gen3r_core.maps.folder import read_map
from gen3r_core.maps.ply_files import read_map_cloud
from gen3r_core.maps.pose_files import parse_transforms
from gen3r_core.viewer.content import Content, Loaded, from_map, if_it_varies, view_cameras

__all__ = ["Revision", "open_content", "revision"]

Revision = tuple[tuple[str, int, int, int], ...]
"""Of the files that make a map: name, inode, size, and time of the last change."""

_MAP, _SCENE, _CLOUD = "poses.tum", "cameras.json", "cloud.ply"
_WATCHED = ("run.json", "cloud.ply", "transforms.json", "mesh.ply")


def open_content(path: Path, loaded: Loaded | None = None) -> Content:
    """Reads what a path holds.

    Args:
        path: folder of ``gen3r reconstruct`` (or of the node's SaveMap) or of ``gen3r infer``, a folder with a
            ``cloud.ply``, or a PLY file.
        loaded: called as cameras are read.

    Raises:
        InputError: there is nothing there, it is something else, or it is damaged.
    """
    if not path.exists():
        raise InputError(f"{path}: there is no such folder or file; name what gen3r reconstruct wrote, or a PLY file")
    if path.is_file():
        if path.suffix.lower() != ".ply":
            raise InputError(f"{path}: this file is no point cloud; name a map's folder, or a .ply file")
        return _cloud_alone(path, path.name)
    name = path.resolve().name
    if (path / _MAP).is_file():
        return _map(path, name, loaded)
    if (path / _SCENE).is_file():
        return _scene(path, name, loaded)
    if (path / _CLOUD).is_file():
        return _cloud_alone(path / _CLOUD, name)
    raise InputError(
        f"{path}: this folder is no map: it has none of {_MAP}, {_SCENE} and {_CLOUD}; name the --output_dir of "
        f"gen3r reconstruct or gen3r infer"
    )


def revision(path: Path) -> Revision:
    """What changes when a map is written anew; empty while there is nothing."""
    found = []
    for file in [path] if path.is_file() else [path / name for name in _WATCHED]:
        try:
            facts = file.stat()
        except OSError:
            continue
        found.append((file.name, facts.st_ino, facts.st_size, facts.st_mtime_ns))
    return tuple(found)


def _map(path: Path, name: str, loaded: Loaded | None) -> Content:
    frames = parse_transforms(path / "transforms.json")

    def image(index: int) -> NDArray[np.uint8]:
        file = frames[index].image
        if file is None:
            raise InputError(f"{path} was written without pictures")
        return read_image(path / file)

    return from_map(read_map(path), frames, image, name, loaded)


def _cloud_alone(path: Path, name: str) -> Content:
    cloud = read_map_cloud(path)
    generated = cloud.generated if cloud.generated.any() else None
    return Content(name, cloud.points, cloud.colors, if_it_varies(cloud.confidence), generated)


def _scene(path: Path, name: str, loaded: Loaded | None) -> Content:
    """What ``gen3r infer`` wrote: its cloud does not say which frame saw a point."""
    from gen3r_core.io.cameras import read_transforms, read_transforms_files  # bring PyTorch, which maps do without

    cameras = read_transforms(path / "transforms.json")
    files = [path / name for name in read_transforms_files(path / "transforms.json")]
    run = _run(path / "run.json")
    result = run.get("result")
    observed = result.get("observed_frames") if isinstance(result, dict) else None
    seen = set(observed) if isinstance(observed, list) else set(range(len(files)))
    frames = [
        FrameFacts(pose, K, cameras.image_size, None, "", index not in seen)
        for index, (pose, K) in enumerate(zip(cameras.T_world_cam.numpy(), cameras.intrinsics.numpy(), strict=True))
    ]
    cloud = read_map_cloud(path / _CLOUD)

    def image(index: int) -> NDArray[np.uint8]:
        return read_image(files[index])

    return Content(
        name=name,
        points=cloud.points,
        colors=cloud.colors,
        cameras=view_cameras(frames, image, loaded),
        image=image,
        metric=False,
        run=run,
    )


def _run(path: Path) -> dict[str, Any]:
    """``run.json``; nothing where it is missing or broken, as the scene can be shown without."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
