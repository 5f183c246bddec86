"""Rigid transforms and unit quaternions.

A transform is a ``[..., 4, 4]`` matrix ``[[R, t], [0, 1]]`` with a rotation ``R`` (determinant
+1) and a translation ``t``. ``T_a_b`` takes points from frame ``b`` to frame ``a``, so that
``T_a_c = T_a_b @ T_b_c``. Everything runs on the device and in the dtype of its input, and
nothing waits for the device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gen3r_core.errors import InputError


def homogeneous(T: Tensor) -> Tensor:
    """Adds the row ``[0, 0, 0, 1]`` to transforms that lack it.

    Args:
        T: ``[..., 3, 4]`` or ``[..., 4, 4]`` float. The latter is returned as it is.

    Returns:
        ``[..., 4, 4]``, dtype and device of ``T``.

    Raises:
        InputError: for any other shape.
    """
    _check_transform(T)
    if T.shape[-2] == 4:
        return T
    bottom = torch.zeros_like(T[..., :1, :])
    bottom[..., 0, 3] = 1
    return torch.cat([T, bottom], dim=-2)


def invert_rigid(T: Tensor) -> Tensor:
    """Inverts rigid transforms in closed form: ``[R, t]`` becomes ``[R^T, -R^T t]``.

    Args:
        T: ``[..., 4, 4]`` or ``[..., 3, 4]`` float, the 3x3 part orthonormal (not checked).

    Returns:
        ``[..., 4, 4]``, dtype and device of ``T``: ``T_b_a`` where ``T`` was ``T_a_b``.

    Raises:
        InputError: for any other shape.
    """
    _check_transform(T)
    rotation = T[..., :3, :3].transpose(-1, -2)
    # Sums of products, not a matrix product: tensor cores would round float32 to ten bits.
    translation = -(rotation * T[..., None, :3, 3]).sum(dim=-1, keepdim=True)
    return homogeneous(torch.cat([rotation, translation], dim=-1))


def compose(first: Tensor, second: Tensor) -> Tensor:
    """``first @ second``, exact in float32: as sums of products, where tensor cores would round to ten bits.

    Args:
        first: ``[..., 4, 4]`` float.
        second: the same, or a shape that broadcasts with it.

    Returns:
        ``[..., 4, 4]``.
    """
    return (first[..., :, :, None] * second[..., None, :, :]).sum(dim=-2)


def relative_to_first(T_world_cam: Tensor) -> Tensor:
    """Moves the world frame into the first camera: ``T_cam0_cam = T_world_cam[0]^-1 T_world_cam``.

    The inverse is the general one, not the closed form: poses read from a file are
    orthonormal only to the digits written, and so the first camera still cancels itself.

    Args:
        T_world_cam: ``[F, 4, 4]`` float camera-to-world, F at least 1.

    Returns:
        ``[F, 4, 4]``, dtype and device of the input. The first is the identity exactly.

    Raises:
        InputError: if the shape is not ``[F, 4, 4]`` or F is 0.
    """
    if T_world_cam.ndim != 3 or T_world_cam.shape[1:] != (4, 4) or T_world_cam.shape[0] == 0:
        raise InputError(
            f"camera poses must have shape [F, 4, 4] with at least one frame, got {tuple(T_world_cam.shape)}"
        )
    poses = T_world_cam if T_world_cam.dtype in (torch.float32, torch.float64) else T_world_cam.float()
    inverse, _ = torch.linalg.inv_ex(poses[0])
    # [4, 4] times [F, 4, 4] as a sum of products, for the reason given in invert_rigid.
    relative = (inverse[None, :, :, None] * poses[:, None, :, :]).sum(dim=2)
    identity = torch.eye(4, dtype=poses.dtype, device=poses.device)
    return torch.cat([identity[None], relative[1:]]).to(T_world_cam.dtype)


def quaternion_to_matrix(q: Tensor) -> Tensor:
    """Rotation matrices of quaternions, which need not have unit length.

    ``R = I + 2 (w [v]_x + [v]_x^2) / |q|^2`` for ``q = (v, w)``; written out in elements.

    Args:
        q: ``[..., 4]`` float, order ``x, y, z, w`` (as VGGT's pose encoding, arXiv 2503.11651), not zero.

    Returns:
        ``[..., 3, 3]``, dtype and device of ``q``.

    Raises:
        InputError: if the last dimension is not 4.
    """
    if q.ndim == 0 or q.shape[-1] != 4:
        raise InputError(f"quaternions must have shape [..., 4] in the order x, y, z, w, got {tuple(q.shape)}")
    x, y, z, w = q.unbind(dim=-1)
    twice = 2 / (q * q).sum(dim=-1)
    xx, yy, zz = twice * x * x, twice * y * y, twice * z * z
    xy, xz, yz = twice * x * y, twice * x * z, twice * y * z
    wx, wy, wz = twice * w * x, twice * w * y, twice * w * z
    elements = [1 - yy - zz, xy - wz, xz + wy, xy + wz, 1 - xx - zz, yz - wx, xz - wy, yz + wx, 1 - xx - yy]
    return torch.stack(elements, dim=-1).reshape(*x.shape, 3, 3)


def matrix_to_quaternion(R: Tensor) -> Tensor:
    """Unit quaternions of rotation matrices, stable for every angle.

    The symmetric matrix ``4 q q^T`` is linear in the elements of ``R``; its row with the
    largest diagonal element is a multiple of ``q`` by at least 1, so nothing cancels
    (S. W. Shepperd, "Quaternion from rotation matrix", 1978).

    Args:
        R: ``[..., 3, 3]`` float, rotations.

    Returns:
        ``[..., 4]`` in the order ``x, y, z, w``, unit length, ``w >= 0``, dtype and device of ``R``.

    Raises:
        InputError: if the last dimensions are not 3x3.
    """
    if R.ndim < 2 or R.shape[-2:] != (3, 3):
        raise InputError(f"rotation matrices must have shape [..., 3, 3], got {tuple(R.shape)}")
    r00, r01, r02, r10, r11, r12, r20, r21, r22 = R.flatten(-2).unbind(dim=-1)
    xy, xz, yz = r01 + r10, r02 + r20, r12 + r21
    wx, wy, wz = r21 - r12, r02 - r20, r10 - r01
    rows = [
        [1 + r00 - r11 - r22, xy, xz, wx],
        [xy, 1 - r00 + r11 - r22, yz, wy],
        [xz, yz, 1 - r00 - r11 + r22, wz],
        [wx, wy, wz, 1 + r00 + r11 + r22],
    ]
    outer = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
    largest = outer.diagonal(dim1=-2, dim2=-1).argmax(dim=-1)
    row = outer.gather(-2, largest[..., None, None].expand(*largest.shape, 1, 4)).squeeze(-2)
    q = row / row.norm(dim=-1, keepdim=True)
    return torch.where(q[..., 3:] < 0, -q, q)


def _check_transform(T: Tensor) -> None:
    if T.ndim < 2 or T.shape[-2:] not in ((3, 4), (4, 4)):
        raise InputError(f"rigid transforms must have shape [..., 3, 4] or [..., 4, 4], got {tuple(T.shape)}")
