"""Recorded messages, deserialised only when they are asked for, without ROS.

Definitions are those of the standard packages (ROS 2 Jazzy and ROS 1 Noetic), which have not changed for years; the
copies in a bag are not trusted. Damage inside a message raises :class:`~gen3r_core.messages.problems.MessageError`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType, SimpleNamespace
from typing import Any, Literal

from gen3r_core.geometry.poses import Array
from gen3r_core.messages.cameras import CameraModel, camera_model
from gen3r_core.messages.poses import rigid_matrix
from gen3r_core.messages.problems import MessageError

Codec = Literal["cdr", "ros1"]
Kind = Literal["image", "depth", "camera_info", "tf", "tf_static", "odometry", "pose", "other"]

_SECOND = 1_000_000_000
_IMAGE = "sensor_msgs/msg/Image"
_COMPRESSED = "sensor_msgs/msg/CompressedImage"
_INFO = "sensor_msgs/msg/CameraInfo"
_TF = ("tf2_msgs/msg/TFMessage", "tf/msg/tfMessage")
_ODOMETRY = "nav_msgs/msg/Odometry"
_POSE = "geometry_msgs/msg/PoseStamped"
_POSE_COVARIANCE = "geometry_msgs/msg/PoseWithCovarianceStamped"
_TRANSFORM = "geometry_msgs/msg/TransformStamped"
KINDS: MappingProxyType[str, Kind] = MappingProxyType(
    {
        _IMAGE: "image",
        _COMPRESSED: "image",
        _INFO: "camera_info",
        _TF[0]: "tf",
        _TF[1]: "tf",
        _TRANSFORM: "tf",
        _ODOMETRY: "odometry",
        _POSE: "pose",
        _POSE_COVARIANCE: "pose",
    }
)
"""What the message types are that mean something here."""

_LONGEST_NAME = 1024


@dataclass(frozen=True)
class Placement:
    """Where a frame is in its parent.

    Attributes:
        parent: frame of the numbers.
        child: frame that is placed; empty for a pose message, which does not name one.
        stamp_ns: integer nanoseconds.
        translation: metres.
        quaternion: x, y, z, w.
    """

    parent: str
    child: str
    stamp_ns: int
    translation: tuple[float, float, float]
    quaternion: tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class RawMessage:
    """A message as it was recorded.

    Attributes:
        type: as ROS 2 writes it, ``package/msg/Name``.
        data: its bytes.
        codec: how they were written.
    """

    type: str
    data: bytes
    codec: Codec

    def header(self) -> tuple[int, str]:
        """Stamp in nanoseconds and frame, of a message that begins with a header; the rest is not looked at.

        Raises:
            MessageError: "size": the bytes end before, or are nonsense.
        """
        data = self.data
        try:
            if self.codec == "ros1":
                _, seconds, rest, length = struct.unpack_from("<IIII", data)
                begin = 16
            else:
                order = "<" if data[1] & 1 else ">"
                seconds, rest, length = struct.unpack_from(f"{order}iII", data, 4)
                begin = 16
            name = bytes(data[begin : begin + length])
            if length > _LONGEST_NAME or len(name) < length or rest >= _SECOND:
                raise MessageError("size", f"the header of a {self.type} is damaged")
            return seconds * _SECOND + rest, name.rstrip(b"\0").decode()
        except (struct.error, IndexError, UnicodeDecodeError) as error:
            raise MessageError("size", f"the header of a {self.type} is damaged: {error}") from error

    def decode(self) -> Any:
        """The message with its fields; arrays are numpy arrays, views of :attr:`data` where they can be.

        Raises:
            MessageError: "size": the bytes are no such message.
        """
        store = _store(self.codec)
        try:
            if self.codec == "ros1":
                return store.deserialize_ros1(self.data, self.type)
            return store.deserialize_cdr(self.data, self.type)
        except Exception as error:
            raise MessageError("size", f"a {self.type} of {len(self.data)} bytes is damaged: {error!r}") from error

    def cdr(self) -> bytes:
        """Its bytes as ROS 2 writes them.

        Raises:
            MessageError: "size": the bytes are no such message of ROS 1, or it is of a type that is not known here.
        """
        if self.codec == "cdr":
            return bytes(self.data)
        try:
            return bytes(_store("cdr").ros1_to_cdr(self.data, self.type))
        except Exception as error:
            raise MessageError("size", f"a {self.type} of {len(self.data)} bytes cannot be had: {error!r}") from error

    def camera(self, *, rectified: bool = False) -> CameraModel:
        """The camera of a CameraInfo.

        Args:
            rectified: the images are; see :func:`~gen3r_core.messages.cameras.camera_model`.

        Raises:
            MessageError: damaged, not calibrated, or nonsense.
        """
        message = self.decode()
        if self.codec == "ros1":  # the same fields under capital letters
            message = SimpleNamespace(
                header=message.header, height=message.height, width=message.width, roi=message.roi,
                binning_x=message.binning_x, binning_y=message.binning_y, distortion_model=message.distortion_model,
                d=message.D, k=message.K, p=message.P,
            )  # fmt: skip
        return camera_model(message, rectified=rectified)

    def placements(self) -> list[Placement]:
        """What a TF, odometry or pose message says of where things are. Numbers are not checked.

        Raises:
            MessageError: "size": damaged.
        """
        message = self.decode()
        if self.type in _TF:
            parts = [(part.header, part.child_frame_id, part.transform) for part in message.transforms]
        elif self.type == _TRANSFORM:
            parts = [(message.header, message.child_frame_id, message.transform)]
        elif self.type == _ODOMETRY:
            parts = [(message.header, message.child_frame_id, message.pose.pose)]
        else:
            pose = message.pose.pose if self.type == _POSE_COVARIANCE else message.pose
            parts = [(message.header, "", pose)]
        placed = []
        for header, child, numbers in parts:
            at = numbers.translation if hasattr(numbers, "translation") else numbers.position
            q = numbers.rotation if hasattr(numbers, "rotation") else numbers.orientation
            stamp = int(header.stamp.sec) * _SECOND + int(header.stamp.nanosec)
            placed.append(Placement(header.frame_id, child, stamp, (at.x, at.y, at.z), (q.x, q.y, q.z, q.w)))
        return placed


def pose_of(placement: Placement) -> Array:
    """``T_parent_child`` ``[4, 4]``, metres.

    Raises:
        MessageError: "pose": numbers that are no pose.
    """
    at, q = (
        SimpleNamespace(**dict(zip("xyzw", numbers, strict=False)))
        for numbers in (placement.translation, placement.quaternion)
    )
    return rigid_matrix(at, q)


@cache
def _store(codec: Codec) -> Any:
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.ROS1_NOETIC if codec == "ros1" else Stores.ROS2_JAZZY)
    for name in _TF:
        if name not in store.fielddefs:
            store.register(get_types_from_msg("geometry_msgs/TransformStamped[] transforms", name))
    return store
