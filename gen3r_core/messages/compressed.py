"""Compressed images of messages: JPEG and PNG, decoded by Pillow only when they are wanted."""

from __future__ import annotations

import contextlib
import io
import struct
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from gen3r_core.messages.encodings import eight_bits
from gen3r_core.messages.images import LARGEST_PIXELS
from gen3r_core.messages.problems import MessageError

FORMATS = ("JPEG", "PNG")
"""What is tried, whatever the message's ``format`` says: drivers write many things there."""


class CompressedImage(Protocol):
    """What is needed of a sensor_msgs/CompressedImage.

    Attributes:
        format: what the driver says of it.
        data: a file, as anything with the buffer protocol.
    """

    format: str
    data: Any


def compressed_size(message: CompressedImage) -> tuple[int, int]:
    """``(height, width)`` in pixels, from the file's header alone.

    Raises:
        MessageError: "compression" (neither JPEG nor PNG, or a damaged header) or "size" (far too many pixels).
    """
    with opened(message) as file:
        return file.height, file.width


def compressed_rgb(message: CompressedImage) -> NDArray[np.uint8]:
    """The picture in RGB.

    Alpha is dropped; 16-bit grey is scaled to 8 bits.

    Returns:
        ``[H, W, 3]`` uint8.

    Raises:
        MessageError: as :func:`compressed_size`; "compression" also where data are missing or damaged.
    """
    with opened(message) as file:
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
    with opened(message) as file:
        # Of the scales 1, 1/2, 1/4 and 1/8 the decoder takes the smallest that is not below the size asked for.
        share = longest / max(file.size)
        file.draft("L", (int(share * file.width), int(share * file.height)))
        if file.mode.startswith("I"):
            pixels = eight_bits(np.asarray(file).astype(np.uint16))
        else:
            pixels = np.asarray(file.convert("L"), dtype=np.uint8)
    stride = -(-max(pixels.shape) // longest)
    return np.ascontiguousarray(pixels[::stride, ::stride])


@contextlib.contextmanager
def opened(message: CompressedImage, at: int = 0) -> Iterator[Pillow.Image]:
    """The file, its header read; what goes wrong within the block is the message's fault.

    Args:
        message: that it is in.
        at: byte that it begins at.

    Raises:
        MessageError: "compression" or "size".
    """
    what = f"the compressed image (format {message.format!r}, {len(message.data)} bytes)"
    try:
        with Pillow.open(io.BytesIO(memoryview(message.data)[at:]), formats=FORMATS) as file:
            if file.width * file.height > LARGEST_PIXELS:
                raise MessageError("size", f"{what} has {file.width}x{file.height} pixels, over {LARGEST_PIXELS}")
            yield file
    except (Pillow.DecompressionBombError, Pillow.DecompressionBombWarning) as error:
        raise MessageError("size", f"{what} is too large: {error}") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, MemoryError) as error:
        raise MessageError(
            "compression", f"{what} is no JPEG or PNG, or is damaged: {error}; is the transport `compressed`?"
        ) from error
