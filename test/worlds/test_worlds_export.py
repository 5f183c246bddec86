"""Data sets on disk, read back by the library's own readers, and the command."""

import argparse
import json

import numpy as np
import pytest
import torch
from PIL import Image

from gen3r_core.cli import main
from gen3r_core.commands.worlds import PATH_KINDS, SPLITS, WORLD_KINDS, seed_range
from gen3r_core.errors import InputError, OutputError
from gen3r_core.io.cameras import read_transforms, read_transforms_files
from gen3r_core.io.images import list_images, read_images
from gen3r_core.io.video import video_info
from gen3r_core.worlds import floorplan, motion, splits
from gen3r_core.worlds.clips import make_clip, plan_clip
from gen3r_core.worlds.export import ExportSettings, export_worlds, is_whole, scene_folder, write_depth

SETTINGS = ExportSettings(num_frames=3, size=(12, 16), samples=1, depth=True)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("worlds") / "set"
    seen = []
    export_worlds(folder, {"train": 2, "test": 1}, SETTINGS, report=lambda name, now: seen.append((name, now)))
    return folder, seen


def test_a_data_set_is_read_back_by_our_readers(exported):
    folder, seen = exported
    assert seen == [("train 0", True), ("train 1", True), ("test 0", True)]
    for split, count in (("train", 2), ("test", 1)):
        dirs, cameras, captions = (
            (folder / f"{split}_{name}.txt").read_text().splitlines()
            for name in ("videos_dirs", "cameras_paths", "captions_paths")
        )
        assert len(dirs) == len(cameras) == len(captions) == count
        for index in range(count):
            clip = make_clip(split, index, 3, (12, 16), samples=1)
            scene = scene_folder(folder, split, index)
            assert [dirs[index], cameras[index], captions[index]] == [
                str(scene / name) for name in ("images", "transforms.json", "captions.txt")
            ]
            images = read_images(list_images(scene / "images"))
            assert np.abs(images / 255 - clip.colors.numpy()).max() <= 0.5 / 255 + 1e-6
            path = read_transforms(scene / "transforms.json", axes="opencv")
            assert path.image_size == (12, 16)
            torch.testing.assert_close(path.T_world_cam.float(), clip.T_world_cam, atol=1e-5, rtol=0)
            torch.testing.assert_close(path.intrinsics.float(), clip.intrinsics, atol=1e-4, rtol=0)
            names = read_transforms_files(scene / "transforms.json")
            assert names == ["images/frame00000.png", "images/frame00001.png", "images/frame00002.png"]
            lines = (scene / "captions.txt").read_text().splitlines()
            assert lines[0] == clip.caption
            assert 1 <= len(lines) <= 3
            for frame in range(3):
                with Image.open(scene / "depth" / f"frame{frame:05d}.png") as picture:
                    depth = np.asarray(picture).astype(np.float64) / 1000
                assert np.abs(depth - clip.depth[frame].numpy()).max() <= 0.0005 + 1e-6


def test_an_export_goes_on_where_it_stopped(exported, tmp_path):
    folder, _ = exported
    copy = tmp_path / "set"
    scene = scene_folder(copy, "train", 1)
    export_worlds(copy, {"train": 2}, SETTINGS)
    untouched = scene_folder(copy, "train", 0) / "transforms.json"
    before = untouched.stat().st_mtime_ns
    # As if killed while writing the second scene: no transforms.json, and a hidden folder left behind.
    (scene / "transforms.json").unlink()
    (scene / "images" / "frame00001.png").unlink()
    (scene / ".partial-abc").mkdir()
    (scene / ".partial-abc" / "frame.png").write_bytes(b"x")
    assert not is_whole(scene, SETTINGS)
    seen = []
    export_worlds(copy, {"train": 2}, SETTINGS, report=lambda name, now: seen.append((name, now)))
    assert seen == [("train 0", False), ("train 1", True)]
    assert untouched.stat().st_mtime_ns == before
    assert not list(scene.glob(".partial*"))
    for name in ("transforms.json", "images/frame00001.png", "captions.txt", "depth/frame00002.png"):
        assert (scene / name).read_bytes() == (scene_folder(folder, "train", 1) / name).read_bytes()


