"""Maps made of numbers: a camera drives round inside a coloured box, of which everything is known exactly."""

from __future__ import annotations

import numpy as np

from gen3r_core.maps.scene_map import MapCloud, MapFrame, MapMesh, SceneMap

HALF = np.array([3.0, 2.0, 1.25])
"""Half the box's sides, metres; its middle is at the origin."""
SIZE = (48, 64)
START = 1_700_000_000_000_000_000


def colors_at(points):
    """Colour of the wall at world points ``[..., 3]``: smooth, and another one for each wall."""
    wall = np.argmax(np.abs(points) / HALF, axis=-1)[..., None]
    wave = 60 * np.sin(points * 1.3 + wall) + 40 * np.cos(points[..., ::-1] * 0.9)
    return np.clip(128 + wave + 10 * wall, 0, 255).astype(np.uint8)


def pose(index, count):
    """``T_world_cam``: along an arc, looking ahead and a little down, z up."""
    turn = 0.9 * np.pi * index / max(count, 2)
    yaw = turn + 0.4
    forward = np.array([np.cos(yaw), np.sin(yaw), -0.2])
    forward /= np.linalg.norm(forward)
    right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
    T = np.eye(4)
    T[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    T[:3, 3] = 1.2 * np.cos(turn), 0.8 * np.sin(turn), -0.25
    return T


def intrinsics(size=SIZE, focal=40.0):
    return np.array([[focal, 0, size[1] / 2 + 0.5], [0, focal, size[0] / 2], [0, 0, 1]])


def seen(T, K, size=SIZE):
    """Image, depth and points of a frame; the walls are hit exactly."""
    v, u = np.mgrid[: size[0], : size[1]] + 0.5
    rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones_like(u)], axis=-1) @ T[:3, :3].T
    with np.errstate(divide="ignore"):
        z = np.min((np.sign(rays) * HALF - T[:3, 3]) / rays, axis=-1)
    points = T[:3, 3] + rays * z[..., None]
    return colors_at(points), z.astype(np.float32), points


def box_map(count=6, *, generated=(), cameras=("",), stamps=True, mesh=True, metric=True, size=SIZE, **run):
    """A map of `count` frames with depth, the points of every third pixel, and a triangle or two.

    Args:
        count: of frames.
        generated: indices of frames that count as generated.
        cameras: that take turns; each has a focal length of its own.
        stamps: whether frames have times.
        mesh: whether there is one.
        metric: as in the map.
        size: of the images.
        run: what run.json says.
    """
    frames, points, colors, made, first = [], [], [], [], []
    for index in range(count):
        T, K = pose(index, count), intrinsics(size, 40.0 + 2 * (index % len(cameras)))
        image, depth, world = seen(T, K, size)
        stamp = START + index * 200_000_000 if stamps else None
        frames.append(MapFrame(image, T, K, stamp, cameras[index % len(cameras)], index in generated, depth))
        points.append(world[::3, ::3].reshape(-1, 3))
        colors.append(image[::3, ::3].reshape(-1, 3))
        made.append(np.full(len(points[-1]), index in generated))
        first.append(np.full(len(points[-1]), index, np.int32))
    cloud = MapCloud.empty()
    if count:
        many = sum(map(len, points))
        cloud = MapCloud(
            np.concatenate(points).astype(np.float32), np.concatenate(colors),
            np.linspace(0.5, 9, many).astype(np.float32), np.concatenate(made), np.concatenate(first),
        )  # fmt: skip
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    surface = MapMesh(corners, colors_at(corners), np.array([[0, 1, 2], [0, 2, 3]], np.int32))
    return SceneMap(frames, cloud, metric, {"gravity_known": True, **run}, surface if mesh else None)


def assert_same_cloud(found, wanted):
    for name in ("points", "colors", "confidence", "generated", "frame"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name), err_msg=name)
