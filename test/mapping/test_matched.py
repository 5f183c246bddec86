"""Cameras of windows from matches: better than wrong ones, refused where they are not, and where nothing matches."""

from dataclasses import replace

import numpy as np
import pytest
from textured_room import SIZE, K, look, poses, window

from gen3r_core.errors import InputError
from gen3r_core.geometry.poses import invert_poses, rotation_angles
from gen3r_core.mapping.features import FeatureBook
from gen3r_core.mapping.known import mismatch
from gen3r_core.mapping.matched import MatchOptions, camera_from_points, depth_at, match_window
from gen3r_core.mapping.similarity import so3_exp


def book():
    return FeatureBook(lambda frame: pytest.fail(f"frame {frame} is at hand in its window"))


def bent(T, degrees):
    """Cameras that turn too far, more and more."""
    wrong = T.copy()
    angle = np.radians(degrees) * np.linspace(0, 1, len(T))
    wrong[:, :3, :3] = so3_exp(np.stack([0 * angle, angle, 0 * angle], axis=1)) @ T[:, :3, :3]
    return wrong


def shaded(T):
    """A wall with nothing on it but a lamp's light."""
    v, u = np.indices(SIZE).astype(float)
    rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones(SIZE)], axis=-1) @ T[:3, :3].T
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    light = 90 + 110 * np.exp(-4 * np.square(rays - [0.6, -0.3, 0.7]).sum(axis=-1))
    return np.repeat(light.round()[..., None], 3, axis=2).astype(np.uint8)


AHEAD = poses(np.linspace(0, 60, 9), np.stack([np.linspace(0, 0.8, 9), np.zeros(9), np.linspace(-1, 0, 9)], axis=1))
TURNING = poses(np.linspace(0, 80, 9), np.zeros((9, 3)))


@pytest.mark.parametrize("T", [AHEAD, TURNING], ids=["ahead", "on the spot"])
def test_wrong_cameras_are_replaced(T):
    given = window(T, scale=2.0, cameras=bent(T, 30), depth_noise=0.04)
    found = match_window(given, book())
    assert found.reason == ""
    assert found.placed == 9
    assert found.before < 0.3 * found.matches < 0.9 * found.matches < found.after
    before, after = mismatch(given.T_window_cam, T), mismatch(found.window.T_window_cam, T)
    assert before[0] > np.radians(5)
    assert after[0] < np.radians(0.4)
    assert after[1] < 0.01
    # The first camera is where it was, and depth of all views is of one scale, the window's.
    np.testing.assert_allclose(found.window.T_window_cam[0], given.T_window_cam[0], atol=1e-6)
    true = np.stack([look(one)[1] for one in T]) / 2
    scales = np.median((found.window.depth / true).reshape(9, -1), axis=1)
    raw = np.median((given.depth / true).reshape(9, -1), axis=1)
    if T is AHEAD:
        assert np.log(scales).std() < 0.5 * np.log(raw).std()
    assert scales.mean() == pytest.approx(1, abs=0.06)


def test_a_focal_length_that_is_not_known_is_told_by_matches():
    given = window(AHEAD, scale=2.0, cameras=bent(AHEAD, 15))
    rng = np.random.default_rng(0)
    K_wrong = given.intrinsics.copy()
    K_wrong[:, (0, 1), (0, 1)] *= 1.15 + 0.02 * rng.normal(size=(9, 1))
    wrong = replace(given, intrinsics=K_wrong)
    found = match_window(wrong, book(), MatchOptions(calibrated=False))
    assert found.reason == ""
    assert np.ptp(found.window.intrinsics, axis=0).max() == 0
    assert found.window.intrinsics[0, 0, 0] / K[0, 0] == pytest.approx(1, abs=0.03)
    before, after = (mismatch(one.T_window_cam, AHEAD) for one in (wrong, found.window))
    assert after[0] < 0.2 * before[0]
    kept = match_window(wrong, book())
    assert mismatch(kept.window.T_window_cam, AHEAD)[1] > 2 * after[1]
    blank = replace(wrong, colors=np.full_like(wrong.colors, 128))
    nothing = match_window(blank, book(), MatchOptions(calibrated=False))
    assert nothing.window.intrinsics is K_wrong


