"""Pixels with depth are points of the camera."""

import numpy as np

from gen3r_core.geometry.pixels import points_of_pixels

K = np.array([[100.0, 0, 40], [0, 50, 30], [0, 0, 1]])


def test_points_project_to_their_pixels():
    draw = np.random.default_rng(0)
    u, v, z = draw.uniform(0, 80, (4, 5)), draw.uniform(0, 60, (4, 5)), draw.uniform(0.1, 9, (4, 5))
    points = points_of_pixels(u, v, z, K)
    assert points.shape == (4, 5, 3)
    seen = points @ K.T
    np.testing.assert_allclose(seen[..., :2] / seen[..., 2:], np.stack([u, v], axis=-1))
    np.testing.assert_array_equal(points[..., 2], z)


def test_each_may_have_intrinsics_of_its_own():
    many = np.stack([K, 2 * K])
    found = points_of_pixels(np.array([40.0, 180]), np.array([30.0, 60]), np.array([2.0, 3]), many)
    np.testing.assert_allclose(found, [[0, 0, 2], [1.5, 0, 3]])
