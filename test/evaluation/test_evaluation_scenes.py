"""Clips to evaluate on: the same again, whatever the batch, from worlds and from disk."""

from dataclasses import replace

import pytest
import torch
from training_clips import write_scene

from gen3r_core.errors import InputError
from gen3r_core.evaluation.scenes import FolderScenes, WorldScenes
from gen3r_core.worlds.clips import make_clip
from gen3r_core.worlds.export import ExportSettings, export_worlds

CPU = torch.device("cpu")
SIZE = (24, 32)


def worlds(indices=range(2), frames=3, split="test"):
    return WorldScenes(split, indices, frames, SIZE, samples=1)


@pytest.fixture(scope="module")
def two():
    return worlds().load([0, 1], CPU)


def assert_same(a, b, depth=1e-5):
    assert (a.row, a.place, a.caption) == (b.row, b.place, b.caption)
    assert torch.equal(a.colors, b.colors)
    torch.testing.assert_close(a.depth, b.depth, atol=depth, rtol=0)
    torch.testing.assert_close(a.intrinsics, b.intrinsics, atol=1e-4, rtol=0)
    torch.testing.assert_close(a.T_world_cam, b.T_world_cam, atol=1e-5, rtol=0)


def test_worlds_are_the_clips_of_their_split_in_eight_bits(two):
    for index, scene in enumerate(two):
        clip = make_clip("test", index, 3, SIZE, samples=1)
        assert scene.name == f"test_{index:06d}"
        assert scene.caption == clip.caption
        assert scene.size == SIZE
        colors = clip.colors.movedim(-1, 1)
        assert (scene.colors - colors).abs().max() <= 0.5 / 255 + 1e-6
        torch.testing.assert_close(scene.colors * 255, (scene.colors * 255).round(), atol=1e-4, rtol=0)
        torch.testing.assert_close(scene.depth, clip.depth)
        torch.testing.assert_close(scene.T_world_cam, clip.T_world_cam)
    assert not torch.equal(two[0].colors, worlds(split="val").load([0], CPU)[0].colors)


def test_a_batch_has_the_scenes_that_single_clips_have(two):
    source = worlds()
    assert len(source) == 2
    for scene in two:
        assert_same(scene, source.load([scene.row], CPU)[0])
    (later,) = worlds(range(1, 2)).load([0], CPU)
    assert (later.row, later.place) == (0, 1)
    assert torch.equal(later.colors, two[1].colors)


def test_another_caption_does_not_depend_on_the_range(two):
    assert worlds(range(1)).other_caption(0) == two[1].caption != two[0].caption


def test_exported_worlds_are_the_same_scenes(two, tmp_path):
    export_worlds(tmp_path, {"test": 2}, ExportSettings(3, SIZE, samples=1, depth=True))
    folder = FolderScenes(tmp_path, "test", 3, SIZE)
    assert len(folder) == 2
    for made, read in zip(two, folder.load([0, 1], CPU), strict=True):
        assert_same(made, read, depth=5.1e-4)
        assert read.name == f"{made.place:06d}_scene_{made.place:06d}"
    assert folder.other_caption(1) == two[0].caption
    (second,) = FolderScenes(tmp_path, "test", 3, SIZE, rows=range(1, 2)).load([0], CPU)
    assert second.row == 0
    assert_same(replace(second, row=1), folder.load([1], CPU)[0])


def test_scenes_without_lists_depth_or_cameras(tmp_path):
    write_scene(tmp_path / "a", frames=6)
    write_scene(tmp_path / "b", frames=6, cameras=False)
    scenes = FolderScenes(tmp_path, "test", 3, (12, 20), interval=2)
    first, second = scenes.load([0, 1], CPU)
    assert [round(float(frame.mean()) * 25.5) for frame in first.colors] == [0, 2, 4]
    assert first.T_world_cam[:, 0, 3].tolist() == [0, 2, 4]
    assert first.depth is None
    assert (second.T_world_cam, second.intrinsics, second.depth) == (None, None, None)
    assert first.caption == second.caption == "a room"
    with pytest.raises(InputError, match="there is no other caption to prompt with; evaluate on more scenes"):
        scenes.other_caption(0)


def test_scenes_that_cannot_be_evaluated_on(tmp_path):
    write_scene(tmp_path / "a", frames=4)
    with pytest.raises(InputError, match=r"a/images has 4 frames, and 5 are needed; ask for fewer frames"):
        FolderScenes(tmp_path, "test", 5, (12, 20))
    with pytest.raises(InputError, match="has 4 frames, and 7 are needed"):
        FolderScenes(tmp_path, "test", 4, (12, 20), interval=2)
    with pytest.raises(InputError, match="has 1 scenes of split 'test', counted from 0; choose among them"):
        FolderScenes(tmp_path, "test", 3, (12, 20), rows=range(1, 2))
    with pytest.raises(InputError, match="an interval of at least 1, got 0"):
        FolderScenes(tmp_path, "test", 3, (12, 20), interval=0)
    (tmp_path / "train_videos_dirs.txt").write_text("a/images\n")
    with pytest.raises(InputError, match=r"no test_videos_dirs\.txt with at least one line"):
        FolderScenes(tmp_path, "test", 3, (12, 20))
    with pytest.raises(InputError, match="there is no world to evaluate on"):
        worlds(range(0))
    with pytest.raises(InputError, match="the index of a world lies between 0 and"):
        worlds(range(2**40 - 1, 2**40 + 1))
