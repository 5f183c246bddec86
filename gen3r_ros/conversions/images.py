"""sensor_msgs/Image from arrays; reading it is the core's part. Without cv_bridge, which does not go with NumPy 2."""

from __future__ import annotations

import array
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from gen3r_core.errors import InputError
from gen3r_core.messages.encodings import ENCODINGS
from gen3r_core.messages.images import LARGEST_PIXELS, check_image, depth_array, pixel_array, rgb_array, thumbnail

__all__ = [
    "LARGEST_PIXELS",
    "byte_array",
    "check_image",
    "depth_array",
    "image_message",
    "pixel_array",
    "rgb_array",
    "thumbnail",
]


def image_message(pixels: NDArray[Any], encoding: str, header: Header) -> Image:
    """A message of a pixel array, in this machine's byte order and without padding.

    Args:
        pixels: ``[H, W]`` or ``[H, W, C]`` of the encoding's channels and dtype.
        encoding: one of :data:`~gen3r_core.messages.encodings.ENCODINGS`.
        header: stamp and frame (the camera's optical frame).

    Raises:
        InputError: the array does not fit the encoding.
    """
    known = ENCODINGS.get(encoding)
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    if known is None or pixels.ndim not in (2, 3) or channels != known.channels or pixels.dtype != known.dtype:
        raise InputError(f"an array {pixels.shape} of {pixels.dtype} does not make an image of encoding {encoding!r}")
    height, width = pixels.shape[:2]
    return Image(
        header=header,
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=int(sys.byteorder == "big"),
        step=width * known.bytes_per_pixel,
        data=byte_array(pixels),
    )


def byte_array(values: NDArray[Any]) -> array.array[int]:
    """The bytes of an array as messages take them: rclpy looks at every element of anything else."""
    data = array.array("B")
    data.frombytes(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
    return data
