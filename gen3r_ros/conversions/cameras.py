"""sensor_msgs/CameraInfo from intrinsics; reading it is the core's part.

ROS, as OpenCV, has the first pixel's *centre* at (0, 0); this project its *corner*
(:mod:`gen3r_core.geometry.cameras`). Half a pixel is taken off principal points here.
"""

from __future__ import annotations

import numpy as np
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from gen3r_core.messages.cameras import DISTORTION_MODELS, CameraModel, camera_model

__all__ = ["DISTORTION_MODELS", "CameraModel", "camera_info", "camera_model"]


def camera_info(model: CameraModel, header: Header) -> CameraInfo:
    """The message of a camera; rectified images have the same intrinsics.

    Args:
        model: the camera.
        header: stamp and frame (the camera's optical frame).
    """
    K = model.intrinsics.copy()
    K[:2, 2] -= 0.5
    return CameraInfo(
        header=header,
        height=model.size[0],
        width=model.size[1],
        distortion_model=model.distortion_model or "plumb_bob",
        d=list(model.distortion) or [0.0] * 5,
        k=K.ravel(),
        r=np.eye(3).ravel(),
        p=np.concatenate([K, np.zeros((3, 1))], axis=1).ravel(),
    )