def test_right_cameras_are_kept():
    given = window(AHEAD)
    found = match_window(given, book())
    assert "explain as many matches" in found.reason
    assert found.window is given
    assert found.before > 0.95 * found.matches


def test_where_nothing_matches_cameras_are_kept():
    given = window(AHEAD, cameras=bent(AHEAD, 30), plain=True)
    found = match_window(given, book())
    assert found.reason == "too few matches: 1 of 9 frames can be placed"
    assert found.window is given
    assert found.matches == found.before == found.after == 0


def test_a_frame_without_matches_goes_with_its_neighbour():
    given = window(AHEAD, cameras=bent(AHEAD, 30))
    given.colors[4] = 128
    found = match_window(given, book())
    assert found.reason == ""
    assert found.placed == 8
    T = found.window.T_window_cam
    step = [invert_poses(one[3]) @ one[4] for one in (T, given.T_window_cam)]
    assert rotation_angles(step[0][:3, :3].T @ step[1][:3, :3]) < np.radians(3)
    rest = [0, 1, 2, 3, 5, 6, 7, 8]
    assert mismatch(T[rest], AHEAD[rest])[0] < np.radians(0.6)


def test_before_a_wall_with_nothing_on_it_the_camera_turns_on():
    """Three frames see only how light falls on a wall: too little to match, enough to see them turn."""
    given = window(TURNING, cameras=bent(TURNING, 40))
    for place in (3, 4, 5):
        given.colors[place] = shaded(TURNING[place])
    found = match_window(given, book())
    assert found.reason == ""
    turned = invert_poses(found.window.T_window_cam[3]) @ found.window.T_window_cam[5]
    true = invert_poses(TURNING[3]) @ TURNING[5]
    assert np.degrees(rotation_angles(turned[:3, :3].T @ true[:3, :3])) < 2
    kept = invert_poses(given.T_window_cam[3]) @ given.T_window_cam[5]
    assert np.degrees(rotation_angles(kept[:3, :3].T @ true[:3, :3])) > 8


def test_a_camera_among_wrong_points():
    rng = np.random.default_rng(0)
    points = rng.uniform([-1, -1, 2], [1, 1, 4], (60, 3))
    T = invert_poses(poses([7], [[0.1, 0.05, -0.2]]))[0]
    local = points @ T[:3, :3].T + T[:3, 3]
    pixels = local[:, :2] / local[:, 2:] * 110 + K[:2, 2]
    pixels[:20] += 30
    found = camera_from_points(points, pixels, K, 2.0)
    assert found is not None
    np.testing.assert_allclose(found[0], T, atol=1e-4)
    assert found[1].tolist() == [False] * 20 + [True] * 40
    guessed = camera_from_points(points, pixels, K, 2.0, guess=T)
    np.testing.assert_allclose(guessed[0], T, atol=1e-4)
    assert camera_from_points(points[:5], pixels[:5], K, 2.0) is None


def test_depth_is_read_between_pixels_and_not_at_edges():
    one = window(AHEAD[:1])
    one.depth[0] = np.arange(SIZE[1])[None] * 0.0625 + 4
    one.depth[0, :, 80:] = 20
    one.depth[0, 50, 10] = 0
    found = depth_at(one, 0, np.array([[10.5, 20.0], [79.5, 20.0], [10.2, 49.7], [100.0, 119.0]]))
    np.testing.assert_allclose(found, [4 + 10.5 / 16, 0, 0, 20])


def test_options_are_checked():
    with pytest.raises(InputError, match="6 matches"):
        MatchOptions(min_matches=3)
