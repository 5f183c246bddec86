"""Pictures of lenses made pictures of pinhole cameras. Pure numpy.

A lens moves the image point of a ray: *normalised* coordinates ``x = X / Z, y = Y / Z`` become distorted ones, and
these pixels. The models are those that ROS and OpenCV know under these names; formulas follow OpenCV's documentation
of ``calib3d`` and ``fisheye``, in the same order of coefficients.

A rectified picture looks the same way as its camera: z-depth stays what it was.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen3r_core.errors import InputError

__all__ = ["DISTORTION_MODELS", "Rectification", "distort", "rectified_intrinsics", "rectify"]

Array = NDArray[np.float64]

DISTORTION_MODELS = MappingProxyType({"plumb_bob": (4, 5), "rational_polynomial": (8,), "equidistant": (4,)})
"""Models, and how many coefficients each has."""

_WIDEST = math.tan(math.radians(65.0))
"""A pinhole picture that shows more to one side of its middle is all border: fisheye lenses are cut there."""
_LONGEST = 8.0
"""Focal length of a rectified picture over the lens's, at most."""
_EDGE = 65
"""Points looked at along each edge of a picture."""
_RADII = 200
_HALVINGS = 40
_BLOCK = 64
"""Rows at a time: between blocks other threads get their turn."""
_ONE = 1 << 7
"""Weights of neighbouring pixels are whole numbers of this."""


def distort(model: str, coefficients: Sequence[float], points: NDArray[np.floating[Any]]) -> Array:
    """Where a lens moves image points.

    With ``r^2 = x^2 + y^2``, "plumb_bob" ``(k1, k2, p1, p2[, k3])`` and "rational_polynomial" ``(k1, k2, p1, p2, k3,
    k4, k5, k6)``::

        x' = x (1 + k1 r^2 + k2 r^4 + k3 r^6) / (1 + k4 r^2 + k5 r^4 + k6 r^6) + 2 p1 x y + p2 (r^2 + 2 x^2)
        y' = y (the same) + p1 (r^2 + 2 y^2) + 2 p2 x y

    "equidistant" ``(k1, k2, k3, k4)``, with ``a = atan r``: ``x' = x / r  a (1 + k1 a^2 + k2 a^4 + k3 a^6 + k4 a^8)``.

    Args:
        model: one of :data:`DISTORTION_MODELS`; empty moves nothing.
        coefficients: of the model.
        points: ``[..., 2]`` normalised coordinates.

    Returns:
        ``[..., 2]`` float64, the same.

    Raises:
        InputError: the model is not known, or has another number of coefficients.
    """
    k = _checked(model, coefficients)
    xy = np.asarray(points, dtype=np.float64)
    if not model:
        return xy
    x, y = xy[..., 0], xy[..., 1]
    square = x * x + y * y
    factor = _factor(model, k, np.sqrt(square))
    if model == "equidistant":
        return xy * factor[..., None]
    p1, p2 = k[2], k[3]
    return np.stack(
        [x * factor + 2 * p1 * x * y + p2 * (square + 2 * x * x),
         y * factor + p1 * (square + 2 * y * y) + 2 * p2 * x * y], axis=-1
    )  # fmt: skip


def rectified_intrinsics(
    intrinsics: NDArray[np.floating[Any]], size: tuple[int, int], model: str, coefficients: Sequence[float]
) -> Array:
    """The pinhole camera whose picture shows as much as a lens saw, and nothing that it did not see.

    Args:
        intrinsics: ``[3, 3]`` pixels of ``size``, the first pixel's *corner* at (0, 0), zero skew.
        size: ``(height, width)``.
        model: of the lens, see :func:`distort`.
        coefficients: of the model.

    Returns:
        ``[3, 3]`` float64 for the same size: the same principal point, square pixels, and the shortest focal length
        at which all pixels have something to show. Without distortion the intrinsics as they are.

    Raises:
        InputError: as :func:`distort`, or the coefficients bend the picture so that no such camera can be found.
    """
    K = np.asarray(intrinsics, dtype=np.float64)
    k = _checked(model, coefficients)
    if not model:
        return K.copy()
    height, width = size
    cx, cy = K[0, 2], K[1, 2]
    edge = np.linspace(0.0, 1.0, _EDGE)
    none, all_ = np.zeros_like(edge), np.ones_like(edge)
    border = np.concatenate([np.stack(pair, axis=-1) for pair in (
        (edge, none), (edge, all_), (none, edge), (all_, edge))]) * (width, height) - (cx, cy)  # fmt: skip
    reach = _reach(model, k)

    def shows(focal: float) -> bool:
        rays = border / focal
        if np.hypot(rays[:, 0], rays[:, 1]).max() > reach:
            return False
        pixels = distort(model, coefficients, rays) * (K[0, 0], K[1, 1]) + (cx, cy)
        slack = 1e-6 * max(size)
        return bool((pixels >= -slack).all() and (pixels <= (width + slack, height + slack)).all())

    low = max(float(np.abs(border).max()) / _WIDEST, 1e-6)
    high = max(_LONGEST * max(K[0, 0], K[1, 1]), 2 * low)
    if not shows(high):
        raise InputError(
            f"the distortion {model} with the coefficients {list(coefficients)} leaves nothing of a picture of "
            f"{width}x{height} pixels with the focal lengths {K[0, 0]:g} and {K[1, 1]:g}; calibrate the camera anew"
        )
    if shows(low):
        high = low
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if shows(middle) else (middle, high)
    return np.array([[high, 0.0, cx], [0.0, high, cy], [0.0, 0.0, 1.0]])


