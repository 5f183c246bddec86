"""Pictures of a robot that drives, with true depth and poses, and depth as a network would have it."""

from __future__ import annotations

import math

import numpy as np
import torch

from gen3r_core.worlds.camera import WorldCamera
from gen3r_core.worlds.robot import Robot, start_of, tour
from gen3r_core.worlds.splits import world_seed
from gen3r_core.worlds.world import make_world

UNIT = 1.7
SIZE = (96, 128)
MOUNT = np.array([[0, 0, 1.0, 0], [-1, 0, 0, 0], [0, -1, 0, 0.6], [0, 0, 0, 1]])


class Drive:
    """Five pictures of a robot that drives, and depth as a network would have it: another unit, and bent."""

    def __init__(self):
        world = make_world(world_seed("test", 8))
        way = tour(world, 0)
        robot = Robot(*start_of(way))
        robot.follow(way, closed=True)
        robot.step(4.0)
        poses = []
        for _ in range(5):
            robot.step(1.0)
            poses.append(robot.T_world_base @ MOUNT)
        camera = WorldCamera(world, SIZE, math.radians(75), samples=1)
        pictures = [camera.picture(pose) for pose in poses]
        self.images = torch.from_numpy(np.stack([one.colors for one in pictures])).permute(0, 3, 1, 2).float() / 255
        self.true = torch.from_numpy(np.stack([one.depth for one in pictures]))
        self.K = torch.from_numpy(camera.intrinsics).repeat(5, 1, 1)
        self.T = torch.from_numpy(np.stack(poses))
        bend = 0.15 * torch.sin(torch.linspace(0, 3, SIZE[1])) - 0.1 * torch.linspace(-1, 1, SIZE[0])[:, None]
        per_view = torch.tensor([0.05, -0.06, 0.0, 0.08, -0.04])[:, None, None]
        self.depth = self.true / UNIT * (bend + per_view).exp()
