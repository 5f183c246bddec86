"""``gen3r infer`` from command line to files."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import DATA, QUICK, gen3r, gen3r_process
from PIL import Image

from gen3r_core import __version__
from gen3r_core.commands.infer import read_frames
from gen3r_core.errors import InputError
from gen3r_core.io.cameras import read_gen3r_cameras, read_transforms, read_transforms_files
from gen3r_core.io.images import list_images, read_image
from gen3r_core.io.ply import read_ply
from gen3r_core.io.results import OUTPUT_FILES
from gen3r_core.io.video import read_video, video_info

STAGES = ["text", "image", "cameras", "video_encode", "denoise", "geometry", "video_decode"]
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real inputs at {DATA}")


def check_result(folder: Path, frames: int, size: tuple[int, int]) -> dict:
    """Every file is there, can be read by our readers, and fits the others; returns run.json."""
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    pictures = [f"images/frame_{index:05d}.png" for index in range(frames)]
    assert found == sorted([*OUTPUT_FILES, *pictures])
    for name in ("rgb.mp4", "depth.mp4"):
        assert read_video(folder / name).shape == (frames, *size, 3)
        assert video_info(folder / name).fps == 12
    images = np.stack([read_image(path) for path in list_images(folder / "images")])
    assert images.shape == (frames, *size, 3)
    # 4:2:0 and crf 18 leave little of noise but its brightness over some pixels.
    blocks = [clip.mean(axis=3).reshape(frames, size[0] // 4, 4, size[1] // 4, 4).mean(axis=(2, 4))
              for clip in (images, read_video(folder / "rgb.mp4"))]  # fmt: skip
    assert np.abs(blocks[0] - blocks[1]).mean() < 3
    cameras = read_gen3r_cameras(folder / "cameras.json")
    transforms = read_transforms(folder / "transforms.json")
    assert len(cameras) == len(transforms) == frames
    assert transforms.image_size == size
    assert read_transforms_files(folder / "transforms.json") == pictures
    stored = json.loads((folder / "cameras.json").read_text())
    inverse = torch.linalg.inv(torch.tensor(stored["extrinsics"], dtype=torch.float64))
    torch.testing.assert_close(transforms.T_world_cam, inverse, rtol=1e-4, atol=1e-5)
    cloud = read_ply(folder / "cloud.ply")
    run = json.loads((folder / "run.json").read_text())
    assert len(cloud) == run["result"]["cloud_points"] > 100
    assert run["result"]["num_frames"] == frames
    assert run["result"]["image_size"] == list(size)
    assert 0 < run["result"]["valid_fraction"] <= 1
    assert list(run["seconds"]) == ["load", *STAGES]
    assert all(seconds > 0 for seconds in run["seconds"].values())
    assert run["versions"]["gen3r"] == __version__
    assert run["versions"]["torch"] == torch.__version__
    assert {"python", "diffusers", "transformers", "device"} <= set(run["versions"])
    return run


@pytest.fixture(scope="module")
def two_views(checkpoint, inputs, tmp_path_factory):
    """A run of the installed program with two images and a camera file; its folder, and what it printed."""
    folder = tmp_path_factory.mktemp("two_views") / "new" / "result"
    program = Path(sys.executable).with_name("gen3r")
    done = gen3r_process(
        "infer", "--pretrained_model_name_or_path", checkpoint, "--task", "2view", "--prompts", inputs.prompts,
        "--frame_path", inputs.first, inputs.last, "--cameras", inputs.cameras, "--output_dir", folder,
        "--metres_per_unit", "2.0", *QUICK,
        program=(str(program),) if program.is_file() else (sys.executable, "-m", "gen3r_core.cli"),
    )  # fmt: skip
    assert done.code == 0, done.err
    return folder, done


def test_two_views_with_a_camera_file(two_views, checkpoint, inputs):
    folder, done = two_views
    run = check_result(folder, 5, (112, 112))
    assert run["result"]["observed_frames"] == [0, 4]
    assert run["result"]["metres_per_unit"] == 2.0
    resolved = {
        "command": "infer", "task": "2view", "prompt": "a room with a window", "negative_prompt": "bad detailed",
        "frame_path": [str(inputs.first), str(inputs.last)], "cameras": str(inputs.cameras), "metres_per_unit": 2.0,
        "checkpoint": str(checkpoint), "steps": 2, "guidance": 5.0, "scheduler": "euler", "shift": 2.0,
        "geometry": "latents", "attention": "auto", "seed": 42, "dtype": "float32", "remove_far_points": False,
    }  # fmt: skip
    assert {key: run[key] for key in resolved} == resolved
    assert done.out == f"5 frames of 112x112 in {folder}\n"


def test_the_progress_bar_names_every_stage_and_reaches_its_total(two_views):
    _, done = two_views
    shown = re.sub(r"\x1b\[\w", "", done.err).replace("\r", "\n")
    for stage in [*STAGES, *(f"write {name}" for name in OUTPUT_FILES if name != "transforms.json")]:
        assert re.search(rf"^{stage}: +\d+%", shown, re.MULTILINE), stage
    last = shown.strip().splitlines()[-1]
    assert re.match(r"done: 100%\|.*\| (\d+)/\1 ", last)
    counts = [int(count) for count in re.findall(r"\| (\d+)/14 ", shown)]
    assert counts == sorted(counts)
    # Loading has bars of its own, in bytes.
    assert re.search(r"transformer: +\d+%.*B/s", shown)


def test_the_same_seed_gives_the_same_files(two_views, checkpoint, inputs, tmp_path):
    folder, _ = two_views
    common = (
        "infer", "--pretrained_model_name_or_path", checkpoint, "--task", "2view", "--prompts", "a room with a window",
        "--frame_path", inputs.first, inputs.last, "--cameras", inputs.cameras, "--metres_per_unit", "2.0", *QUICK,
    )  # fmt: skip
    assert gen3r(*common, "--output_dir", tmp_path / "same").code == 0
    assert gen3r(*common, "--output_dir", tmp_path / "other", "--seed", "43").code == 0
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        if path.suffix in {".png", ".ply"} or path.name in {"cameras.json", "transforms.json"}:
            assert (tmp_path / "same" / name).read_bytes() == path.read_bytes(), name
            assert (tmp_path / "other" / name).read_bytes() != path.read_bytes(), name


@pytest.mark.slow
def test_all_views_from_a_video(checkpoint, inputs, tmp_path):
    done = gen3r(
        "infer", "--pretrained_model_name_or_path", checkpoint, "--task", "allview", "--prompts", "",
        "--frame_path", inputs.video, "--output_dir", tmp_path, "--size", "112x224", "--num_frames", "9",
        "--steps", "1", "--guidance", "1", "--scheduler", "unipc", "--remove_far_points", "--device", "cpu",
    )  # fmt: skip
    assert done.code == 0, done.err
    run = check_result(tmp_path, 9, (112, 224))
    assert run["result"]["observed_frames"] == list(range(9))
    assert (run["shift"], run["scheduler"], run["prompt"]) == (5.0, "unipc", "")
    assert run["remove_far_points"] is True


def test_upstreams_command_line(own_checkpoint, inputs, tmp_path):
    """Not an option of ours among them: frames, size and steps are the model's and upstream's own."""
    done = gen3r(
        "infer", "--pretrained_model_name_or_path", own_checkpoint, "--task", "2view", "--prompts", inputs.prompts,
        "--frame_path", inputs.first, inputs.last, "--cameras", "free", "--output_dir", tmp_path / "out",
        "--remove_far_points",
    )  # fmt: skip
    assert done.code == 0, done.err
    run = check_result(tmp_path / "out", 5, (112, 112))
    assert (run["steps"], run["guidance"], run["seed"], run["cameras"]) == (50, 5.0, 42, "free")


def test_one_view_with_a_built_in_path_replaces_an_earlier_result(own_checkpoint, inputs, tmp_path):
    common = (
        "infer", "--pretrained_model_name_or_path", own_checkpoint, "--prompts", "a room", "--frame_path", inputs.first,
        "--cameras", "zoom_in", "--output_dir", tmp_path, "--steps", "1",
    )  # fmt: skip
    assert gen3r(*common).code == 0
    (tmp_path / "images" / "mine.png").write_bytes((tmp_path / "images" / "frame_00000.png").read_bytes())
    assert gen3r(*common, "--num_frames", "1").code == 0
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == ["frame_00000.png", "mine.png"]
    (tmp_path / "images" / "mine.png").unlink()
    run = check_result(tmp_path, 1, (112, 112))
    assert run["task"] == "1view"
    assert run["result"]["observed_frames"] == [0]


@needs_data
def test_a_real_room(checkpoint, tmp_path):
    done = gen3r(
        "infer", "--pretrained_model_name_or_path", checkpoint, "--task", "2view",
        "--prompts", DATA / "bedroom" / "prompts.txt",
        "--frame_path", DATA / "bedroom" / "first.png", DATA / "bedroom" / "last.png",
        "--cameras", DATA / "bedroom" / "cameras.json", "--output_dir", tmp_path / "bedroom", *QUICK,
    )  # fmt: skip
    assert done.code == 0, done.err
    run = check_result(tmp_path / "bedroom", 5, (112, 112))
    assert run["prompt"] == (DATA / "bedroom" / "prompts.txt").read_text().splitlines()[0].strip()


@needs_data
def test_a_real_garden(checkpoint, tmp_path):
    done = gen3r(
        "infer", "--pretrained_model_name_or_path", checkpoint, "--task", "allview", "--prompts", "a garden",
        "--frame_path", DATA / "garden.mp4", "--output_dir", tmp_path, *QUICK[2:], "--num_frames", "9",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert check_result(tmp_path, 9, (112, 112))["result"]["observed_frames"] == list(range(9))


@pytest.mark.slow
def test_upstreams_size(checkpoint, inputs, tmp_path):
    """560x560 by default, of few frames."""
    done = gen3r(
        "infer", "--pretrained_model_name_or_path", checkpoint, "--task", "2view", "--prompts", "a room",
        "--frame_path", inputs.first, inputs.last, "--cameras", "arc_left", "--output_dir", tmp_path,
        "--num_frames", "5", "--steps", "1", "--device", "cpu",
    )  # fmt: skip
    assert done.code == 0, done.err
    check_result(tmp_path, 5, (560, 560))
    # At upstream's size both camera files have the same intrinsics.
    stored = read_gen3r_cameras(tmp_path / "cameras.json").intrinsics
    torch.testing.assert_close(stored, read_transforms(tmp_path / "transforms.json").intrinsics)


# --- reading what was given ------------------------------------------------------------------------------


def test_reading_frames(inputs, tmp_path):
    one = read_frames([inputs.first], "1view", 5)
    assert one.shape == (1, 3, 120, 160)
    assert one.dtype == torch.float32
    pixels = np.asarray(Image.open(inputs.first))
    np.testing.assert_array_equal((one[0] * 255).round().byte().permute(1, 2, 0).numpy(), pixels)
    both = read_frames([inputs.first, inputs.last], "2view", 5)
    assert torch.equal(both[0], one[0])
    assert not torch.equal(both[1], one[0])
    assert read_frames([inputs.video], "allview", 5).shape == (5, 3, 120, 160)
    assert read_frames([inputs.video], "allview", 49).shape == (9, 3, 120, 160)
    for name in ("clip.3gp", "clip.dat", "clip"):  # whatever it is called
        shutil.copy(inputs.video, tmp_path / name)
        assert read_frames([tmp_path / name], "allview", 5).shape == (5, 3, 120, 160)
    shutil.copy(inputs.first, tmp_path / "picture")
    assert torch.equal(read_frames([tmp_path / "picture"], "allview", 5), one)
    assert torch.equal(read_frames([inputs.last, inputs.first], "allview", 5), both.flip(0))
    assert len(read_frames([inputs.last, inputs.first], "allview", 1)) == 1
    for index in (10, 9, 8):
        (tmp_path / f"{index}.png").write_bytes((inputs.first if index == 8 else inputs.last).read_bytes())
    assert torch.equal(read_frames([tmp_path], "allview", 2), both)


@pytest.mark.parametrize(
    ("task", "count", "message"),
    [
        ("1view", 2, "task 1view takes 1 image in --frame_path, got 2 paths"),
        ("2view", 1, "task 2view takes 2 images in --frame_path, got 1 paths"),
        ("2view", 3, "task 2view takes 2 images in --frame_path, got 3 paths"),
    ],
)
def test_the_number_of_paths_goes_with_the_task(inputs, task, count, message):
    with pytest.raises(InputError, match=message):
        read_frames([inputs.first] * count, task, 5)
