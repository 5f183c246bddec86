"""A box with painted walls, seen from inside: pictures and depth that are exact, in milliseconds."""

import numpy as np

from gen3r_core.geometry.poses import poses_from
from gen3r_core.mapping.similarity import so3_exp
from gen3r_core.mapping.windows import Window

SIZE = (120, 160)
HALF = np.array([2.5, 1.2, 3.0])
K = np.array([[110.0, 0, 79.5], [0, 110.0, 59.5], [0, 0, 1]])
"""Intrinsics, the first pixel's centre at (0, 0)."""


def _painted(seed, side=384):
    rng = np.random.default_rng(seed)
    total = np.zeros((side, side))
    for cells in (6, 12, 24, 48, 96):
        coarse = rng.normal(size=(cells, cells))
        total += np.kron(coarse, np.ones((side // cells, side // cells)))
    return (127 + 40 * total / total.std()).clip(0, 255)


_WALLS = [_painted(seed) for seed in range(6)]


def look(T_world_cam, plain=False):
    """``[H, W, 3]`` uint8 picture and ``[H, W]`` z-depth from within the room."""
    v, u = np.indices(SIZE).astype(float)
    rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones(SIZE)], axis=-1)
    way, start = rays @ T_world_cam[:3, :3].T, T_world_cam[:3, 3]
    with np.errstate(divide="ignore"):
        far = (np.where(way > 0, HALF, -HALF) - start) / way
    axis = far.argmin(axis=-1)
    depth = far.min(axis=-1)
    hit = start + depth[..., None] * way
    grey = np.zeros(SIZE)
    for number in range(3):
        for side in (0, 1):
            mine = (axis == number) & ((np.take(way, number, axis=-1) > 0) == bool(side))
            others = [other for other in range(3) if other != number]
            at = ((hit[..., others] / 6.5 + 0.5) * 383).round().astype(int).clip(0, 383)
            grey[mine] = _WALLS[2 * number + side][at[..., 0], at[..., 1]][mine]
    if plain:
        grey = np.full(SIZE, 128.0)
    return np.repeat(grey[..., None], 3, axis=2).astype(np.uint8), depth


def poses(yaw, places):
    """``[n, 4, 4]`` camera to world: degrees about the vertical (y down), and places ``[n, 3]``."""
    angles = np.radians(np.asarray(yaw, dtype=float))
    return poses_from(so3_exp(np.stack([0 * angles, angles, 0 * angles], axis=1)), np.asarray(places, dtype=float))


def window(T_world_cam, first=0, scale=1.0, cameras=None, depth_noise=0.0, plain=False):
    """A window of these views, in units of its own, with some camera poses ``[n, 4, 4]`` instead of the true ones."""
    seen = [look(T, plain) for T in T_world_cam]
    rng = np.random.default_rng(first)
    factors = np.exp(depth_noise * rng.normal(size=len(seen)))[:, None, None]
    own = np.array(T_world_cam if cameras is None else cameras)
    own[:, :3, 3] /= scale
    count = len(seen)
    colors, depth = np.stack([one for one, _ in seen]), np.stack([one for _, one in seen])
    means = colors.reshape(count, SIZE[0] // 20, 20, SIZE[1] // 20, 20, 3).mean(axis=(2, 4, 5)).reshape(count, -1)
    features = means - means.mean(axis=1, keepdims=True)
    return Window(
        frames=np.arange(first, first + count), stamps=np.arange(first, first + count), colors=colors,
        depth=(depth * factors / scale).astype(np.float16), confidence=np.ones(depth.shape, np.float16),
        T_window_cam=own, intrinsics=np.repeat(K[None], count, axis=0),
        features=(features / (np.linalg.norm(features, axis=1, keepdims=True) + 1e-9)).astype(np.float32),
    )  # fmt: skip
