"""``gen3r eval`` on a tiny model: every task, worlds and data sets, interruptions and mistakes."""

import json
import os
import shutil
import signal
import threading
import time

import numpy as np
import pytest
from command_line import gen3r
from PIL import Image
from true_scenes import RoomScenes

from gen3r_core.checkpoint.folder import MANIFEST
from gen3r_core.commands.eval import PROMPTS, TASKS
from gen3r_core.commands.eval import _prompts as prompts_of
from gen3r_core.conditioning import Task
from gen3r_core.evaluation.measure import FIGURES
from gen3r_core.evaluation.tasks import PARTS
from gen3r_core.worlds.export import ExportSettings, export_worlds

IMAGES = {"psnr_middle", "psnr_unknown", "ssim_unknown"}
GEOMETRY = set(FIGURES) - IMAGES
SETTINGS = {"checkpoint", "parts", "data", "split", "seeds", "frames", "size", "steps", "guidance", "scheduler",
            "geometry", "shift", "prompt", "noise_seed", "batch_size", "device", "dtype", "versions", "complete",
            "notes", "per_scene", "task", "scenes", "seconds_per_scene", "camera_control", "baselines"}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two test scenes as ``gen3r worlds export`` writes them, whose depth is known in every fourth pixel."""
    folder = tmp_path_factory.mktemp("data") / "set"
    export_worlds(folder, {"test": 2}, ExportSettings(5, (112, 112), samples=1, depth=True))
    for path in folder.glob("test/*/depth/*.png"):
        with Image.open(path) as picture:
            depth = np.asarray(picture).copy()
        depth[1::2], depth[:, 1::2] = 0, 0  # clouds of fewer points are compared in no time
        Image.fromarray(depth).save(path)
    return folder


def evaluate(checkpoint, task, *options):
    return gen3r("eval", "--checkpoint", checkpoint, "--task", task, "--device", "cpu", "--steps", 1, *options)


def scene_of(data, folder):
    """A data set of its own: the first scene."""
    shutil.copytree(data / "test" / "scene_000000", folder / "scene")
    return folder


def test_the_words_are_those_of_the_library():
    assert tuple(PARTS) == TASKS
    assert set(TASKS[4:]) == set(Task)
    assert PROMPTS[0] == "right"


@pytest.mark.parametrize(
    ("task", "own", "baselines"),
    [
        ("vae", IMAGES, {}),
        ("adapter", GEOMETRY, {"vggt": GEOMETRY}),
        ("feedforward", GEOMETRY, {}),
        ("refined", GEOMETRY, {"vggt": GEOMETRY}),
        ("1view", IMAGES | GEOMETRY, {"nearest": IMAGES, "vggt": GEOMETRY}),
        ("2view", IMAGES | GEOMETRY, {"nearest": IMAGES, "crossfade": IMAGES, "vggt": GEOMETRY}),
        ("allview", IMAGES | GEOMETRY, {"vggt": GEOMETRY}),
    ],
)
def test_every_task(own_checkpoint, data, tmp_path, task, own, baselines):
    path = tmp_path / "figures.json"
    done = evaluate(
        own_checkpoint, task, "--data", data, "--seeds", "1", "--json", path, "--output_dir", tmp_path / "out"
    )
    assert done.code == 0, done.err
    report = json.loads(path.read_text())
    assert set(report) >= SETTINGS | set(FIGURES)
    assert {name for name in FIGURES if report[name] is not None} == own
    assert set(report["baselines"]) == set(baselines)
    for name, figures in baselines.items():
        known = {key for key, value in report["baselines"][name].items() if value is not None}
        assert known == figures | ({"seconds_per_scene"} if name == "vggt" else set())
        assert set(report["baselines"][name]) == {*FIGURES, "seconds_per_scene"}
    assert (report["task"], report["scenes"], report["complete"], report["notes"]) == (task, 1, True, [])
    assert (report["data"], report["split"], report["seeds"]) == (str(data), "test", "1-1")
    assert (report["frames"], report["size"], report["dtype"]) == (5, [112, 112], "float32")
    assert report["steps"] == (1 if task in set(Task) else None)
    assert report["camera_control"] == (report["auc30"] if task in {"1view", "2view"} else None)
    assert report["seconds_per_scene"] > 0
    (scene,) = report["per_scene"]
    assert scene["scene"] == "000001_scene_000001"
    for name in own:
        assert report[name] == scene[name]
    classes = {"psnr_first", "psnr_whole", "psnr_between", "psnr_last"}
    assert (classes <= set(report)) == (task == "vae")
    assert ("absrel_ratio" in report) == (task == "adapter")
    assert scene["prompt"] == (scene["caption"] if task in set(Task) else None)
    assert f"| {task} " in done.out
    assert "1 scenes; " in done.out
    with Image.open(tmp_path / "out" / "000001_scene_000001.png") as sheet:
        assert sheet.width == 96 + 5 * 116


def test_worlds_and_their_export_have_the_same_figures(own_checkpoint, tmp_path):
    export_worlds(tmp_path / "set", {"test": 2}, ExportSettings(3, (56, 56), depth=True))
    for name, options in (("worlds", ("--seeds", "0-1")), ("folder", ("--data", tmp_path / "set"))):
        done = evaluate(own_checkpoint, "feedforward", *options, "--json", tmp_path / f"{name}.json", "--num_frames", 3,
                        "--size", 56, "--batch_size", 2)  # fmt: skip
        assert done.code == 0, done.err
    worlds, folder = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("worlds", "folder"))
    assert (worlds["seeds"], worlds["data"], folder["seeds"]) == ("0-1", None, None)
    assert worlds["scenes"] == folder["scenes"] == 2
    for name in GEOMETRY:
        assert worlds[name] == pytest.approx(folder[name], rel=5e-3), name  # depth in whole millimetres


def test_prompts(own_checkpoint, data, tmp_path):
    """What is asked for; that it makes a difference is the model's business."""
    path = tmp_path / "figures.json"
    done = evaluate(own_checkpoint, "1view", "--data", data, "--prompt", "wrong", "--json", path, "--batch_size", 2,
                    "--guidance", 1, "--num_frames", 1, "--geometry", "frames")  # fmt: skip
    assert done.code == 0, done.err
    report = json.loads(path.read_text())
    captions = [scene["caption"] for scene in report["per_scene"]]
    assert [scene["prompt"] for scene in report["per_scene"]] == captions[::-1]
    assert captions[0] != captions[1]
    assert (report["prompt"], report["negative_prompt"], report["guidance"]) == ("wrong", "bad detailed", 1)
    assert report["geometry"] == "frames"
    assert ", geometry frames, " in done.out
    scenes = RoomScenes(2)
    (scene,) = scenes.load([1], None)
    assert [prompts_of(kind, scenes)(scene) for kind in PROMPTS] == ["room 1", "", "room 2"]


