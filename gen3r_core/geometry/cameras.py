"""Pinhole cameras: VGGT's pose encoding, intrinsics under resizing, and rays.

Intrinsics are ``[[fx, 0, cx], [0, fy, cy], [0, 0, 1]]`` in pixels of an image of size
``(height, width)``, with the image's top left *corner* at (0, 0), so that the first pixel's
centre lies at (0.5, 0.5). Scaling an image then scales its intrinsics, nothing else.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gen3r_core.errors import InputError
from gen3r_core.geometry.rigid import matrix_to_quaternion, quaternion_to_matrix


def decode_pose_encoding(encoding: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Cameras from VGGT's pose encoding (arXiv 2503.11651, section 3.1).

    ``f = (size / 2) / tan(field of view / 2)``; the principal point is the image's centre.

    Args:
        encoding: ``[..., 9]`` float: translation (3, scene units), quaternion ``x, y, z, w``
            (any length), vertical and horizontal field of view (radians).
        image_size: ``(height, width)`` in pixels that the intrinsics shall refer to.

    Returns:
        ``T_cam_world`` ``[..., 3, 4]`` (world to camera, OpenCV axes) and intrinsics
        ``[..., 3, 3]`` in pixels; dtype and device of the encoding, half precision as float32.

    Raises:
        InputError: if the last dimension is not 9 or the size is not positive.
    """
    if encoding.ndim == 0 or encoding.shape[-1] != 9:
        raise InputError(f"pose encodings must have shape [..., 9], got {tuple(encoding.shape)}")
    height, width = _checked_size(image_size)
    encoding = _at_least_float32(encoding)
    rotation = quaternion_to_matrix(encoding[..., 3:7])
    T_cam_world = torch.cat([rotation, encoding[..., :3, None]], dim=-1)
    half_angle = encoding[..., 7:9] / 2
    fy = (height / 2) / torch.tan(half_angle[..., 0])
    fx = (width / 2) / torch.tan(half_angle[..., 1])
    return T_cam_world, intrinsics_matrix(fx, fy, torch.full_like(fx, width / 2), torch.full_like(fy, height / 2))


def encode_pose(T_cam_world: Tensor, intrinsics: Tensor, image_size: tuple[int, int]) -> Tensor:
    """The inverse of :func:`decode_pose_encoding`; the principal point is lost.

    Args:
        T_cam_world: ``[..., 3, 4]`` or ``[..., 4, 4]`` float, world to camera, rigid.
        intrinsics: ``[..., 3, 3]`` float, pixels of ``image_size``.
        image_size: ``(height, width)`` in pixels.

    Returns:
        ``[..., 9]``: translation, unit quaternion ``x, y, z, w`` with ``w >= 0``, vertical and
        horizontal field of view in radians.

    Raises:
        InputError: if shapes do not fit.
    """
    if T_cam_world.ndim < 2 or T_cam_world.shape[-2:] not in ((3, 4), (4, 4)):
        raise InputError(f"camera poses must have shape [..., 3, 4] or [..., 4, 4], got {tuple(T_cam_world.shape)}")
    _check_intrinsics(intrinsics)
    height, width = _checked_size(image_size)
    quaternion = matrix_to_quaternion(T_cam_world[..., :3, :3])
    vertical = 2 * torch.atan((height / 2) / intrinsics[..., 1, 1])
    horizontal = 2 * torch.atan((width / 2) / intrinsics[..., 0, 0])
    angles = torch.stack([vertical, horizontal], dim=-1)
    return torch.cat([T_cam_world[..., :3, 3], quaternion, angles], dim=-1)


def intrinsics_matrix(fx: Tensor, fy: Tensor, cx: Tensor, cy: Tensor) -> Tensor:
    """``[..., 3, 3]`` matrices from four ``[...]`` tensors of one shape, in pixels."""
    zero, one = torch.zeros_like(fx), torch.ones_like(fx)
    return torch.stack([fx, zero, cx, zero, fy, cy, zero, zero, one], dim=-1).reshape(*fx.shape, 3, 3)


def scale_intrinsics(intrinsics: Tensor, from_size: tuple[int, int], to_size: tuple[int, int]) -> Tensor:
    """Intrinsics after an image is stretched from one size to another, nothing cut off.

    Args:
        intrinsics: ``[..., 3, 3]`` float, pixels of ``from_size``.
        from_size: ``(height, width)`` before, in pixels.
        to_size: ``(height, width)`` after, in pixels.

    Returns:
        ``[..., 3, 3]`` in pixels of ``to_size``, dtype and device of the input.

    Raises:
        InputError: if shapes or sizes are wrong.
    """
    _check_intrinsics(intrinsics)
    (from_height, from_width), (to_height, to_width) = _checked_size(from_size), _checked_size(to_size)
    factors = [[to_width / from_width], [to_height / from_height], [1.0]]
    return intrinsics * torch.tensor(factors, dtype=intrinsics.dtype, device=intrinsics.device)


