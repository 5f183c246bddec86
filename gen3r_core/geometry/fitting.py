"""Pictures of several cameras brought to one size: stretched until they cover it, the middle cut out. No torch.

Boxes are ``(left, top, right, bottom)`` in pixels of a picture, its first pixel's *corner* at (0, 0); not whole ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gen3r_core.errors import InputError

Box = tuple[float, float, float, float]


def covering_box(size: tuple[int, int], wanted: tuple[int, int]) -> Box:
    """The largest part of a picture, about its middle, that has the aspect of another size.

    Args:
        size: ``(height, width)`` of the picture.
        wanted: the same, of the other.

    Raises:
        InputError: a side is not positive.
    """
    if min(*size, *wanted) < 1:
        raise InputError(f"sizes are (height, width) in pixels, all positive, got {size} and {wanted}")
    (height, width), ratio = size, wanted[1] / wanted[0]
    cut_width, cut_height = min(width, height * ratio), min(height, width / ratio)
    left, top = (width - cut_width) / 2, (height - cut_height) / 2
    return left, top, left + cut_width, top + cut_height


def cut_picture(pixels: NDArray[np.uint8], box: Box, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A part of a picture in another size; bilinear, smoothed where it shrinks.

    Args:
        pixels: ``[h, w, 3]``.
        box: the part.
        size: ``(height, width)`` of the result.
    """
    if pixels.shape[:2] == size and box == (0, 0, size[1], size[0]):
        return pixels
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(picture.resize((size[1], size[0]), Image.Resampling.BILINEAR, box=box), dtype=np.uint8)


def cut_intrinsics(intrinsics: NDArray[np.floating[Any]], box: Box, size: tuple[int, int]) -> NDArray[np.float64]:
    """What :func:`cut_picture` does to intrinsics ``[3, 3]`` with corners at (0, 0)."""
    left, top, right, bottom = box
    K = np.array(intrinsics, dtype=np.float64)
    K[0, 2] -= left
    K[1, 2] -= top
    K[0] *= size[1] / (right - left)
    K[1] *= size[0] / (bottom - top)
    return K


def cut_nearest(
    values: NDArray[np.float32], of_size: tuple[int, int], box: Box, size: tuple[int, int]
) -> NDArray[np.float32]:
    """A part of a map by its nearest values.

    Args:
        values: ``[h, w]``, of the whole field of view of a picture, in any resolution.
        of_size: ``(height, width)`` of the picture.
        box: the part, in pixels of the picture.
        size: ``(height, width)`` of the result.
    """
    left, top, right, bottom = box
    rows, columns = values.shape
    x = (left + (np.arange(size[1]) + 0.5) * ((right - left) / size[1])) * (columns / of_size[1])
    y = (top + (np.arange(size[0]) + 0.5) * ((bottom - top) / size[0])) * (rows / of_size[0])
    column, row = (np.minimum(v.astype(np.int64), most - 1) for v, most in ((x, columns), (y, rows)))
    return values[np.ix_(row, column)]
