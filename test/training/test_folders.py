"""Training clips from scenes on disk: what is read, what is refused, what is read ahead."""

import shutil
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from training_clips import SCENE_SIZE as SIZE
from training_clips import MovingSource, write_scene

from gen3r_core.errors import InputError
from gen3r_core.training.folders import FolderOptions, FolderSource, ReadAhead, from_config
from gen3r_core.training.scene_files import find_scenes, open_scene, read_clip

CPU = torch.device("cpu")


@pytest.fixture
def root(tmp_path):
    """Three scenes with lists that name two for training, absolute and relative, and one for tests."""
    for index, frames in enumerate((6, 9, 3)):
        write_scene(tmp_path / f"scene_{index}", frames, depth=True)
    for split, scenes in (("train", [tmp_path / "scene_0", "scene_1"]), ("test", ["scene_2"])):
        for kind, name in (("videos_dirs", "images"), ("cameras_paths", "transforms.json"),
                           ("captions_paths", "captions.txt")):  # fmt: skip
            (tmp_path / f"{split}_{kind}.txt").write_text("".join(f"{scene}/{name}\n" for scene in scenes))
    return tmp_path


def clip(root, index=0, num_frames=5, size=SIZE, interval=1, seed=0, split="train"):
    scene = open_scene(find_scenes(root, split)[index])
    return read_clip(scene, num_frames, size, interval, np.random.default_rng(seed))


def shown(batch):
    """Frame numbers by grey level."""
    return (batch.colors[0, :, 0, 0, 0] * 25.5).round().int().tolist()


def test_lists_name_the_scenes(root):
    assert [scene.images for scene in find_scenes(root)] == [root / "scene_0" / "images", root / "scene_1" / "images"]
    assert [scene.images for scene in find_scenes(root, "test")] == [root / "scene_2" / "images"]


def test_without_lists_folders_are_scenes(root):
    for path in root.glob("*.txt"):
        path.unlink()
    (root / "scene_1" / "transforms.json").unlink()
    scenes = find_scenes(root)
    assert len(scenes) == 3
    assert scenes[1].cameras is None
    with pytest.raises(InputError, match=r"no test_videos_dirs\.txt with at least one line; list the scenes"):
        find_scenes(root, "test")


def test_colours_depth_and_cameras_belong_together(root):
    batch = clip(root)
    first = shown(batch)[0]
    assert shown(batch) == [first + i for i in range(5)]
    assert batch.T_world_cam[0, :, 0, 3].tolist() == shown(batch)
    assert batch.depth[0, :, 0, 0].tolist() == [frame + 0.5 for frame in shown(batch)]
    assert batch.captions[0] in {"a room", "another room"}
    assert (batch.colors.dtype, batch.depth.dtype, batch.intrinsics.dtype) == (torch.float32,) * 3
    assert len({shown(clip(root, 1, seed=seed))[0] for seed in range(10)}) > 2
    assert {clip(root, 1, seed=seed).captions[0] for seed in range(10)} == {"a room", "another room"}


def test_intrinsics_follow_scaling_and_cropping(root):
    batch = clip(root, size=(24, 24))  # twice as large, 8 pixels cut off left and right
    expected = torch.tensor([[40.0, 0, 12], [0, 40, 12], [0, 0, 1]])
    torch.testing.assert_close(batch.intrinsics[0, 0], expected)
    assert batch.size == (24, 24)
    assert batch.depth.shape == (1, 5, 24, 24)


def test_images_are_not_turned_away_from_their_cameras(root):
    """What EXIF says of a camera's orientation holds where there are no poses: these are of the pixels as stored."""
    plain = clip(root)
    exif = Image.Exif()
    exif[0x0112] = 6
    for path in (root / "scene_0" / "images").iterdir():
        Image.fromarray(np.asarray(Image.open(path))).save(path, exif=exif)
    torch.testing.assert_close(clip(root).colors, plain.colors)


def test_intervals_shrink_and_last_frames_repeat_where_a_scene_is_short(root):
    intervals = {shown(clip(root, 1, interval=4, seed=seed))[1] - shown(clip(root, 1, interval=4, seed=seed))[0]
                 for seed in range(20)}  # fmt: skip
    assert intervals == {1, 2}
    batch = clip(root, 0, split="test")
    assert shown(batch) == [0, 1, 2, 2, 2]
    assert batch.T_world_cam[0, :, 0, 3].tolist() == [0, 1, 2, 2, 2]


def test_pictures_alone_are_enough(tmp_path):
    write_scene(tmp_path / "scene", cameras=False)
    (tmp_path / "scene" / "captions.txt").unlink()
    batch = clip(tmp_path)
    assert batch.depth is batch.intrinsics is batch.T_world_cam is None
    assert batch.captions == [""]


# --- source --------------------------------------------------------------------------------------------


def draw(source, step, clips=2):
    return source.batch(step, clips, num_frames=3, size=SIZE, device=CPU)


def test_batches_follow_from_step_and_seed_and_rounds_see_every_scene(root):
    source = FolderSource(root, FolderOptions(reverse=0.5, jitter=0.1))
    again, other = FolderSource(root, FolderOptions(reverse=0.5, jitter=0.1)), FolderSource(root, FolderOptions(seed=1))
    draw(again, 0)
    assert torch.equal(draw(source, 3).colors, draw(again, 3).colors)
    assert not torch.equal(draw(source, 3).colors, draw(other, 3).colors)
    plain = FolderSource(root, FolderOptions())
    for step in range(5):
        numbers = {plain._order(2 * step), plain._order(2 * step + 1)}
        assert numbers == {0, 1}


