"""Cameras along known ways, and what a model would say of them: for tests of keyframes, metres and goal paths."""

from __future__ import annotations

import numpy as np

from gen3r_core.geometry.poses import poses_from, quaternion_to_matrix
from gen3r_core.geometry.sim3 import Sim3

OPTICAL = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
"""Rotation from a camera's optical axes (x right, y down, z forward) to a body's (x forward, y left, z up)."""


def yawed(x, y, yaw, z=0.0):
    """Base pose [4, 4] on the ground."""
    return poses_from(turn(yaw), np.array([x, y, z]))


def turn(yaw, axis=(0, 0, 1)):
    return quaternion_to_matrix(np.array([*(np.sin(yaw / 2) * np.array(axis, dtype=float)), np.cos(yaw / 2)]))


def base_camera(x=0.2, y=0.05, z=0.6):
    """T_base_cam of a camera that looks ahead."""
    return poses_from(OPTICAL, np.array([x, y, z]))


def random_rotations(rng, count):
    return quaternion_to_matrix(rng.normal(size=(count, 4)))


def small_rotations(rng, count, degrees):
    vectors = np.radians(degrees) * rng.normal(size=(count, 3)) / np.sqrt(3)
    return quaternion_to_matrix(np.concatenate([vectors / 2, np.ones((count, 1))], axis=1))


def random_sim3(rng, scale=None):
    return Sim3(
        float(np.exp(rng.uniform(-2, 2))) if scale is None else scale,
        random_rotations(rng, 1)[0],
        rng.uniform(-20, 20, 3),
    )


def arc(count, length=2.0, turned=0.5, base=None):
    """T_world_cam [count, 4, 4] of a robot that drives a curve of so many metres and radians."""
    yaw = np.linspace(0, turned, count)
    steps = np.full(count - 1, length / max(count - 1, 1))
    middle = (yaw[1:] + yaw[:-1]) / 2
    x = np.concatenate([[0.0], np.cumsum(steps * np.cos(middle))])
    y = np.concatenate([[0.0], np.cumsum(steps * np.sin(middle))])
    bases = np.stack([yawed(*at) for at in zip(x, y, yaw, strict=True)])
    return bases @ (base_camera() if base is None else base)


def as_modelled(T_world_cam, world_from_model, rng=None, noise_m=0.0, noise_deg=0.0):
    """The same cameras as a model says them: its own world and unit, with errors that are metres and degrees."""
    noisy = T_world_cam.copy()
    if rng is not None:
        noisy[:, :3, 3] += noise_m * rng.normal(size=(len(noisy), 3)) / np.sqrt(3)
        noisy[:, :3, :3] = noisy[:, :3, :3] @ small_rotations(rng, len(noisy), noise_deg)
    return world_from_model.inverse().apply_poses(noisy)
