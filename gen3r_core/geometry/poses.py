"""Rigid transforms and rotations as numpy arrays, for processes that do not load PyTorch.

The conventions are those of :mod:`gen3r_core.geometry.rigid`: ``T_a_b`` is ``[..., 4, 4]`` and takes
points from frame ``b`` to frame ``a``; quaternions are ``x, y, z, w``, as ROS and VGGT have them.
Everything is float64: positions in a map may be kilometres from its origin.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gen3r_core.errors import InputError

__all__ = [
    "Array",
    "checked_poses",
    "interpolate_poses",
    "invert_poses",
    "matrix_to_quaternion",
    "nearest_rotation",
    "poses_from",
    "quaternion_to_matrix",
    "rotation_angles",
    "slerp",
]

Array = NDArray[np.float64]

ROTATION_TOLERANCE = 1e-2
"""Largest departure of ``R R^T`` from the identity: what :class:`gen3r_core.scene.CameraPath` allows as well."""


def checked_poses(T: ArrayLike, name: str, *, missing: bool = False) -> Array:
    """Poses whose shape and rotations are right.

    Args:
        T: ``[N, 4, 4]`` rigid transforms.
        name: what they are, for messages ("camera pose").
        missing: allow poses with NaN, which stand for poses that are not known.

    Returns:
        ``[N, 4, 4]`` float64.

    Raises:
        InputError: naming the first pose that is not finite or not rigid.
    """
    try:
        poses = np.asarray(T, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}s must be numbers of shape [N, 4, 4]: {error}") from error
    if poses.ndim != 3 or poses.shape[1:] != (4, 4):
        raise InputError(f"{name}s must have shape [N, 4, 4], got {list(poses.shape)}")
    finite = np.isfinite(poses).all(axis=(1, 2))
    if not missing and not finite.all():
        raise InputError(f"{name} {int(np.argmin(finite))} contains NaN or infinite values; leave it out")
    known = poses[finite]
    R = known[:, :3, :3]
    departure = np.abs(R @ R.transpose(0, 2, 1) - np.eye(3)).max(axis=(1, 2), initial=0.0)
    wrong = (departure > ROTATION_TOLERANCE) | (np.linalg.det(R) <= 0) | (known[:, 3] != [0, 0, 0, 1]).any(axis=1)
    if wrong.any():
        raise InputError(
            f"{name} {int(np.flatnonzero(finite)[wrong][0])} is not a rigid transform: its 3x3 part must be "
            f"orthonormal with determinant +1, its last row 0, 0, 0, 1"
        )
    return poses


def poses_from(rotations: Array, translations: Array) -> Array:
    """``[..., 4, 4]`` of rotations ``[..., 3, 3]`` and translations ``[..., 3]``."""
    T = np.zeros((*rotations.shape[:-2], 4, 4))
    T[..., :3, :3], T[..., :3, 3], T[..., 3, 3] = rotations, translations, 1.0
    return T


def invert_poses(T: Array) -> Array:
    """Inverses of rigid ``[..., 4, 4]`` in closed form: ``[R, t]`` becomes ``[R^T, -R^T t]``."""
    R = np.swapaxes(T[..., :3, :3], -1, -2)
    return poses_from(R, -(R @ T[..., :3, 3:])[..., 0])


def quaternion_to_matrix(q: Array) -> Array:
    """Rotation matrices of quaternions of any length but zero.

    The columns are the rotated axes; ``R = I + 2 (w [v]_x + [v]_x^2)`` for unit ``q = (v, w)``.

    Args:
        q: ``[..., 4]``, order ``x, y, z, w``.

    Returns:
        ``[..., 3, 3]``.
    """
    unit = np.asarray(q, dtype=np.float64)
    unit = unit / np.linalg.norm(unit, axis=-1, keepdims=True)
    K = _cross_matrix(unit[..., :3])
    R: Array = np.eye(3) + 2 * (unit[..., 3, None, None] * K + K @ K)
    return R


def matrix_to_quaternion(R: Array) -> Array:
    """Unit quaternions of rotation matrices, stable for every angle.

    The largest column of ``4 q q^T``, whose elements are linear in those of ``R``
    (S. W. Shepperd, "Quaternion from rotation matrix", 1978).

    Args:
        R: ``[..., 3, 3]``.

    Returns:
        ``[..., 4]``, order ``x, y, z, w``, with ``w >= 0``.
    """
    R = np.asarray(R, dtype=np.float64)
    trace = np.trace(R, axis1=-2, axis2=-1)
    outer = np.empty((*R.shape[:-2], 4, 4))
    # The vector part of 4 q q^T: R + R^T off the diagonal, 1 - trace + 2 R_ii on it.
    outer[..., :3, :3] = R + np.swapaxes(R, -1, -2) + (1 - trace)[..., None, None] * np.eye(3)
    outer[..., 3, :3] = outer[..., :3, 3] = _turning(R)
    outer[..., 3, 3] = 1 + trace
    largest = np.argmax(np.diagonal(outer, axis1=-2, axis2=-1), axis=-1)
    q = np.take_along_axis(outer, largest[..., None, None], axis=-2)[..., 0, :]
    q = q / np.linalg.norm(q, axis=-1, keepdims=True)
    positive: Array = np.where(q[..., 3:] < 0, -q, q)
    return positive


def rotation_angles(R: Array) -> Array:
    """Angles of rotation matrices, radians in [0, pi], accurate for the smallest too.

    ``atan2(2 sin, 2 cos)`` from the antisymmetric part and the trace.

    Args:
        R: ``[..., 3, 3]``.

    Returns:
        ``[...]``.
    """
    cosine = np.trace(R, axis1=-2, axis2=-1) - 1
    angles: Array = np.arctan2(np.linalg.norm(_turning(R), axis=-1), cosine)
    return angles


def nearest_rotation(M: Array) -> Array:
    """The rotation that has the largest trace with a matrix: ``argmax_R tr(R^T M)``.

    By singular values with the last sign set for determinant +1 (G. Wahba's problem; W. Kabsch 1976,
    S. Umeyama 1991).

    Args:
        M: ``[..., 3, 3]``.

    Returns:
        ``[..., 3, 3]``.
    """
    U, _, Vh = np.linalg.svd(M)
    signs = np.ones(U.shape[:-1])
    signs[..., 2] = np.sign(np.linalg.det(U) * np.linalg.det(Vh))
    rotation: Array = (U * signs[..., None, :]) @ Vh
    return rotation


def slerp(first: Array, second: Array, amount: Array) -> Array:
    """Between unit quaternions at constant speed, along the shorter arc.

    ``q = (sin((1 - a) h) q0 + sin(a h) q1) / sin(h)`` (K. Shoemake, SIGGRAPH 1985). The arc ``h`` is taken
    from chords, ``2 atan2(|q1 - q0|, |q1 + q0|)``, as the arc cosine loses small ones.

    Args:
        first: ``[..., 4]``, unit length.
        second: the same shape.
        amount: ``[...]`` in [0, 1].

    Returns:
        ``[..., 4]``, unit length.
    """
    second = np.where(np.sum(first * second, axis=-1, keepdims=True) < 0, -second, second)
    arc = 2 * np.arctan2(np.linalg.norm(second - first, axis=-1), np.linalg.norm(second + first, axis=-1))[..., None]
    a = np.asarray(amount, dtype=np.float64)[..., None]
    sine = np.sin(arc)
    close = sine < 1e-9  # then the arc is a line to the last digit
    safe = np.where(close, 1.0, sine)
    q = np.where(close, 1 - a, np.sin((1 - a) * arc) / safe) * first
    q = q + np.where(close, a, np.sin(a * arc) / safe) * second
    result: Array = q / np.linalg.norm(q, axis=-1, keepdims=True)
    return result


def interpolate_poses(T: Array, knots: Array, at: Array) -> Array:
    """Poses between poses: positions on a line, rotations by :func:`slerp`; outside, the first and last.

    Args:
        T: ``[N, 4, 4]`` rigid, N at least 1.
        knots: ``[N]`` where they are (seconds, or metres of a path), not falling.
        at: ``[M]`` where poses are wanted.

    Returns:
        ``[M, 4, 4]``. Where knots coincide, the last of them counts.
    """
    if len(T) == 1:
        return np.repeat(np.asarray(T, dtype=np.float64), len(at), axis=0)
    right = np.clip(np.searchsorted(knots, at, side="right"), 1, len(T) - 1)
    left = right - 1
    span = knots[right] - knots[left]
    amount = np.where(span > 0, (at - knots[left]) / np.where(span > 0, span, 1.0), at >= knots[right])
    amount = np.clip(amount, 0.0, 1.0)
    q = matrix_to_quaternion(T[:, :3, :3])
    positions = T[left, :3, 3] + amount[:, None] * (T[right, :3, 3] - T[left, :3, 3])
    return poses_from(quaternion_to_matrix(slerp(q[left], q[right], amount)), positions)


def _cross_matrix(v: NDArray[Any]) -> Array:
    """``[v]_x`` with ``[v]_x u = v x u``: ``[..., 3]`` to ``[..., 3, 3]``."""
    K = np.zeros((*v.shape[:-1], 3, 3))
    K[..., 2, 1], K[..., 0, 2], K[..., 1, 0] = v[..., 0], v[..., 1], v[..., 2]
    K[..., 1, 2], K[..., 2, 0], K[..., 0, 1] = -v[..., 0], -v[..., 1], -v[..., 2]
    return K


def _turning(R: Array) -> Array:
    """``2 sin(angle) axis`` of rotations, ``[..., 3]``."""
    return np.stack([R[..., 2, 1] - R[..., 1, 2], R[..., 0, 2] - R[..., 2, 0], R[..., 1, 0] - R[..., 0, 1]], axis=-1)
