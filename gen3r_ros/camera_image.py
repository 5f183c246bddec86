"""An image that may become part of a reconstruction: its message, its camera, and, where there is one, its depth.

Messages are kept as they come. They are decoded, and rectified where the lens bends them, when a reconstruction wants
them: never in a callback.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage

from gen3r_core.errors import InputError
from gen3r_core.geometry.fitting import covering_box, cut_intrinsics, cut_nearest, cut_picture
from gen3r_core.geometry.rectification import Rectification, rectified_intrinsics, rectify
from gen3r_core.reconstruction.keyframes import Keyframe
from gen3r_ros.conversions.cameras import CameraModel
from gen3r_ros.conversions.compressed import compressed_rgb, compressed_size
from gen3r_ros.conversions.compressed_depth import metric_depth
from gen3r_ros.conversions.images import check_image, rgb_array
from gen3r_ros.conversions.problems import MessageError

_CAMERAS = 16
"""Whose rectification is remembered; of 640x480 pixels it takes 2.5 MB each."""


@dataclass(frozen=True, eq=False)
class CameraImage:
    """An image that was not decoded yet.

    Attributes:
        message: Image or CompressedImage.
        camera: that took it, as its camera_info has it.
        frame: the camera's optical frame.
        why_no_pose: one sentence, where TF did not tell the camera's pose.
        depth: message with the depth of the same view; None where there is none.
        source: name of the camera; empty where there is only one.
    """

    message: Any
    camera: CameraModel
    frame: str
    why_no_pose: str = ""
    depth: Any = None
    source: str = ""

    @property
    def pinhole(self) -> CameraModel:
        """The camera of :meth:`rgb`: without distortion.

        Raises:
            MessageError: "intrinsics": the distortion makes no sense.
        """
        return pinhole_of(self.camera)

    def rgb(self) -> NDArray[np.uint8]:
        """The picture as a pinhole camera would have taken it: ``[H, W, 3]`` uint8.

        Raises:
            MessageError: it is damaged.
        """
        message = self.message
        pixels = compressed_rgb(message) if isinstance(message, CompressedImage) else rgb_array(message)
        lens = _lens_of(self.camera)
        return pixels if lens is None else lens.picture(pixels)

    def view(self, size: tuple[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
        """The middle of the picture in another size, see :mod:`gen3r_core.geometry.fitting`.

        Args:
            size: ``(height, width)``.

        Returns:
            ``[height, width, 3]`` uint8, and its intrinsics ``[3, 3]``.

        Raises:
            MessageError: it is damaged.
        """
        pinhole, box = self.pinhole, covering_box(self.camera.size, size)
        return cut_picture(self.rgb(), box, size), cut_intrinsics(pinhole.intrinsics, box, size)

    def measured_depth(self, aspect: tuple[int, int], size: tuple[int, int]) -> NDArray[np.float32] | None:
        """What the depth camera saw of a :meth:`view`.

        Args:
            aspect: size of the view.
            size: ``(height, width)`` of the result, which shows as much as the view.

        Returns:
            ``[height, width]`` metres, NaN where nothing was measured; None where there is no depth image.

        Raises:
            MessageError: it is damaged.
        """
        if self.depth is None:
            return None
        depth, lens = metric_depth(self.depth), _lens_of(self.camera)
        if lens is not None:
            depth = lens.depth(depth)
        return cut_nearest(depth, self.camera.size, covering_box(self.camera.size, aspect), size)


ImageKeyframe = Keyframe[CameraImage]


def common_size(window: Sequence[ImageKeyframe]) -> tuple[int, int]:
    """``(height, width)`` that all pictures of a window are brought to: that of the one with the fewest pixels."""
    return min((keyframe.payload.camera.size for keyframe in window), key=lambda size: (size[0] * size[1], size))


def size_of(message: Any) -> tuple[int, int]:
    """``(height, width)`` of an image that can be read, as far as its header tells.

    Raises:
        MessageError: it cannot.
    """
    if isinstance(message, CompressedImage):
        return compressed_size(message)
    check_image(message)
    return message.height, message.width


@functools.lru_cache(_CAMERAS)
def pinhole_of(camera: CameraModel) -> CameraModel:
    """The camera without distortion that sees as much.

    Raises:
        MessageError: "intrinsics": the distortion makes no sense.
    """
    if not camera.distortion_model:
        return camera
    try:
        K = rectified_intrinsics(camera.intrinsics, camera.size, camera.distortion_model, camera.distortion)
    except InputError as error:
        raise MessageError("intrinsics", str(error)) from error
    return CameraModel(K, camera.size)


@functools.lru_cache(_CAMERAS)
def _lens_of(camera: CameraModel) -> Rectification | None:
    if not camera.distortion_model:
        return None
    try:
        return rectify(camera.intrinsics, camera.size, camera.distortion_model, camera.distortion)
    except InputError as error:
        raise MessageError("intrinsics", str(error)) from error
