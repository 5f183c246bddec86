"""Which points are shown, and in which colours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from gen3r_core.viewer.content import Content

__all__ = ["COLORINGS", "GENERATED", "OBSERVED", "Chosen", "Coloring", "choose", "colorings", "colors_of", "thresholds"]

Coloring = Literal["image", "source", "confidence"]
"""By what was seen, by where it comes from (observed or generated), or by how sure it is."""

COLORINGS: tuple[Coloring, ...] = get_args(Coloring)

OBSERVED = (58, 122, 214)
GENERATED = (240, 138, 36)

_BLOCK = 1_000_000
_SAMPLE = 1_000_000
_SHADE = 0.35
_RAMP = np.array([[60, 20, 110], [45, 90, 170], [40, 150, 120], [150, 200, 60], [250, 230, 60]], np.float64)
"""From unsure to sure: dark violet, blue, green, yellow (sRGB)."""


@dataclass(frozen=True)
class Chosen:
    """A choice of points.

    Attributes:
        until: points that frames up to this one saw, and those of unknown frames; None for all.
        below: height in map units above which nothing is shown; None for no cut.
        least: confidence below which nothing is shown; None for no threshold.
        most: points at once.
    """

    until: int | None = None
    below: float | None = None
    least: float | None = None
    most: int = 500_000


def choose(content: Content, heights: NDArray[np.float32], chosen: Chosen) -> NDArray[np.int64]:
    """The points to show.

    Args:
        content: shuffled (:func:`~gen3r_core.viewer.content.shuffled`): what is over ``most`` is left out evenly.
        heights: ``[N]`` float32 of its points, map units.
        chosen: what to show.

    Returns:
        ``[M]`` int64 indices, increasing, at most ``chosen.most``.
    """
    found, count = [np.zeros(0, np.int64)], 0
    for start in range(0, len(heights), _BLOCK):
        part = slice(start, start + _BLOCK)
        kept = np.ones(len(heights[part]), np.bool_)
        if chosen.until is not None and content.frame is not None:
            kept &= content.frame[part] <= chosen.until
        if chosen.below is not None:
            kept &= heights[part] <= chosen.below
        if chosen.least is not None and content.confidence is not None:
            kept &= content.confidence[part] >= chosen.least
        index = np.flatnonzero(kept)[: chosen.most - count] + start
        found.append(index)
        count += len(index)
        if count >= chosen.most:
            break
    return np.concatenate(found)


def thresholds(content: Content) -> NDArray[np.float64] | None:
    """The confidence that so many percent of all points are below.

    Returns:
        ``[101]`` float64, by percent; None where confidence is not known or the same everywhere.
    """
    if content.confidence is None:
        return None
    return np.percentile(content.confidence[:_SAMPLE].astype(np.float64), np.arange(101))


def colorings(content: Content) -> tuple[Coloring, ...]:
    """The colourings for which the content has what they need."""
    there = {"image": True, "source": content.generated is not None, "confidence": content.confidence is not None}
    return tuple(name for name in COLORINGS if there[name])


def colors_of(content: Content, index: NDArray[np.int64], coloring: Coloring) -> NDArray[np.uint8]:
    """The colours of some points.

    "source" keeps the light and dark of the image, so that shapes stay visible. "confidence" runs from dark
    violet (the 2nd percentile of all points and less) to yellow (the 98th and more).

    Args:
        content: that has what the colouring needs, see :func:`colorings`.
        index: ``[M]`` int64 of its points.
        coloring: which.

    Returns:
        ``[M, 3]`` uint8 RGB.
    """
    colors: NDArray[np.uint8] = content.colors[index]
    if coloring == "source" and content.generated is not None:
        base = np.array([OBSERVED, GENERATED], np.float32)[content.generated[index].astype(np.int64)]
        light = colors.mean(axis=1, keepdims=True, dtype=np.float32) / 255 - 0.5
        shaded: NDArray[np.float32] = (base + 255 * _SHADE * light).round().clip(0, 255)
        return shaded.astype(np.uint8)
    limits = thresholds(content)
    if coloring == "confidence" and content.confidence is not None and limits is not None:
        low, high = limits[2], limits[98]
        share = (content.confidence[index] - low) / max(high - low, 1e-12)
        steps = np.linspace(0, 1, len(_RAMP))
        return np.stack([np.interp(share, steps, ramp).round() for ramp in _RAMP.T], axis=1).astype(np.uint8)
    return colors
