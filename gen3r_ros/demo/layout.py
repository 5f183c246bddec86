"""Pictures side by side, and words above them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Pictures = NDArray[np.uint8]
INK, FAINT, PAPER, GOOD, BAD = (28, 32, 40), (112, 118, 128), (255, 255, 255), (20, 130, 70), (190, 70, 30)
BOLD = 0.35
"""Pixels that bold letters are drawn wider: the font that comes with Pillow has one weight."""


class Sheet:
    """A page to put pictures and words on.

    Args:
        width: pixels.
        height: pixels.
    """

    def __init__(self, width: int, height: int) -> None:
        self._image = Image.new("RGB", (width, height), PAPER)
        self._pen = ImageDraw.Draw(self._image)

    @property
    def pixels(self) -> Pictures:
        """``[H, W, 3]`` as it is now."""
        return np.asarray(self._image)

    def text(self, place: tuple[int, int], words: str, size: int = 16, color: tuple[int, int, int] = INK,
             *, bold: bool = False, right: bool = False) -> None:  # fmt: skip
        """Words with their upper left (or right) corner at a place."""
        font = ImageFont.load_default(size)
        anchor = "ra" if right else "la"
        self._pen.text(place, words, fill=color, font=font, anchor=anchor, stroke_width=BOLD if bold else 0,
                       stroke_fill=color)  # fmt: skip

    def picture(self, place: tuple[int, int], pixels: Pictures, size: tuple[int, int] | None = None) -> None:
        """A picture with its upper left corner at a place, scaled to ``(height, width)``."""
        image = Image.fromarray(np.ascontiguousarray(pixels))
        if size is not None and (image.height, image.width) != size:
            image = image.resize((size[1], size[0]), Image.Resampling.LANCZOS)
        self._image.paste(image, place)

    def rule(self, y: int, left: int, right: int, color: tuple[int, int, int] = (222, 225, 230)) -> None:
        """A thin line across."""
        self._pen.line([(left, y), (right, y)], fill=color, width=1)

    def dot(self, place: tuple[int, int], color: tuple[int, int, int], radius: int = 6) -> None:
        """A mark of a legend."""
        x, y = place
        self._pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=color)


def evenly(count: int, shown: int) -> list[int]:
    """Indices of ``shown`` things out of ``count``, first and last among them."""
    return sorted({round(float(place)) for place in np.linspace(0, count - 1, min(count, shown))})


def colored_depth(depths: Sequence[NDArray[np.floating]], reference: int = 0) -> list[Pictures]:
    """Depth maps in the colours of one range, that of one of them; black where not known.

    Args:
        depths: ``[H, W]`` each, 0 or not finite where not known.
        reference: whose 2nd to 98th percentile is the range.
    """
    import torch

    from gen3r_core.io.colormap import spectral

    usable = [np.isfinite(depth) & (depth > 0) for depth in depths]
    ruling = depths[reference][usable[reference]]
    low, high = np.percentile(ruling, [2, 98]) if len(ruling) else (0.0, 1.0)
    found = []
    for depth, known in zip(depths, usable, strict=True):
        scaled = np.where(known, (depth - low) / max(high - low, 1e-9), 0.0).astype(np.float32)
        colors = spectral(torch.from_numpy(scaled)).numpy() * known[..., None]
        found.append(np.asarray(colors, dtype=np.uint8))
    return found
