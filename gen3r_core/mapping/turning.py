"""How far a camera turned between two images that show nothing to match: a wall's shading, an edge, a corner.

A camera that only turns moves its image by ``K R K^-1``, whatever is in it. The rotation is the one with which the
gradients of both images are most alike: first every turn about the camera's vertical axis is tried, then all three
axes are refined.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen3r_core.errors import InputError
from gen3r_core.geometry.poses import Array
from gen3r_core.mapping.similarity import so3_exp

__all__ = ["Turn", "TurnOptions", "turn_between"]

_SIDE = 96
_BLUR = 1.5
_OTHER = math.radians(6)
"""Turns that are farther from the best one are other ones."""


@dataclass(frozen=True)
class TurnOptions:
    """What is tried, and believed.

    Attributes:
        most_deg: turns that are tried, either way.
        step_deg: from one to the next.
        min_overlap: share of the image that the other one has to show.
        min_likeness: of the gradients, -1 to 1.
        min_lead: by how much any other turn has to be less alike.

    Raises:
        InputError: numbers make no sense.
    """

    most_deg: float = 30.0
    step_deg: float = 1.0
    min_overlap: float = 0.4
    min_likeness: float = 0.45
    min_lead: float = 0.04

    def __post_init__(self) -> None:
        if not 0 < self.step_deg < self.most_deg < 90 or not 0 < self.min_overlap <= 1:
            raise InputError(f"turns are tried in steps up to less than 90 degrees, got {self}")


@dataclass(frozen=True, eq=False)
class Turn:
    """A rotation between two cameras.

    Attributes:
        rotation: ``[3, 3]`` from the first camera's axes to the second's.
        likeness: of the gradients, -1 to 1.
        trusted: whether it is alike enough, and clearly more than other turns.
    """

    rotation: Array
    likeness: float
    trusted: bool


class _Pair:
    """Gradients of two images, compared for a rotation."""

    def __init__(self, first: NDArray[np.uint8], second: NDArray[np.uint8], K: Array) -> None:
        import cv2

        share = min(1.0, _SIDE / max(first.shape[:2]))
        size = (max(8, round(first.shape[1] * share)), max(8, round(first.shape[0] * share)))
        # Scaled about corners; the first pixel's centre is at (0, 0).
        scale = np.diag([size[0] / first.shape[1], size[1] / first.shape[0], 1.0])
        half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1.0]])
        self._K = np.linalg.inv(half) @ scale @ half @ K
        self._size = size
        self._fields = [_gradients(cv2, image, size) for image in (first, second)]
        self._seen = np.ones((size[1], size[0]), dtype=np.float32)

    def likeness(self, rotation: Array, min_overlap: float) -> float:
        """Of both images' gradients where both see; -1 where they overlap too little."""
        import cv2

        H = self._K @ rotation @ np.linalg.inv(self._K)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        mask = cv2.warpPerspective(self._seen, H, self._size, flags=flags) > 0.99
        if mask.mean() < min_overlap:
            return -1.0
        a, b = self._fields[0][mask], cv2.warpPerspective(self._fields[1], H, self._size, flags=flags)[mask]
        return float((a * b).sum() / math.sqrt(float((a * a).sum()) * float((b * b).sum()) + 1e-12))


def _gradients(cv2: Any, image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.float32]:
    """``[h, w, 2]``, strong ones tamed: one window's edge is not all there is."""
    grey = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32), size, interpolation=cv2.INTER_AREA)
    grey = cv2.GaussianBlur(grey, (0, 0), _BLUR)
    field = np.stack([cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)], axis=-1)
    length = np.linalg.norm(field, axis=-1, keepdims=True)
    tamed: NDArray[np.float32] = (field / np.sqrt(length + 1.0)).astype(np.float32)
    return tamed


def turn_between(
    first: NDArray[np.uint8], second: NDArray[np.uint8], K: Array, options: TurnOptions | None = None
) -> Turn:
    """The rotation between two images of a camera that turns.

    Args:
        first: ``[H, W, 3]`` uint8 RGB.
        second: the same.
        K: ``[3, 3]`` intrinsics of both, pixels.
        options: what is tried.
    """
    from scipy.optimize import minimize

    options = options or TurnOptions()
    pair = _Pair(np.ascontiguousarray(first), np.ascontiguousarray(second), K)
    count = 2 * round(options.most_deg / options.step_deg) + 1
    angles = np.radians(np.linspace(-options.most_deg, options.most_deg, count))
    found = np.array([pair.likeness(so3_exp(np.array([0, angle, 0])), options.min_overlap) for angle in angles])
    best = int(found.argmax())
    others = found[np.abs(angles - angles[best]) > _OTHER]
    step = math.radians(options.step_deg)
    start = np.array([0, angles[best], 0])
    simplex = start + step * np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]])
    solved = minimize(
        lambda v: -pair.likeness(so3_exp(v), options.min_overlap), start, method="Nelder-Mead",
        options={"initial_simplex": simplex, "maxfev": 120, "xatol": 1e-4, "fatol": 1e-5},
    )  # fmt: skip
    likeness = float(-solved.fun)
    lead = likeness - (float(others.max()) if len(others) else -1.0)
    return Turn(so3_exp(solved.x), likeness, likeness >= options.min_likeness and lead >= options.min_lead)
