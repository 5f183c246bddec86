"""COLMAP models, text and binary: cameras and the poses of images (colmap.github.io/format.html).

COLMAP's poses are world to camera with OpenCV axes, and its first pixel's *corner* is at (0, 0), as here. Points are
not read.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np

from gen3r_core.errors import InputError
from gen3r_core.geometry.poses import Array, invert_poses
from gen3r_core.messages.cameras import CameraModel
from gen3r_core.messages.poses import rigid_matrix
from gen3r_core.messages.problems import MessageError

MODEL_FILES = (("cameras.bin", "images.bin"), ("cameras.txt", "images.txt"))
_LARGEST = 1 << 31

# Name, and how many parameters: COLMAP's numbers are their places.
_MODELS = (
    ("SIMPLE_PINHOLE", 3),
    ("PINHOLE", 4),
    ("SIMPLE_RADIAL", 4),
    ("RADIAL", 5),
    ("OPENCV", 8),
    ("OPENCV_FISHEYE", 8),
    ("FULL_OPENCV", 12),
    ("FOV", 5),
    ("SIMPLE_RADIAL_FISHEYE", 4),
    ("RADIAL_FISHEYE", 5),
    ("THIN_PRISM_FISHEYE", 12),
)
_COUNTS = MappingProxyType(dict(_MODELS))
_ONE_FOCAL = ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE")


@dataclass(frozen=True, eq=False)
class ColmapImage:
    """An image of a model.

    Attributes:
        name: of its file, relative to the folder of images.
        T_world_cam: ``[4, 4]`` float64 camera to world, OpenCV axes, the model's units.
        camera_id: of its camera.
        camera: intrinsics.
    """

    name: str
    T_world_cam: Array
    camera_id: int
    camera: CameraModel


def read_colmap(folder: Path) -> list[ColmapImage]:
    """Reads a model.

    Args:
        folder: with ``cameras`` and ``images``, ``.bin`` or ``.txt``.

    Returns:
        its images in the order of the file.

    Raises:
        InputError: naming the file and what is wrong in it.
    """
    for cameras, images in MODEL_FILES:
        if (folder / cameras).is_file() and (folder / images).is_file():
            binary = cameras.endswith(".bin")
            known = dict((_binary_cameras if binary else _text_cameras)(folder / cameras))
            return list((_binary_images if binary else _text_images)(folder / images, known))
    raise InputError(f"{folder}: no COLMAP model is here; it has cameras and images, both .txt or both .bin")


def _text_cameras(path: Path) -> Iterator[tuple[int, CameraModel]]:
    for number, line in _lines(path):
        words = line.split()
        try:
            model, size = words[1], (int(words[3]), int(words[2]))
            yield int(words[0]), _camera(path, model, size, [float(word) for word in words[4:]])
        except (ValueError, IndexError) as error:
            raise InputError(f"{path}: line {number} is no camera: {line[:80]!r}") from error


def _text_images(path: Path, cameras: dict[int, CameraModel]) -> Iterator[ColmapImage]:
    lines = _lines(path, empty=True)
    for number, line in lines:
        if not line.strip():
            continue
        words = line.split(maxsplit=9)
        try:
            numbers, camera, name = [float(word) for word in words[1:8]], int(words[8]), words[9].strip()
        except (ValueError, IndexError) as error:
            raise InputError(f"{path}: line {number} is no image: {line[:80]!r}") from error
        yield _image(path, name, numbers, camera, cameras)
        next(lines, None)  # its points in the image


def _binary_cameras(path: Path) -> Iterator[tuple[int, CameraModel]]:
    data = _Bytes(path)
    for _ in range(data.count()):
        number, model, width, height = data.unpack("<iiQQ")
        if not 0 <= model < len(_MODELS):
            raise InputError(f"{path}: camera {number} has the model {model}, which is not known")
        name, count = _MODELS[model]
        yield number, _camera(path, name, (height, width), list(data.unpack(f"<{count}d")))


def _binary_images(path: Path, cameras: dict[int, CameraModel]) -> Iterator[ColmapImage]:
    data = _Bytes(path)
    for _ in range(data.count()):
        _, *numbers, camera = data.unpack("<i7di")
        name = data.text()
        (points,) = data.unpack("<Q")
        data.skip(24 * points)
        yield _image(path, name, numbers, camera, cameras)


def _camera(path: Path, model: str, size: tuple[int, int], numbers: list[float]) -> CameraModel:
    if model not in _COUNTS:
        raise InputError(f"{path}: the camera model {model!r} is not known; undistort with COLMAP to get PINHOLE")
    if len(numbers) != _COUNTS[model] or not all(map(math.isfinite, numbers)) or min(size) < 1 or max(size) > 1 << 16:
        raise InputError(f"{path}: a {model} camera of {size[1]}x{size[0]} pixels has the numbers {numbers}")
    fx, *rest = numbers
    fy = fx if model in _ONE_FOCAL else rest.pop(0)
    cx, cy, *k = rest
    if fx <= 0 or fy <= 0:
        raise InputError(f"{path}: a {model} camera has the focal lengths {fx} and {fy}")
    K = np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
    if not any(k):
        return CameraModel(K, size)
    if model in ("SIMPLE_RADIAL", "RADIAL", "OPENCV"):  # k1, (k2, (p1, p2))
        return CameraModel(K, size, "plumb_bob", (*k, *[0.0] * (4 - len(k))))
    if model == "FULL_OPENCV":
        return CameraModel(K, size, "rational_polynomial", tuple(k))
    if model in ("SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "OPENCV_FISHEYE"):
        return CameraModel(K, size, "equidistant", (*k, *[0.0] * (4 - len(k))))
    raise InputError(f"{path}: lens distortion of the model {model} is not known here; undistort with COLMAP")


def _image(path: Path, name: str, numbers: list[float], camera: int, cameras: dict[int, CameraModel]) -> ColmapImage:
    if camera not in cameras:
        raise InputError(f"{path}: image {name!r} has camera {camera}; there are {sorted(cameras)}")
    if not name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise InputError(f"{path}: an image has the name {name!r}, which is no file in a folder of images")
    w, x, y, z, *at = numbers
    try:
        T_cam_world = rigid_matrix(SimpleNamespace(x=at[0], y=at[1], z=at[2]), SimpleNamespace(x=x, y=y, z=z, w=w))
    except MessageError as error:
        raise InputError(f"{path}: image {name!r}: {error}") from error
    return ColmapImage(name, invert_poses(T_cam_world), camera, cameras[camera])


def _lines(path: Path, *, empty: bool = False) -> Iterator[tuple[int, str]]:
    """Lines that are no comments, with their numbers."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.startswith("#") and (empty or line.strip()):
                    yield number, line
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: this file cannot be read: {error}") from error


