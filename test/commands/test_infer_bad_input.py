"""What ``gen3r infer`` refuses: a message, exit code 1, no traceback, nothing written, no weights loaded."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from command_line import QUICK, ROOT, environment, gen3r, write_cameras, write_picture

from gen3r_core.io import results
from gen3r_core.prompts import PromptCache

FAILED = 1


@pytest.fixture
def hollow(tmp_path):
    """A published checkpoint without weights: whatever is refused here is refused before loading."""
    (tmp_path / "hollow").mkdir()
    (tmp_path / "hollow" / "model_index.json").write_text("{}")
    return tmp_path / "hollow"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "results" / "out"


def assert_refused(done, out, *words):
    assert done.code == FAILED, done.err
    assert done.out == ""
    message = done.err.strip().splitlines()[-1]
    assert message.startswith("gen3r: error: ")
    for word in words:
        assert word in message
    assert "Traceback" not in done.err
    assert not out.parent.exists()  # not even the folders


def infer(checkpoint, out, *arguments):
    return gen3r("infer", "--pretrained_model_name_or_path", checkpoint, "--output_dir", out, *QUICK, *arguments)


def one_view(inputs):
    return ("--prompts", "a room", "--frame_path", inputs.first)


def two_views(inputs, *cameras):
    return ("--prompts", "", "--task", "2view", "--frame_path", inputs.first, inputs.last, "--cameras", *cameras)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--num_frames", "6"), ("number of frames must be 4k+1", "got 6", "5 and 9")),
        (("--num_frames", "0"), ("number of frames must be 4k+1", "got 0")),
        (("--size", "120"), ("image height 120 is not supported", "multiples of 112", "112 and 224")),
        (("--size", "112x113"), ("image width 113 is not supported",)),
        (("--steps", "0"), ("number of steps must be at least 1, got 0",)),
        (("--shift", "-2"), ("shift of the noise levels must be positive, got -2.0",)),
        (("--shift", "inf"), ("shift of the noise levels must be positive, got inf",)),
        (("--shift", "nan"), ("shift of the noise levels must be positive, got nan",)),
        (("--guidance", "nan"), ("--guidance must be 0 or more, and below 1000, got nan",)),
        (("--guidance", "inf"), ("--guidance must be 0 or more, and below 1000, got inf",)),
        (("--seed", "-1"), ("seeds are whole numbers from 0 to", "got -1")),
        (("--cameras", "orbit"), ("cameras 'orbit' is neither a file nor a built-in path", "zoom_in")),
        (("--metres_per_unit", "2"), ("--metres_per_unit goes with a camera file; --cameras free needs none",)),
        (("--device", "tpu"), ("device 'tpu' is unknown; use auto, cpu, cuda or cuda:N",)),
        (("--device", "meta"), ("device 'meta' is not supported",)),
        (("--device", "cuda:99"), ("device 'cuda:99' is not there: torch sees", "use --device cpu")),
        (("--task", "2view"), ("task 2view takes 2 images in --frame_path, got 1 paths",)),
        (("--task", "allview"), ("task allview needs 5 images, got 1; lower the number of frames to 1",)),
        (("--prompt_embeds", "/nowhere.safetensors"), ("prompt embeddings /nowhere.safetensors cannot be read",)),
    ],
)
def test_options(hollow, out, inputs, options, words):
    assert_refused(infer(hollow, out, *one_view(inputs), *options), out, *words)


@pytest.mark.parametrize(
    "option", [("--size", "big"), ("--size", "1x2x3"), ("--task", "3view"), ("--scheduler", "heun"), ("--steps", "x")]
)
def test_options_that_are_no_options(hollow, out, inputs, option):
    done = infer(hollow, out, *one_view(inputs), *option)
    assert done.code == 2
    assert option[1] in done.err
    assert not out.exists()


def test_a_missing_or_empty_checkpoint(tmp_path, out, inputs, hollow):
    words = ("checkpoint folder", "nowhere does not exist", "gen3r fetch")
    assert_refused(infer(tmp_path / "nowhere", out, *one_view(inputs)), out, *words)
    (tmp_path / "empty").mkdir()
    assert_refused(infer(tmp_path / "empty", out, *one_view(inputs)), out, "empty is not a checkpoint")
    assert_refused(infer(hollow, out, *one_view(inputs)), out, "hollow has no transformer", "gen3r info")


def test_a_damaged_checkpoint(tmp_path, out, inputs, checkpoint):
    shutil.copytree(checkpoint, tmp_path / "damaged")
    weights = tmp_path / "damaged" / "vggt" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert_refused(infer(tmp_path / "damaged", out, *one_view(inputs)), out, "model.safetensors")


def test_images(hollow, out, inputs, tmp_path):
    def refused(frames, *words, task="1view"):
        done = infer(hollow, out, "--prompts", "a", "--task", task, "--frame_path", *frames)
        assert_refused(done, out, *words)

    refused([tmp_path / "none.png"], "none.png does not exist; check --frame_path")
    text = tmp_path / "text.png"
    text.write_text("this is no image")
    refused([text], "text.png: this is not an image that can be read")
    cut = tmp_path / "cut.png"
    cut.write_bytes(inputs.first.read_bytes()[:500])
    refused([cut], "cut.png: this image file is damaged or incomplete")
    other = write_picture(tmp_path / "other.png", 1, 100, 90)
    words = ("images must all have one size", "first.png has (120, 160)", "other.png has (100, 90)")
    refused([inputs.first, other], *words, task="2view")
    refused([inputs.first, inputs.last], "task 1view takes 1 image in --frame_path, got 2 paths")
    refused([tmp_path], "this is a folder")
    (tmp_path / "empty").mkdir()
    refused([tmp_path / "empty"], "no image in this folder", task="allview")


def test_videos(hollow, out, inputs, tmp_path):
    def refused(content, *words):
        (tmp_path / "clip.mp4").write_bytes(content)
        done = infer(hollow, out, "--prompts", "a", "--task", "allview", "--frame_path", tmp_path / "clip.mp4")
        assert_refused(done, out, "clip.mp4", *words)

    refused(b"", "the video file is empty")
    refused(b"a text file, by another name\n" * 50, "this is not a video")
    refused(np.random.default_rng(0).bytes(3000), "this is not a video")
    (tmp_path / "notes.dat").write_text("neither an image nor a video\n" * 50)
    done = infer(hollow, out, "--prompts", "a", "--task", "allview", "--frame_path", tmp_path / "notes.dat")
    assert_refused(done, out, "notes.dat: this is not a video", "nor is it an image that can be read")
    (tmp_path / "notes.txt").write_text("a line of text, which FFmpeg would play\n" * 500)
    done = infer(hollow, out, "--prompts", "a", "--task", "allview", "--frame_path", tmp_path / "notes.txt")
    assert_refused(done, out, "notes.txt: this is not an image that can be read")
    whole = inputs.video.read_bytes()
    refused(whole[: len(whole) // 2], "video")


@pytest.mark.parametrize(
    ("frames", "changed", "words"),
    [
        (4, {}, ("the camera path has 4 cameras but the job has 5 frames; give one camera a frame",)),
        (49, {"extrinsics": []}, ("'extrinsics' must be a list with one matrix for each frame",)),
        (5, {"intrinsics": [[[1, 0, 0], [0, 1, 0], [0, 0, 1]]]}, ("5 extrinsics but 1 intrinsics",)),
    ],
)
def test_camera_files_that_do_not_fit(hollow, out, inputs, tmp_path, frames, changed, words):
    cameras = write_cameras(tmp_path / "cameras.json", frames, **changed)
    assert_refused(infer(hollow, out, *two_views(inputs, cameras)), out, *words)


@pytest.mark.parametrize(
    ("key", "row", "column", "value", "words"),
    [
        ("extrinsics", 0, 3, float("nan"), ("frame 2: 'extrinsics' contains NaN or infinite values",)),
        ("intrinsics", 0, 2, float("inf"), ("frame 2: 'intrinsics' contains NaN or infinite values",)),
        ("extrinsics", 1, 1, 0.0, ("frame 2: 'extrinsics' is singular",)),
        ("extrinsics", 1, 1, -1.0, ("frame 2: 'extrinsics' is singular or mirrored", "the determinant is -1")),
        ("extrinsics", 1, 1, 1.5, ("pose of frame 2 is singular or not a rotation",)),
        ("intrinsics", 0, 0, 0.0, ("frame 2: focal lengths must be positive, got 0.0",)),
    ],
)
def test_cameras_with_bad_values(hollow, out, inputs, tmp_path, key, row, column, value, words):
    cameras = write_cameras(tmp_path / "cameras.json")
    content = json.loads(cameras.read_text())
    content[key][2][row][column] = value
    cameras.write_text(json.dumps(content))
    assert_refused(infer(hollow, out, *two_views(inputs, cameras)), out, "cameras.json", *words)


def test_camera_files_that_are_none(hollow, out, inputs, tmp_path):
    cameras = tmp_path / "cameras.json"
    for content, words in (("{", "not valid JSON"), ("{}", "neither a cameras.json"), ("[]", "holds a JSON object")):
        cameras.write_text(content)
        assert_refused(infer(hollow, out, *two_views(inputs, cameras)), out, "cameras.json", words)


def test_prompts(hollow, out, inputs, tmp_path):
    (tmp_path / "prompts.txt").write_text("\n")
    done = infer(hollow, out, "--prompts", tmp_path / "prompts.txt", "--frame_path", inputs.first)
    assert_refused(done, out, "prompts.txt is empty; write one prompt a line")
    PromptCache({"a sea": torch.zeros(2, 32)}).save(tmp_path / "cache.safetensors")
    done = infer(hollow, out, *one_view(inputs), "--prompt_embeds", tmp_path / "cache.safetensors")
    assert_refused(done, out, "prompt 'a room' is not among the cached embeddings ('a sea')", "gen3r embed-prompts")
    done = infer(
        hollow, out, "--prompts", "a sea", *one_view(inputs)[2:], "--prompt_embeds", tmp_path / "cache.safetensors"
    )
    assert_refused(done, out, "prompt 'bad detailed' is not among the cached embeddings")


# --- where results go ------------------------------------------------------------------------------------


def test_no_space_for_the_results(hollow, out, inputs, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=2**20))
    done = infer(hollow, out, *one_view(inputs))
    assert_refused(done, out, f"cannot write {out}", "2.9 MiB are needed and 1.0 MiB are free there", "free some space")


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 200 KiB, where this system lets us mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    if subprocess.run([mount, "-t", "tmpfs", "-o", "size=200k", "tmpfs", folder], check=False).returncode:
        pytest.skip("this system does not let us mount a small disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_is_too_small(checkpoint, hollow, inputs, small_disk, monkeypatch):
    out = small_disk / "results" / "out"
    done = infer(hollow, out, *one_view(inputs))
    assert_refused(done, out, "2.9 MiB are needed and 200.0 KiB are free there")
    # And one that fills up all the same, while the files are written.
    monkeypatch.setattr(results, "needed_space", lambda *_: 0)
    done = infer(checkpoint, out, *one_view(inputs))
    assert_refused(done, out, "No space left on device", "free there); free some space or choose another folder")
    assert list(small_disk.iterdir()) == []


def test_results_that_cannot_be_there(hollow, inputs, tmp_path):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        done = infer(hollow, out, *one_view(inputs))
        assert done.code == FAILED
        assert "is a file and not a folder; choose another --output_dir" in done.err
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("writer", ["write_video", "write_image", "write_transforms", "write_ply", "write_json_atomic"])
def test_a_failure_while_writing_leaves_nothing(checkpoint, out, inputs, monkeypatch, writer):
    def fail(path, *_args, **_kwargs):
        path.write_bytes(b"half")
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(results, writer, fail)
    done = infer(checkpoint, out, *one_view(inputs), "--steps", "1")
    assert_refused(done, out, f"cannot write {out}: Input/output error")


def test_a_failure_keeps_an_earlier_result(checkpoint, inputs, tmp_path, monkeypatch):
    common = (*one_view(inputs), "--steps", "1", "--num_frames", "1")
    assert infer(checkpoint, tmp_path, *common).code == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def fail(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(results, "write_json_atomic", fail)
    assert infer(checkpoint, tmp_path, *common, "--seed", "1").code == FAILED
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


# --- as a process ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_interrupting(checkpoint, out, inputs):
    """Ctrl-C in the middle of denoising."""
    command = [
        sys.executable, "-m", "gen3r_core.cli", "infer", "--pretrained_model_name_or_path", checkpoint,
        "--output_dir", out, *one_view(inputs), "--num_frames", "5", "--size", "112", "--steps", "20000",
    ]  # fmt: skip
    with subprocess.Popen(
        list(map(str, command)), cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        seen = b""
        deadline = time.monotonic() + 120
        while b"denoise" not in seen and time.monotonic() < deadline:
            seen += os.read(process.stderr.fileno(), 4096)
        process.send_signal(signal.SIGINT)
        output, rest = process.communicate(timeout=60)
    assert process.returncode == 130
    assert output == b""
    assert rest.decode().strip().endswith("gen3r: interrupted; no unfinished result stands under its final name")
    assert b"Traceback" not in rest
    assert not out.parent.exists()
