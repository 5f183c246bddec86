"""gen3r plan, gen3r calibrate, and the options of bench and infer that go with them."""

import json

import pytest
from command_line import QUICK, gen3r

from gen3r_core.commands.options import PROFILE_NAMES
from gen3r_core.execution.calibration import Calibration
from gen3r_core.execution.levels import LEVELS
from gen3r_core.execution.profiles import PROFILES


def test_names_of_profiles():
    assert tuple(PROFILES) == PROFILE_NAMES


def test_plan_of_all_levels(tmp_path):
    done = gen3r("plan", "--model", "tiny", "--device", "cpu", "--json", tmp_path / "plan.json")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0] == "2view, 5 frames of 112x112: predicted peaks in GiB"
    assert [line.partition(":")[0] for line in lines[1::2]] == [level.name for level in LEVELS]
    assert lines[2].startswith("  text 0.2")
    plans = json.loads((tmp_path / "plan.json").read_text())
    assert [plan["level"] for plan in plans] == [level.name for level in LEVELS]
    assert "vggt" not in plans[0]["stages"]


def test_plan_with_geometry_of_the_frames(tmp_path):
    done = gen3r("plan", "--model", "tiny", "--device", "cpu", "--geometry", "frames", "--json", tmp_path / "plan.json")
    assert done.code == 0, done.err
    plans = json.loads((tmp_path / "plan.json").read_text())
    assert all(list(plan["stages"])[-3:] == ["geometry", "video_decode", "vggt"] for plan in plans)
    done = gen3r("plan", "--model", "tiny", "--device", "cpu", "--geometry", "frames", "--task", "allview")
    assert "video_decode" in done.out
    assert "geometry" not in done.out


def test_plan_of_a_checkpoint_within_a_budget(own_checkpoint):
    options = ("plan", own_checkpoint, "--device", "cpu", "--task", "1view", "--num_frames", "1", "--prompt_embeds")
    done = gen3r(*options, "--memory_budget", "8")
    assert done.code == 0, done.err
    assert "1view, 1 frames of 112x112" in done.out
    assert "resident: 0.2" in done.out
    assert "text " not in done.out.splitlines()[-1]
    done = gen3r(*options, "--memory_budget", "0.1")
    assert done.code == 1
    assert (
        "a memory budget of 0.1 GiB is too small for 1 frames of 112x112: the most sparing level needs 0.2" in done.err
    )


def test_a_calibration_that_cannot_be_written_is_refused_before_anything_is_loaded(tmp_path, inputs):
    done = gen3r(
        "calibrate", "nowhere", tmp_path / "missing" / "c.json", "--frame_path", inputs.first, "--prompts", "a"
    )
    assert done.code == 1
    assert "c.json: there is no folder" in done.err


@pytest.fixture(scope="module")
def calibration(tmp_path_factory, own_checkpoint, inputs):
    path = tmp_path_factory.mktemp("calibration") / "fast.json"
    done = gen3r("calibrate", own_checkpoint, path, "--profile", "fast", "--frame_path", inputs.first, inputs.last,
                 "--prompts", "a room", "a hall", "--steps", "4", "--num_frames", "1", "--device", "cpu")  # fmt: skip
    assert done.code == 0, done.err
    assert f"{path}: profile fast spares " in done.out
    assert "of 4 steps of checkpoint" in done.out
    return path


def test_calibrating(calibration):
    found = Calibration.load(calibration)
    assert found.model == "checkpoint"
    assert len(found.levels) == 4


def test_infer_with_profile_and_budget(own_checkpoint, inputs, calibration, tmp_path):
    options = ("infer", "--checkpoint", own_checkpoint, "--frame_path", inputs.first, "--prompts", "a room",
               "--profile", "fast", "--calibration", calibration, "--output_dir", tmp_path / "out",
               "--num_frames", "1", "--device", "cpu")  # fmt: skip
    done = gen3r(*options, "--steps", "4", "--memory_budget", "8")
    assert done.code == 0, done.err
    assert done.out.startswith("resident: 0.2")
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (run["profile"], run["level"], run["lowered"]) == ("fast", "resident", [])
    assert (run["steps"], run["scheduler"]) == (4, "unipc")
    assert run["calibration"] == str(calibration)
    # Another schedule than the calibrated one is found before anything is loaded.
    done = gen3r(*options, "--steps", "5")
    assert done.code == 1
    assert "the step cache was calibrated for a schedule of 4 steps, the job has another of 5" in done.err


@pytest.mark.slow
def test_bench_of_profiles_and_budgets(tmp_path):
    done = gen3r("bench", *QUICK[2:], "--num_frames", "1", "--profiles", "exact", "preview",
                 "--memory_budgets", "8", "--channels_last",
                 "--sizes", "112", "112x224", "--errors", "--warmup", "0", "--repeats", "1",
                 "--plot", tmp_path / "plot.svg")  # fmt: skip
    assert done.code == 0, done.err
    assert b"a deliberately bad cache" in (tmp_path / "plot.svg").read_bytes()
    assert done.out.startswith("resident: 0.2")
    assert (
        "|  | 2view, 1 x 112x112, 8 GiB | 2view, 1 x 112x112, preview, 8 GiB | 2view, 1 x 112x224, 8 GiB | "
        "2view, 1 x 112x112, preview, 8 GiB |" in done.out
    )
    assert "channels last True, measure a deliberately bad cache has error " in done.out
    assert "| latents' error | 0.0000 | - | 0.0000 | - |" in done.out
    assert "| accepted | yes | - | yes | - |" in done.out
    assert "| level | resident | resident | resident | resident |" in done.out


def test_bench_of_a_checkpoint(own_checkpoint):
    done = gen3r("bench", "--checkpoint", own_checkpoint, *QUICK[2:], "--num_frames", "1", "--warmup", "0",
                 "--repeats", "1", "--memory_budgets", "8")  # fmt: skip
    assert done.code == 0, done.err
    assert "Model size checkpoint; " in done.out
