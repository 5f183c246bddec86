"""Clouds as pictures, on clouds whose picture is known."""

import math

import numpy as np
import pytest

from gen3r_core.errors import InputError
from gen3r_core.reconstruction.splats import look_at, perspective, render_cloud

SIZE = (40, 60)
RED, BLUE = (220, 20, 20), (20, 20, 220)


def wall(x, color, count=80):
    """A wall of 2 m x 2 m across x."""
    y, z = np.meshgrid(np.linspace(-1, 1, count), np.linspace(-1, 1, count))
    points = np.stack([np.full(y.size, float(x)), y.ravel(), z.ravel()], axis=1)
    return points, np.tile(np.array(color, np.uint8), (len(points), 1))


def draw(points, colors, eye=(0.0, 0.0, 0.0), **options):
    T = look_at(np.array(eye), np.array([10.0, 0, 0]))
    given = {"radius": 0.03, "edges": 0.0, **options}
    return render_cloud(points, colors, T, perspective(SIZE, math.radians(40)), SIZE, **given)


def test_a_camera_looks_at_a_place_with_z_up():
    T = look_at(np.array([1.0, 2, 3]), np.array([1.0, 6, 3]))
    np.testing.assert_allclose(T[:3, 2], [0, 1, 0], atol=1e-12)  # forward
    np.testing.assert_allclose(T[:3, 0], [1, 0, 0], atol=1e-12)  # right
    np.testing.assert_allclose(T[:3, 1], [0, 0, -1], atol=1e-12)  # down
    with pytest.raises(InputError, match="upright"):
        look_at(np.zeros(3), np.array([0, 0, 5.0]))


def test_a_wall_covers_its_pixels_and_nothing_else():
    found = draw(*wall(4, RED))
    half = 1 / 4 * (SIZE[0] / 2) / math.tan(math.radians(20))  # pixels
    rows = np.flatnonzero((found.index >= 0).any(axis=1))
    assert rows[0] == pytest.approx(SIZE[0] / 2 - half, abs=1.5)
    assert rows[-1] == pytest.approx(SIZE[0] / 2 + half - 1, abs=1.5)
    assert (found.colors[20, 30] == RED).all()
    assert (found.colors[0, 0] == 255).all()
    assert found.depth[20, 30] == pytest.approx(4.0, abs=1e-5)
    assert np.isinf(found.depth[0, 0])


def test_the_nearer_wall_hides_the_other():
    near, far = wall(3, RED), wall(5, BLUE)
    for first, second in ((near, far), (far, near)):
        points, colors = (np.concatenate(parts) for parts in zip(first, second, strict=True))
        found = draw(points, colors)
        assert (found.colors[20, 30] == RED).all()


def test_a_surface_from_behind_is_left_out():
    near, far = wall(3, RED), wall(5, BLUE)
    points, colors = (np.concatenate(parts) for parts in zip(near, far, strict=True))
    normals = np.zeros_like(points)
    normals[: len(near[0]), 0] = 1.0  # away from the camera
    normals[len(near[0]) :, 0] = -1.0
    found = draw(points, colors, normals=normals)
    red, _, blue = found.colors[20, 30].tolist()
    assert blue > red


def test_steps_in_depth_are_darkened():
    near, far = wall(3, RED), wall(4.5, RED, 200)
    near = (near[0] * [1, 0.3, 0.3], near[1])
    far = (far[0] * [1, 3, 3], far[1])
    points, colors = (np.concatenate(parts) for parts in zip(near, far, strict=True))
    plain, lit = (draw(points, colors, edges=strength).colors.astype(int) for strength in (0.0, 1.0))
    darker = plain[..., 0] - lit[..., 0]
    assert darker.max() > 30
    assert darker[20, 30] == 0  # the middle of the near wall
    assert darker[2, 2] == 0


def test_what_lies_behind_shows_where_nothing_is():
    ground = np.zeros((*SIZE, 3), np.uint8)
    ground[:, :30] = 100
    found = draw(*wall(8, RED), background=ground)
    assert (found.colors[0, 5] == 100).all()
    assert (found.colors[0, 50] == 0).all()


@pytest.mark.parametrize("points", [np.empty((0, 3)), np.array([[-2.0, 0, 0]])])
def test_nothing_to_see(points):
    found = draw(points, np.zeros((len(points), 3), np.uint8))
    assert (found.index == -1).all()
    assert (found.colors == 255).all()


def test_wrong_shapes():
    with pytest.raises(InputError, match=r"points \[N, 3\]"):
        draw(np.zeros((4, 3)), np.zeros((4, 3)))