@dataclass(frozen=True, eq=False)
class Rectification:
    """Where each pixel of a rectified picture is in the lens's.

    Attributes:
        intrinsics: ``[3, 3]`` of the rectified picture.
        x: ``[H, W]`` float32, pixels of the lens's picture, the first pixel's *centre* at (0, 0).
        y: the same.
    """

    intrinsics: Array
    x: NDArray[np.float32]
    y: NDArray[np.float32]

    @property
    def size(self) -> tuple[int, int]:
        """``(height, width)`` of both pictures."""
        return self.x.shape[0], self.x.shape[1]

    def picture(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Rectify a picture, interpolating linearly.

        Args:
            pixels: ``[H, W, 3]`` uint8 of this size.

        Returns:
            ``[H, W, 3]`` uint8.

        Raises:
            InputError: another shape or type.
        """
        height, width = self.size
        if pixels.shape != (height, width, 3) or pixels.dtype != np.uint8:
            raise InputError(f"a picture of [{height}, {width}, 3] uint8 can be rectified here, got {pixels.shape} "
                             f"{pixels.dtype}")  # fmt: skip
        flat = pixels.reshape(-1, 3)
        made = np.empty((height, width, 3), dtype=np.uint8)
        for top in range(0, height, _BLOCK):
            rows = slice(top, min(top + _BLOCK, height))
            x = np.clip(self.x[rows], 0, width - 1)
            y = np.clip(self.y[rows], 0, height - 1)
            left, up = np.minimum(x.astype(np.int32), width - 2), np.minimum(y.astype(np.int32), height - 2)
            across = np.rint((x - left) * _ONE).astype(np.uint32)[..., None]
            down = np.rint((y - up) * _ONE).astype(np.uint32)[..., None]
            first = up * width + left
            near = [np.take(flat, first + step, axis=0) for step in (0, 1, width, width + 1)]
            upper = near[0] * (_ONE - across) + near[1] * across
            lower = near[2] * (_ONE - across) + near[3] * across
            both = np.asarray(upper * (_ONE - down) + lower * down, dtype=np.uint32)
            made[rows] = (both + (1 << 13)) >> 14
        return made

    def depth(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Rectify a depth map by its nearest values: between two things there is nothing.

        Args:
            values: ``[h, w]`` of any size, of the lens's whole field of view.

        Returns:
            ``[H, W]``.
        """
        (height, width), (rows, columns) = self.size, values.shape
        column = ((self.x + 0.5) * (columns / width)).astype(np.int32).clip(0, columns - 1)
        row = ((self.y + 0.5) * (rows / height)).astype(np.int32).clip(0, rows - 1)
        return np.asarray(values[row, column])


def rectify(
    intrinsics: NDArray[np.floating[Any]], size: tuple[int, int], model: str, coefficients: Sequence[float]
) -> Rectification:
    """See where the pixels of :func:`rectified_intrinsics` come from. Arguments and errors are the same.

    Raises:
        InputError: also if the picture is narrower than two pixels.
    """
    height, width = size
    if min(size) < 2:
        raise InputError(f"a picture of {width}x{height} pixels cannot be rectified; two each way are needed")
    K = np.asarray(intrinsics, dtype=np.float64)
    made = rectified_intrinsics(K, size, model, coefficients)
    x = (np.arange(width) + 0.5 - made[0, 2]) / made[0, 0]
    y = (np.arange(height) + 0.5 - made[1, 2]) / made[1, 1]
    moved = distort(model, coefficients, np.stack(np.meshgrid(x, y), axis=-1))
    pixels = moved * (K[0, 0], K[1, 1]) + (K[0, 2] - 0.5, K[1, 2] - 0.5)
    return Rectification(made, *(np.ascontiguousarray(pixels[..., axis], dtype=np.float32) for axis in (0, 1)))


def _checked(model: str, coefficients: Sequence[float]) -> Array:
    counts = DISTORTION_MODELS.get(model, () if model else (0,))
    k = np.asarray(coefficients, dtype=np.float64)
    if len(k) not in counts or not np.isfinite(k).all():
        known = "; ".join(f"{name} with {' or '.join(map(str, many))}" for name, many in DISTORTION_MODELS.items())
        raise InputError(f"the distortion model {model!r} with the coefficients {list(coefficients)} is not "
                         f"understood; finite ones of these are: {known}")  # fmt: skip
    return k


def _factor(model: str, k: Array, r: Array) -> Array:
    """What the radius is multiplied by, tangential terms apart."""
    if model == "equidistant":
        a = np.arctan(r)
        s = a * a
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.where(r > 1e-9, a / r, 1.0) * (1 + s * (k[0] + s * (k[1] + s * (k[2] + s * k[3])))))
    s = r * r
    k3, k4, k5, k6 = (*k[4:], *(0.0,) * (8 - len(k)))[:4]
    above = 1 + s * (k[0] + s * (k[1] + s * k3))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(above / (1 + s * (k4 + s * (k5 + s * k6))))


def _reach(model: str, k: Array) -> float:
    """The radius up to which farther out stays farther out; beyond it the polynomials mean nothing."""
    r = np.linspace(0.0, math.sqrt(2) * _WIDEST, _RADII)
    moved = r * _factor(model, k, r)
    grows = np.diff(moved) > 0
    return math.inf if grows.all() else float(r[int(np.argmin(grows))])
