"""sensor_msgs/CompressedImage from arrays; reading it is the core's part."""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header

from gen3r_core.errors import InputError
from gen3r_core.messages.compressed import FORMATS, compressed_rgb, compressed_size, compressed_thumbnail
from gen3r_ros.conversions.images import byte_array

__all__ = ["FORMATS", "compressed_message", "compressed_rgb", "compressed_size", "compressed_thumbnail"]


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