class _Bytes:
    """A file that is taken apart from its beginning."""

    def __init__(self, path: Path) -> None:
        self._path, self._at = path, 0
        try:
            if path.stat().st_size > _LARGEST:
                raise InputError(f"{path}: {path.stat().st_size} bytes are too many for a COLMAP model")
            self._data = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path}: this file cannot be read: {error.strerror}") from error

    def count(self) -> int:
        """How many things follow; never more than there are bytes."""
        (count,) = self.unpack("<Q")
        if count > len(self._data):
            raise InputError(f"{self._path}: it promises {count} entries and has {len(self._data)} bytes")
        return int(count)

    def unpack(self, form: str) -> tuple[Any, ...]:
        try:
            found = struct.unpack_from(form, self._data, self._at)
        except struct.error as error:
            raise InputError(f"{self._path}: the file ends too early, after {len(self._data)} bytes") from error
        self._at += struct.calcsize(form)
        return found

    def text(self) -> str:
        end = self._data.find(b"\0", self._at)
        if end < 0:
            raise InputError(f"{self._path}: the file ends too early, after {len(self._data)} bytes")
        name, self._at = self._data[self._at : end], end + 1
        return name.decode("utf-8", "replace")

    def skip(self, count: int) -> None:
        self._at += count
        if self._at > len(self._data):
            raise InputError(f"{self._path}: the file ends too early, after {len(self._data)} bytes")
