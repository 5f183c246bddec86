"""A scene on disk: all of its files or none."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gen3r_core.errors import OutputError
from gen3r_core.geometry.cameras import intrinsics_after_resize_crop
from gen3r_core.geometry.trajectories import built_in_path
from gen3r_core.io.cameras import read_cameras
from gen3r_core.io.images import list_images, read_image
from gen3r_core.io.ply import read_ply
from gen3r_core.io.results import (
    OUTPUT_FILES,
    check_destination,
    needed_space,
    published_intrinsics,
    scene_cloud,
    write_scene,
)
from gen3r_core.io.video import read_video
from gen3r_core.scene import Scene


def scene(frames=3, size=(28, 42), seed=0, **values):
    """Random colours on random points, which no codec can compress."""
    draw = torch.Generator().manual_seed(seed)
    depth = torch.rand(frames, *size, generator=draw) + 1
    poses = torch.linalg.inv(built_in_path("arc_left", frames))
    K = torch.tensor([[50.0, 0, 21], [0, 40, 14], [0, 0, 1]]).repeat(frames, 1, 1)
    points = torch.rand(frames, *size, 3, generator=draw) * 5
    parts = {
        "colors": torch.rand(frames, *size, 3, generator=draw), "depth": depth, "depth_confidence": depth,
        "points": points, "point_map": None, "point_map_confidence": None, "valid": depth > 1.1,
        "intrinsics": K, "T_cam_world": poses, "observed": torch.arange(frames) == 0,
    }  # fmt: skip
    return Scene(**parts | values)


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_all_files_of_a_scene(tmp_path):
    written = scene(metres_per_unit=1.5)
    names = []
    write_scene(tmp_path / "a" / "b", written, {"seed": 3, "note": "mine"}, fps=30.0, report=names.append)
    folder = tmp_path / "a" / "b"
    pictures = [f"images/frame_{index:05d}.png" for index in range(3)]
    assert sorted(files(folder)) == sorted([*OUTPUT_FILES, *pictures])
    assert names == ["rgb.mp4", "depth.mp4", "images", "cameras.json", "cloud.ply", "run.json"]
    stored = np.stack([read_image(path) for path in list_images(folder / "images")])
    np.testing.assert_array_equal(stored, (written.colors * 255).byte().numpy())
    assert read_video(folder / "depth.mp4").shape == read_video(folder / "rgb.mp4").shape == (3, 28, 42, 3)
    run = json.loads((folder / "run.json").read_text())
    assert run.pop("result") == {
        "num_frames": 3, "image_size": [28, 42], "observed_frames": [0], "metres_per_unit": 1.5,
        "cloud_points": len(read_ply(folder / "cloud.ply")),
        "valid_fraction": pytest.approx(float((written.depth > 1.1).float().mean())),
    }  # fmt: skip
    assert run == {"seed": 3, "note": "mine"}


def test_the_camera_files_give_the_same_cameras_again(tmp_path):
    written = scene()
    write_scene(tmp_path, written, {})
    for name in ("cameras.json", "transforms.json"):
        path = read_cameras(tmp_path / name)
        torch.testing.assert_close(path.T_world_cam.float(), written.T_world_cam, rtol=1e-5, atol=1e-5)
        K = path.intrinsics.float()
        if path.image_size != written.image_size:
            K = intrinsics_after_resize_crop(K, path.image_size, written.image_size)
        torch.testing.assert_close(K, written.intrinsics, rtol=1e-5, atol=1e-4)


@given(st.integers(1, 8), st.integers(1, 8))
def test_published_intrinsics_are_those_of_a_560_square(rows, columns):
    size = (112 * rows, 112 * columns)
    K = torch.tensor([[[300.0, 0, size[1] / 2 + 3], [0, 200, size[0] / 2 - 5], [0, 0, 1]]], dtype=torch.float64)
    published = published_intrinsics(K, size)
    torch.testing.assert_close(intrinsics_after_resize_crop(published, (560, 560), size), K)
    ratio = 560 / max(size)
    expected = [[300 * ratio, 0, 280 + 3 * ratio], [0, 200 * ratio, 280 - 5 * ratio], [0, 0, 1]]
    torch.testing.assert_close(published[0], torch.tensor(expected, dtype=torch.float64))


def test_a_later_result_replaces_an_earlier_one(tmp_path):
    write_scene(tmp_path, scene(5), {})
    (tmp_path / "images" / "frame_00009.png").write_bytes(b"not of a result")
    (tmp_path / "notes.txt").write_text("mine")
    write_scene(tmp_path, scene(2, seed=1), {})
    kept = {"frame_00000.png", "frame_00001.png", "frame_00009.png"}
    assert {path.name for path in (tmp_path / "images").iterdir()} == kept
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert len(read_video(tmp_path / "rgb.mp4")) == 2
    write_scene(tmp_path, scene(3), {})
    assert len(list((tmp_path / "images").iterdir())) == 4


@pytest.mark.parametrize("text", ["{", "[]", '{"result": {}}', '{"result": {"num_frames": "many"}}'])
def test_a_foreign_run_file_is_no_earlier_result(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "frame_00004.png").write_bytes(b"mine")
    write_scene(tmp_path, scene(2), {})
    assert (tmp_path / "images" / "frame_00004.png").read_bytes() == b"mine"


def test_values_that_json_does_not_know_leave_nothing(tmp_path):
    with pytest.raises(OutputError, match=r"run\.json: the value is not valid JSON"):
        write_scene(tmp_path / "out", scene(), {"shift": float("nan")})
    assert list(tmp_path.iterdir()) == []


# --- the cloud -------------------------------------------------------------------------------------------


def test_the_cloud_is_seeded_and_leaves_out_what_is_not_finite():
    cloud = scene_cloud(scene(), seed=1)
    again = scene_cloud(scene(), seed=1)
    np.testing.assert_array_equal(cloud.points, again.points)
    np.testing.assert_array_equal(cloud.colors, again.colors)
    broken = scene().points.clone()
    broken[0, 0, 0, 0], broken[1, 2, 3, 1] = float("nan"), float("inf")
    fewer = scene_cloud(scene(points=broken))
    assert np.isfinite(fewer.points).all()
    assert len(fewer) < len(cloud)


def test_far_points_can_be_removed():
    every, near = (scene_cloud(scene(), remove_far=remove) for remove in (False, True))
    limit = np.percentile(scene().points[..., 2].numpy(), 80)
    assert near.points[:, 2].max() <= limit < every.points[:, 2].max()


# --- space -----------------------------------------------------------------------------------------------


def test_the_needed_space_is_enough_for_noise(tmp_path):
    write_scene(tmp_path, scene(5, (112, 112)), {})
    taken = sum(len(content) for content in files(tmp_path).values())
    assert 0.5 * needed_space(5, (112, 112)) < taken < needed_space(5, (112, 112))


def test_destinations(tmp_path, monkeypatch):
    check_destination(tmp_path / "not" / "there", 5, (112, 112))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write .*below: .*file is a file and not a folder"):
        check_destination(tmp_path / "file" / "below", 5, (112, 112))
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=1000))
    with pytest.raises(OutputError, match=r"2\.9 MiB are needed and 1000 bytes are free there"):
        check_destination(tmp_path, 5, (112, 112))
    with pytest.raises(OutputError, match="are needed and 1000 bytes are free there"):
        write_scene(tmp_path, scene(), {})


def test_folders_that_may_not_be_written_to(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, _mode: path != tmp_path)  # root may write everywhere
    with pytest.raises(OutputError, match=r"cannot write .*out: .* may not be written to; choose another --output_dir"):
        check_destination(tmp_path / "out", 5, (112, 112))