def intrinsics_after_resize_crop(intrinsics: Tensor, from_size: tuple[int, int], to_size: tuple[int, int]) -> Tensor:
    """Intrinsics after the published data preparation: resize to cover, then crop the centre.

    The image is scaled by the larger of the two ratios ``to / from``, and half of what sticks
    out is cut off on either side. The scaled size is *truncated* to whole pixels here, as Gen3R's
    training data has it (arXiv 2601.04090, public code); images themselves round it (see
    :func:`gen3r_core.geometry.images.resize_and_crop`), which moves the crop by at most one pixel.

    Args:
        intrinsics: ``[..., 3, 3]`` float, pixels of ``from_size``.
        from_size: ``(height, width)`` before, in pixels.
        to_size: ``(height, width)`` after, in pixels.

    Returns:
        ``[..., 3, 3]`` in pixels of ``to_size``, dtype and device of the input.

    Raises:
        InputError: if shapes or sizes are wrong.
    """
    _check_intrinsics(intrinsics)
    (from_height, from_width), (to_height, to_width) = _checked_size(from_size), _checked_size(to_size)
    ratio = max(to_height / from_height, to_width / from_width)
    left = (int(from_width * ratio) - to_width) // 2
    top = (int(from_height * ratio) - to_height) // 2
    scaled = intrinsics * _column([ratio, ratio, 1.0], intrinsics)
    return scaled - torch.nn.functional.pad(_column([left, top, 0.0], intrinsics), (2, 0))


def pixel_rays(T_world_cam: Tensor, intrinsics: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The ray through every pixel's centre, in the world frame.

    ``d = R ((u + 0.5 - cx) / fx, (v + 0.5 - cy) / fy, 1)``, brought to unit length.

    Args:
        T_world_cam: ``[F, 4, 4]`` float, camera to world, OpenCV axes.
        intrinsics: ``[F, 3, 3]`` float, pixels of ``image_size``.
        image_size: ``(height, width)``, H and W below.

    Returns:
        Origins and directions, each ``[F, 3, H, W]`` in the dtype and on the device of the
        poses; origins in the poses' units, directions of unit length. Origins are a view of
        F points, expanded: do not write into them.

    Raises:
        InputError: if shapes do not fit.
    """
    if T_world_cam.ndim != 3 or T_world_cam.shape[-2:] != (4, 4):
        raise InputError(f"camera poses must have shape [F, 4, 4], got {tuple(T_world_cam.shape)}")
    frames = T_world_cam.shape[0]
    if intrinsics.shape != (frames, 3, 3):
        raise InputError(f"intrinsics must have shape [{frames}, 3, 3] as there are {frames} poses, "
                         f"got {tuple(intrinsics.shape)}")  # fmt: skip
    height, width = _checked_size(image_size)
    dtype, device = T_world_cam.dtype, T_world_cam.device
    K = intrinsics.to(device=device)
    K = K.to(torch.promote_types(K.dtype, dtype))
    u = torch.arange(width, device=device, dtype=K.dtype) + 0.5
    v = torch.arange(height, device=device, dtype=K.dtype) + 0.5
    x = ((u - K[:, 0, 2:]) / K[:, 0, :1]).to(dtype)[:, None, None, :]
    y = ((v - K[:, 1, 2:]) / K[:, 1, 1:2]).to(dtype)[:, None, :, None]
    # The rotation column by column, so that no [F, 3, H, W] camera-frame copy and no matrix product is needed.
    first, second, third = T_world_cam[:, :3, :3, None, None].unbind(dim=2)
    directions = first * x + second * y + third
    directions = directions / directions.norm(dim=1, keepdim=True)
    origins = T_world_cam[:, :3, 3, None, None].expand_as(directions)
    return origins, directions


def pluecker_rays(T_world_cam: Tensor, intrinsics: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Plücker coordinates ``(o x d, d)`` of every pixel's ray.

    Arguments and errors as :func:`pixel_rays`; the model wants poses relative to the first
    camera (:func:`gen3r_core.geometry.rigid.relative_to_first`) in scene units.

    Returns:
        ``[F, 6, H, W]``: moment, then direction; dtype and device of the poses.
    """
    origins, directions = pixel_rays(T_world_cam, intrinsics, image_size)
    return torch.cat([torch.linalg.cross(origins, directions, dim=1), directions], dim=1)


def _column(values: list[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]


def _at_least_float32(values: Tensor) -> Tensor:
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


def _check_intrinsics(intrinsics: Tensor) -> None:
    if intrinsics.ndim < 2 or intrinsics.shape[-2:] != (3, 3):
        raise InputError(f"intrinsics must have shape [..., 3, 3], got {tuple(intrinsics.shape)}")


def _checked_size(size: tuple[int, int]) -> tuple[int, int]:
    height, width = size
    if not (math.isfinite(height) and math.isfinite(width) and height > 0 and width > 0):
        raise InputError(f"image sizes are (height, width) in pixels, both positive, got {tuple(size)}")
    return height, width
