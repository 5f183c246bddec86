"""What the bytes of an image mean: encodings, and how each becomes RGB. Pure numpy, no ROS.

Names are those of ``sensor_msgs/image_encodings.hpp``. A *pixel array* has the image's own channels and depth
in the byte order of this machine: ``[H, W]`` or ``[H, W, C]``.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Pixels = NDArray[Any]
Family = Literal["color", "grey", "bayer", "yuv", "depth"]

# Of 8-bit R, G and B to grey, in 256ths (ITU-R BT.601).
_GREY = np.array([77, 150, 29], dtype=np.uint16)


@dataclass(frozen=True)
class Encoding:
    """How pixels lie in memory.

    Attributes:
        family: how they become RGB.
        channels: numbers of each pixel.
        dtype: of a number, byte order left open: "u1", "u2" or "f4".
        order: where red, green and blue are among the channels ("color"); columns and rows of red and blue in
            each 2x2 cell ("bayer"); places of Y, U and V in four bytes ("yuv").
    """

    family: Family
    channels: int
    dtype: Literal["u1", "u2", "f4"] = "u1"
    order: tuple[int, ...] = ()

    @property
    def bytes_per_pixel(self) -> int:
        """Of one pixel."""
        return self.channels * int(self.dtype[1])


def _known() -> dict[str, Encoding]:
    known = {
        "mono8": Encoding("grey", 1),
        "8UC1": Encoding("grey", 1),
        "mono16": Encoding("grey", 1, "u2"),
        "16UC1": Encoding("depth", 1, "u2"),
        "32FC1": Encoding("depth", 1, "f4"),
        "8UC3": Encoding("color", 3, order=(2, 1, 0)),  # as OpenCV has them
        "8UC4": Encoding("color", 4, order=(2, 1, 0)),
    }
    for name, order in (("rgb", (0, 1, 2)), ("bgr", (2, 1, 0))):
        for alpha, channels in (("", 3), ("a", 4)):
            known[f"{name}{alpha}8"] = Encoding("color", channels, order=order)
            known[f"{name}{alpha}16"] = Encoding("color", channels, "u2", order)
    for cell in ("rggb", "bggr", "gbrg", "grbg"):
        red, blue = cell.index("r"), cell.index("b")
        places = (red % 2, red // 2, blue % 2, blue // 2)
        known[f"bayer_{cell}8"] = Encoding("bayer", 1, order=places)
        known[f"bayer_{cell}16"] = Encoding("bayer", 1, "u2", places)
    for name in ("yuv422", "uyvy"):
        known[name] = Encoding("yuv", 2, order=(1, 0, 2))
    for name in ("yuv422_yuy2", "yuyv"):
        known[name] = Encoding("yuv", 2, order=(0, 1, 3))
    return known


ENCODINGS = MappingProxyType(_known())
"""Every encoding that is understood."""


def rgb_of(pixels: Pixels, encoding: Encoding) -> Bytes:
    """8-bit RGB of any picture.

    16-bit numbers are scaled by 1/257, so that white stays white. Bayer cells are interpolated linearly. YUV is
    that of ITU-R BT.601 with 16 to 235 for black to white, as OpenCV has it.

    Args:
        pixels: pixel array of a family other than "depth", 2x2 pixels at least for "bayer", an even width for
            "yuv".
        encoding: of the pixels.

    Returns:
        ``[H, W, 3]`` uint8; for rgb8 a view of the pixels.
    """
    if encoding.family == "bayer":
        return eight_bits(demosaic(pixels, encoding.order))
    if encoding.family == "yuv":
        return _yuv(pixels, encoding.order)
    if encoding.family == "grey":
        return np.repeat(eight_bits(pixels)[..., None], 3, axis=2)
    if encoding.order == (0, 1, 2):
        return eight_bits(pixels[..., :3])
    picture = np.empty((*pixels.shape[:2], 3), dtype=pixels.dtype)
    for channel, place in enumerate(encoding.order):  # three times as fast as pixels[..., ::-1] made contiguous
        picture[..., channel] = pixels[..., place]
    return eight_bits(picture)


def thumbnail_of(pixels: Pixels, encoding: Encoding, stride: int) -> Bytes:
    """Grey of every ``stride``-th pixel; the others are not touched.

    Args:
        pixels: pixel array of a family other than "depth".
        encoding: of the pixels.
        stride: pixels, 1 or more; made even for mosaics, whose pixels differ.

    Returns:
        ``[ceil(H / stride), ceil(W / stride)]`` uint8. Of a mosaic the green pixels.
    """
    if encoding.family == "bayer":
        step = max(2, stride + stride % 2)
        # Green lies beside red, in red's row.
        column = 1 - encoding.order[0]
        return eight_bits(pixels[encoding.order[1] :: step, column::step])
    if encoding.family == "yuv":
        return np.ascontiguousarray(pixels[::stride, ::stride, encoding.order[0]])
    few = pixels[::stride, ::stride]
    if encoding.family == "grey":
        return eight_bits(few)
    rgb = eight_bits(few[..., encoding.order])
    return np.asarray((rgb.astype(np.uint16) @ _GREY) >> 8, dtype=np.uint8)


def eight_bits(pixels: Pixels) -> Bytes:
    """Numbers of 8 bits as they are, of 16 bits scaled by 1/257 and rounded."""
    if pixels.dtype == np.uint8:
        return pixels
    # x / 257 rounded, without division or floats: (x * 255 + 32895) >> 16 is exact for all 16-bit x.
    return np.asarray((pixels.astype(np.uint32) * 255 + 32895) >> 16, dtype=np.uint8)


def demosaic(mosaic: Pixels, places: tuple[int, ...]) -> Pixels:
    """RGB of a Bayer mosaic: what a pixel lacks is the mean of its nearest neighbours that have it.

    Args:
        mosaic: ``[H, W]`` uint8 or uint16, 2 pixels a side at least.
        places: column and row of red, column and row of blue in the first 2x2 cell.

    Returns:
        ``[H, W, 3]``, dtype of the mosaic. Beyond the edges the mosaic goes on mirrored.
    """
    wide: type[np.uint16 | np.uint32] = np.uint16 if mosaic.dtype == np.uint8 else np.uint32
    height, width = mosaic.shape
    # Mirrored about the outermost pixels, which keeps the colours of the cells.
    padded: NDArray[np.unsignedinteger] = np.pad(mosaic, 1, mode="reflect").astype(wide)
    beside = padded[:, :-2] + padded[:, 2:]  # [H + 2, W]
    above = padded[:-2, 1:-1] + padded[2:, 1:-1]  # [H, W]
    left_right = (beside[1:-1] + 1) >> 1
    up_down = (above + 1) >> 1
    cross = (beside[1:-1] + above + 2) >> 2
    corners = (beside[:-2] + beside[2:] + 2) >> 2
    picture = np.empty((height, width, 3), dtype=mosaic.dtype)
    red_column, red_row, blue_column, blue_row = places
    for row in (0, 1):
        for column in (0, 1):
            cell = (slice(row, None, 2), slice(column, None, 2))
            here = mosaic[cell]
            if (column, row) == (red_column, red_row):
                colors = here, cross[cell], corners[cell]
            elif (column, row) == (blue_column, blue_row):
                colors = corners[cell], cross[cell], here
            elif row == red_row:
                colors = left_right[cell], here, up_down[cell]
            else:
                colors = up_down[cell], here, left_right[cell]
            for channel, values in enumerate(colors):
                picture[(*cell, channel)] = values
    return picture


def _yuv(pixels: Pixels, order: tuple[int, ...]) -> Bytes:
    """``[H, W, 2]`` to RGB; two pixels share their colour difference. Fixed point with 14 bits."""
    height, width = pixels.shape[:2]
    quads = np.ascontiguousarray(pixels).reshape(height, width // 2, 4)
    first, blue, red = order
    u = quads[..., blue].astype(np.int32) - 128
    v = quads[..., red].astype(np.int32) - 128
    # 255/219 for brightness; 255/224 times 1.402, 1.772, and the shares of green.
    shifts = (26149 * v, -6419 * u - 13320 * v, 33050 * u)
    picture = np.empty((height, width // 2, 2, 3), dtype=np.uint8)
    for which in (0, 1):
        y = (quads[..., first + 2 * which].astype(np.int32) - 16) * 19077 + (1 << 13)
        for channel, shift in enumerate(shifts):
            picture[:, :, which, channel] = ((y + shift) >> 14).clip(0, 255)
    return picture.reshape(height, width, 3)
