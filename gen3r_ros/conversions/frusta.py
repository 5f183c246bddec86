"""Cameras as lines that RViz and Foxglove draw: visualization_msgs/MarkerArray."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from geometry_msgs.msg import Point, Pose, Quaternion, Vector3
from numpy.typing import NDArray
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from gen3r_core.errors import InputError
from gen3r_core.messages.cameras import CameraModel

LENGTH = 0.2
"""From the centre to the image, in the unit of the poses."""

_WIDTH = 0.01
_UP = 0.3
"""Height of the triangle that says where up is, over that of the image."""

# Of the points below: from the centre to the corners, round the image, and the triangle on its upper edge.
_LINES = ((0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (2, 3), (3, 4), (4, 1), (1, 5), (5, 2))


def frustum_lines(T_world_cam: NDArray[np.float64], model: CameraModel, length: float = LENGTH) -> NDArray[np.float64]:
    """The edges of what a camera sees.

    Args:
        T_world_cam: ``[4, 4]`` camera to world, OpenCV axes.
        model: its intrinsics; pixels have their corners at whole numbers.
        length: along the optical axis, in the unit of the pose.

    Returns:
        ``[10, 2, 3]`` ends of lines in the world.
    """
    height, width = model.size
    pixels = np.array([[0, 0], [width, 0], [width, height], [0, height], [width / 2, -_UP * height]], dtype=np.float64)
    rays = np.column_stack([pixels, np.ones(5)]) @ np.linalg.inv(model.intrinsics).T
    points = np.concatenate([np.zeros((1, 3)), rays * length]) @ T_world_cam[:3, :3].T + T_world_cam[:3, 3]
    lines: NDArray[np.float64] = points[np.array(_LINES)]
    return lines


def frusta_message(
    poses: NDArray[np.float64],
    models: Sequence[CameraModel],
    header: Header,
    name: str,
    color: tuple[float, float, float],
) -> MarkerArray:
    """Cameras as one marker, which takes the place of the last of its name.

    Args:
        poses: ``[N, 4, 4]`` camera to the header's frame, OpenCV axes.
        models: N of them.
        header: stamp and fixed frame.
        name: namespace of the marker.
        color: red, green and blue, 0 to 1.

    Raises:
        InputError: there are not as many cameras as poses.
    """
    if len(poses) != len(models):
        raise InputError(f"each pose has a camera, got {len(poses)} poses and {len(models)} cameras")
    ends = [frustum_lines(T, model) for T, model in zip(poses, models, strict=True)]
    corners = np.concatenate(ends).reshape(-1, 3).tolist() if ends else []
    red, green, blue = color
    marker = Marker(
        header=header,
        ns=name,
        id=0,
        type=Marker.LINE_LIST,
        action=Marker.ADD if corners else Marker.DELETE,
        pose=Pose(orientation=Quaternion(w=1.0)),
        scale=Vector3(x=_WIDTH, y=0.0, z=0.0),
        color=ColorRGBA(r=red, g=green, b=blue, a=1.0),
        points=[Point(x=x, y=y, z=z) for x, y, z in corners],
    )
    return MarkerArray(markers=[marker])


def no_frusta(header: Header) -> MarkerArray:
    """Takes all away that was drawn before."""
    return MarkerArray(markers=[Marker(header=header, action=Marker.DELETEALL)])
