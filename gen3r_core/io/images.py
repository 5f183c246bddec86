"""Still images from and to 8-bit RGB."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from gen3r_core.errors import InputError
from gen3r_core.io.atomic import atomic_path

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
"""What :func:`list_images` looks for, upper and lower case."""


def needs_turning(image: Image.Image, camera_size: tuple[int, int] | None) -> bool:
    """Whether the orientation that EXIF notes is to be applied to an image.

    Args:
        image: opened, not scaled.
        camera_size: ``(height, width)`` that its camera's intrinsics and pose refer to; None without a camera. They are
            of the pixels as they are stored (as COLMAP reads them) where these have that size.
    """
    return (image.height, image.width) != camera_size


def read_image(path: Path, camera_size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Reads one image of any format that Pillow knows.

    Alpha is dropped, not blended (as Gen3R's own script does); grey becomes three equal
    channels; 16-bit grey is scaled by 1/257, so that white stays white; the orientation that
    a camera or phone noted in EXIF is applied, unless the camera's size says otherwise.

    Args:
        path: the file.
        camera_size: ``(height, width)``, see :func:`needs_turning`.

    Returns:
        ``[H, W, 3]`` uint8 RGB.

    Raises:
        InputError: naming the file, if it is missing, no image, damaged, or far too large.
    """
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image) if needs_turning(image, camera_size) else image
            if upright.mode.startswith("I"):
                grey = np.asarray(upright).astype(np.float64) / 257
                eight_bit = np.clip(np.rint(grey), 0, 255).astype(np.uint8)
                return np.repeat(eight_bit[..., None], 3, axis=2)
            if upright.mode == "F":
                raise InputError(f"{path}: floating point images have no known range; convert it to 8 or 16 bits")
            return np.array(upright.convert("RGB"), dtype=np.uint8)
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such image file; check the path") from error
    except IsADirectoryError as error:
        raise InputError(f"{path}: this is a folder, not an image file") from error
    except PermissionError as error:
        raise InputError(f"{path}: this image file may not be read; check its permissions") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{path}: this is not an image that can be read; use PNG or JPEG") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{path}: this image is too large: {error}; scale it down first") from error
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, MemoryError) as error:
        raise InputError(f"{path}: this image file is damaged or incomplete: {error}; copy it again") from error


def read_images(paths: Sequence[Path]) -> NDArray[np.uint8]:
    """Reads several images of one size.

    Args:
        paths: at least one file.

    Returns:
        ``[N, H, W, 3]`` uint8 RGB in the order given.

    Raises:
        InputError: if there is none, one cannot be read, or two differ in size (both are named).
    """
    if not paths:
        raise InputError("no image files were given; name at least one")
    images = [read_image(path) for path in paths]
    for path, image in zip(paths, images, strict=True):
        if image.shape != images[0].shape:
            raise InputError(
                f"images must all have one size (height, width), but {paths[0]} has {images[0].shape[:2]} "
                f"and {path} has {image.shape[:2]}; crop or resize them first"
            )
    return np.stack(images)


def write_image(path: Path, image: NDArray[np.uint8]) -> None:
    """Writes a PNG file, lightly compressed.

    Args:
        path: file to write; its folder must exist.
        image: ``[H, W, 3]`` uint8 RGB.

    Raises:
        InputError: if the image has another shape or dtype.
        OutputError: if the file cannot be written.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0 or image.dtype != np.uint8:
        raise InputError(f"{path}: an image to write must be [H, W, 3] uint8, got {image.shape} {image.dtype}")
    with atomic_path(path) as partial:
        Image.fromarray(image).save(partial, format="PNG", compress_level=1)


def write_grey(path: Path, image: NDArray[np.uint8]) -> None:
    """Writes how bright an image is as a JPEG file, well enough to find features in it.

    Args:
        path: file to write; its folder must exist.
        image: ``[H, W, 3]`` uint8 RGB.

    Raises:
        OutputError: if the file cannot be written.
    """
    with atomic_path(path) as partial:
        Image.fromarray(image).convert("L").save(partial, format="JPEG", quality=95)


def list_images(folder: Path) -> list[Path]:
    """The PNG and JPEG files of a folder in the order of their numbers.

    Names are compared with the numbers in them as numbers, so that ``frame_10.png`` follows
    ``frame_9.png``; where numbers are padded with zeros this is alphabetical order. Hidden
    files and sub-folders are left out.

    Args:
        folder: the folder.

    Returns:
        At least one path.

    Raises:
        InputError: if it is no folder, may not be read, or holds no image.
    """
    try:
        entries = [entry for entry in folder.iterdir() if entry.suffix.lower() in IMAGE_SUFFIXES]
    except FileNotFoundError as error:
        raise InputError(f"{folder}: there is no such folder of images; check the path") from error
    except NotADirectoryError as error:
        raise InputError(f"{folder}: this is a file and not a folder of images") from error
    except OSError as error:
        raise InputError(f"{folder}: this folder cannot be read: {error.strerror}; check its permissions") from error
    found = [entry for entry in entries if entry.is_file() and not entry.name.startswith(".")]
    if not found:
        raise InputError(f"{folder}: no image in this folder ({', '.join(IMAGE_SUFFIXES)}, upper or lower case)")
    return natural_order(found)


def natural_order(paths: Iterable[Path]) -> list[Path]:
    """Paths in the order of their names, in which numbers count as numbers."""
    return sorted(paths, key=lambda path: (_natural(path.as_posix()), path.as_posix()))


def _natural(name: str) -> list[tuple[int, str]]:
    """Digits as (number, ""), the rest as (0, text), alternating, so that any two lists compare."""
    pieces = re.split(r"([0-9]+)", name.lower())
    return [(int(piece), "") if index % 2 else (0, piece) for index, piece in enumerate(pieces)]
