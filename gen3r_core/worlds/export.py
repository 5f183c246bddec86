"""Worlds as a data set on disk, in the layout that Gen3R's training reads (arXiv 2601.04090, public code).

::

    train/scene_000000/images/frame00000.png ...
                       captions.txt           one caption a line
                       transforms.json        nerfstudio's fields, OpenCV axes, metres
                       depth/frame00000.png   16 bits, millimetres (if wanted)
    test/scene_000000/...
    train_videos_dirs.txt  train_cameras_paths.txt  train_captions_paths.txt   one path a line
    test_videos_dirs.txt   test_cameras_paths.txt   test_captions_paths.txt
    export.json            what was asked for

A scene's ``transforms.json`` gets its name last: a scene that has one is whole, and is not rendered again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gen3r_core.errors import InputError
from gen3r_core.io.atomic import (
    PARTIAL,
    OutputFolder,
    atomic_path,
    check_free_space,
    output_error,
    write_json_atomic,
    write_text_atomic,
)
from gen3r_core.io.cameras import format_transforms
from gen3r_core.io.images import write_image
from gen3r_core.worlds.clips import Clip, describe, plan_clip, render_clips, split_clips
from gen3r_core.worlds.pictures import to_bytes
from gen3r_core.worlds.sight import Sight
from gen3r_core.worlds.splits import SPLITS, Split

_LISTS = {"videos_dirs": "images", "cameras_paths": "transforms.json", "captions_paths": "captions.txt"}
_CAPTIONS = 3
_LARGEST_DEPTH = 65535


@dataclass(frozen=True)
class ExportSettings:
    """What a data set holds.

    Attributes:
        num_frames: F of each scene.
        size: ``(height, width)`` in pixels.
        samples: n x n samples a pixel.
        depth: whether depth is written, too.
        speed: mean metres between frames; None draws it.
    """

    num_frames: int = 49
    size: tuple[int, int] = (224, 224)
    samples: int = 2
    depth: bool = False
    speed: float | None = None

    def __post_init__(self) -> None:
        if self.num_frames < 1 or min(self.size) < 1 or self.samples < 1:
            raise InputError(
                f"an export needs frames, a size and samples, got {self.num_frames}, {self.size} and {self.samples}"
            )


def export_worlds(
    folder: Path,
    counts: Mapping[Split, int],
    settings: ExportSettings,
    *,
    device: torch.device | str = "cpu",
    relative_paths: bool = False,
    report: Callable[[str, bool], None] | None = None,
) -> None:
    """Write a data set, or go on with one.

    Args:
        folder: created if it is missing.
        counts: scenes by split, from index 0 on.
        settings: the same as before where the folder has been begun.
        device: where to render.
        relative_paths: write the list files relative to the folder, so that it can be moved. Upstream's
            reader wants absolute ones, the default.
        report: called after each scene with its name and whether it was rendered now.

    Raises:
        InputError: no scenes, or the folder was begun with other settings.
        OutputError: it cannot be written.
    """
    if not counts or min(counts.values()) < 0 or sum(counts.values()) < 1 or not set(counts) <= set(SPLITS):
        raise InputError(f"an export needs scenes of {', '.join(SPLITS)}, got {dict(counts)}")
    folder = folder.absolute()
    _begin(folder, settings)
    todo = {
        (split, index)
        for split, count in counts.items()
        for index in range(count)
        if not is_whole(scene_folder(folder, split, index), settings)
    }
    check_free_space(folder, len(todo) * _bytes_of_scene(settings))
    for split, count in counts.items():
        for index in range(count):
            here = (split, index) in todo
            if here:
                _write_scene(scene_folder(folder, split, index), split, index, settings, device)
            if report is not None:
                report(f"{split} {index}", here)
        _write_lists(folder, split, count, relative=relative_paths)


def scene_folder(folder: Path, split: Split, index: int) -> Path:
    """Where a scene lies."""
    return folder / split / f"scene_{index:06d}"


def is_whole(scene: Path, settings: ExportSettings) -> bool:
    """Whether a scene has been written to its end, with all frames."""
    names = [f"images/{_frame(i)}" for i in range(settings.num_frames)]
    if settings.depth:
        names += [f"depth/{_frame(i)}" for i in range(settings.num_frames)]
    return all((scene / name).is_file() for name in ["transforms.json", "captions.txt", *names])


def write_depth(path: Path, depth: Tensor) -> None:
    """Write a depth map as a 16-bit PNG in millimetres; 0 is no depth, 65.535 m and more is 65535.

    Args:
        path: file to write; its folder must exist.
        depth: ``[H, W]`` metres.

    Raises:
        OutputError: if it cannot be written.
    """
    millimetres = (depth.double() * 1000).round().clamp(0, _LARGEST_DEPTH).cpu().numpy().astype(np.uint16)
    with atomic_path(path) as partial:
        Image.fromarray(millimetres).save(partial, format="PNG", compress_level=1)


def _frame(index: int) -> str:
    return f"frame{index:05d}.png"


def _begin(folder: Path, settings: ExportSettings) -> None:
    """Note the settings, or compare them with those noted before."""
    wanted = json.loads(json.dumps(asdict(settings)))
    noted = folder / "export.json"
    if noted.exists():
        try:
            before = json.loads(noted.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{noted} cannot be read: {error}; remove it, or choose another folder") from error
        if before != wanted:
            raise InputError(
                f"{folder} was begun with {before}, and now {wanted} is asked for; go on with the same settings or "
                f"choose another folder"
            )
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(folder, error) from error
    write_json_atomic(noted, wanted)


def _write_scene(scene: Path, split: Split, index: int, settings: ExportSettings, device: torch.device | str) -> None:
    plan = plan_clip(split, index, settings.num_frames, settings.size, speed=settings.speed)
    clip = split_clips([plan], render_clips([plan], device=device, samples=settings.samples))[0]
    sight = Sight(plan.world)
    draws = [np.random.default_rng((plan.world.seed, 5, number)) for number in range(1, _CAPTIONS)]
    others = [describe(sight, plan.path, draw) for draw in draws]
    for stale in scene.glob(f"{PARTIAL}*"):  # of a run that was killed
        shutil.rmtree(stale, ignore_errors=True)
    with OutputFolder(scene) as out:
        _write_frames(out, clip, settings)
        write_text_atomic(out.path("captions.txt"), "\n".join(dict.fromkeys([clip.caption, *others])) + "\n")
        names = [f"images/{_frame(i)}" for i in range(len(clip))]
        poses, intrinsics = torch.from_numpy(plan.path.T_world_cam), torch.from_numpy(plan.path.intrinsics)
        text = format_transforms(poses, intrinsics, settings.size, names, axes="opencv")
        write_text_atomic(out.path("transforms.json"), text)


def _write_frames(out: OutputFolder, clip: Clip, settings: ExportSettings) -> None:
    for index, picture in enumerate(to_bytes(clip)):
        write_image(out.path(f"images/{_frame(index)}"), picture)
        if settings.depth:
            write_depth(out.path(f"depth/{_frame(index)}"), clip.depth[index])


def _write_lists(folder: Path, split: Split, count: int, *, relative: bool) -> None:
    scenes: Sequence[Path] = [scene_folder(folder, split, index) for index in range(count)]
    for name, part in _LISTS.items():
        paths = [(scene / part).relative_to(folder) if relative else scene / part for scene in scenes]
        write_text_atomic(folder / f"{split}_{name}.txt", "".join(f"{path.as_posix()}\n" for path in paths))


def _bytes_of_scene(settings: ExportSettings) -> int:
    """More than a scene takes: noise-free pictures pack to about a third."""
    pixels = settings.num_frames * settings.size[0] * settings.size[1]
    return pixels * (5 if settings.depth else 3)
