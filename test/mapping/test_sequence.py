import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from pretend_vggt import Errors, PretendVggt, building, odometry, path_error, path_length, round_trip

from gen3r_core.errors import CancelledError, InputError
from gen3r_core.geometry.poses import poses_from, rotation_angles
from gen3r_core.mapping.known import DriftModel, KnownPoses
from gen3r_core.mapping.loops import LoopOptions
from gen3r_core.mapping.sequence import PlacementOptions, chain, place_windows
from gen3r_core.mapping.similarity import so3_exp, so3_log
from gen3r_core.mapping.windows import WindowStore, run_windows
from gen3r_core.progress import JobMonitor
from gen3r_core.reconstruction.metric import DepthScale, scale_from_depth


def chained_poses(run, placement):
    """Cameras of windows joined pairwise."""
    windows = chain(placement.joins)
    found = []
    for frame, owner in enumerate(placement.owner):
        window = run.store.get(run.names[owner])
        found.append(windows[owner].apply_poses(window.T_window_cam[window.at(frame)]))
    return np.stack(found)


def test_a_drive_without_odometry_is_closed_by_its_loops(drive):
    error = path_error(drive.free.T_world_cam, drive.T, scaled=True) / drive.length
    pairwise = path_error(chained_poses(drive, drive.free), drive.T, scaled=True) / drive.length
    assert len(drive.T) >= 300
    assert error < 0.01
    assert pairwise > 2 * error
    assert not drive.free.metric
    assert "nothing tells metres" in drive.free.reason
    assert drive.free.drift == (0, 0)
    assert drive.free.windows[0].scale == 1


def test_odometry_gives_metres_and_loops_take_its_drift_away(drive):
    placed = drive.known
    error = path_error(placed.T_world_cam, drive.T, scaled=False) / drive.length
    alone = path_error(drive.odometry, drive.T, scaled=False) / drive.length
    assert error < 0.005
    assert error < alone / 2
    assert placed.metric
    assert placed.reason == ""
    # Both of the odometry's systematic errors: 2 % of turns, and 0.2 degrees for each metre.
    assert placed.drift[0] == pytest.approx(-0.02, abs=0.008)
    assert math.degrees(placed.drift[1]) == pytest.approx(-0.2, abs=0.1)
    np.testing.assert_allclose(placed.T_world_cam[0], drive.odometry[0], atol=1e-9)
    up = placed.T_world_cam[:, 2, :3]
    tilt = np.degrees(np.arccos(np.sum(up * drive.T[:, 2, :3], axis=1).clip(-1, 1)))
    assert np.median(tilt) < 0.5


def test_loops_that_are_kept_are_true_ones(drive):
    for placed in (drive.free, drive.known):
        kept = [loop for loop, weight in zip(placed.loops, placed.loop_weights, strict=True) if weight > 0.5]
        assert len(kept) >= 3
        for loop in kept:
            first, second, _ = loop.candidate
            assert np.linalg.norm(drive.T[first, :3, 3] - drive.T[second, :3, 3]) < 3.5
        assert all(not weight for loop, weight in zip(placed.loops, placed.loop_weights, strict=True) if loop.reason)


def test_every_frame_has_a_pose_and_the_window_that_it_is_inside_of(drive):
    assert drive.free.T_world_cam.shape == (301, 4, 4)
    np.testing.assert_array_equal(drive.free.stamps, np.arange(301) * 100_000_000)
    for frame in (0, 14, 16, 300):
        assert frame in drive.store.get(drive.names[drive.free.owner[frame]]).frames
    assert drive.free.owner[14] == 0
    assert drive.free.owner[15] == 1
    assert math.degrees(drive.free.noise.rotation) == pytest.approx(1.3, abs=0.7)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
