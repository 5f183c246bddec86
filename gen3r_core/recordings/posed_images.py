"""Folders of images with poses: ``transforms.json`` (nerfstudio) and COLMAP models."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gen3r_core.errors import InputError
from gen3r_core.io.colmap import MODEL_FILES, ColmapImage, read_colmap
from gen3r_core.io.images import natural_order
from gen3r_core.messages.cameras import CameraModel
from gen3r_core.recordings.image_folder import ImageRecording, PosedImage

if TYPE_CHECKING:
    from gen3r_core.io.cameras import Axes

_MODEL_FOLDERS = (".", "sparse/0", "sparse", "colmap/sparse/0", "colmap", "0", "dense/sparse")
_IMAGE_FOLDERS = ("images", ".", "../images", "../../images", "input", "dense/images", "../../../images")
_ONE = "images"
"""Name of a camera that needs none."""


def transforms_recording(path: Path, *, axes: Axes = "opengl") -> ImageRecording:
    """The images of a ``transforms.json``, in the order of the file unless their names are times.

    Frames that were generated, as those of our maps may be, are left out.

    Args:
        path: the file, or its folder.
        axes: of the file.

    Raises:
        InputError: the file cannot be used.
    """
    from gen3r_core.io.cameras import read_transforms, read_transforms_files

    file = path / "transforms.json" if path.is_dir() else path
    cameras, names = read_transforms(file, axes=axes, seen_only=True), read_transforms_files(file, seen_only=True)
    poses, intrinsics = cameras.T_world_cam.numpy(), cameras.intrinsics.numpy()
    found = []
    for name, pose, K in zip(names, poses, intrinsics, strict=True):
        image = file.parent / name
        if not image.suffix:  # Blender's files leave it out
            image = image.with_suffix(".png")
        found.append(PosedImage(image, pose.astype(np.float64), CameraModel(K.astype(np.float64), cameras.image_size)))
    return _with_some(file, found, "transforms.json")


def colmap_folder(path: Path) -> Path | None:
    """Where the model of a COLMAP project lies; None if there is none."""
    for name in _MODEL_FOLDERS:
        folder = path / name
        if any(all((folder / file).is_file() for file in files) for files in MODEL_FILES):
            return folder
    return None


def colmap_recording(path: Path) -> ImageRecording:
    """The images of a COLMAP model, ordered by their names, each with its own intrinsics.

    Args:
        path: project folder, or the folder of the model.

    Raises:
        InputError: there is no model, or it cannot be used.
    """
    folder = colmap_folder(path)
    if folder is None:
        raise InputError(f"{path}: no COLMAP model is here (cameras and images, .txt or .bin)")
    model = {image.name: image for image in read_colmap(folder)}
    names = natural_order(Path(name) for name in model)
    bases = [path / name for name in _IMAGE_FOLDERS] + [folder / name for name in _IMAGE_FOLDERS]
    base = max(dict.fromkeys(bases), key=lambda one: sum((one / name).is_file() for name in names))
    cameras = _camera_names(model.values())
    found = []
    for name in names:
        image = model[str(name)]
        found.append(PosedImage(base / name, image.T_world_cam, image.camera, cameras[image.name]))
    return _with_some(path, found, "COLMAP")


def _camera_names(images: Collection[ColmapImage]) -> dict[str, str]:
    """Which camera took each image, by the image's name: those of one folder and one size are one camera's.

    COLMAP's own cameras do not tell: unless it is told otherwise, each image gets one for itself. Where there is a
    single one, it is one camera, in whatever folders its images are.
    """
    if len({image.camera_id for image in images}) == 1:
        return dict.fromkeys((image.name for image in images), _ONE)
    folders = {image.name: Path(image.name).parent.as_posix() for image in images}
    sizes: dict[str, set[tuple[int, int]]] = {}
    for image in images:
        sizes.setdefault(folders[image.name], set()).add(image.camera.size)
    names = {}
    for image in images:
        folder, (height, width) = folders[image.name], image.camera.size
        name = _ONE if folder == "." else folder
        names[image.name] = name if len(sizes[folder]) == 1 else f"{name}_{width}x{height}"
    return names


def _with_some(path: Path, images: list[PosedImage], kind: str) -> ImageRecording:
    if not any(image.path.is_file() for image in images):
        raise InputError(
            f"{path}: none of its {len(images)} images is there, such as {images[0].path}; put them beside it"
            if images
            else f"{path}: it lists no images"
        )
    return ImageRecording(path, images, kind)
