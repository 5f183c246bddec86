"""What can be told of an image from a few thousand of its pixels: how sharp it is, and how much it differs.

Images are not decoded for this: a grey image, a view of one channel with strides, or something already reduced
will do. The cost does not grow with the image's size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen3r_core.errors import InputError

__all__ = ["Look", "image_change", "look_at"]

_ROWS = 48
"""Rows (or columns, of a portrait image) at which an image is sampled, at least where it has so many."""

_BLOCKS = 16
"""The same of the picture that is compared: coarse, so that noise and a hand's tremor do not count."""

_FLAT = 2.0
"""Standard deviation in grey levels (of 255) under which there is no texture to compare."""


@dataclass(frozen=True, eq=False)
class Look:
    """An image as it is remembered.

    Attributes:
        blocks: ``[h, w]`` float32 mean grey levels, 0 to 255.
        sharpness: variance of the Laplacian relative to the variance of grey levels (plus 1), so that exposure does
            not count. To be compared with images of the same camera only.
        size: ``(height, width)`` of what was given; others are not comparable.
    """

    blocks: NDArray[np.float32]
    sharpness: float
    size: tuple[int, int]


def look_at(grey: NDArray[Any]) -> Look:
    """Looks at an image.

    The Laplacian is the five-point one, of direct neighbours of the array that is given, at sampled places
    (J. L. Pech-Pacheco et al., ICPR 2000, for its variance as a measure of focus). Give a full-size view to judge
    the image's own sharpness, such as ``rgb[..., 1]``; a reduced array shows coarser blur only.

    Args:
        grey: ``[H, W]`` uint8 or uint16, at least 8x8, any strides. Not kept.

    Returns:
        The look.

    Raises:
        InputError: for other arrays.
    """
    if grey.ndim != 2 or min(grey.shape) < 8 or grey.dtype not in (np.uint8, np.uint16):
        raise InputError(
            f"a thumbnail must be uint8 or uint16 of shape [H, W] with at least 8x8 pixels, got {grey.dtype} "
            f"{list(grey.shape)}; take one channel of a colour image"
        )
    step = max(1, (min(grey.shape) - 2) // _ROWS)
    height, width = grey.shape
    unit = np.float32(1 / 257) if grey.dtype == np.uint16 else np.float32(1)

    def sampled(down: int, right: int) -> NDArray[np.float32]:
        part = grey[1 + down : height - 1 + down : step, 1 + right : width - 1 + right : step]
        return part.astype(np.float32) * unit

    centre, above, below, left, right = (sampled(*at) for at in ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)))
    around = above + below + left + right
    laplacian = around - 4 * centre
    sharpness = float(laplacian.var() / (centre.var() + 1))
    return Look(_block_means((around + centre) / np.float32(5)), sharpness, (height, width))


def image_change(first: Look, second: Look) -> float:
    """How different two images are: 0 for the same, 1 for unrelated ones.

    ``1 - r`` with the correlation r of grey levels, which neither exposure nor contrast change; where an image
    has no texture, the mean absolute difference of grey levels relative to 64 of 255. Images of different size are
    unrelated.

    Args:
        first: one image.
        second: another of the same camera.

    Returns:
        From 0 to 1. In rooms rendered by :mod:`gen3r_core.worlds`, 0.25 m ahead give 0.06 (far views) to 0.15
        (near ones), a turn by 5 degrees about as much.
    """
    if first.blocks.shape != second.blocks.shape or first.size != second.size:
        return 1.0
    a, b = first.blocks.astype(np.float64).ravel(), second.blocks.astype(np.float64).ravel()
    if min(a.std(), b.std()) < _FLAT:
        return min(1.0, float(np.abs(a - b).mean()) / 64)
    correlation = float(np.corrcoef(a, b)[0, 1])
    return min(1.0, max(0.0, 1 - correlation))


def _block_means(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means of square blocks; what does not fill a block at the far edges is left out."""
    side = max(1, min(samples.shape) // _BLOCKS)
    rows, columns = samples.shape[0] // side, samples.shape[1] // side
    blocks = samples[: rows * side, : columns * side].reshape(rows, side, columns, side)
    means: NDArray[np.float32] = blocks.mean(axis=(1, 3), dtype=np.float32)
    return means