@pytest.mark.parametrize("aliased", [0.5, 0.9])
def test_other_buildings_and_noise(seed, aliased):
    boxes, T = building(3, seed=seed), round_trip(3, laps=1.6)
    errors = Errors(bend_deg=4.0, drift=0.1, jitter_deg=1.0, jitter=0.015, depth=0.09, outliers=0.1)
    model, odo = PretendVggt(boxes, T, errors, seed=seed, aliased=aliased), odometry(T, seed, yaw_deg_per_m=0.2)
    with WindowStore(None, {}) as store:
        names = run_windows(model.frames(), model, store)
        free, known = (place_windows(store, names, model, known=k) for k in (None, KnownPoses(odo)))
        run = SimpleNamespace(store=store, names=names)
        pairwise = path_error(chained_poses(run, free), T, scaled=True)
    length = path_length(T)
    assert path_error(free.T_world_cam, T, scaled=True) < min(0.01 * length, pairwise / 2)
    assert path_error(known.T_world_cam, T, scaled=False) < 0.5 * path_error(odo, T, scaled=False)


def test_windows_that_odometry_shows_to_be_bent_do_no_harm(short):
    """A model that turns too little: each window agrees with the next, and all are wrong alike."""

    class Stiff:
        name = "stiff"

        def __call__(self, images):
            found = short.model(images)
            T = found.T_window_cam
            half = so3_exp(0.4 * so3_log(T[:, :3, :3]))
            return replace(found, T_window_cam=poses_from(half, T[:, :3, 3]))

    odo = odometry(short.T, step=0.001)
    with WindowStore(None, {}) as store:
        names = run_windows(short.model.frames(), Stiff(), store)
        placed = place_windows(store, names, Stiff(), known=KnownPoses(odo))
    assert path_error(placed.T_world_cam, short.T, scaled=False) < 1.3 * path_error(odo, short.T, scaled=False)


def test_a_loop_alone_or_between_bent_windows_is_not_believed(drive):
    from gen3r_core.mapping.sequence import CameraNoise, _doubted

    reasons = [loop.reason for loop in drive.free.loops]
    assert any("form" in reason or "contradict" in reason or "agrees" in reason for reason in reasons)
    good = next(loop for loop in drive.free.loops if not loop.reason)
    noises = [CameraNoise(1.0, 0.1)] * len(drive.names)
    assert "bent, by 57 degrees" in _doubted(good, noises, PlacementOptions()).reason
    alone = place_windows(drive.store, drive.names, drive.model, PlacementOptions(loops=LoopOptions(per_window=1)))
    assert sum(not loop.reason for loop in alone.loops) != 1


def test_depth_alone_gives_metres(short):
    scales = {}
    for number in (0, 2):
        window = short.store.get(short.names[number])
        true = np.stack([short.model.true_depth(int(frame)) for frame in window.frames])
        scales[number] = scale_from_depth(window.depth.astype(np.float32), true)
    placed = place_windows(short.store, short.names, depth_scales=scales)
    assert placed.metric
    assert path_error(placed.T_world_cam, short.T, scaled=False) < 0.03 * path_length(short.T)
    nothing = DepthScale(False, "too few pixels", math.nan, math.nan, 3)
    assert not place_windows(short.store, short.names, depth_scales={0: nothing}).metric


def test_without_known_poses_the_first_camera_is_the_origin_and_level(short):
    placed = place_windows(short.store, short.names)
    np.testing.assert_allclose(placed.T_world_cam[0, :3, 3], 0, atol=0.05)
    assert rotation_angles(placed.T_world_cam[0, :3, :3] @ np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])) < 0.05
    assert placed.loops == []


def test_poses_known_for_some_frames_are_enough(short):
    partly = short.T.copy()
    partly[3:11] = np.nan
    partly[25:] = np.nan
    placed = place_windows(short.store, short.names, known=KnownPoses(partly, DriftModel(turn=0, yaw_deg_per_m=0)))
    assert placed.metric
    away = np.linalg.norm(placed.T_world_cam[:, :3, 3] - short.T[:, :3, 3], axis=1)
    assert away[:25].max() < 0.15
    assert away.max() < 0.6


