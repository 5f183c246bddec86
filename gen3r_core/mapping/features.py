"""Points of images that can be found again, and which of them are the same in two images.

Scale-invariant features (D. Lowe, IJCV 2004), compared by the square roots of their descriptors (R. Arandjelovic and
A. Zisserman, CVPR 2012). A match has to be the best one either way, and clearly better than the second best.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gen3r_core.errors import InputError
from gen3r_core.geometry.poses import Array

__all__ = ["FeatureBook", "FeatureOptions", "Features", "find_features", "match_features"]

_SMALLEST = 16
_CONTRAST, _EDGE = 0.005, 20
"""Lower and higher than usual: walls show little, and what matches wrongly is found out."""
_KEPT = 128


@dataclass(frozen=True)
class FeatureOptions:
    """Which features are found, and what is a match.

    Attributes:
        count: of features of an image, at most.
        ratio: distance of the best match over that of the second best, at most.

    Raises:
        InputError: numbers make no sense.
    """

    count: int = 4000
    ratio: float = 0.85

    def __post_init__(self) -> None:
        if self.count < 1 or not 0 < self.ratio <= 1:
            raise InputError(f"features need a count and a ratio in (0, 1], got {self.count} and {self.ratio}")


class Features(NamedTuple):
    """Of one image.

    Attributes:
        pixels: ``[F, 2]`` float64 x and y, the first pixel's centre at (0, 0).
        descriptors: ``[F, 128]`` float32 of length 1.
    """

    pixels: Array
    descriptors: NDArray[np.float32]


def find_features(image: NDArray[np.uint8], options: FeatureOptions | None = None) -> Features:
    """Features of an image.

    Args:
        image: ``[H, W, 3]`` uint8 RGB.
        options: which.

    Raises:
        InputError: the image has another shape or type.
    """
    import cv2 as opencv

    cv2: Any = opencv  # its types leave SIFT out
    options = options or FeatureOptions()
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise InputError(f"features are found in uint8 images [H, W, 3], got {image.dtype} {list(image.shape)}")
    nothing = Features(np.zeros((0, 2)), np.zeros((0, 128), dtype=np.float32))
    if min(image.shape[:2]) < _SMALLEST:
        return nothing
    # Without the precise one all places are a quarter of a pixel off.
    sift = cv2.SIFT_create(
        nfeatures=options.count, contrastThreshold=_CONTRAST, edgeThreshold=_EDGE, enable_precise_upscale=True
    )
    points, found = sift.detectAndCompute(cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY), None)
    if not points:
        return nothing
    pixels = np.array([point.pt for point in points], dtype=np.float64)
    # A corner with two directions is found twice; for geometry it is one place, and stays so as ties are not broken.
    roots = np.sqrt(found / np.maximum(found.sum(axis=1, keepdims=True), 1e-9))
    return Features(pixels, roots.astype(np.float32))


def match_features(first: Features, second: Features, options: FeatureOptions | None = None) -> NDArray[np.int64]:
    """``[M, 2]`` numbers of features that are the same in both, in order of the first."""
    options = options or FeatureOptions()
    if len(first.pixels) < 2 or len(second.pixels) < 2:
        return np.zeros((0, 2), dtype=np.int64)
    alike = first.descriptors @ second.descriptors.T
    rows = np.arange(len(alike))
    best = alike.argmax(axis=1)
    value = alike[rows, best]
    mutual = alike.argmax(axis=0)[best] == rows
    alike[rows, best] = -1.0
    distance, runner_up = (np.sqrt(np.maximum(2 - 2 * x, 0)) for x in (value, alike.max(axis=1)))
    good = mutual & (distance <= options.ratio * runner_up)
    return np.stack([rows[good], best[good]], axis=1).astype(np.int64)


class FeatureBook:
    """Features of frames, and matches between them; what was asked for last is remembered.

    Args:
        image: gives a frame's image by its number.
        options: of features and matches.
        size: ``(height, width)`` of the pixels that places are told in, where ``image`` gives finer ones; images that
            are at hand are not looked at then.
    """

    def __init__(
        self,
        image: Callable[[int], NDArray[np.uint8]],
        options: FeatureOptions | None = None,
        *,
        size: tuple[int, int] | None = None,
    ) -> None:
        self._image, self._options, self._size = image, options or FeatureOptions(), size
        self._features: OrderedDict[int, Features] = OrderedDict()
        self._matches: OrderedDict[tuple[int, int], NDArray[np.int64]] = OrderedDict()

    def features(self, frame: int, image: NDArray[np.uint8] | None = None) -> Features:
        """Of a frame; its image may be given, if it is at hand."""
        if frame not in self._features:
            picture = self._image(frame) if image is None or self._size is not None else image
            found = find_features(picture, self._options)
            if self._size is not None:
                found = _told_in(found, picture.shape[:2], self._size)
            _remember(self._features, frame, found, _KEPT)
        self._features.move_to_end(frame)
        return self._features[frame]

    def matches(self, first: int, second: int) -> NDArray[np.int64]:
        """``[M, 2]`` numbers of features of two frames that are the same."""
        if (first, second) not in self._matches:
            found = match_features(self.features(first), self.features(second), self._options)
            _remember(self._matches, (first, second), found, 8 * _KEPT)
        return self._matches[first, second]


def _told_in(found: Features, size: tuple[int, ...], wanted: tuple[int, int]) -> Features:
    scale = np.array([wanted[1] / size[1], wanted[0] / size[0]])
    return found._replace(pixels=(found.pixels + 0.5) * scale - 0.5)


def _remember(book: OrderedDict[Any, Any], key: Any, value: Any, limit: int) -> None:
    book[key] = value
    while len(book) > limit:
        book.popitem(last=False)
