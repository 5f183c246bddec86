"""The renderer: camera paths through worlds become colours, depth and the solids behind the pixels.

Exact ray casting in torch. On a GPU all rays meet all solids in large chunks, in kernels of our own
(:mod:`gen3r_core.worlds.fused`); on a CPU the picture is cut into tiles, and each tile meets only the solids
that it can see or that can shade it. Both give the same picture: what is left out could not be hit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gen3r_core.errors import InputError
from gen3r_core.worlds.culling import TileCuller
from gen3r_core.worlds.intersection import nearest_hit, runs_fused
from gen3r_core.worlds.packing import PackedWorlds
from gen3r_core.worlds.shading import Trace, hits_at, shade

_FUSED_AT_ONCE = 1 << 22
_UNFUSED_AT_ONCE = 1 << 18
_TILE = 32


@dataclass(frozen=True)
class Rendering:
    """Pictures of B worlds, F frames each.

    Attributes:
        colors: ``[B, F, H, W, 3]`` RGB in [0, 1), gamma-encoded.
        depth: ``[B, F, H, W]`` z-depth of the ray through the pixel's middle, metres; 0 where nothing is.
        ids: ``[B, F, H, W]`` int64, index into the world's solids; -1 where nothing is.
        intrinsics: ``[B, F, 3, 3]`` pixels, the first pixel's middle at (0.5, 0.5).
        T_world_cam: ``[B, F, 4, 4]`` camera to world, metres, OpenCV axes.
    """

    colors: Tensor
    depth: Tensor
    ids: Tensor
    intrinsics: Tensor
    T_world_cam: Tensor


def render(
    packed: PackedWorlds,
    T_world_cam: Tensor,
    intrinsics: Tensor,
    size: tuple[int, int],
    *,
    samples: int = 2,
    rays_at_once: int | None = None,
    trace: Trace | None = None,
    cull: bool | None = None,
) -> Rendering:
    """Render B worlds, each along its own camera path.

    Args:
        packed: B worlds, on the device and in the dtype to compute in (float32 or float64).
        T_world_cam: ``[B, F, 4, 4]`` camera to world, metres, OpenCV axes.
        intrinsics: ``[B, F, 3, 3]`` pixels of ``size``, zero skew.
        size: ``(height, width)`` of the pictures.
        samples: n x n samples a pixel for the colours, box filter.
        rays_at_once: bounds memory; None chooses. Some 500 bytes a ray with kernels of our own, and 30 bytes
            for each ray, solid and light without them.
        trace: instead of :func:`trace_colors`, e.g. :func:`compiled_trace`'s. Needs ``cull=False``.
        cull: leave out solids by tiles; None does so on the CPU. It waits for the device.

    Returns:
        All on the device and in the dtype of the worlds.

    Raises:
        InputError: if shapes do not fit or numbers make no sense.
    """
    like = packed.exposure
    if rays_at_once is None:
        rays_at_once = _FUSED_AT_ONCE if runs_fused(like) else _UNFUSED_AT_ONCE
    batch, frames = _check(packed, T_world_cam, intrinsics, size, samples, rays_at_once)
    poses = T_world_cam.to(device=like.device, dtype=like.dtype)
    K = intrinsics.to(device=like.device, dtype=like.dtype)
    cull = (like.device.type == "cpu" and trace is None) if cull is None else cull
    if cull and trace is not None:
        raise InputError("a compiled trace renders without culling: leave out cull=True")
    height, width = size
    colors = like.new_empty((batch, frames, height, width, 3))
    depth = like.new_empty((batch, frames, height, width))
    ids = torch.empty((batch, frames, height, width), dtype=torch.int64, device=like.device)
    if cull:
        for world in range(batch):
            for frame in range(frames):
                tiles = TileCuller(packed.world(world), poses[world, frame], K[world, frame], size, _TILE)
                for rows, columns, part in tiles:
                    pose, camera = poses[world, frame][None, None], K[world, frame][None, None]
                    found = _tile(part.seen, pose, camera, rows, columns, samples, part.shade)
                    at = (world, frame, rows, columns)
                    colors[at], depth[at], ids[at] = (value[0, 0] for value in found)
        return Rendering(colors, depth, ids, K, poses)
    whole_rows = max(1, rays_at_once // (batch * width * samples**2))
    for part_frames in _pieces(frames, max(1, whole_rows // height)):
        for rows in _pieces(height, whole_rows):
            cameras = poses[:, part_frames], K[:, part_frames]
            found = _tile(packed, *cameras, rows, slice(0, width), samples, trace or trace_colors)
            colors[:, part_frames, rows], depth[:, part_frames, rows], ids[:, part_frames, rows] = found
    return Rendering(colors, depth, ids, K, poses)


def trace_colors(packed: PackedWorlds, origins: Tensor, directions: Tensor, pixel: Tensor) -> Tensor:
    """Colours of rays, all against all; the part of a rendering that is worth compiling.

    Args:
        packed: B worlds.
        origins: ``[B, P, 1, 3]`` world, metres.
        directions: ``[B, P, S, 3]`` world, z of 1 in the camera's frame.
        pixel: ``[B, P, 1]`` distance between samples at depth 1.

    Returns:
        ``[B, P, 3]``: the mean of S samples.
    """
    distance, index = nearest_hit(packed.solids, origins, directions)
    seen = torch.isfinite(distance)
    hits = hits_at(packed, origins, directions, torch.where(seen, distance, 1.0), index, pixel)
    return (shade(packed, hits, origins) * seen[..., None]).mean(dim=2)


def trace_depth(packed: PackedWorlds, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Depth ``[B, P]`` in lengths of the directions ``[B, P, 1, 3]``, and ids; 0 and -1 where nothing is."""
    distance, index = nearest_hit(packed.solids, origins, directions)
    seen = torch.isfinite(distance[..., 0])
    source = packed.source.gather(1, index[..., 0])
    return torch.where(seen, distance[..., 0], 0.0), torch.where(seen, source, -1)


