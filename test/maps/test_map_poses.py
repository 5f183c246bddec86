"""A map's cameras, read by our training loader, by our recordings, and by COLMAP itself."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_maps import START, box_map

from gen3r_core.errors import InputError
from gen3r_core.geometry.poses import invert_poses, quaternion_to_matrix
from gen3r_core.io.cameras import read_transforms
from gen3r_core.io.colmap import read_colmap
from gen3r_core.maps import pose_files
from gen3r_core.maps.facts import FrameFacts, camera_names, poses_of
from gen3r_core.maps.folder import write_map
from gen3r_core.maps.pose_files import tum_texts
from gen3r_core.maps.stamps import SECOND, STEP_NS, complete_stamps
from gen3r_core.maps.upright import heights_above_cameras, upright_axes
from gen3r_core.recordings.opening import open_recording
from gen3r_core.recordings.shots import ShotReader
from gen3r_core.training.scene_files import find_scenes, open_scene, read_frames


@pytest.fixture(scope="module")
def made():
    return box_map(5, generated=(3,))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, made):
    found = tmp_path_factory.mktemp("set") / "scene"
    write_map(made, found, depth=True, report=False)
    return found


def test_our_training_loader_reads_what_was_seen(folder, made):
    (files,) = find_scenes(folder.parent)
    scene = open_scene(files)
    seen = [frame for frame in made.frames if not frame.generated]
    np.testing.assert_array_equal(scene.T_world_cam, np.stack([frame.T_world_cam for frame in seen]))
    clip = read_frames(scene, range(4), seen[0].size, "a box")
    assert clip.colors.shape == (1, 4, 3, 48, 64)
    images = torch.from_numpy(np.stack([frame.image for frame in seen])).permute(0, 3, 1, 2) / 255
    assert (clip.colors[0] - images).abs().mean() < 0.01
    np.testing.assert_allclose(clip.depth[0], np.stack([frame.depth for frame in seen]), atol=0.00051)
    np.testing.assert_allclose(clip.intrinsics[0], np.stack([frame.intrinsics for frame in seen]), rtol=1e-6)


def test_the_file_says_which_axes_it_has(folder, made, tmp_path):
    for axes in ("opengl", "opencv"):
        path = read_transforms(folder / "transforms.json", axes=axes)
        np.testing.assert_array_equal(path.T_world_cam, np.stack([frame.T_world_cam for frame in made.frames]))
    content = json.loads((folder / "transforms.json").read_text())
    content["camera_axes"] = "maya"
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"'camera_axes' are 'opengl' or 'opencv', got 'maya'"):
        read_transforms(tmp_path / "transforms.json")


def test_a_map_is_a_recording_of_what_was_seen(folder, made):
    with open_recording(folder) as recording:
        shots = list(ShotReader(recording))
    seen = [frame for frame in made.frames if not frame.generated]
    assert [shot.picture.path.stem for shot in shots] == ["000000", "000001", "000002", "000004"]
    for shot, frame in zip(shots, seen, strict=True):
        np.testing.assert_array_equal(shot.T_world_cam, frame.T_world_cam)
        np.testing.assert_array_equal(shot.model.intrinsics, frame.intrinsics)
        assert shot.picture.rgb().shape == frame.image.shape


def test_colmap_text_is_what_our_reader_expects(folder, made):
    images = read_colmap(folder / "colmap")
    assert [image.name for image in images] == ["000000.jpg", "000001.jpg", "000002.jpg", "000004.jpg"]
    for image, frame in zip(images, [*made.frames[:3], made.frames[4]], strict=True):
        np.testing.assert_allclose(image.T_world_cam, frame.T_world_cam, atol=1e-12)
        np.testing.assert_array_equal(image.camera.intrinsics, frame.intrinsics)
        assert image.camera.size == frame.size


def test_colmap_reads_it(folder, made):
    pycolmap = pytest.importorskip("pycolmap", reason="pycolmap is not installed")
    model = pycolmap.Reconstruction(str(folder / "colmap"))
    assert (model.num_cameras(), model.num_reg_images()) == (1, 4)
    seen = np.flatnonzero(~made.cloud.generated)
    assert model.num_points3D() == len(seen)
    for number, image in model.images.items():
        frame = made.frames[number - 1]
        np.testing.assert_allclose(image.cam_from_world().matrix(), invert_poses(frame.T_world_cam)[:3], atol=1e-9)
        np.testing.assert_allclose(image.camera.calibration_matrix(), frame.intrinsics)
        assert (image.name, image.camera.width) == (f"{number - 1:06d}.jpg", 64)
        marked = [point for point in image.points2D if point.has_point3D()]
        assert len(marked) == 352
        for point in marked[::50]:
            there = image.project_point(model.points3D[point.point3D_id].xyz)
            np.testing.assert_allclose(there, point.xy, atol=0.006)
    for number, point in list(model.points3D.items())[::101]:
        np.testing.assert_allclose(point.xyz, made.cloud.points[seen[number - 1]], rtol=1e-6)
        np.testing.assert_array_equal(point.color, made.cloud.colors[seen[number - 1]])


def test_points_of_colmap_are_an_even_choice_and_marked_only_where_they_are_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(pose_files, "_COLMAP_POINTS", 100)
    made = box_map(3, generated=(1,))
    made.cloud.frame[:] = np.resize([0, 1, 2, -1, 7], len(made.cloud))
    write_map(made, tmp_path / "map", mcap=False, report=False, images=False)
    rows = [line.split() for line in (tmp_path / "map" / "colmap" / "points3D.txt").read_text().splitlines()[1:]]
    assert len(rows) == 100
    seen = np.flatnonzero(~made.cloud.generated)
    chosen = seen[np.linspace(0, len(seen) - 1, 100).round().astype(int)]
    assert {len(row) for row in rows} == {8, 10}
    for row, point in zip(rows, chosen, strict=True):
        np.testing.assert_allclose(np.array(row[1:4], float), made.cloud.points[point], rtol=1e-6)
        if len(row) == 10:
            assert int(row[8]) - 1 == made.cloud.frame[point] in (0, 2)
    names = [line.split()[-1] for line in (tmp_path / "map" / "colmap" / "images.txt").read_text().splitlines()[1::2]]
    assert names == ["000000.jpg", "000002.jpg"]


def test_cameras_with_other_numbers_are_other_cameras(tmp_path):
    write_map(box_map(4, cameras=("a", "b")), tmp_path / "map", mcap=False, report=False)
    lines = (tmp_path / "map" / "colmap" / "cameras.txt").read_text().splitlines()
    assert lines[1:] == ["1 PINHOLE 64 48 40 40 32.5 24", "2 PINHOLE 64 48 42 42 32.5 24"]


def test_trajectories(tmp_path):
    made = box_map(5, generated=(2,), cameras=("/front/image_raw/compressed", "/rear camera"))
    write_map(made, tmp_path / "map", mcap=False, report=False)
    assert sorted(path.name for path in (tmp_path / "map").glob("*.tum")) == ["poses.tum", "poses_rear_camera.tum"]
    lines = [line.split() for line in (tmp_path / "map" / "poses.tum").read_text().splitlines()]
    assert [line[0] for line in lines] == ["1700000000.000000000", "1700000000.800000000"]
    numbers = np.array([line[1:] for line in lines], float)
    for row, index in zip(numbers, (0, 4), strict=True):
        np.testing.assert_allclose(row[:3], made.frames[index].T_world_cam[:3, 3], atol=1e-8)
        np.testing.assert_allclose(quaternion_to_matrix(row[3:]), made.frames[index].T_world_cam[:3, :3], atol=1e-8)
    assert tum_texts([]) == {"poses.tum": ""}


# --- stamps and names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ([], []),
        ([None, None, None], [SECOND, SECOND + STEP_NS, SECOND + 2 * STEP_NS]),
        ([5, 7, 6], [5, 7, 6]),
        ([START, None, None, START + 300], [START, START + 100, START + 200, START + 300]),
        ([None, START, None], [START - STEP_NS, START, START + STEP_NS]),
        ([None, 10], [0, 10]),
        ([-1, START], [START - STEP_NS, START]),
        ([2**40 * SECOND, START], [START - STEP_NS, START]),
    ],
)
def test_stamps_that_are_missing(given, found):
    assert complete_stamps(given) == found


@given(st.lists(st.none() | st.integers(-(2**63), 2**63 - 1)))
def test_stamps_are_what_ros_can_write(stamps):
    found = complete_stamps(stamps)
    assert len(found) == len(stamps)
    assert all(0 <= stamp < SECOND << 31 for stamp in found)
    for own, stamp in zip(found, stamps, strict=True):
        assert stamp is None or not 0 <= stamp < SECOND << 31 or own == stamp


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["", ""], ["camera"]),
        (["/front/image_raw/compressed", "/rear/image_rect"], ["front", "rear"]),
        (["image_raw"], ["image_raw"]),
        (["/a/b/image", "/a_b", "a b"], ["a_b", "a_b_2", "a_b_3"]),
        (["a", "a_generated"], ["a", "a_generated_camera"]),
        (["0", "ü"], ["camera_0", "camera"]),
    ],
)
def test_names_of_cameras(given, found):
    assert list(camera_names(given).values()) == found


@given(st.lists(st.text()))
def test_names_are_what_ros_and_files_allow(cameras):
    found = camera_names(cameras)
    assert set(found) == set(cameras)
    assert len(set(found.values())) == len(found)
    for name in found.values():
        assert name.isascii()
        assert name.isidentifier()


# --- upright -----------------------------------------------------------------------------------------------


def test_up_is_that_of_the_world_or_of_the_cameras():
    poses = np.stack([frame.T_world_cam for frame in box_map(6).frames])
    np.testing.assert_array_equal(upright_axes(poses, gravity_known=True), np.eye(3))
    np.testing.assert_array_equal(upright_axes(poses[:0], gravity_known=False), np.eye(3))
    turned = np.eye(4)
    turned[:3, :3] = quaternion_to_matrix(np.array([0.3, -0.5, 0.7, 0.2]))
    axes = upright_axes(turned @ poses, gravity_known=False)
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(axes) == pytest.approx(1)
    assert axes[2] @ turned[:3, 2] > 0.97  # the cameras look a little down, in all directions of an arc
    np.testing.assert_array_equal(upright_axes(poses), np.eye(3))  # nobody says, and the cameras stand upright
    np.testing.assert_array_equal(upright_axes(turned @ poses), axes)
    both = np.stack([np.eye(4), np.diag([-1.0, -1, 1, 1])])
    np.testing.assert_allclose(upright_axes(both, gravity_known=False)[2], [0, -1, 0])
    rolled = np.stack([poses[0]] * 2 + [np.eye(4)] * 20)  # the first one's right may be up
    rolled[0, :3, :3] = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]).T
    found = upright_axes(rolled, gravity_known=False)
    np.testing.assert_allclose(found @ found.T, np.eye(3), atol=1e-12)


def test_right_where_the_first_camera_lies_on_its_side():
    lying = np.eye(4)
    lying[:3, :3] = np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])  # its right is the others' up
    poses = np.stack([lying, *[np.eye(4)] * 5000])
    axes = upright_axes(poses, gravity_known=False)
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-9)
    assert axes[2] @ [0, -1, 0] > 0.999


def test_heights_are_over_the_nearest_camera():
    points = np.array([[0.0, 0, 2], [10, 0, 7]])
    cameras = np.array([[0.0, 0, 1], [10, 0, 5]])
    np.testing.assert_allclose(heights_above_cameras(points, cameras), [1, 2])


def test_poses_of_frames():
    assert poses_of([]).shape == (0, 4, 4)
    facts = FrameFacts(np.diag([1.0, 1, 2, 1]), np.eye(3), (2, 2), None, "", False)
    with pytest.raises(InputError, match="camera pose 0 is not a rigid transform"):
        poses_of([facts])
