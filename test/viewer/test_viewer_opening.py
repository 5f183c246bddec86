"""What a viewer finds at a path."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from map_samples import FRAMES, SIZE, room_map

from gen3r_core.errors import InputError
from gen3r_core.geometry.rigid import invert_rigid
from gen3r_core.io.results import write_scene
from gen3r_core.maps.folder import write_map
from gen3r_core.maps.ply_files import write_map_cloud
from gen3r_core.scene import Scene
from gen3r_core.viewer import content as content_module
from gen3r_core.viewer.opening import open_content, revision


@pytest.fixture(scope="module")
def scene_folder(tmp_path_factory):
    """As gen3r infer writes it."""
    sample = room_map()
    stack = {
        name: torch.from_numpy(np.stack([getattr(frame, name) for frame in sample.frames]))
        for name in ("image", "depth", "T_world_cam", "intrinsics")
    }
    shape = (FRAMES, *SIZE)
    points = torch.from_numpy(sample.cloud.points).reshape(*shape, 3)
    scene = Scene(
        colors=stack["image"].float() / 255,
        depth=stack["depth"].float(),
        depth_confidence=torch.ones(shape),
        points=points,
        point_map=None,
        point_map_confidence=None,
        valid=torch.ones(shape, dtype=torch.bool),
        intrinsics=stack["intrinsics"].float(),
        T_cam_world=invert_rigid(stack["T_world_cam"].float()),
        observed=torch.arange(FRAMES) < 6,
        metres_per_unit=1.7,
    )
    folder = tmp_path_factory.mktemp("scenes") / "out"
    write_scene(folder, scene, {"prompt": "a room"})
    return folder


def test_a_map(room):
    sample = room_map()
    assert room.name == "room"
    np.testing.assert_array_equal(room.points, sample.cloud.points)
    np.testing.assert_array_equal(room.frame, sample.cloud.frame)
    np.testing.assert_array_equal(room.confidence, sample.cloud.confidence)
    assert room.metric
    assert room.up.tolist() == [0, 0, 1]
    assert len(room.mesh.triangles) == len(sample.mesh.triangles)
    assert [camera.generated for camera in room.cameras] == [False] * 6 + [True] * 2
    for camera, frame in zip(room.cameras, sample.frames, strict=True):
        np.testing.assert_allclose(camera.T_world_cam, frame.T_world_cam)
        assert camera.stamp_ns == frame.stamp_ns
        assert camera.aspect == pytest.approx(SIZE[1] / SIZE[0])
        assert 2 * math.atan(math.tan(camera.fov_y / 2) * camera.aspect) == pytest.approx(math.radians(90))
        assert camera.thumbnail.shape == (*SIZE, 3)
    assert np.abs(room.image(3).astype(int) - sample.frames[3].image).mean() < 4


def test_pictures_are_read_for_some_of_many_cameras(room_folder, monkeypatch):
    monkeypatch.setattr(content_module, "MOST_PICTURES", 3)
    monkeypatch.setattr(content_module, "THUMBNAIL", 64)
    told = []
    found = open_content(room_folder, lambda done, total: told.append((done, total)))
    assert [camera.drawn for camera in found.cameras] == [index in {0, 4, 7} for index in range(FRAMES)]
    assert [camera.thumbnail is not None for camera in found.cameras] == [camera.drawn for camera in found.cameras]
    assert found.cameras[0].thumbnail.shape == (48, 64, 3)
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_a_map_of_which_a_picture_is_broken_is_shown_without_it(room_folder, tmp_path):
    folder = tmp_path / "map"
    shutil.copytree(room_folder, folder)
    (folder / "images" / "000002.jpg").write_bytes(b"no picture")
    found = open_content(folder)
    assert [camera.thumbnail is None for camera in found.cameras] == [index == 2 for index in range(FRAMES)]
    with pytest.raises(InputError, match=r"000002\.jpg: this is not an image"):
        found.image(2)


def test_a_map_without_pictures_or_gravity(tmp_path):
    sample = room_map()
    bare = type(sample)(sample.frames, sample.cloud, metric=False, run={"gravity_known": False})
    write_map(bare, tmp_path / "map", mcap=False, report=False, images=False)
    found = open_content(tmp_path / "map")
    assert found.up is None
    assert found.mesh is None
    assert [camera.thumbnail for camera in found.cameras] == [None] * FRAMES
    with pytest.raises(InputError, match="was written without pictures"):
        found.image(0)


def test_a_scene_of_infer(scene_folder):
    found = open_content(scene_folder)
    sample = room_map()
    assert len(found.points) > 1000
    assert found.confidence is None
    assert found.generated is None
    assert found.frame is None
    assert found.metric is False
    assert [camera.generated for camera in found.cameras] == [False] * 6 + [True] * 2
    for camera, frame in zip(found.cameras, sample.frames, strict=True):
        np.testing.assert_allclose(camera.T_world_cam, frame.T_world_cam, atol=1e-5)
    assert np.abs(found.image(5).astype(int) - sample.frames[5].image).max() <= 1
    assert found.run["prompt"] == "a room"


@pytest.mark.parametrize("text", ["{", "[1]", '{"result": 3}', None])
def test_a_scene_whose_run_is_broken_is_all_observed(scene_folder, tmp_path, text):
    folder = tmp_path / "out"
    shutil.copytree(scene_folder, folder)
    (folder / "run.json").unlink()
    if text is not None:
        (folder / "run.json").write_text(text)
    assert not any(camera.generated for camera in open_content(folder).cameras)


def test_a_cloud(room_folder, tmp_path):
    sample = room_map().cloud
    found = open_content(room_folder / "cloud.ply")
    assert found.name == "cloud.ply"
    np.testing.assert_array_equal(found.points, sample.points)
    np.testing.assert_array_equal(found.generated, sample.generated)
    assert found.frame is None
    assert found.cameras == ()
    folder = tmp_path / "demo"
    folder.mkdir()
    write_map_cloud(folder / "cloud.ply", sample.select(~sample.generated), metric=True)
    alone = open_content(folder)
    assert alone.name == "demo"
    assert alone.generated is None


def test_what_is_no_map(tmp_path):
    with pytest.raises(InputError, match=r"missing: there is no such folder or file; name what gen3r reconstruct"):
        open_content(tmp_path / "missing")
    with pytest.raises(InputError, match=r"this folder is no map: it has none of poses\.tum, cameras\.json"):
        open_content(tmp_path)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match=r"a\.txt: this file is no point cloud"):
        open_content(tmp_path / "a.txt")
    (tmp_path / "a.ply").write_text("x")
    with pytest.raises(InputError, match=r"a\.ply"):
        open_content(tmp_path / "a.ply")


@pytest.mark.parametrize("name", ["run.json", "transforms.json", "cloud.ply", "mesh.ply"])
def test_a_damaged_map_is_named(room_folder, tmp_path, name):
    folder = tmp_path / "map"
    shutil.copytree(room_folder, folder)
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        open_content(folder)


def test_a_revision_changes_with_the_files(room_folder, tmp_path):
    folder = tmp_path / "map"
    assert revision(folder) == ()
    shutil.copytree(room_folder, folder)
    first = revision(folder)
    assert [name for name, *_ in first] == ["run.json", "cloud.ply", "transforms.json", "mesh.ply"]
    assert revision(folder) == first
    run = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**run, "more": 1}))
    assert revision(folder) != first
    assert len(revision(folder / "cloud.ply")) == 1
