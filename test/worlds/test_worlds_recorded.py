"""Drives through worlds as bags with odometry that drifts, and what maps of them are measured by."""

import json

import numpy as np
import pytest

from gen3r_core.cli import main
from gen3r_core.errors import InputError, OutputError
from gen3r_core.evaluation.map_truth import best_motion, measure_map, path_error
from gen3r_core.geometry.poses import invert_poses, poses_from, rotation_angles
from gen3r_core.geometry.sim3 import Sim3
from gen3r_core.mapping.similarity import so3_exp
from gen3r_core.maps.folder import write_map
from gen3r_core.maps.scene_map import MapCloud, MapFrame, SceneMap
from gen3r_core.recordings.opening import open_recording
from gen3r_core.recordings.shots import ShotReader
from gen3r_core.worlds.camera import WorldCamera
from gen3r_core.worlds.recorded import TRUTH, DriveOptions, OdometryErrors, drifting, read_truth, record_drive
from gen3r_core.worlds.world import make_world

SIZE = (24, 32)


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recorded") / "drive"
    assert main(["worlds", "record", str(folder), "--seed", "24", "--length", "1.2", "--speed", "0.2", "--size",
                 "24x32", "--odometry_scale", "1.05"]) == 0  # fmt: skip
    return folder


def test_it_is_a_bag_like_any_other(bag):
    truth = read_truth(bag)
    with open_recording(bag) as recording:
        shots = list(ShotReader(recording))
        assert recording.format == "rosbag2 (mcap)"
        assert not recording.losses.anything
    assert [shot.stamp_ns for shot in shots] == truth.stamps_ns.tolist()
    assert shots[0].picture.rgb().shape == (*SIZE, 3)
    assert shots[0].model.intrinsics[0, 0] == pytest.approx(16 / np.tan(0.65))
    for shot, T in zip(shots, truth.T_odom_cam, strict=True):
        np.testing.assert_allclose(shot.T_world_cam, T, atol=1e-6)
    # Both begin at one place, the odometry in a frame of its own.
    true = invert_poses(truth.T_world_cam[0]) @ truth.T_world_cam
    odometry = invert_poses(truth.T_odom_cam[0]) @ truth.T_odom_cam
    far = [np.linalg.norm(np.diff(T[:, :3, 3], axis=0), axis=1).sum() for T in (true, odometry)]
    assert far[1] / far[0] == pytest.approx(1.06, abs=0.04)  # noise makes it longer where the robot turns


def test_a_long_recording_repeats_its_pictures(tmp_path):
    told = []
    options = DriveOptions(index=24, length_m=0.6, spacing_m=0.2, hz=30, size=SIZE, seconds=1.0)
    truth = record_drive(tmp_path / "long", options, report=lambda done, count: told.append((done, count)))
    assert told[-1] == (30, 30)
    poses = truth.T_world_cam.reshape(30, 16)
    once = len(np.unique(poses.round(9), axis=0))
    there_and_back = 2 * once - 2
    assert 2 <= once < there_and_back < 30
    np.testing.assert_array_equal(poses[there_and_back:], poses[: 30 - there_and_back])
    np.testing.assert_array_equal(poses[once - 2], poses[once])
    with open_recording(tmp_path / "long") as recording:
        pictures = [shot.picture.rgb() for shot in ShotReader(recording)]
    assert len(pictures) == 30
    np.testing.assert_array_equal(pictures[0], pictures[there_and_back])
    assert np.abs(pictures[0].astype(int) - pictures[once - 1]).mean() > 2
    assert truth.stamps_ns[-1] - truth.stamps_ns[0] == 29 * round(1e9 / 30)
    with pytest.raises(InputError, match="a day"):
        DriveOptions(seconds=0)


