"""Intrinsics of a camera from its camera_info.

ROS, as OpenCV, has the first pixel's *centre* at (0, 0); this project its *corner*
(:mod:`gen3r_core.geometry.cameras`). Half a pixel is added to principal points here, and taken off where messages are
made.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen3r_core.messages.problems import MessageError

CameraInfo = Any
"""A sensor_msgs/CameraInfo with the field names of ROS 2, whoever deserialised it."""

DISTORTION_MODELS = MappingProxyType({"plumb_bob": (4, 5), "rational_polynomial": (8,), "equidistant": (4,)})
"""Models, and how many coefficients each has."""
_SMALLEST_FOCAL, _LARGEST_FOCAL = 0.05, 100.0  # in image widths: 168 degrees, and a telescope


@dataclass(frozen=True, eq=False)
class CameraModel:
    """A calibrated camera.

    Attributes:
        intrinsics: ``[3, 3]`` float64, pixels of ``size``, the first pixel's *corner* at (0, 0), zero skew.
        size: ``(height, width)`` of its images, pixels.
        distortion_model: one of :data:`DISTORTION_MODELS`; empty where there is no distortion.
        distortion: its coefficients in ROS's order (those of OpenCV); empty where there is none.
    """

    intrinsics: NDArray[np.float64]
    size: tuple[int, int]
    distortion_model: str = ""
    distortion: tuple[float, ...] = ()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CameraModel):
            return NotImplemented
        same = (self.size, self.distortion_model, self.distortion)
        return same == (other.size, other.distortion_model, other.distortion) and bool(
            np.array_equal(self.intrinsics, other.intrinsics)
        )

    def __hash__(self) -> int:
        return hash((self.intrinsics.tobytes(), self.size, self.distortion_model, self.distortion))


def camera_model(info: CameraInfo, *, rectified: bool = False) -> CameraModel:
    """The camera behind images.

    Binning and region of interest are taken into account: size and intrinsics are those of the images.

    Args:
        info: as the driver sends it.
        rectified: of ``image_rect`` topics: the intrinsics are those of ``p``, and there is no distortion.

    Raises:
        MessageError: "size" or "intrinsics": not calibrated, not finite, or nonsense.
    """
    size, offset, binning = _window(info)
    matrix = np.array(info.p, dtype=np.float64).reshape(3, 4)[:, :3] if rectified else np.array(info.k).reshape(3, 3)
    name = "p" if rectified else "k"
    fx, skew, cx, low, fy, cy, zero, none, one = (float(value) for value in matrix.ravel())
    if fx == 0 or fy == 0:
        raise MessageError(
            "intrinsics",
            f"camera_info of {info.header.frame_id!r} is not calibrated: {name} has a focal length of 0 (REP-104); "
            f"calibrate the camera, or let its driver load the calibration",
        )
    if not np.isfinite(matrix).all():
        raise MessageError("intrinsics", f"camera_info of {info.header.frame_id!r} has values in {name} that are not "
                           f"finite: {matrix.ravel().tolist()}")  # fmt: skip
    full_height, full_width = info.height, info.width
    sane = (
        all(_SMALLEST_FOCAL <= focal / full_width <= _LARGEST_FOCAL for focal in (fx, fy))
        and -full_width < cx < 2 * full_width
        and -full_height < cy < 2 * full_height
        and abs(skew) <= 1e-3 * fx
        and (low, zero, none, one) == (0, 0, 0, 1)
    )
    if not sane:
        raise MessageError(
            "intrinsics",
            f"camera_info of {info.header.frame_id!r} makes no sense for {full_width}x{full_height} pixels: {name} is "
            f"{matrix.ravel().tolist()}, and should be [fx, 0, cx, 0, fy, cy, 0, 0, 1] in pixels",
        )
    K = np.array(
        [
            [fx / binning[0], 0.0, (cx + 0.5 - offset[0]) / binning[0]],
            [0.0, fy / binning[1], (cy + 0.5 - offset[1]) / binning[1]],
            [0.0, 0.0, 1.0],
        ]
    )
    if rectified:
        return CameraModel(K, size)
    return CameraModel(K, size, *_distortion(info))


def _window(info: CameraInfo) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Size ``(height, width)`` of the images, and first column and row, and binning ``(x, y)``."""
    roi, full = info.roi, (info.height, info.width)
    if min(full) < 1:
        raise MessageError("size", f"camera_info of {info.header.frame_id!r} has no size: {full[1]}x{full[0]} pixels")
    binning = (max(1, info.binning_x), max(1, info.binning_y))
    height, width = (roi.height, roi.width) if roi.height or roi.width else full
    outside = roi.x_offset + width > full[1] or roi.y_offset + height > full[0]
    size = (height // binning[1], width // binning[0])
    if min(size) < 1 or outside:
        raise MessageError(
            "size",
            f"camera_info of {info.header.frame_id!r} has a region of interest of {width}x{height} pixels at "
            f"({roi.x_offset}, {roi.y_offset}) with binning {binning}, which does not lie in {full[1]}x{full[0]}",
        )
    return size, (roi.x_offset, roi.y_offset), binning


def _distortion(info: CameraInfo) -> tuple[str, tuple[float, ...]]:
    values = tuple(float(value) for value in info.d)
    if not any(values):  # all 0, or none; NaN counts as something
        return "", ()
    counts = DISTORTION_MODELS.get(info.distortion_model)
    if counts is None or len(values) not in counts or not all(map(math.isfinite, values)):
        known = "; ".join(f"{name} with {' or '.join(map(str, many))}" for name, many in DISTORTION_MODELS.items())
        raise MessageError(
            "intrinsics",
            f"camera_info of {info.header.frame_id!r} has the distortion model {info.distortion_model!r} with the "
            f"coefficients {list(values)}; finite ones of these are understood: {known}",
        )
    return info.distortion_model, values
