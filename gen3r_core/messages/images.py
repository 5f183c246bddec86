"""Raw images of messages as arrays, whoever deserialised them: ROS, or a reader of recordings.

Row padding (``step``) and byte order are respected. Reading copies nothing that need not be copied: the arrays
are views of the message where the encoding allows it.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gen3r_core.messages.encodings import ENCODINGS, Encoding, Pixels, rgb_of, thumbnail_of
from gen3r_core.messages.problems import MessageError

LARGEST_PIXELS = 1 << 26
"""More than any camera has; keeps damaged sizes from taking all memory."""


class Image(Protocol):
    """What is needed of a sensor_msgs/Image.

    Attributes:
        height: rows.
        width: columns.
        encoding: see :data:`~gen3r_core.messages.encodings.ENCODINGS`.
        is_bigendian: byte order of its numbers.
        step: bytes of a row, padding included.
        data: anything with the buffer protocol.
    """

    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: Any


def check_image(message: Image) -> Encoding:
    """See whether an image can be read, without reading it.

    Returns:
        how its pixels lie in memory.

    Raises:
        MessageError: "size" (no pixels, far too many, or an odd width where pixels come in pairs), "encoding"
            (unknown) or "step" (rows shorter than their pixels, or less data than rows).
    """
    height, width = message.height, message.width
    if height < 1 or width < 1 or height * width > LARGEST_PIXELS:
        raise MessageError(
            "size",
            f"the image has {width}x{height} pixels; 1 to {LARGEST_PIXELS} can be used: is the camera driver set up?",
        )
    encoding = ENCODINGS.get(message.encoding)
    if encoding is None:
        raise MessageError(
            "encoding",
            f"the image's encoding {message.encoding!r} is not known; let the camera driver send one of "
            f"{', '.join(sorted(ENCODINGS))}",
        )
    if (encoding.family == "yuv" and width % 2) or (encoding.family == "bayer" and min(height, width) < 2):
        raise MessageError("size", f"an image of encoding {message.encoding} cannot have {width}x{height} pixels")
    row = width * encoding.bytes_per_pixel
    needed = message.step * (height - 1) + row
    if message.step < row or len(message.data) < needed:
        raise MessageError(
            "step",
            f"the image of {width}x{height} {message.encoding} has rows of {message.step} bytes and "
            f"{len(message.data)} bytes in all; it needs {row} or more a row and {max(needed, row * height)} in all: "
            f"the driver's `step` or `data` is wrong",
        )
    return encoding


def pixel_array(message: Image) -> Pixels:
    """The numbers as the message has them, in this machine's byte order.

    Args:
        message: of any encoding in :data:`~gen3r_core.messages.encodings.ENCODINGS`.

    Returns:
        ``[H, W]`` or ``[H, W, C]`` uint8, uint16 or float32; not writable. A view of the message's data where the
        byte order is this machine's: hold on to it and you hold on to the message.

    Raises:
        MessageError: as :func:`check_image`.
    """
    encoding = check_image(message)
    dtype = np.dtype(encoding.dtype).newbyteorder(">" if message.is_bigendian else "<")
    shape = (message.height, message.width, encoding.channels)
    strides = (message.step, encoding.bytes_per_pixel, dtype.itemsize)
    pixels = np.ndarray(shape, dtype, buffer=memoryview(message.data), strides=strides)
    pixels.flags.writeable = False
    if not dtype.isnative:
        pixels = pixels.astype(dtype.newbyteorder("="))
    return pixels[..., 0] if encoding.channels == 1 else pixels


def rgb_array(message: Image) -> NDArray[np.uint8]:
    """The picture in RGB.

    Returns:
        ``[H, W, 3]`` uint8; for rgb8 and rgba8 a view of the message that is not writable.

    Raises:
        MessageError: as :func:`check_image`; "encoding" also for depth images.
    """
    return rgb_of(pixel_array(message), _picture(message))


def thumbnail(message: Image, longest: int = 80) -> NDArray[np.uint8]:
    """A small grey picture for comparing images, from every n-th pixel and nothing else.

    Args:
        message: a picture.
        longest: pixels that the longer side has at most, 2 or more.

    Returns:
        ``[h, w]`` uint8.

    Raises:
        MessageError: as :func:`rgb_array`.
    """
    encoding = _picture(message)
    stride = -(-max(message.height, message.width) // longest)
    return thumbnail_of(pixel_array(message), encoding, stride)


def depth_array(message: Image) -> NDArray[np.float32]:
    """Depth in metres (REP-118).

    Returns:
        ``[H, W]`` float32 z-depth; NaN where there is none: 0 in 16UC1, which has millimetres, and in 32FC1 what is
        not finite or not over 0.

    Raises:
        MessageError: as :func:`check_image`; "encoding" for pictures.
    """
    if message.encoding not in ("16UC1", "32FC1", "mono16"):  # some drivers call their millimetres mono16
        raise MessageError(
            "encoding", f"a depth image is 16UC1 (millimetres) or 32FC1 (metres), this one is {message.encoding!r}"
        )
    pixels = pixel_array(message)
    scale = np.float32(1.0 if pixels.dtype == np.float32 else 0.001)
    depth = pixels.astype(np.float32) * scale
    depth[~(np.isfinite(depth) & (depth > 0))] = np.nan
    return np.asarray(depth, dtype=np.float32)


def _picture(message: Image) -> Encoding:
    encoding = check_image(message)
    if encoding.family == "depth":
        raise MessageError(
            "encoding", f"encoding {message.encoding} is that of depth; a picture is needed: is this the right topic?"
        )
    return encoding
