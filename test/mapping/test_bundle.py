"""Bundle adjustment: derivatives, what it recovers from noise and outliers, and what only depth can tell."""

import numpy as np
import pytest

from gen3r_core.errors import InputError
from gen3r_core.geometry.poses import invert_poses, poses_from, rotation_angles
from gen3r_core.mapping.bundle import BundleOptions, Sights, _Problem, _State, adjust, project, without_outliers, zoomed
from gen3r_core.mapping.similarity import so3_exp

K = np.array([[150.0, 0, 79.5], [0, 150.0, 59.5], [0, 0, 1]])


def scene(rng, count=6, points=80, moving=True):
    """Cameras world to camera, points, and exact sights of all by all."""
    step = np.linspace(0, 1, count)
    turn = np.stack([0 * step, 0.4 * step, 0.05 * step], axis=1)
    place = np.stack([0.5 * step, 0 * step, 0.3 * step], axis=1) if moving else np.zeros((count, 3))
    T = invert_poses(poses_from(so3_exp(turn), place))
    X = np.stack([rng.uniform(-1, 2, points), rng.uniform(-1, 1, points), rng.uniform(2, 5, points)], axis=1)
    view, point = (index.ravel() for index in np.indices((count, points)))
    pixel, z = project(K, T[view], X[point])
    return T, X, Sights(view, point, pixel, z)


def errors(T, true):
    away = np.linalg.norm(invert_poses(T)[:, :3, 3] - invert_poses(true)[:, :3, 3], axis=1)
    return np.degrees(rotation_angles(T[:, :3, :3] @ np.swapaxes(true[:, :3, :3], 1, 2))).max(), away.max()


def disturbed(rng, T, X):
    start = T.copy()
    start[1:, :3, :3] = so3_exp(0.05 * rng.normal(size=(len(T) - 1, 3))) @ T[1:, :3, :3]
    start[1:, :3, 3] += 0.05 * rng.normal(size=(len(T) - 1, 3))
    return start, X + 0.1 * rng.normal(size=X.shape)


def test_derivatives():
    rng = np.random.default_rng(0)
    T, X, sights = scene(rng, 3, 4)
    K3 = np.repeat(K[None], 3, axis=0)
    state = _State(T[:, :3, :3], T[:, :3, 3], np.array([0.0, 0.1, -0.1]), X + 0.05, 0.1)
    problem = _Problem(sights, K3, state, BundleOptions(), np.zeros(3, bool))
    r, local, _ = problem.residuals(state)
    by_camera, by_point, by_focal = problem.derivatives(state, local)
    for axis in range(7):
        step = np.zeros((3, 7))
        step[:, axis] = 1e-6
        found = (problem.residuals(state.moved(step, np.zeros_like(X), 0.0))[0] - r) / 1e-6
        np.testing.assert_allclose(found, by_camera[:, :, axis], rtol=1e-3, atol=1e-2)
    for axis in range(3):
        step = np.zeros_like(X)
        step[:, axis] = 1e-6
        found = (problem.residuals(state.moved(np.zeros((3, 7)), step, 0.0))[0] - r) / 1e-6
        np.testing.assert_allclose(found, by_point[:, :, axis], rtol=1e-3, atol=1e-2)
    found = (problem.residuals(state.moved(np.zeros((3, 7)), np.zeros_like(X), 1e-6))[0] - r) / 1e-6
    np.testing.assert_allclose(found, by_focal, rtol=1e-3, atol=1e-2)


def test_noise_outliers_and_depth_scales():
    rng = np.random.default_rng(1)
    T, X, sights = scene(rng)
    logs = np.array([0, 0.04, -0.03, 0.02, -0.05, 0.03])
    pixel = sights.pixel + 0.3 * rng.normal(size=sights.pixel.shape)
    wrong = rng.random(len(pixel)) < 0.1
    pixel[wrong] += rng.uniform(-40, 40, (wrong.sum(), 2))
    given = Sights(sights.view, sights.point, pixel, sights.depth * np.exp(-logs[sights.view]))
    start, points = disturbed(rng, T, X)
    found = adjust(given, np.repeat(K[None], 6, axis=0), start, points)
    kept = without_outliers(given, found, 3.0)
    assert 0.85 * len(given) < len(kept) < 0.95 * len(given)
    found = adjust(kept, np.repeat(K[None], 6, axis=0), found.T_cam_world, found.points)
    turn, away = errors(found.T_cam_world, T)
    assert turn < 0.3
    assert away < 0.02
    np.testing.assert_array_equal(found.T_cam_world[0], start[0])
    assert np.median(found.off) < 0.5
    np.testing.assert_allclose(found.depth_logs - found.depth_logs[0], logs, atol=0.02)


@pytest.mark.parametrize("wrong", [0.85, 1.2])
def test_a_focal_length_that_is_not_known(wrong):
    rng = np.random.default_rng(5)
    T, X, sights = scene(rng)
    pixel = sights.pixel + 0.3 * rng.normal(size=sights.pixel.shape)
    given = Sights(sights.view, sights.point, pixel, sights.depth * np.exp(0.05 * rng.normal(size=len(pixel))))
    start, points = disturbed(rng, T, X)
    guess = np.repeat((K * [[wrong, 1, 1], [1, wrong, 1], [1, 1, 1]])[None], 6, axis=0)
    found = adjust(given, guess, start, points, BundleOptions(focal=0.15))
    assert wrong * np.exp(found.focal_log) == pytest.approx(1, abs=0.02)
    np.testing.assert_allclose(zoomed(guess, found.focal_log)[0], K, rtol=0.02)
    assert errors(found.T_cam_world, T)[0] < 0.5
    assert np.median(found.off) < 0.5
    fixed = adjust(given, guess, start, points)
    assert fixed.focal_log == 0
    assert errors(fixed.T_cam_world, T)[1] > 3 * errors(found.T_cam_world, T)[1]


def test_where_cameras_only_turn_depth_places_points():
    rng = np.random.default_rng(2)
    T, X, sights = scene(rng, moving=False)
    start, points = disturbed(rng, T, X)
    start[:, :3, 3] = 0
    found = adjust(sights, np.repeat(K[None], 6, axis=0), start, points)
    turn, away = errors(found.T_cam_world, T)
    assert turn < 0.05
    assert away < 0.01
    np.testing.assert_allclose(found.points, X, atol=0.15)


def test_points_behind_a_camera_do_no_harm():
    rng = np.random.default_rng(3)
    T, X, sights = scene(rng)
    start, points = disturbed(rng, T, X)
    points[:5, 2] = -1
    found = adjust(sights, np.repeat(K[None], 6, axis=0), start, points)
    assert errors(found.T_cam_world, T)[0] < 0.5
    assert np.isfinite(found.points).all()


def test_what_cannot_be_adjusted():
    T, X, sights = scene(np.random.default_rng(4))
    with pytest.raises(InputError, match="6 views"):
        adjust(sights, K[None], T, X)
    with pytest.raises(InputError, match="sights"):
        adjust(sights.where(np.zeros(len(sights), bool)), np.repeat(K[None], 6, axis=0), T, X)
    with pytest.raises(InputError, match="positive"):
        BundleOptions(pixel=0)
    with pytest.raises(InputError, match="positive"):
        BundleOptions(focal=-1)