def test_a_batch_of_two_is_two_batches_of_one(root):
    source = FolderSource(root, FolderOptions())
    halves = torch.cat([draw(source, 6, 1).colors, draw(source, 7, 1).colors])
    assert torch.equal(draw(source, 3, 2).colors, halves)


DAMAGE = {
    "missing image": (lambda root: (root / "scene_1/images/frame00004.png").unlink(),
                      r"transforms\.json names frame00004\.png, which is not in"),
    "damaged image": (lambda root: [path.write_bytes(b"no image") for path in (root / "scene_1/images").iterdir()],
                      r"scene_1/images/frame0000\d\.png"),
    "no cameras": (lambda root: (root / "scene_1/transforms.json").unlink(), r"scene_1/transforms\.json"),
    "nan pose": (lambda root: (root / "scene_1/transforms.json").write_text(
        (root / "scene_1/transforms.json").read_text().replace("4.0", "NaN")), r"transforms\.json.* NaN"),
    "no captions": (lambda root: (root / "scene_1/captions.txt").unlink(), r"scene_1/captions\.txt cannot be read"),
    "other size": (lambda root: [Image.new("RGB", (8, 8)).save(path) for path in (root / "scene_1/images").iterdir()],
                   r"is \(8, 8\) \(height, width\), but its scene's images are \(12, 20\)"),
    "no depth": (lambda root: [path.unlink() for path in (root / "scene_1/depth").iterdir()],
                 r"depth/frame0000\d\.png: this depth image is missing or damaged"),
    "other depth": (lambda root: [Image.new("I;16", (8, 8)).save(path) for path in (root / "scene_1/depth").iterdir()],
                    r"but the colours are \(12, 20\)"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_scenes_are_named_or_skipped(root, kind, caplog):
    damage, message = DAMAGE[kind]
    damage(root)
    strict = FolderSource(root, FolderOptions())
    step = next(step for step in range(2) if strict._order(step) == 1)
    with pytest.raises(InputError, match=f"{message}.*on_error=skip"):
        draw(strict, step, clips=1)
    patient = FolderSource(root, FolderOptions(on_error="skip"))
    for step in range(2):
        assert len(draw(patient, step)) == 2
    assert "scene 1 is skipped" in caplog.text


def test_nothing_but_damage_ends_it(root):
    for index in range(2):
        shutil.rmtree(root / f"scene_{index}" / "images")
    with pytest.raises(InputError, match=r"10 scenes in a row cannot be read, the last being .*scene_"):
        draw(FolderSource(root, FolderOptions(on_error="skip")), 0)


def test_lists_must_fit_together(root):
    (root / "train_cameras_paths.txt").write_text("scene_0/transforms.json\n")
    with pytest.raises(InputError, match=r"train_cameras_paths\.txt lists 1 files but train_videos_dirs\.txt 2"):
        find_scenes(root)
    (root / "train_videos_dirs.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"train_videos_dirs\.txt cannot be read"):
        find_scenes(root)


def test_folders_without_scenes_are_refused(tmp_path):
    with pytest.raises(InputError, match="there is no such folder of training scenes"):
        find_scenes(tmp_path / "nothing")
    with pytest.raises(InputError, match="nor folders with images/ in them"):
        find_scenes(tmp_path)


# --- reading ahead -------------------------------------------------------------------------------------


class Counted(MovingSource):
    def __init__(self):
        super().__init__()
        self.made, self.lock = [], threading.Lock()

    def batch(self, step, batch_size, **options):
        with self.lock:
            self.made.append((step, threading.current_thread().name))
        if step == 9:
            raise InputError("scene nine is damaged")
        return super().batch(step, batch_size, **options)


def test_reading_ahead_changes_nothing_but_the_time(root):
    ahead = from_config(root, {"workers": 2, "ahead": 2})
    plain = from_config(root, {"workers": 0})
    assert isinstance(plain, FolderSource)
    for step in (0, 1, 2, 7, 9, 11):
        assert torch.equal(draw(ahead, step).colors, draw(plain, step).colors)
    ahead.close()


def test_each_batch_is_made_once_and_by_threads():
    source = Counted()
    ahead = ReadAhead(source, workers=2, ahead=2)
    for step in (0, 2, 4, 6):
        draw(ahead, step)
    ahead.close()
    steps = [step for step, _ in source.made]
    assert {0, 2, 4, 6} <= set(steps)
    assert all(steps.count(step) == 1 for step in (0, 2, 4, 6))
    assert all(name.startswith("clips") for _, name in source.made)


def test_errors_of_a_thread_reach_the_training_at_their_step():
    ahead = ReadAhead(Counted(), workers=1, ahead=3)
    for step in range(6, 9):
        draw(ahead, step)
    with pytest.raises(InputError, match="scene nine is damaged"):
        draw(ahead, 9)
    ahead.close()


@pytest.mark.parametrize(
    ("values", "message"),
    [({"on_error": "ignore"}, "'on_error' is 'ignore'; choose one of: stop, skip"),
     ({"max_interval": 0}, "'max_interval' must be at least 1"), ({"worker": 1}, "did you mean 'workers'")],
)  # fmt: skip
def test_unsuitable_options_are_refused(root, values, message):
    with pytest.raises(InputError, match=message):
        from_config(root, values)