def test_a_data_set_without_depth(own_checkpoint, data, tmp_path):
    bare, path = scene_of(data, tmp_path / "bare"), tmp_path / "figures.json"
    shutil.rmtree(bare / "scene" / "depth")
    done = evaluate(own_checkpoint, "feedforward", "--data", bare, "--json", path)
    assert done.code == 0, done.err
    report = json.loads(path.read_text())
    missing = {"absrel", "delta125", "accuracy", "completeness", "chamfer"}
    assert {name for name in GEOMETRY if report[name] is None} == missing
    note = "1 of 1 scenes have no depth to compare with: depth and point figures are missing there"
    assert report["notes"] == [note]
    assert note in done.out
    (bare / "scene" / "transforms.json").unlink()
    done = evaluate(own_checkpoint, "feedforward", "--data", bare, "--json", path)
    assert done.code == 0, done.err
    report = json.loads(path.read_text())
    assert all(report[name] is None for name in GEOMETRY)
    assert len(report["notes"]) == 2


def test_a_damaged_scene_leaves_those_before_it(own_checkpoint, data, tmp_path):
    shutil.copytree(data / "test", tmp_path / "set")
    picture = tmp_path / "set" / "scene_000001" / "images" / "frame00003.png"
    whole = picture.read_bytes()
    picture.write_bytes(whole[:200])
    path, partial = tmp_path / "figures.json", tmp_path / "figures.partial.json"
    done = evaluate(own_checkpoint, "feedforward", "--data", tmp_path / "set", "--json", path)
    assert done.code == 1
    assert f"gen3r: error: {picture}" in done.err
    assert "Traceback" not in done.err
    assert not path.exists()
    report = json.loads(partial.read_text())
    assert (report["complete"], report["scenes"]) == (False, 1)
    assert f"stopped after 1 of 2 scenes; see {partial}" in done.out
    picture.write_bytes(whole)
    done = evaluate(own_checkpoint, "feedforward", "--data", tmp_path / "set", "--json", path)
    assert done.code == 0, done.err
    assert json.loads(path.read_text())["scenes"] == 2
    assert not partial.exists()