def compiled_trace(**options: object) -> Trace:
    """:func:`trace_colors` through ``torch.compile``, for training on the fly.

    The first call of each shape takes a minute or so: keep to one batch size, one capacity and sizes
    whose chunks are alike. Options go to ``torch.compile``.
    """
    compiled: Trace = torch.compile(trace_colors, dynamic=False, **options)  # type: ignore[call-overload]
    return compiled


def camera_rays(poses: Tensor, K: Tensor, rows: slice, columns: slice, samples: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rays of a rectangle of pixels; directions have z of 1 in the camera's frame.

    Args:
        poses: ``[B, F, 4, 4]`` camera to world.
        K: ``[B, F, 3, 3]`` pixels.
        rows: of pixels.
        columns: of pixels.
        samples: n x n a pixel, evenly spaced; 1 is the middle.

    Returns:
        Origins ``[B, F, 1, 1, 3]``, directions ``[B, F, rows * columns, n * n, 3]``, and the distance
        between samples at depth 1 ``[B, F, 1, 1]``.
    """
    offsets = (torch.arange(samples, device=K.device, dtype=K.dtype) + 0.5) / samples
    v = torch.arange(rows.start, rows.stop, device=K.device, dtype=K.dtype)
    u = torch.arange(columns.start, columns.stop, device=K.device, dtype=K.dtype)
    shape = (len(v), len(u), samples, samples)
    vs = (v[:, None, None, None] + offsets[:, None]).expand(shape).reshape(-1, samples**2)
    us = (u[None, :, None, None] + offsets).expand(shape).reshape(-1, samples**2)
    x = (us - K[..., 0, 2, None, None]) / K[..., 0, 0, None, None]
    y = (vs - K[..., 1, 2, None, None]) / K[..., 1, 1, None, None]
    right, down, forward = (poses[..., None, None, :3, axis] for axis in range(3))
    directions = right * x[..., None] + down * y[..., None] + forward
    return poses[..., None, None, :3, 3], directions, 1 / (K[..., 0, 0, None, None] * samples)


def _pieces(count: int, most: int) -> list[slice]:
    """0 to ``count`` in pieces of one length, at most ``most``; the last may overlap the one before.

    Pieces of one length need compiling once.
    """
    pieces = math.ceil(count / most)
    length = math.ceil(count / pieces)
    starts = [min(index * length, count - length) for index in range(pieces)]
    return [slice(start, start + length) for start in starts]


def _tile(
    packed: PackedWorlds, poses: Tensor, K: Tensor, rows: slice, columns: slice, samples: int, trace: Trace
) -> tuple[Tensor, Tensor, Tensor]:
    """Colours, depth and ids ``[B, F, rows, columns, ...]``."""
    batch, frames = poses.shape[:2]
    shape = (batch, frames, rows.stop - rows.start, columns.stop - columns.start)

    def flat(values: Tensor) -> Tensor:
        return values.expand(batch, frames, math.prod(shape[2:]), *values.shape[3:]).flatten(1, 2)

    origins, directions, pixel = camera_rays(poses, K, rows, columns, samples)
    colors = trace(packed, flat(origins), directions.flatten(1, 2), flat(pixel))
    origins, directions, _ = camera_rays(poses, K, rows, columns, 1)
    depth, ids = trace_depth(packed, flat(origins), directions.flatten(1, 2))
    return colors.reshape(*shape, 3), depth.reshape(shape), ids.reshape(shape)


def _check(
    packed: PackedWorlds, poses: Tensor, K: Tensor, size: tuple[int, int], samples: int, rays: int
) -> tuple[int, int]:
    batch = packed.exposure.shape[0]
    if poses.ndim != 4 or poses.shape[0] != batch or poses.shape[2:] != (4, 4) or poses.shape[1] == 0:
        raise InputError(f"camera poses of {batch} worlds must have shape [{batch}, F, 4, 4], got {tuple(poses.shape)}")
    frames = int(poses.shape[1])
    if K.shape != (batch, frames, 3, 3):
        raise InputError(f"intrinsics must have shape [{batch}, {frames}, 3, 3], got {tuple(K.shape)}")
    if min(size) < 1 or samples < 1 or rays < 1:
        raise InputError(
            f"a rendering needs a positive size, samples and rays at once, got {tuple(size)}, {samples} and {rays}"
        )
    return batch, frames