def test_another_kind_of_export_does_not_mix_with_one_that_was_begun(exported, tmp_path):
    folder, _ = exported
    with pytest.raises(InputError, match=r"was begun with .*'num_frames': 3.* and now .*'num_frames': 5"):
        export_worlds(folder, {"train": 1}, ExportSettings(num_frames=5, size=(12, 16)))
    (tmp_path / "export.json").write_text("{")
    with pytest.raises(InputError, match=r"export.json cannot be read: .*; remove it, or choose another folder"):
        export_worlds(tmp_path, {"train": 1}, SETTINGS)


def test_what_cannot_be_exported(tmp_path):
    for counts in ({}, {"train": 0}, {"train": -1, "test": 2}, {"dev": 1}):
        with pytest.raises(InputError, match="an export needs scenes of train, val, test, got"):
            export_worlds(tmp_path / "x", counts, SETTINGS)
    assert not (tmp_path / "x").exists()
    with pytest.raises(InputError, match="an export needs frames, a size and samples"):
        ExportSettings(num_frames=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        export_worlds(tmp_path / "file" / "set", {"train": 1}, SETTINGS)
    with pytest.raises(OutputError, match="are needed and"):
        export_worlds(tmp_path / "big", {"train": 1}, ExportSettings(num_frames=1, size=(10**9, 10**9)))


def test_depth_in_millimetres(tmp_path):
    write_depth(tmp_path / "depth.png", torch.tensor([[0.0, 1.2344], [99.0, 65.5]]))
    with Image.open(tmp_path / "depth.png") as picture:
        assert np.asarray(picture).tolist() == [[0, 1234], [65535, 65500]]


def test_the_command_exports(tmp_path, capsys):
    words = ["worlds", "export", str(tmp_path / "set"), "--train", "1", "--test", "1", "--num_frames", "2"]
    words += ["--size", "8", "--samples", "1", "--relative_paths", "--device", "cpu"]
    assert main(words) == 0
    assert "2 scenes in" in capsys.readouterr().out
    assert (tmp_path / "set" / "test_videos_dirs.txt").read_text() == "test/scene_000000/images\n"
    assert json.loads((tmp_path / "set" / "export.json").read_text())["size"] == [8, 8]
    assert not (tmp_path / "set" / "train" / "scene_000000" / "depth").exists()
    assert main(words) == 0
    assert "2 of them from before" in capsys.readouterr().out


def test_the_command_renders_previews(tmp_path, capsys):
    words = ["worlds", "render", "--split", "test", "--seeds", "1-2", "--output_dir", str(tmp_path), "--size", "16x24"]
    words += ["--num_frames", "2", "--samples", "1", "--world", "room", "--path", "drone", "--device", "cpu"]
    assert main(words) == 0
    assert "2 worlds in" in capsys.readouterr().out
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "overview.png",
        *(f"test_00000{index}{end}" for index in (1, 2) for end in (".png", ".mp4", "_plan.png")),
    }
    assert video_info(tmp_path / "test_000001.mp4").image_size == (16, 48)
    with Image.open(tmp_path / "overview.png") as picture:
        assert picture.size == (48, 64)


def test_the_command_writes_captions(tmp_path, capsys):
    output = tmp_path / "captions.txt"
    assert main(["worlds", "captions", str(output), "--split", "val", "--seeds", "3-4"]) == 0
    assert output.read_text().splitlines() == [plan_clip("val", index).caption for index in (3, 4)]
    assert "2 captions in" in capsys.readouterr().out


def test_the_command_explains_mistakes(tmp_path, capsys):
    assert main(["worlds", "render", "--num_frames", "0", "--output_dir", str(tmp_path / "x"), "--device", "cpu"]) == 1
    assert "a camera path needs frames" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_ranges_of_seeds():
    assert seed_range("7") == range(7, 8)
    assert seed_range("0-19") == range(20)
    with pytest.raises(argparse.ArgumentTypeError, match="'a-b' is not a number like 7 or a range like 0-19"):
        seed_range("a-b")
    with pytest.raises(argparse.ArgumentTypeError, match="the range '5-2' is empty"):
        seed_range("5-2")


def test_the_command_knows_the_same_words_as_the_library():
    assert SPLITS == splits.SPLITS
    assert WORLD_KINDS == floorplan.WORLD_KINDS
    assert PATH_KINDS == motion.PATH_KINDS
