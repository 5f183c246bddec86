"""The messages of a map's bag: made with ``rosbags`` from the definitions of ROS 2, so that no ROS is needed."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rosbags.typesys import Stores, get_typestore

from gen3r_core.geometry.poses import Array, matrix_to_quaternion
from gen3r_core.maps.scene_map import MapCloud
from gen3r_core.maps.stamps import SECOND

__all__ = ["OPTICAL_FROM_BODY", "camera_info", "cloud", "compressed_image", "path", "store", "transforms"]

OPTICAL_FROM_BODY = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
"""``T_body_optical``: a body has x forward and z up, its camera z forward and y down (REP-103)."""

_POINT_STEP = 24
_FLOAT32, _UINT8, _INT32 = 7, 2, 5
_FIELDS = (
    ("x", 0, _FLOAT32),
    ("y", 4, _FLOAT32),
    ("z", 8, _FLOAT32),
    ("rgb", 12, _FLOAT32),
    ("confidence", 16, _FLOAT32),
    ("frame", 20, _INT32),
)


@cache
def store() -> Any:
    """Types and serialisers, of Jazzy: these messages are the same from Humble on."""
    return get_typestore(Stores.ROS2_JAZZY)


def header(stamp_ns: int, frame: str) -> Any:
    """A std_msgs/Header."""
    return _make("std_msgs/msg/Header", stamp=_time(stamp_ns), frame_id=frame)


def cloud(points: MapCloud, stamp_ns: int, frame: str) -> Any:
    """A sensor_msgs/PointCloud2 with x, y, z, rgb (packed as PCL and RViz have it), confidence, and the frame's number.

    Args:
        points: N of them.
        stamp_ns: of the header.
        frame: that the points are in.
    """
    count = len(points)
    data = np.zeros((count, _POINT_STEP), np.uint8)
    data[:, 0:12] = _bytes(points.points.astype("<f4"))
    data[:, 12:15] = points.colors[:, ::-1]  # little-endian 0x00RRGGBB
    data[:, 16:20] = _bytes(points.confidence.astype("<f4")[:, None])
    data[:, 20:24] = _bytes(points.frame.astype("<i4")[:, None])
    fields = [
        _make("sensor_msgs/msg/PointField", name=name, offset=offset, datatype=kind, count=1)
        for name, offset, kind in _FIELDS
    ]
    return _make(
        "sensor_msgs/msg/PointCloud2", header=header(stamp_ns, frame), height=1, width=count, fields=fields,
        is_bigendian=False, point_step=_POINT_STEP, row_step=_POINT_STEP * count, data=data.reshape(-1), is_dense=True,
    )  # fmt: skip


def transforms(stamp_ns: int, *placed: tuple[str, str, Array]) -> Any:
    """A tf2_msgs/TFMessage of (parent, child, ``T_parent_child``)."""
    found = []
    for parent, child, T in placed:
        xyz, turn = _numbers(T)
        at = _make("geometry_msgs/msg/Vector3", **xyz)
        transform = _make("geometry_msgs/msg/Transform", translation=at, rotation=turn)
        found.append(
            _make(
                "geometry_msgs/msg/TransformStamped",
                header=header(stamp_ns, parent),
                child_frame_id=child,
                transform=transform,
            )
        )
    return _make("tf2_msgs/msg/TFMessage", transforms=found)


def path(stamp_ns: int, frame: str, poses: Array, stamps: list[int]) -> Any:
    """A nav_msgs/Path.

    Args:
        stamp_ns: of its header.
        frame: that the poses are in.
        poses: ``[F, 4, 4]`` of a body, x forward.
        stamps: of the poses.
    """
    found = []
    for T, own in zip(poses, stamps, strict=True):
        xyz, turn = _numbers(T)
        pose = _make("geometry_msgs/msg/Pose", position=_make("geometry_msgs/msg/Point", **xyz), orientation=turn)
        found.append(_make("geometry_msgs/msg/PoseStamped", header=header(own, frame), pose=pose))
    return _make("nav_msgs/msg/Path", header=header(stamp_ns, frame), poses=found)


def compressed_image(data: bytes, stamp_ns: int, frame: str) -> Any:
    """A sensor_msgs/CompressedImage of a JPEG file."""
    return _make(
        "sensor_msgs/msg/CompressedImage",
        header=header(stamp_ns, frame),
        format="jpeg",
        data=np.frombuffer(data, np.uint8),
    )


def camera_info(K: Array, size: tuple[int, int], stamp_ns: int, frame: str) -> Any:
    """A sensor_msgs/CameraInfo of a rectified camera.

    Args:
        K: ``[3, 3]`` pixels, (0, 0) is the first pixel's corner; ROS has its centre there.
        size: ``(height, width)``.
        stamp_ns: of the image.
        frame: of the camera, optical.
    """
    own = K.astype(np.float64).copy()
    own[:2, 2] -= 0.5
    roi = _make(
        "sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
    )  # the whole picture
    return _make(
        "sensor_msgs/msg/CameraInfo", header=header(stamp_ns, frame), height=size[0], width=size[1],
        distortion_model="plumb_bob", d=np.zeros(5), k=own.reshape(-1), r=np.eye(3).reshape(-1),
        p=np.pad(own, ((0, 0), (0, 1))).reshape(-1), binning_x=0, binning_y=0, roi=roi,
    )  # fmt: skip


def _numbers(T: Array) -> tuple[dict[str, float], Any]:
    x, y, z, w = matrix_to_quaternion(T[:3, :3]).tolist()
    xyz = dict(zip("xyz", T[:3, 3].tolist(), strict=True))
    return xyz, _make("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w)


def _time(stamp_ns: int) -> Any:
    return _make("builtin_interfaces/msg/Time", sec=stamp_ns // SECOND, nanosec=stamp_ns % SECOND)


def _make(kind: str, **values: Any) -> Any:
    return store().types[kind](**values)


def _bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    """``[N, C]`` numbers as ``[N, bytes]``."""
    return np.ascontiguousarray(values).view(np.uint8)
