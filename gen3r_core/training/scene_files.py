"""Scenes on disk in the layout that Gen3R publishes for training: what is there, and one clip of it.

A data set's root has the lists `train_videos_dirs.txt`, `train_cameras_paths.txt` and `train_captions_paths.txt` (and
`test_...`): a line per scene, absolute or relative to the root. A scene has `images/`, `transforms.json` (nerfstudio's
fields, but OpenCV axes), `captions.txt` (a caption per line) and, as ours have it, `depth/` (16-bit PNG, millimetres).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from gen3r_core.errors import InputError
from gen3r_core.geometry.images import ImageResize, center_crop, resize_and_crop
from gen3r_core.io.cameras import read_transforms, read_transforms_files
from gen3r_core.io.images import list_images, read_image
from gen3r_core.training.batch import ClipBatch

__all__ = ["Scene", "SceneFiles", "find_scenes", "open_scene", "read_clip", "read_frames"]

MILLIMETRES = 1000.0


@dataclass(frozen=True)
class SceneFiles:
    """One scene.

    Attributes:
        images: folder of its frames.
        cameras: its `transforms.json`, None without cameras.
        captions: its `captions.txt`, None without.
    """

    images: Path
    cameras: Path | None
    captions: Path | None


@dataclass(frozen=True)
class Scene:
    """What a scene has.

    Attributes:
        images: files in the order of its cameras, or by number where it has none.
        depth: the depth of each, None where there is no `depth/`.
        T_world_cam: `[N, 4, 4]` float64 camera to world, OpenCV axes, or None.
        intrinsics: `[N, 3, 3]` float64, pixels of `image_size`, or None.
        image_size: (height, width) that the cameras state, or None.
        captions: perhaps none.
    """

    images: tuple[Path, ...]
    depth: tuple[Path, ...] | None
    T_world_cam: Tensor | None
    intrinsics: Tensor | None
    image_size: tuple[int, int] | None
    captions: tuple[str, ...]


def find_scenes(root: Path, split: str = "train") -> list[SceneFiles]:
    """The scenes of a data set, in the order of its lists, or by name where it has no list to train on.

    Args:
        root: folder with list files, or with scene folders.
        split: "train" or "test": which lists.

    Returns:
        At least one scene; its files need not exist.

    Raises:
        InputError: the folder is none, the lists differ in length, or there are no scenes.
    """
    if not root.is_dir():
        raise InputError(f"{root}: there is no such folder of training scenes; check the path")
    names = {kind: root / f"{split}_{kind}.txt" for kind in ("videos_dirs", "cameras_paths", "captions_paths")}
    if names["videos_dirs"].is_file():
        videos = _read_list(names["videos_dirs"], root)
        others: dict[str, Sequence[Path | None]] = {}
        for kind in ("cameras_paths", "captions_paths"):
            path = names[kind]
            found: Sequence[Path | None] = _read_list(path, root) if path.is_file() else [None] * len(videos)
            others[kind] = found
            if len(found) != len(videos):
                raise InputError(
                    f"{path} lists {len(found)} files but {names['videos_dirs'].name} {len(videos)} folders; "
                    f"each line must belong to the same scene in all lists"
                )
        rows = zip(videos, others["cameras_paths"], others["captions_paths"], strict=True)
        scenes = [SceneFiles(*row) for row in rows]
    else:
        folders = [] if split != "train" else sorted(path.parent for path in root.glob("*/images") if path.is_dir())
        scenes = [SceneFiles(each / "images", *_beside(each)) for each in folders]
    if not scenes:
        raise InputError(
            f"{root} has no {names['videos_dirs'].name} with at least one line"
            + (", nor folders with images/ in them" if split == "train" else "; list the scenes to validate on")
        )
    return scenes


def read_clip(
    scene: Scene, num_frames: int, size: tuple[int, int], max_interval: int, rng: np.random.Generator
) -> ClipBatch:
    """One clip of a scene, on the host: consecutive frames, or every second, up to every `max_interval`-th.

    A scene that is too short for the interval is taken at a smaller one, then its last frame is repeated.

    Args:
        scene: see :func:`open_scene`.
        num_frames: frames wanted.
        size: (height, width) to scale and cut to, intrinsics following.
        max_interval: largest distance between frames.
        rng: draws interval, start and caption.

    Returns:
        A batch of one clip.

    Raises:
        InputError: naming the scene's file that is missing, damaged or does not fit.
    """
    count = len(scene.images)
    longest = max(1, min(max_interval, (count - 1) // max(1, num_frames - 1)))
    interval = int(rng.integers(1, longest + 1))
    start = int(rng.integers(0, max(1, count - interval * (num_frames - 1))))
    picked = [min(start + interval * index, count - 1) for index in range(num_frames)]
    caption = scene.captions[int(rng.integers(len(scene.captions)))] if scene.captions else ""
    return read_frames(scene, picked, size, caption)


def read_frames(scene: Scene, picked: Sequence[int], size: tuple[int, int], caption: str) -> ClipBatch:
    """The clip of given frames of a scene, on the host.

    Args:
        scene: see :func:`open_scene`.
        picked: indices of its frames, at least one.
        size: (height, width) to scale and cut to, intrinsics following.
        caption: of the clip.

    Returns:
        A batch of one clip.

    Raises:
        InputError: naming the scene's file that is missing, damaged or does not fit.
    """
    frames = list(picked)
    colors, resize = _read_colors([scene.images[index] for index in frames], size, scene.image_size)
    intrinsics, poses = None, None
    if scene.intrinsics is not None and scene.T_world_cam is not None:
        intrinsics = resize.apply_to_intrinsics(scene.intrinsics[frames]).float()[None]
        poses = scene.T_world_cam[frames].float()[None]
    depth = None
    if scene.depth is not None:
        depth = _read_depth([scene.depth[index] for index in frames], resize)[None]
    return ClipBatch(colors[None], depth, intrinsics, poses, [caption])


def _read_list(path: Path, root: Path) -> list[Path]:
    return [root / line.strip() for line in _read_text(path).splitlines() if line.strip()]


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}; check the path and its encoding (UTF-8)") from error


def _beside(folder: Path) -> tuple[Path | None, Path | None]:
    cameras, captions = folder / "transforms.json", folder / "captions.txt"
    return (cameras if cameras.is_file() else None, captions if captions.is_file() else None)


def open_scene(scene: SceneFiles) -> Scene:
    """Reads a scene's cameras and captions, and looks whether its images are there; generated frames are left out.

    Raises:
        InputError: naming the file that is missing, damaged or does not fit.
    """
    captions: tuple[str, ...] = ()
    if scene.captions is not None:
        captions = tuple(line.strip() for line in _read_text(scene.captions).splitlines() if line.strip())
    if scene.cameras is None:
        images = tuple(list_images(scene.images))
        return Scene(images, _depth_files(images), None, None, None, captions)
    path = read_transforms(scene.cameras, axes="opencv", seen_only=True)
    names = read_transforms_files(scene.cameras, seen_only=True)
    images = tuple(scene.images / Path(name).name for name in names)
    for image in images:
        if not image.is_file():
            raise InputError(
                f"{scene.cameras} names {image.name}, which is not in {scene.images}; copy the scene again"
            )
    return Scene(images, _depth_files(images), path.T_world_cam, path.intrinsics, path.image_size, captions)


def _depth_files(images: tuple[Path, ...]) -> tuple[Path, ...] | None:
    """Depth beside the images; a missing file is reported when it is read."""
    folder = images[0].parent.with_name("depth")
    return tuple(folder / f"{image.stem}.png" for image in images) if folder.is_dir() else None


def _read_colors(
    paths: list[Path], size: tuple[int, int], stated: tuple[int, int] | None
) -> tuple[Tensor, ImageResize]:
    pieces: dict[Path, Tensor] = {}
    resize: ImageResize | None = None
    for path in dict.fromkeys(paths):
        image = torch.from_numpy(read_image(path, stated)).permute(2, 0, 1)[None].float() / 255
        found = (image.shape[2], image.shape[3])
        wanted = stated or (resize.from_size if resize is not None else found)
        if found != wanted:
            raise InputError(f"{path} is {found} (height, width), but its scene's images are {wanted}; resize them")
        pieces[path], resize = resize_and_crop(image, size)
    if resize is None:
        raise InputError("a clip needs at least one frame")
    return torch.cat([pieces[path] for path in paths]).clamp(0, 1), resize


def _read_depth(paths: list[Path], resize: ImageResize) -> Tensor:
    """Metres, `[F, H, W]`; the nearest value, as depth must not be blended over edges."""
    pieces: dict[Path, Tensor] = {}
    for path in dict.fromkeys(paths):
        try:
            with Image.open(path) as image:
                values = np.asarray(image).astype(np.float32)
        except (OSError, ValueError, SyntaxError) as error:
            raise InputError(f"{path}: this depth image is missing or damaged: {error}") from error
        if values.shape != resize.from_size:
            raise InputError(f"{path} is {values.shape} (height, width), but the colours are {resize.from_size}")
        metres = torch.from_numpy(values / MILLIMETRES)[None, None]
        scaled = F.interpolate(metres, size=resize.scaled_size, mode="nearest-exact")
        pieces[path] = center_crop(scaled, resize.to_size)[0, 0]
    return torch.stack([pieces[path] for path in paths])
