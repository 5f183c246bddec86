"""From depth maps to points, and which depths to trust.

Both follow the code published with Gen3R (arXiv 2601.04090) in what they compute; that code
runs them frame by frame in numpy, these run for all frames at once on the tensors' device and
never wait for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gen3r_core.errors import InputError
from gen3r_core.geometry.rigid import invert_rigid

SMALLEST_DEPTH = 1e-8
LARGEST_DEPTH = 50.0
TRUSTED_PERCENTILES = (0.1, 98.0)


def unproject_depth(depth: Tensor, T_cam_world: Tensor, intrinsics: Tensor) -> Tensor:
    """World points of every pixel of depth maps.

    ``x_cam = ((u - cx) z / fx, (v - cy) z / fy, z)``, then camera to world. Pixel coordinates
    are whole numbers, u = 0..W-1 and v = 0..H-1, without the half pixel that rays have: VGGT's
    point head was trained so (arXiv 2503.11651).

    Args:
        depth: ``[F, H, W]`` float z-depth in scene units.
        T_cam_world: ``[F, 3, 4]`` or ``[F, 4, 4]`` float, world to camera, OpenCV axes, rigid.
        intrinsics: ``[F, 3, 3]`` float, pixels of ``(H, W)``, zero skew.

    Returns:
        ``[F, H, W, 3]`` float32 points in the world frame, scene units, on the device of the depth.

    Raises:
        InputError: if shapes do not fit.
    """
    if depth.ndim != 3:
        raise InputError(f"depth must have shape [F, H, W], got {tuple(depth.shape)}")
    frames, height, width = depth.shape
    if T_cam_world.shape not in ((frames, 3, 4), (frames, 4, 4)):
        raise InputError(f"camera poses must have shape [{frames}, 3, 4] or [{frames}, 4, 4] as there are {frames} "
                         f"depth maps, got {tuple(T_cam_world.shape)}")  # fmt: skip
    if intrinsics.shape != (frames, 3, 3):
        raise InputError(f"intrinsics must have shape [{frames}, 3, 3] as there are {frames} depth maps, "
                         f"got {tuple(intrinsics.shape)}")  # fmt: skip
    depth = depth.float()
    K = intrinsics.to(device=depth.device, dtype=torch.float32)
    T_world_cam = invert_rigid(T_cam_world.to(device=depth.device, dtype=torch.float32))
    u = torch.arange(width, device=depth.device, dtype=torch.float32)
    v = torch.arange(height, device=depth.device, dtype=torch.float32)
    x = ((u - K[:, 0, 2:]) / K[:, 0, :1])[:, None, :]
    y = ((v - K[:, 1, 2:]) / K[:, 1, 1:2])[:, :, None]
    # Coordinate by coordinate: exact in float32 where a matrix product may run in TF32, and two
    # [F, H, W] temporaries instead of a second [F, H, W, 3].
    points = torch.empty((frames, height, width, 3), dtype=torch.float32, device=depth.device)
    for axis in range(3):
        r0, r1, r2, t = T_world_cam[:, axis, :, None, None].unbind(dim=1)
        points[..., axis] = (r0 * x + r1 * y + r2) * depth + t
    return points


def depth_mask(depth: Tensor, *, limit_range: bool) -> Tensor:
    """Which pixels of depth maps are valid.

    Without ``limit_range``: depth over 1e-8. With it: over the 0.1 percentile of its frame
    (and 1e-8), and under the 98 percentile and 50 units. NaN and infinite depths never are.

    Args:
        depth: ``[F, H, W]`` float in scene units.
        limit_range: trust only the middle of each frame's range.

    Returns:
        ``[F, H, W]`` bool on the device of the depth.

    Raises:
        InputError: if the shape is not ``[F, H, W]`` with at least one pixel.
    """
    if depth.ndim != 3 or depth[:1].numel() == 0:
        raise InputError(f"depth must have shape [F, H, W] with at least one pixel, got {tuple(depth.shape)}")
    depth = depth.float()
    if not limit_range:
        return (depth > SMALLEST_DEPTH) & torch.isfinite(depth)
    low, high = (limit[:, None, None] for limit in percentiles(depth.flatten(1), TRUSTED_PERCENTILES))
    return (depth > low.clamp(min=SMALLEST_DEPTH)) & (depth < high.clamp(max=LARGEST_DEPTH))


def percentiles(values: Tensor, wanted: Sequence[float]) -> tuple[Tensor, ...]:
    """Percentiles along the last dimension, with linear interpolation as numpy has it.

    ``torch.quantile`` takes 16 million elements at most, about one clip of depth, and
    ``torch.kthvalue`` refuses to run on CUDA where determinism is asked for; hence one sort.
    NaN counts as larger than everything.

    Args:
        values: ``[..., N]`` float, N at least 1.
        wanted: percentiles, each 0 to 100.

    Returns:
        One ``[...]`` tensor for each, dtype and device of the values.

    Raises:
        InputError: if there is no value or a percentile is out of range.
    """
    count = values.shape[-1] if values.ndim else 0
    if count == 0:
        raise InputError("a percentile needs at least one value, got none")
    ordered = values.sort(dim=-1).values
    found = []
    for q in wanted:
        if not 0 <= q <= 100:
            raise InputError(f"percentiles lie between 0 and 100, got {q}")
        position = (count - 1) * (q / 100)
        lower = math.floor(position)
        weight = position - lower
        below, above = ordered[..., lower], ordered[..., min(lower + 1, count - 1)]
        step = above - below
        # numpy starts from the nearer of the two, which makes both ends exact.
        found.append(below + step * weight if weight < 0.5 else above - step * (1 - weight))
    return tuple(found)
