import dataclasses
import math

import numpy as np
import pytest
from camera_tracks import random_sim3
from hypothesis import given, settings
from hypothesis import strategies as st
from pretend_vggt import Errors, PretendVggt, building, round_trip

from gen3r_core.errors import InputError
from gen3r_core.geometry.poses import rotation_angles
from gen3r_core.mapping.joining import JoinOptions, join_windows, shared_frames
from gen3r_core.mapping.similarity import compose, so3_log
from gen3r_core.mapping.windows import WindowStore, run_windows

NONE = Errors(0, 0, 0, 0, 0, 0)
BOXES, TRACK = building(2, seed=1), round_trip(2)[:30]


def pair(errors, seed=0):
    model = PretendVggt(BOXES, TRACK, errors, seed=seed)
    with WindowStore(None, {}) as store:
        return [store.get(name) for name in run_windows(model.frames(), model, store)]


def truth(first, second):
    """From the cameras of exact windows: all their shared frames' cameras are the same."""
    a, b = first.at(int(second.frames[0])), 0
    return first.T_window_cam[a, :3, :3] @ second.T_window_cam[b, :3, :3].T


def moved(window, sim3):
    """The same window in another world and unit."""
    return dataclasses.replace(
        window, T_window_cam=sim3.apply_poses(window.T_window_cam), depth=(sim3.scale * window.depth).astype(np.float16)
    )


@given(st.integers(0, 2**31))
@settings(deadline=None, max_examples=8)
def test_a_window_in_another_world_is_found(seed):
    first, second = pair(NONE)
    there = random_sim3(np.random.default_rng(seed))
    join, before = join_windows(first, moved(second, there)), join_windows(first, second)
    found, wanted = join.measured.sim3, compose(before.measured.sim3, there.inverse())
    assert found.scale == pytest.approx(wanted.scale, rel=2e-3)
    assert rotation_angles(found.rotation.T @ wanted.rotation) < 2e-3
    np.testing.assert_allclose(
        found.translation, wanted.translation, atol=5e-3 * (1 + np.abs(wanted.translation).max())
    )
    assert join.trusted
    assert join.inliers > 0.97
    np.testing.assert_array_equal(join.shared, shared_frames(first, second))


def test_exact_windows_join_to_their_half_floats():
    first, second = pair(NONE)
    join = join_windows(first, second)
    assert rotation_angles(join.measured.sim3.rotation.T @ truth(first, second)) < 2e-3
    assert join.residual < 0.02  # each pixel has an error of one percent in both
    assert join.rotation_rad.max() < 2e-3
    assert join.measured.sigmas[1] < 5e-3


def test_a_whole_frame_and_a_third_of_the_pixels_may_be_wrong():
    first, second = pair(NONE)
    good = join_windows(first, second).measured.sim3
    rng = np.random.default_rng(0)
    poses, depth = second.T_window_cam.copy(), second.depth.astype(np.float64)
    poses[1, :3, 3] += 5
    wrong = rng.random(depth.shape) < 0.33
    depth[wrong] *= np.exp(rng.normal(size=int(wrong.sum())) + 0.5)
    join = join_windows(first, dataclasses.replace(second, T_window_cam=poses, depth=depth.astype(np.float16)))
    assert join.measured.sim3.scale == pytest.approx(good.scale, rel=0.01)
    assert rotation_angles(join.measured.sim3.rotation.T @ good.rotation) < 0.01
    assert join.translation[1] > 1
    assert join.translation[0] < 0.1
    assert 0.4 < join.inliers < 0.7


def test_sure_pixels_count_and_unsure_ones_do_not():
    first, second = pair(NONE)
    good = join_windows(first, second).measured.sim3
    depth, confidence = second.depth.astype(np.float64), np.full(second.depth.shape, 5.0)
    depth[:, :, :24] *= 1.3  # more than half of the picture, but with no confidence at all
    confidence[:, :, :24] = 0
    changed = dataclasses.replace(second, depth=depth.astype(np.float16), confidence=confidence.astype(np.float16))
    assert join_windows(first, changed).measured.sim3.scale == pytest.approx(good.scale, rel=0.01)


def test_covariances_are_of_the_size_of_the_errors():
    """Errors over standard deviations, squared, over seven: about 1 if the covariance were exact."""
    exact = join_windows(*pair(NONE)[:2]).measured.sim3
    ratios = []
    for seed in range(12):
        first, second = pair(Errors(0, 0, 0.5, 0.01, 0.03, 0.05), seed=seed)[:2]
        join = join_windows(first, second)
        # Windows' worlds are their first cameras', which have errors of their own: compare in the exact ones.
        units = [w.depth.astype(float)[4:6].mean() / e.depth.astype(float)[4:6].mean()
                 for w, e in zip((first, second), pair(NONE)[:2], strict=True)]  # fmt: skip
        off = np.array([
            *(join.measured.sim3.translation / units[0] - exact.translation),
            *so3_log(exact.rotation.T @ join.measured.sim3.rotation),
        ])  # fmt: skip
        C = join.measured.covariance[:6, :6].copy()
        C[:3] /= units[0]
        C[:, :3] /= units[0]
        ratios.append(off @ np.linalg.solve(C, off) / 6)
    assert 0.2 < np.median(ratios) < 5


def test_windows_of_different_things_are_not_trusted():
    first, second = pair(NONE)
    rng = np.random.default_rng(0)
    depth = np.exp(rng.normal(size=second.depth.shape)).astype(np.float16)
    assert not join_windows(first, dataclasses.replace(second, depth=depth)).trusted


def test_without_depth_cameras_alone_are_joined_and_not_trusted():
    first, second = pair(NONE)
    join = join_windows(first, dataclasses.replace(second, depth=np.zeros_like(second.depth)))
    assert not join.trusted
    assert math.isnan(join.residual)
    assert join.measured.sim3.scale == 1
    assert rotation_angles(join.measured.sim3.rotation.T @ truth(first, second)) < 1e-2
    assert join.measured.sigmas[2] == pytest.approx(0.5)
    one = np.zeros_like(second.depth)
    one[0] = second.depth[0]  # only one of the shared frames has points
    assert join_windows(first, dataclasses.replace(second, depth=one)).trusted


def test_what_cannot_be_joined_is_refused():
    first, second = pair(NONE)
    with pytest.raises(InputError, match="share no frame"):
        join_windows(first, dataclasses.replace(second, frames=second.frames + 100))
    with pytest.raises(InputError, match="at least 16 points"):
        JoinOptions(points=3)
