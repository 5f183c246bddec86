"""Opening whatever a recording is."""

from __future__ import annotations

from pathlib import Path

from gen3r_core.errors import InputError
from gen3r_core.io.images import IMAGE_SUFFIXES
from gen3r_core.recordings.bag import SUFFIXES, ZSTD, BagRecording, bag_files
from gen3r_core.recordings.image_folder import ImageRecording
from gen3r_core.recordings.mcap_records import MAGIC as MCAP
from gen3r_core.recordings.posed_images import colmap_folder, colmap_recording, transforms_recording
from gen3r_core.recordings.recording import Recording
from gen3r_core.recordings.rosbag1_file import MAGIC as ROSBAG1
from gen3r_core.recordings.sqlite_file import MAGIC as SQLITE

_KNOWN = "a bag (.mcap, .db3, .bag, or a folder), a video, a folder of images, a transforms.json or a COLMAP folder"


def open_recording(path: Path) -> Recording:
    """Opens a recording; what it is, its content tells.

    Args:
        path: rosbag2 (folder or file, mcap or sqlite3, compressed or not), rosbag1, video, folder of images,
            ``transforms.json`` or its folder, COLMAP project or model.

    Returns:
        The recording; close it, or use it in a ``with`` statement.

    Raises:
        InputError: nothing of it can be read; says why.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return _folder(path)
        if not path.exists():
            raise InputError(f"{path}: there is no such recording; give {_KNOWN}")
        with path.open("rb") as file:
            begin = file.read(16)
        if begin.startswith((MCAP, SQLITE, ROSBAG1, ZSTD)) or path.name.removesuffix(".zstd").endswith(SUFFIXES):
            return BagRecording(path)
        if path.suffix == ".json":
            return transforms_recording(path)
        if path.suffix.lower() in IMAGE_SUFFIXES:
            raise InputError(f"{path}: this is a single image; give {_KNOWN}")
        from gen3r_core.recordings.video import VideoRecording

        return VideoRecording(path)
    except OSError as error:
        raise InputError(f"{path}: this recording cannot be read: {error.strerror or error}") from error


def _folder(path: Path) -> Recording:
    if (path / "metadata.yaml").is_file() or bag_files(path):
        return BagRecording(path)
    if (path / "transforms.json").is_file():
        return transforms_recording(path)
    if colmap_folder(path) is not None:
        return colmap_recording(path)
    images = [entry for entry in path.iterdir() if entry.suffix.lower() in IMAGE_SUFFIXES]
    inner = path / "images"
    if not images and inner.is_dir():
        return ImageRecording(inner)
    if not images:
        raise InputError(f"{path}: no recording is in this folder; give {_KNOWN}")
    return ImageRecording(path)
