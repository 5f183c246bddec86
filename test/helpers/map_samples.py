"""Maps with known content: a procedural room as a reconstruction would see it."""

from __future__ import annotations

import functools
import math

import numpy as np

from gen3r_core.maps.scene_map import MapCloud, MapFrame, MapMesh, SceneMap
from gen3r_core.worlds.camera import WorldCamera
from gen3r_core.worlds.splits import world_seed
from gen3r_core.worlds.world import make_world

FRAMES = 8
SIZE = (72, 96)
GENERATED_FROM = 6
"""The last two frames count as generated."""


@functools.cache
def room_map() -> SceneMap:
    """A room seen all round, with its ceiling: 8 frames, the last two "generated", their points, and a mesh of them.

    The confidence of a point is 1 + 9 / its depth in metres. z is up, and the floor is at 0.
    """
    world = make_world(world_seed("test", 2), "room")
    camera = WorldCamera(world, SIZE, math.radians(90), samples=1)
    x0, y0, x1, y1 = world.plan.rooms[0].inside
    points, confidence, corners, frames = [], [], [], []
    for index in range(FRAMES):
        turn = 2 * math.pi * index / FRAMES
        radius = min(x1 - x0, y1 - y0) / 6
        place = [(x0 + x1) / 2 - radius * math.cos(turn), (y0 + y1) / 2 - radius * math.sin(turn), 1.5]
        T = looking(place, yaw=turn, pitch=math.radians(20 if index % 2 else -15))
        picture = camera.picture(T)
        K, depth = camera.intrinsics, picture.depth
        points.append(unprojected(depth, K, T).reshape(-1, 3))
        confidence.append(1 + 9 / depth.reshape(-1))
        corners.append(grid_triangles(depth) + index * SIZE[0] * SIZE[1])
        made = index >= GENERATED_FROM
        frames.append(MapFrame(picture.colors, T, K, 10**18 + index * 10**8, "", made, depth))
    count = SIZE[0] * SIZE[1]
    vertices, colors = np.concatenate(points).astype(np.float32), np.concatenate([frame.image for frame in frames])
    colors = colors.reshape(-1, 3)
    cloud = MapCloud(
        vertices,
        colors,
        np.concatenate(confidence).astype(np.float32),
        np.repeat(np.arange(FRAMES) >= GENERATED_FROM, count),
        np.repeat(np.arange(FRAMES, dtype=np.int32), count),
    )
    mesh = MapMesh(vertices, colors, np.concatenate(corners).astype(np.int32))
    run = {
        "source": "room.mcap",
        "model": "<b>small</b>",
        "metric_reason": "odometry",
        "gravity_known": True,
        "lost": {"blurred": 4, "damaged": 0},
        "exit_code": 3,
    }
    return SceneMap(frames, cloud, metric=True, run=run, mesh=mesh)


def looking(place, *, yaw, pitch):
    """A camera's pose ``[4, 4]``, OpenCV axes, at a place in a world with z up: yaw 0 is along x, pitch is upwards."""
    forward = np.array([math.cos(yaw) * math.cos(pitch), math.sin(yaw) * math.cos(pitch), math.sin(pitch)])
    right = np.array([math.sin(yaw), -math.cos(yaw), 0.0])
    T = np.eye(4)
    T[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    T[:3, 3] = place
    return T


def unprojected(depth, K, T):
    """``[H, W, 3]`` world points of z-depths ``[H, W]``; pixel centres at +0.5."""
    height, width = depth.shape
    v, u = np.mgrid[:height, :width] + 0.5
    rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones_like(u)], -1)
    return rays * depth[..., None] @ T[:3, :3].T + T[:3, 3]


def grid_triangles(depth):
    """Two triangles for each four pixels, where depth does not jump."""
    height, width = depth.shape
    index = np.arange(height * width).reshape(height, width)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]
    corners = np.stack([depth.reshape(-1)[part] for part in (a, b, c, d)])
    smooth = corners.max(axis=0) < 1.1 * corners.min(axis=0)
    return np.concatenate([np.stack([a, c, b], -1)[smooth], np.stack([b, c, d], -1)[smooth]])
