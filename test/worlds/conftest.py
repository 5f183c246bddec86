"""Worlds that several tests look at, drawn once, and worlds of a few known solids."""

import functools
import math

import numpy as np
import pytest
import torch

from gen3r_core.worlds.floorplan import FloorPlan, Room
from gen3r_core.worlds.interiors import draw_interior
from gen3r_core.worlds.lighting import Light
from gen3r_core.worlds.materials import Material
from gen3r_core.worlds.sight import Sight
from gen3r_core.worlds.world import World, make_world

WHITE = Material("plain", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture(scope="session")
def world_of():
    """``world_of(seed, kind=None)``, drawn once."""
    return functools.lru_cache(maxsize=None)(make_world)


@pytest.fixture(scope="session")
def sight_of(world_of):
    return functools.lru_cache(maxsize=None)(lambda seed, kind=None: Sight(world_of(seed, kind)))


@pytest.fixture(scope="session")
def white():
    return WHITE


@pytest.fixture(scope="session")
def bare_world():
    """A world of given solids in an empty room of 20 x 20 x 10 m that has no walls of its own."""

    def build(solids, lights=None, ambient=(0.3, 0.3, 0.3), exposure=1.0):
        plan = FloorPlan("room", (Room("studio", (-10.0, -10.0, 10.0, 10.0), 10.0),), ())
        lights = (Light((0.0, 0.0, 9.0), (20.0, 20.0, 20.0), 0.0, 0),) if lights is None else tuple(lights)
        interior = draw_interior(np.random.default_rng(0))
        return World(0, plan, (interior,), tuple(solids), (-1,) * len(solids), (), (), lights, ambient, exposure)

    return build


@pytest.fixture(scope="session")
def camera():
    """``camera(size, focal, frames)``: intrinsics ``[1, F, 3, 3]`` with the principal point in the middle."""

    def build(size, focal, frames=1):
        K = torch.tensor([[focal, 0, size[1] / 2], [0, focal, size[0] / 2], [0, 0, 1]], dtype=torch.float64)
        return K.expand(1, frames, 3, 3)

    return build


@pytest.fixture(scope="session")
def looking():
    """``looking(position, yaw, pitch=0)``: a pose ``[1, 1, 4, 4]``."""
    from gen3r_core.worlds.motion import camera_poses

    def build(position, yaw, pitch=0.0):
        angles = (np.array([[math.radians(value)]]) for value in (yaw, pitch, 0.0))
        return torch.from_numpy(camera_poses(np.array([[position]], dtype=np.float64), *angles))

    return build
