"""sensor_msgs/CompressedImage: JPEG and PNG, decoded by Pillow only when they are wanted."""

from __future__ import annotations

import contextlib
import io
import struct
from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header

from gen3r_core.errors import InputError
from gen3r_ros.conversions.encodings import eight_bits
from gen3r_ros.conversions.images import LARGEST_PIXELS, byte_array
from gen3r_ros.conversions.problems import MessageError

FORMATS = ("JPEG", "PNG")
"""What is tried, whatever the message's ``format`` says: drivers write many things there."""


def compressed_size(message: CompressedImage) -> tuple[int, int]:
    """``(height, width)`` in pixels, from the file's header alone.

    Raises:
        MessageError: "compression" (neither JPEG nor PNG, or a damaged header) or "size" (far too many pixels).
    """
    with _opened(message) as file:
        return file.height, file.width


def compressed_rgb(message: CompressedImage) -> NDArray[np.uint8]:
    """The picture in RGB.

    Alpha is dropped; 16-bit grey is scaled to 8 bits.

    Returns:
        ``[H, W, 3]`` uint8.

    Raises:
        MessageError: as :func:`compressed_size`; "compression" also where data are missing or damaged.
    """
    with _opened(message) as file:
        if file.mode.startswith("I"):
            grey = eight_bits(np.asarray(file).astype(np.uint16))
            return np.repeat(grey[..., None], 3, axis=2)
        return np.array(file.convert("RGB"), dtype=np.uint8)


def compressed_thumbnail(message: CompressedImage, longest: int = 80) -> NDArray[np.uint8]:
    """A small grey picture for comparing images.

    A JPEG is decoded at an eighth of its size or so, without its colours; a PNG has to be decoded as a whole.

    Args:
        message: a picture.
        longest: pixels that the longer side has at most, 2 or more.

    Returns:
        ``[h, w]`` uint8.

    Raises:
        MessageError: as :func:`compressed_rgb`.
    """
    with _opened(message) as file:
        # Of the scales 1, 1/2, 1/4 and 1/8 the decoder takes the smallest that is not below the size asked for.
        share = longest / max(file.size)
        file.draft("L", (int(share * file.width), int(share * file.height)))
        if file.mode.startswith("I"):
            pixels = eight_bits(np.asarray(file).astype(np.uint16))
        else:
            pixels = np.asarray(file.convert("L"), dtype=np.uint8)
    stride = -(-max(pixels.shape) // longest)
    return np.ascontiguousarray(pixels[::stride, ::stride])


def compressed_message(
    picture: NDArray[np.uint8], header: Header, kind: Literal["jpeg", "png"] = "jpeg", quality: int = 90
) -> CompressedImage:
    """A compressed picture.

    Args:
        picture: ``[H, W, 3]`` RGB or ``[H, W]`` grey, uint8.
        header: stamp and frame (the camera's optical frame).
        kind: of the file.
        quality: of a JPEG, 1 to 95.

    Raises:
        InputError: the array is no picture.
    """
    if picture.dtype != np.uint8 or picture.ndim not in (2, 3) or picture.shape[2:] not in ((), (3,)):
        raise InputError(f"a picture is [H, W, 3] or [H, W] uint8, got {picture.shape} {picture.dtype}")
    file = io.BytesIO()
    if kind == "jpeg":
        Pillow.fromarray(picture).save(file, "JPEG", quality=quality)
    else:
        Pillow.fromarray(picture).save(file, "PNG", compress_level=1)
    encoding = "mono8" if picture.ndim == 2 else "rgb8"
    return CompressedImage(
        header=header,
        format=f"{encoding}; {kind} compressed {encoding.replace('rgb', 'bgr')}",
        data=byte_array(np.frombuffer(file.getbuffer(), np.uint8)),
    )


@contextlib.contextmanager
def _opened(message: CompressedImage) -> Iterator[Pillow.Image]:
    """The file, its header read; what goes wrong within the block is the message's fault."""
    what = f"the compressed image (format {message.format!r}, {len(message.data)} bytes)"
    try:
        with Pillow.open(io.BytesIO(message.data), formats=FORMATS) as file:
            if file.width * file.height > LARGEST_PIXELS:
                raise MessageError("size", f"{what} has {file.width}x{file.height} pixels, over {LARGEST_PIXELS}")
            yield file
    except (Pillow.DecompressionBombError, Pillow.DecompressionBombWarning) as error:
        raise MessageError("size", f"{what} is too large: {error}") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, MemoryError) as error:
        raise MessageError(
            "compression", f"{what} is no JPEG or PNG, or is damaged: {error}; is the transport `compressed`?"
        ) from error