def test_odometry_drifts_by_what_was_asked_for():
    angles = np.linspace(0, 2 * np.pi, 101)
    T = poses_from(so3_exp(np.stack([0 * angles, 0 * angles, angles], axis=1)),
                   np.stack([2 * np.sin(angles), 2 - 2 * np.cos(angles), 0 * angles], axis=1))  # fmt: skip
    exact = drifting(T, OdometryErrors(1.0, 0.0, 0.0, 0.0, 0.0))
    np.testing.assert_allclose(exact, T, atol=1e-9)
    # A circle of 4 pi metres: one degree a metre, and two percent of a whole turn.
    off = drifting(T, OdometryErrors(1.0, 0.02, 1.0, 0.0, 0.0))
    turned = 0.02 * 360 + 100 * 2 * 2 * np.sin(np.pi / 100)
    assert np.degrees(rotation_angles(off[-1, :3, :3])) == pytest.approx(turned, abs=0.01)
    long = drifting(T, OdometryErrors(1.02, 0.0, 0.0, 0.0, 0.0))
    np.testing.assert_allclose(long[:, :3, 3], 1.02 * T[:, :3, 3], atol=1e-9)
    noisy = [drifting(T, OdometryErrors(), seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(noisy[0], noisy[1])
    assert np.abs(noisy[0] - noisy[2]).max() > 0.001


def seen(camera, T):
    """Points of a picture, world."""
    depth, K = camera.picture(T).depth.astype(np.float64), camera.intrinsics
    v, u = np.nonzero(depth)
    z = depth[v, u]
    local = np.stack([(u + 0.5 - K[0, 2]) / K[0, 0] * z, (v + 0.5 - K[1, 2]) / K[1, 1] * z, z], axis=1)
    return local @ T[:3, :3].T + T[:3, 3]


def a_map(truth, motion, metric):
    """A map as good as can be, moved."""
    camera = WorldCamera(make_world(truth.seed, truth.kind), SIZE, 1.3, samples=1)
    points = np.concatenate([seen(camera, T) for T in truth.T_world_cam[::8]])
    frames = [MapFrame(np.zeros((*SIZE, 3), np.uint8), T, camera.intrinsics, int(stamp))
              for T, stamp in zip(motion.apply_poses(truth.T_world_cam), truth.stamps_ns, strict=True)]  # fmt: skip
    count = len(points)
    cloud = MapCloud(motion.apply(points).astype(np.float32), np.zeros((count, 3), np.uint8),
                     np.ones(count, np.float32), np.zeros(count, bool), np.zeros(count, np.int32))  # fmt: skip
    return SceneMap(frames, cloud, metric)


@pytest.mark.parametrize(("scale", "metric"), [(1.0, True), (3.0, False), (1.1, True)])
def test_a_perfect_map_has_no_errors_but_its_scale(bag, tmp_path, capsys, scale, metric):
    truth = read_truth(bag)
    motion = Sim3(scale, so3_exp(np.array([0.3, -0.2, 2.0])), np.array([4.0, -3, 1]))
    write_map(a_map(truth, motion, metric), tmp_path / "map", report=False, mcap=False)
    assert main(["worlds", "measure", str(bag), str(tmp_path / "map"), "--json", str(tmp_path / "f.json")]) == 0
    found = json.loads((tmp_path / "f.json").read_text())[str(tmp_path / "map")]
    assert "odometry_ate_m" in capsys.readouterr().out
    assert found["ate_scaled_m"] == pytest.approx(0, abs=1e-5)
    assert found["scale"] == pytest.approx(scale, rel=1e-4)
    assert found["cloud_scaled_median_m"] == pytest.approx(0, abs=1e-3)
    assert found["frames"] == len(truth.stamps_ns)
    if scale == 1 or not metric:
        assert found["cloud_p90_m"] < 0.01
        assert found["seen_within_7cm"] > 0.3  # of so few pixels, points of far walls are farther apart than that
    else:
        assert found["cloud_p90_m"] > found["cloud_median_m"]
        assert found["seen_within_7cm"] < 0.3
    if not metric:
        assert found["ate_m"] is found["cloud_median_m"] is None
    elif scale == 1:
        assert found["ate_m"] == pytest.approx(0, abs=1e-5)
        assert found["cloud_within_7cm"] == 1
    else:
        spread = truth.T_world_cam[:, :3, 3] - truth.T_world_cam[:, :3, 3].mean(axis=0)
        assert found["ate_m"] == pytest.approx(0.1 * np.sqrt(np.square(spread).sum(axis=1).mean()), rel=0.01)
        assert found["cloud_median_m"] > 0.02


def test_paths_are_moved_as_umeyama_has_it():
    rng = np.random.default_rng(0)
    source = rng.normal(size=(20, 3))
    motion = Sim3(0.7, so3_exp(np.array([1.0, 0.4, -0.3])), np.array([1.0, 2, 3]))
    found = best_motion(source, motion.apply(source), scaled=True)
    assert found.scale == pytest.approx(0.7)
    assert path_error(source, motion.apply(source), found) == pytest.approx(0, abs=1e-9)
    assert best_motion(source, motion.apply(source), scaled=False).scale == 1
    with pytest.raises(InputError, match="3 places"):
        best_motion(source[:2], source[:2], scaled=True)


def test_what_cannot_be_recorded_or_measured(bag, tmp_path):
    with pytest.raises(OutputError, match="already there"):
        record_drive(bag, DriveOptions())
    with pytest.raises(InputError, match="images a second"):
        DriveOptions(hz=0)
    with pytest.raises(InputError, match="odometry errors"):
        OdometryErrors(scale=0)
    with pytest.raises(InputError, match="truth"):
        read_truth(tmp_path)
    facts = json.loads((bag / TRUTH).read_text())
    (tmp_path / TRUTH).write_text(json.dumps({**facts, "stamps_ns": facts["stamps_ns"][:2]}))
    with pytest.raises(InputError, match="do not go with"):
        read_truth(tmp_path)
    truth = read_truth(bag)
    moved = a_map(truth, Sim3(1.0, np.eye(3), np.zeros(3)), metric=True)
    write_map(SceneMap(moved.frames[:2], moved.cloud, metric=True), tmp_path / "map", report=False, mcap=False)
    with pytest.raises(InputError, match="only 2 of its frames"):
        measure_map(tmp_path / "map", truth)


def test_a_stopped_recording_leaves_nothing_but_its_cache(tmp_path):
    options = DriveOptions(index=24, length_m=0.6, spacing_m=0.2, size=SIZE)

    def stop(done, _count):
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record_drive(tmp_path / "drive", options, cache=tmp_path / "cache", report=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
