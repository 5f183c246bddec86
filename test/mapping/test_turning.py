"""How far a camera turned: where there is texture, where there is hardly any, and when it is not known."""

import numpy as np
import pytest
from textured_room import SIZE, K, look, poses

from gen3r_core.errors import InputError
from gen3r_core.geometry.poses import invert_poses, rotation_angles
from gen3r_core.mapping.similarity import so3_exp
from gen3r_core.mapping.turning import TurnOptions, turn_between


def off(found, first, second):
    true = (invert_poses(second) @ first)[:3, :3]
    return np.degrees(rotation_angles(found.rotation.T @ true))


@pytest.mark.parametrize("degrees", [-14, 3, 9])
def test_a_turn_about_any_axis_is_found(degrees):
    first, second = poses([20, 20 + degrees], np.zeros((2, 3)))
    second[:3, :3] = second[:3, :3] @ so3_exp(np.radians([1.0, 0, -0.8]))
    found = turn_between(look(first)[0], look(second)[0], K)
    assert found.trusted
    assert found.likeness > 0.8
    assert off(found, first, second) < 0.3


def shaded(T):
    """A wall with nothing on it but a lamp's light, far away."""
    v, u = np.indices(SIZE).astype(float)
    rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones(SIZE)], axis=-1) @ T[:3, :3].T
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    light = 90 + 110 * np.exp(-4 * np.square(rays - [0.3, -0.4, 0.85]).sum(axis=-1))
    return np.repeat(light.round()[..., None], 3, axis=2).astype(np.uint8)


def test_shading_is_enough():
    first, second = poses([15, 24], np.zeros((2, 3)))
    found = turn_between(shaded(first), shaded(second), K)
    assert off(found, first, second) < 1.0
    assert found.likeness > 0.8


def test_other_images_and_empty_ones_are_not_trusted():
    first, second = poses([0, 180], np.zeros((2, 3)))
    assert not turn_between(look(first)[0], look(second)[0], K).trusted
    blank = np.full((*SIZE, 3), 128, np.uint8)
    assert not turn_between(blank, blank, K).trusted


def test_a_camera_that_moves_is_less_alike():
    first, turned, moved = poses([0, 8, 8], [[0, 0, 0], [0, 0, 0], [0.6, 0, 0.4]])
    alike = [turn_between(look(first)[0], look(other)[0], K).likeness for other in (turned, moved)]
    assert alike[0] > 0.9
    assert alike[1] < alike[0] - 0.1


def test_options_are_checked():
    with pytest.raises(InputError, match="90 degrees"):
        TurnOptions(step_deg=0)