def test_an_interrupt_keeps_what_is_done(own_checkpoint, tmp_path):
    """Ctrl-C in the second of many scenes, or soon after."""
    second = tmp_path / "out" / "val_000001.png"

    def interrupt():
        while not second.exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    waiting = threading.Thread(target=interrupt, daemon=True)
    waiting.start()
    path = tmp_path / "figures.json"
    done = evaluate(own_checkpoint, "feedforward", "--split", "val", "--seeds", "0-4999", "--json", path,
                    "--output_dir", tmp_path / "out", "--num_frames", 2, "--size", 28)  # fmt: skip
    waiting.join()
    assert done.code == 130
    assert "gen3r: interrupted" in done.err
    report = json.loads((tmp_path / "figures.partial.json").read_text())
    assert not path.exists()
    assert report["complete"] is False
    assert 1 <= report["scenes"] == len(report["per_scene"]) < 500
    assert report["per_scene"][0]["scene"] == "val_000000"
    assert f"stopped after {report['scenes']} of 5000 scenes" in done.out


def test_parts_of_a_training(own_checkpoint, data, tmp_path):
    parts = tmp_path / "run"
    shutil.copytree(own_checkpoint / "vggt", parts / "vggt")
    done = gen3r("eval", "--parts", f"vggt={parts / 'vggt'}", "--task", "feedforward", "--data", data, "--seeds", "0",
                 "--num_frames", 5, "--size", 112, "--device", "cpu", "--json", tmp_path / "figures.json")  # fmt: skip
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "figures.json").read_text())
    assert (report["checkpoint"], report["parts"]) == (None, {"vggt": str(parts / "vggt")})
    done = evaluate(parts, "feedforward", "--data", data, "--seeds", "0")
    assert done.code == 1
    assert "give --num_frames and --size" in done.err


@pytest.mark.parametrize(
    ("task", "options", "code", "message"),
    [
        ("3view", (), 2, "invalid choice: '3view'"),
        ("vae", ("--seeds", "5-2"), 2, "the range '5-2' is empty"),
        ("vae", ("--seeds", "a"), 2, "'a' is not a number like 7 or a range like 0-19"),
        ("vae", ("--seeds", f"0-{2**40}"), 1, "the index of a world lies between 0 and 2^40 - 1"),
        ("vae", ("--batch_size", "0"), 2, "0 is too small: at least 1 is needed"),
        ("vae", ("--workers", "some"), 2, "'some' is not a whole number"),
        ("vae", ("--parts", "vggt"), 2, "'vggt' is not a part like vggt=runs/vggt/vggt"),
        ("vae", ("--parts", "vgg=x"), 1, "part 'vgg' is unknown"),
        ("vae", ("--interval", "2"), 1, "--interval goes with --data"),
        ("vae", ("--num_frames", "6"), 1, "4k+1 frames"),
        ("2view", ("--size", "100"), 1, "multiples of 112"),
        ("2view", ("--profile", "preview"), 1, "profile 'preview' makes smaller and fewer frames"),
        ("2view", ("--steps", "0"), 1, "number of steps must be at least 1"),
        ("vae", ("--data", "nowhere"), 1, "nowhere: there is no such folder"),
        ("vae", ("--json", "nowhere/figures.json"), 1, "there is no folder nowhere; make it, or name another"),
    ],
)
def test_mistakes_are_found_before_anything_is_loaded(own_checkpoint, task, options, code, message):
    done = evaluate(own_checkpoint, task, *options)
    assert done.code == code
    assert message in done.err
    assert "Traceback" not in done.err
    assert "B/s" not in done.err


def test_more_mistakes(own_checkpoint, data, tmp_path):
    done = evaluate(own_checkpoint, "1view", "--data", data, "--seeds", "0", "--prompt", "wrong")
    assert (done.code, "there is no other caption to prompt with" in done.err) == (1, True)
    (tmp_path / "file").write_text("")
    done = evaluate(own_checkpoint, "vae", "--data", data, "--output_dir", tmp_path / "file")
    assert (done.code, "cannot write" in done.err) == (1, True)
    bare = tmp_path / "bare"
    bare.mkdir()
    manifest = json.loads((own_checkpoint / MANIFEST).read_text())
    (bare / MANIFEST).write_text(json.dumps({**manifest, "files": {}}))
    done = evaluate(bare, "adapter", "--data", data)
    assert (done.code, "has no vggt" in done.err) == (1, True)