def test_odometry_that_jumps_loses_to_the_images(short):
    jumped = short.T.copy()
    jumped[20:, 0, 3] += 2.0
    jumped[31:] = poses_from(so3_exp(np.array([0, 0, 1.0])), np.array([0.5, -1, 0])) @ jumped[31:]
    placed = place_windows(short.store, short.names, known=KnownPoses(jumped))
    assert placed.jumps == (20, 31)
    assert path_error(placed.T_world_cam, short.T, scaled=False) < 0.2
    assert place_windows(short.store, short.names, known=KnownPoses(short.T)).jumps == ()


def test_a_robot_that_stands_still_tells_no_metres(short):
    still = np.repeat(short.T[:1], len(short.T), axis=0)
    placed = place_windows(short.store, short.names, known=KnownPoses(still))
    assert not placed.metric
    only_one = np.full_like(short.T, np.nan)
    only_one[0] = short.T[0]
    assert not place_windows(short.store, short.names, known=KnownPoses(only_one)).metric


def test_windows_too_short_to_have_a_scale_take_it_from_all():
    """Slow motion: no window by itself moves the 20 cm that a fit needs, all together do."""
    T = round_trip(2, spacing=0.02)[:40]
    model = PretendVggt(building(2, seed=1), T, Errors(0.3, 0.01, 0.05, 0.001, 0.02, 0.02))
    with WindowStore(None, {}) as store:
        names = run_windows(model.frames(), model, store)
        placed = place_windows(store, names, known=KnownPoses(T))
    assert placed.metric
    assert path_error(placed.T_world_cam, T, scaled=False) < 0.02


def test_one_window_is_a_sequence(short):
    model = short.model
    with WindowStore(None, {}) as store:
        names = run_windows(list(model.frames())[:5], model, store)
        placed = place_windows(store, names, model)
    assert len(placed.windows) == 1
    assert placed.T_world_cam.shape == (5, 4, 4)
    assert placed.joins == []


def test_a_window_without_depth_is_carried_by_its_cameras(short):
    class Blind:
        name = "blind"

        def __call__(self, images):
            found = short.model(images)
            if len(calls) == 1:
                found.depth[:] = 0
            calls.append(1)
            return found

    calls = []
    with WindowStore(None, {}) as store:
        names = run_windows(short.model.frames(), Blind(), store)
        placed = place_windows(store, names, known=KnownPoses(short.T))
    assert not placed.joins[0].trusted
    assert path_error(placed.T_world_cam, short.T, scaled=False) < 0.2


def test_progress_is_told_and_can_stop(short):
    stages = []
    place_windows(short.store, short.names, short.model, monitor=JobMonitor(lambda p: stages.append(p.stage)))
    assert [s for n, s in enumerate(stages) if n == 0 or stages[n - 1] != s] == ["join", "loops", "graph"]
    with pytest.raises(CancelledError, match="join"):
        place_windows(short.store, short.names, monitor=JobMonitor(lambda _: False))


def test_what_cannot_be_placed_is_refused(short):
    with pytest.raises(InputError, match="no window"):
        place_windows(short.store, [])
    with pytest.raises(InputError, match="40 frames and 3 known poses"):
        place_windows(short.store, short.names, known=KnownPoses(short.T[:3]))
    with pytest.raises(InputError, match="a window between is missing"):
        place_windows(short.store, [short.names[0], short.names[-1]])
    with pytest.raises(InputError, match="run the sequence again"):
        place_windows(short.store, ["nothing"])
    with pytest.raises(InputError, match="not a rigid transform"):
        KnownPoses(poses_from(2 * np.eye(3), np.zeros(3))[None])
    with pytest.raises(InputError, match="drift has sizes"):
        DriftModel(step_m=0)
    assert KnownPoses(np.full((2, 4, 4), np.nan)).extent == 0
    assert PlacementOptions(loops=None).loops is None
