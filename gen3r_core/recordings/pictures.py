"""Pictures of recordings, decoded only when they are asked for: as a whole, or small and grey to compare them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageOps, UnidentifiedImageError

from gen3r_core.errors import InputError
from gen3r_core.geometry.poses import Array
from gen3r_core.io.images import needs_turning, read_image
from gen3r_core.messages.cameras import CameraModel
from gen3r_core.messages.compressed import compressed_rgb, compressed_size, compressed_thumbnail
from gen3r_core.messages.compressed_depth import compressed_depth
from gen3r_core.messages.encodings import ENCODINGS
from gen3r_core.messages.images import check_image, depth_array, rgb_array, thumbnail
from gen3r_core.messages.problems import MessageError
from gen3r_core.recordings.messages import RawMessage

if TYPE_CHECKING:
    import av

THUMBNAIL = 80
"""Pixels that the longer side of a small picture has at most."""


class Picture(ABC):
    """A picture that was recorded. Each method raises :class:`InputError` where the picture is damaged."""

    @abstractmethod
    def size(self) -> tuple[int, int]:
        """``(height, width)`` in pixels, from its header where there is one."""

    @abstractmethod
    def rgb(self) -> NDArray[np.uint8]:
        """``[H, W, 3]`` uint8, which may not be writable."""

    @abstractmethod
    def thumbnail(self) -> NDArray[np.uint8]:
        """``[h, w]`` uint8 grey, for comparing; decoding does as little as it can."""

    @property
    def bytes(self) -> int:
        """Memory that waiting for it costs."""
        return 0


@dataclass(frozen=True, eq=False)
class Still:
    """A picture of a recording without messages.

    Attributes:
        stamp_ns: when it was taken, integer nanoseconds.
        frame_id: name of the camera.
        picture: the picture.
        T_world_cam: ``[4, 4]`` float64 camera to world, OpenCV axes, in the recording's units; None if not known.
        camera: its intrinsics; None if not known.
    """

    stamp_ns: int
    frame_id: str
    picture: Picture
    T_world_cam: Array | None = None
    camera: CameraModel | None = None


class MessagePicture(Picture):
    """A sensor_msgs/Image or CompressedImage.

    Args:
        message: as recorded; kept until the picture goes.
    """

    def __init__(self, message: RawMessage) -> None:
        self.message = message

    def size(self) -> tuple[int, int]:
        """See :meth:`Picture.size`."""
        if self._compressed:
            return compressed_size(self._decoded)
        check_image(self._decoded)
        return self._decoded.height, self._decoded.width

    def rgb(self) -> NDArray[np.uint8]:
        """See :meth:`Picture.rgb`."""
        return compressed_rgb(self._decoded) if self._compressed else rgb_array(self._decoded)

    def thumbnail(self) -> NDArray[np.uint8]:
        """See :meth:`Picture.thumbnail`."""
        make = compressed_thumbnail if self._compressed else thumbnail
        return make(self._decoded, THUMBNAIL)

    @property
    def bytes(self) -> int:
        """See :attr:`Picture.bytes`."""
        return len(self.message.data)

    @property
    def _compressed(self) -> bool:
        return self.message.type.endswith("CompressedImage")

    @cached_property
    def _decoded(self) -> Any:
        return self.message.decode()


class MessageDepth:
    """A depth image.

    Args:
        message: as recorded.
        stamp_ns: of its header, integer nanoseconds.
    """

    def __init__(self, message: RawMessage, stamp_ns: int) -> None:
        self.message, self.stamp_ns = message, stamp_ns

    def depth(self) -> NDArray[np.float32]:
        """``[H, W]`` float32 z-depth in metres, NaN where there is none.

        Raises:
            MessageError: damaged, or no depth.
        """
        decoded = self.message.decode()
        return compressed_depth(decoded) if self.message.type.endswith("CompressedImage") else depth_array(decoded)


class FilePicture(Picture):
    """An image file.

    Args:
        path: PNG, JPEG or what else Pillow reads.
        camera_size: ``(height, width)`` that its camera's intrinsics and pose refer to; None without. An image that is
            stored so is not turned, whatever its EXIF says.
    """

    def __init__(self, path: Path, camera_size: tuple[int, int] | None = None) -> None:
        self.path, self._camera_size = path, camera_size

    def size(self) -> tuple[int, int]:
        """See :meth:`Picture.size`."""
        with self._opened() as image:
            noted = image.getexif().get(0x0112, 1)  # the orientation that cameras note
            turned = noted in (5, 6, 7, 8) and needs_turning(image, self._camera_size)
            return (image.width, image.height) if turned else (image.height, image.width)

    def rgb(self) -> NDArray[np.uint8]:
        """See :meth:`Picture.rgb`."""
        return read_image(self.path, self._camera_size)

    def thumbnail(self) -> NDArray[np.uint8]:
        """See :meth:`Picture.thumbnail`."""
        with self._opened() as image:
            turning = needs_turning(image, self._camera_size)
            share = THUMBNAIL / max(image.size)
            image.draft("L", (int(share * image.width), int(share * image.height)))
            try:
                image.load()
                whole = image.mode.startswith(("I", "F"))
                upright = ImageOps.exif_transpose(image) if turning else image
                grey = None if whole else np.asarray(upright.convert("L"), dtype=np.uint8)
            except (OSError, ValueError, SyntaxError, EOFError, MemoryError) as error:
                raise InputError(f"{self.path}: this image is damaged: {error}") from error
        return every_nth(self.rgb()[..., 1] if grey is None else grey)

    def _opened(self) -> Pillow.Image:
        try:
            return Pillow.open(self.path)
        except (OSError, UnidentifiedImageError, Pillow.DecompressionBombError, ValueError, SyntaxError) as error:
            raise InputError(f"{self.path}: this image cannot be read: {error}") from error


class VideoPicture(Picture):
    """A decoded frame of a video, in its own colour space until it is wanted.

    Args:
        frame: of PyAV.
        rotation: degrees counterclockwise, to the nearest quarter turn.
    """

    def __init__(self, frame: av.VideoFrame, rotation: int) -> None:
        self._frame, self._rotation = frame, rotation

    def size(self) -> tuple[int, int]:
        """See :meth:`Picture.size`."""
        quarters = round(self._rotation / 90) % 2
        height, width = self._frame.height, self._frame.width
        return (width, height) if quarters else (height, width)

    def rgb(self) -> NDArray[np.uint8]:
        """See :meth:`Picture.rgb`."""
        from gen3r_core.io.video import frame_to_rgb

        return frame_to_rgb(self._frame, self._rotation)

    def thumbnail(self) -> NDArray[np.uint8]:
        """See :meth:`Picture.thumbnail`."""
        from av.video.reformatter import Interpolation

        # As a JPEG's decoder makes them small, so that videos and bags of the same pictures give the same keyframes.
        sides = (self._frame.height, self._frame.width)
        part = next((part for part in (8, 4, 2) if max(sides) // part >= THUMBNAIL), 1)
        height, width = (-(-side // part) for side in sides)
        small = self._frame.reformat(width=width, height=height, format="gray", interpolation=Interpolation.AREA)
        return every_nth(np.rot90(small.to_ndarray().astype(np.uint8), round(self._rotation / 90) % 4))

    @property
    def bytes(self) -> int:
        """See :attr:`Picture.bytes`."""
        return self._frame.height * self._frame.width * 3 // 2


def every_nth(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``[H, W]`` with so many rows and columns left out that it is small."""
    stride = -(-max(pixels.shape) // THUMBNAIL)
    return np.ascontiguousarray(pixels[::stride, ::stride])


def looks_like_depth(message: RawMessage) -> bool:
    """Whether an image message holds depth."""
    try:
        decoded = message.decode()
    except MessageError:
        return False
    if message.type.endswith("CompressedImage"):
        text = str(decoded.format).lower()
        return "compresseddepth" in text or text.startswith(("16uc1", "32fc1"))
    known = ENCODINGS.get(decoded.encoding)
    return known is not None and known.family == "depth"
