"""A scene on disk: videos, cameras, a filtered point cloud, and what made them."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gen3r_core.errors import OutputError
from gen3r_core.geometry.images import ImageResize
from gen3r_core.io.atomic import OutputFolder, check_free_space, write_json_atomic
from gen3r_core.io.cameras import GEN3R_IMAGE_SIZE, write_gen3r_cameras, write_transforms
from gen3r_core.io.colormap import colorize_depth
from gen3r_core.io.images import write_image
from gen3r_core.io.ply import write_ply
from gen3r_core.io.video import write_video
from gen3r_core.reconstruction.cloud import PointCloud, export_cloud
from gen3r_core.scene import Scene

FPS = 12.0
"""Frames a second of the videos, as upstream writes them."""

OUTPUT_FILES = ("rgb.mp4", "depth.mp4", "cameras.json", "transforms.json", "cloud.ply", "run.json")
"""What :func:`write_scene` writes, beside the frames in ``images/``."""

_BYTES_PER_POINT = 27
_BYTES_PER_PIXEL = 3 + 2
_FIXED_BYTES = 2**20


def needed_space(num_frames: int, image_size: tuple[int, int]) -> int:
    """Upper bound in bytes of what a scene takes on disk (all points kept, images incompressible)."""
    pixels = num_frames * image_size[0] * image_size[1]
    return pixels * (_BYTES_PER_POINT + _BYTES_PER_PIXEL) + _FIXED_BYTES


def check_destination(folder: Path, num_frames: int, image_size: tuple[int, int]) -> None:
    """Check before a long job that its scene can be written.

    Args:
        folder: where :func:`write_scene` will write; it need not exist yet.
        num_frames: of the scene.
        image_size: ``(height, width)`` in pixels.

    Raises:
        OutputError: a file is in the way, the folder may not be written to, or there is no space.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise OutputError(f"cannot write {folder}: {existing} is a file and not a folder; choose another --output_dir")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write {folder}: {existing} may not be written to; choose another --output_dir")
    check_free_space(folder, needed_space(num_frames, image_size))


def scene_cloud(scene: Scene, *, remove_far: bool = False, seed: int = 0) -> PointCloud:
    """All unprojected points of a scene, filtered as the published script does, seeded.

    Args:
        scene: any device.
        remove_far: drop the farthest 20 % first.
        seed: of the filter's samples.
    """
    points = scene.points.reshape(-1, 3).cpu()
    colors = scene.colors.reshape(-1, 3).clamp(0, 1).cpu()
    finite = torch.isfinite(points).all(dim=1)
    cloud = PointCloud(points[finite].numpy(), colors[finite].numpy())
    return export_cloud(cloud, remove_far=remove_far, generator=np.random.default_rng(seed))


def write_scene(
    folder: Path,
    scene: Scene,
    run: dict[str, Any],
    *,
    remove_far: bool = False,
    fps: float = FPS,
    report: Callable[[str], None] | None = None,
) -> None:
    """Write all files of a scene, or none.

    Args:
        folder: created if missing; files of an earlier result are replaced, and frames that
            it has over this one are removed.
        scene: to write.
        run: content of ``run.json`` (the result's own facts are added).
        remove_far: see :func:`scene_cloud`.
        fps: of the videos.
        report: called with each file's name before it is written.

    Raises:
        OutputError: no space, no permission, or another failure to write.
    """
    check_free_space(folder, needed_space(len(scene), scene.image_size))
    report = report or (lambda _name: None)
    frames = (scene.colors.clamp(0, 1) * 255).to(torch.uint8).cpu().numpy()
    names = [_frame_name(index) for index in range(len(scene))]
    earlier = _earlier_frames(folder)
    with OutputFolder(folder) as out:
        report("rgb.mp4")
        write_video(out.path("rgb.mp4"), frames, fps)
        report("depth.mp4")
        write_video(out.path("depth.mp4"), colorize_depth(scene.depth, scene.valid).cpu().numpy(), fps)
        report("images")
        for name, frame in zip(names, frames, strict=True):
            write_image(out.path(name), frame)
        report("cameras.json")
        write_gen3r_cameras(
            out.path("cameras.json"), scene.T_cam_world, published_intrinsics(scene.intrinsics, scene.image_size)
        )
        write_transforms(out.path("transforms.json"), scene.T_world_cam, scene.intrinsics, scene.image_size, names)
        report("cloud.ply")
        cloud = scene_cloud(scene, remove_far=remove_far, seed=int(run.get("seed", 0)))
        write_ply(out.path("cloud.ply"), cloud)
        report("run.json")
        facts = {
            "num_frames": len(scene),
            "image_size": list(scene.image_size),
            "observed_frames": scene.observed.nonzero().flatten().tolist(),
            "metres_per_unit": scene.metres_per_unit,
            "cloud_points": len(cloud),
            "valid_fraction": float(scene.valid.float().mean()),
        }
        write_json_atomic(out.path("run.json"), {**run, "result": facts})
    for index in range(len(scene), earlier):
        with contextlib.suppress(OSError):
            (folder / _frame_name(index)).unlink()


def published_intrinsics(intrinsics: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Intrinsics as a ``cameras.json`` has them: of the 560x560 image from which this one was cut.

    Reading the file for a job of the same size gives the same cameras again.

    Args:
        intrinsics: ``[F, 3, 3]`` pixels of ``image_size``.
        image_size: ``(height, width)``.

    Returns:
        ``[F, 3, 3]`` pixels of a 560x560 image.
    """
    height, width = image_size
    side = max(height, width)
    corner = ((side - height) // 2, (side - width) // 2)
    return ImageResize(GEN3R_IMAGE_SIZE, (side, side), corner, image_size).undo_on_intrinsics(intrinsics)


def _frame_name(index: int) -> str:
    return f"images/frame_{index:05d}.png"


def _earlier_frames(folder: Path) -> int:
    """How many frames an earlier result in this folder has, by its ``run.json``; 0 if there is none."""
    try:
        return int(json.loads((folder / "run.json").read_text(encoding="utf-8"))["result"]["num_frames"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0
