"""A scene on disk: videos, cameras, a filtered point cloud, and what made them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gen3r_core.io.atomic import OutputFolder, check_free_space, write_json_atomic
from gen3r_core.io.cameras import write_gen3r_cameras, write_transforms
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
        folder: created if missing; files of an earlier result are replaced.
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
    names = [f"images/frame_{index:05d}.png" for index in range(len(scene))]
    with OutputFolder(folder) as out:
        report("rgb.mp4")
        write_video(out.path("rgb.mp4"), frames, fps)
        report("depth.mp4")
        write_video(out.path("depth.mp4"), colorize_depth(scene.depth, scene.valid).cpu().numpy(), fps)
        report("images")
        for name, frame in zip(names, frames, strict=True):
            write_image(out.path(name), frame)
        report("cameras.json")
        write_gen3r_cameras(out.path("cameras.json"), scene.T_cam_world, scene.intrinsics)
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
