"""Poses, transforms, paths and stamps to and from numbers.

``T_a_b`` takes points from frame ``b`` to frame ``a``: a pose of ``b`` in ``a``, or the transform whose header has the
frame ``a`` and whose child is ``b``.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, Pose, PoseStamped, Quaternion, Transform, TransformStamped, Vector3
from nav_msgs.msg import Path
from numpy.typing import NDArray
from std_msgs.msg import Header

from gen3r_core.errors import InputError
from gen3r_core.geometry.poses import matrix_to_quaternion
from gen3r_core.messages.poses import rigid_matrix
from gen3r_core.messages.problems import MessageError

Matrix = NDArray[np.float64]
_SECOND = 1_000_000_000


def stamp_ns(stamp: Time) -> int:
    """Integer nanoseconds of a stamp."""
    return int(stamp.sec) * _SECOND + int(stamp.nanosec)


def stamp_message(nanoseconds: int) -> Time:
    """A stamp of integer nanoseconds.

    Raises:
        InputError: it does not fit into a message (years before 1901 or after 2038).
    """
    seconds, rest = divmod(nanoseconds, _SECOND)
    if not -(2**31) <= seconds < 2**31:
        raise InputError(f"a stamp of {seconds} s does not fit into a message")
    return Time(sec=seconds, nanosec=rest)


def pose_matrix(pose: Pose) -> Matrix:
    """``T_a_b`` ``[4, 4]`` float64 of a pose of ``b`` in ``a``, metres.

    Raises:
        MessageError: "pose": values that are not finite, or a quaternion whose length is not 1 (within 5 %).
    """
    return rigid_matrix(pose.position, pose.orientation)


def transform_matrix(transform: Transform) -> Matrix:
    """The same of a transform; errors too."""
    return rigid_matrix(transform.translation, transform.rotation)


def matrix_pose(T: Matrix) -> Pose:
    """A pose of ``T_a_b`` ``[4, 4]``, rigid, metres."""
    x, y, z, w = matrix_to_quaternion(T[:3, :3]).tolist()
    return Pose(position=Point(**_xyz(T)), orientation=Quaternion(x=x, y=y, z=z, w=w))


def matrix_transform(T: Matrix) -> Transform:
    """A transform of ``T_a_b`` ``[4, 4]``, rigid, metres."""
    x, y, z, w = matrix_to_quaternion(T[:3, :3]).tolist()
    return Transform(translation=Vector3(**_xyz(T)), rotation=Quaternion(x=x, y=y, z=z, w=w))


def transform_message(parent: str, child: str, T_parent_child: Matrix, stamp: Time) -> TransformStamped:
    """What TF takes: where the child frame is in its parent, ``[4, 4]``, rigid, metres."""
    return TransformStamped(
        header=Header(stamp=stamp, frame_id=parent), child_frame_id=child, transform=matrix_transform(T_parent_child)
    )


def path_matrices(path: Path) -> tuple[str, Matrix]:
    """A path's frame and its poses.

    Each pose's header may be empty: then it has that of the path.

    Returns:
        the frame, and ``[N, 4, 4]`` float64, metres; N may be 0.

    Raises:
        MessageError: "pose": as :func:`pose_matrix`, or poses in several frames, or in none.
    """
    frames = {pose.header.frame_id or path.header.frame_id for pose in path.poses} or {path.header.frame_id}
    if len(frames) > 1 or "" in frames:
        raise MessageError(
            "pose", f"the poses of a path are in one frame that its header names; this one has {sorted(frames)}"
        )
    poses = []
    for index, pose in enumerate(path.poses):
        try:
            poses.append(pose_matrix(pose.pose))
        except MessageError as error:
            raise MessageError("pose", f"pose {index} of the path: {error}") from error
    return frames.pop(), np.array(poses, dtype=np.float64).reshape(-1, 4, 4)


def path_message(poses: Iterable[Matrix], header: Header) -> Path:
    """A path of poses ``[4, 4]``, metres, in the header's frame."""
    return Path(header=header, poses=[PoseStamped(header=header, pose=matrix_pose(T)) for T in poses])


def _xyz(T: Matrix) -> dict[str, float]:
    return {name: float(T[axis, 3]) for axis, name in enumerate("xyz")}
