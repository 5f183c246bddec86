"""``gen3r train``: configurations, what is saved beside the result, and a whole small training."""

import json
import signal
from pathlib import Path

import pytest
from command_line import gen3r
from training_clips import write_scene

from gen3r_core.checkpoint.components import SPECS
from gen3r_core.checkpoint.folder import ComponentFiles
from gen3r_core.checkpoint.loading import load_component
from gen3r_core.commands import train as command
from gen3r_core.errors import InputError
from gen3r_core.training.run import STAGES, TrainConfig, read_config

TINY = {
    "plan": {
        "steps": 4, "log_every": 2, "validate_every": 0, "validation_batches": 1, "validation_batch_size": 2,
        "finish_batches": 2, "tensorboard": False, "checkpoint_every": 2,
        "phases": [
            {"until": 0.5, "num_frames": 1, "size": [16, 16], "batch_size": 2, "warmup_steps": 1,
             "learning_rate": 1e-3},
            {"num_frames": 5, "stage": {"squared": 1.0}},
        ],
    },
    "model": {"model": {"base_dim": 8, "decoder_base_dim": 8, "z_dim": 4, "latents_mean": [0.0] * 4,
                        "latents_std": [1.0] * 4}},
    "source": {"pool": 4, "chunk": 2, "clip_frames": 5, "samples": 1},
}  # fmt: skip


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(TINY))
    return path


def test_a_training_from_the_command_line(tmp_path, config):
    out = tmp_path / "runs" / "vae"
    done = gen3r("train", "video_vae", "--config", config, "--out", out, "--device", "cpu",
                 "--set", "plan.seed=3", "plan.phases.1.learning_rate=1e-4")  # fmt: skip
    assert done.code == 0, done.err
    assert f"video_vae is in {out / 'video_vae'}" in done.out
    assert "4/4" in done.err
    values = json.loads((out / "video_vae" / "config.json").read_text())
    loaded = load_component(ComponentFiles(SPECS["video_vae"], out / "video_vae", "gen3r", values))
    assert loaded.config.z_dim == 4
    assert values["latents_std"] != [1.0] * 4
    lines = [json.loads(line) for line in (out / "figures.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"] == [2, 4]
    assert "psnr_last" in lines[-1]

    # The resolved copy has every value, and is a configuration itself.
    resolved = json.loads((out / "training.json").read_text())
    assert resolved["plan"]["seed"] == 3
    assert resolved["plan"]["betas"] == [0.9, 0.95]
    assert resolved["plan"]["phases"][1]["learning_rate"] == 1e-4
    assert resolved["model"]["channels_last"] is True
    assert resolved["source"]["jitter"] == 0.0
    again = read_config("video_vae", out / "training.json")
    assert again.read_plan().stretches == read_config(
        "video_vae", config, ["plan.phases.1.learning_rate=1e-4"]
    ).read_plan().stretches  # fmt: skip

    refused = gen3r("train", "video_vae", "--config", config, "--out", out, "--device", "cpu")
    assert refused.code == 1
    assert "holds a training already; add --resume" in refused.err
    more = gen3r("train", "video_vae", "--out", out, "--device", "cpu", "--resume", "--set", "plan.steps=6")
    assert more.code == 0, more.err
    assert json.loads((out / "figures.jsonl").read_text().splitlines()[-1])["step"] == 6


def test_a_training_that_cannot_be_resumed_keeps_its_configuration(tmp_path, config):
    out = tmp_path / "out"
    common = ["train", "video_vae", "--out", out, "--device", "cpu"]
    done = gen3r(*common, "--config", config)
    assert done.code == 0, done.err
    before = (out / "training.json").read_bytes()
    refused = gen3r(*common, "--resume", "--set", "plan.steps=6", "model.model.base_dim=16")
    assert refused.code == 1
    assert "is of a network of other sizes" in refused.err
    assert (out / "training.json").read_bytes() == before
    more = gen3r(*common, "--resume", "--set", "plan.steps=6")
    assert more.code == 0, more.err
    assert json.loads((out / "training.json").read_text())["plan"]["steps"] == 6


def test_a_training_on_a_data_set_without_test_scenes(tmp_path, config):
    write_scene(tmp_path / "data" / "scene", size=(16, 16))
    out = tmp_path / "out"
    changes = ["plan.steps=2", 'source={"workers": 1}']
    done = gen3r("train", "video_vae", "--config", config, "--out", out, "--data", tmp_path / "data", "--device", "cpu",
                 "--max_minutes", 5, "--set", *changes)  # fmt: skip
    assert done.code == 0, done.err
    assert "validation" not in (out / "figures.jsonl").read_text()
    resolved = json.loads((out / "training.json").read_text())
    assert (resolved["plan"]["max_minutes"], resolved["data"]) == (5.0, str(tmp_path / "data"))


def test_the_command_knows_every_stage():
    assert command.STAGES == STAGES
    for stage in STAGES:
        assert (Path(command.__file__).parents[1] / "training" / f"{stage}.py").is_file()


def test_changes_reach_into_lists_and_objects():
    values = read_config(
        "vggt", None, ["plan.steps=7", "plan.phases=[{},{}]", "plan.phases.0.until=0.5", "model.initial=some/where"]
    )
    assert values.read_plan().steps == 7
    assert values.read_plan().stretches[0].until == 0.5
    assert values.model == {"initial": "some/where"}


def test_the_first_phase_can_be_changed_where_none_is_given(tmp_path):
    path = tmp_path / "c.json"
    path.write_text('{"plan": {"steps": 7}}')
    for file in (None, path):
        plan = read_config("vggt", file, ["plan.phases.0.batch_size=4"]).read_plan()
        assert [phase.batch_size for phase in plan.stretches] == [4]
        assert plan.stretches[0].num_frames == read_config("vggt", None).read_plan().stretches[0].num_frames


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["steps"], "'steps' is no change of the configuration; write key=value"),
        (["plan.steps=3", "plan.steps.more=3"], "'steps' is a single value"),
        (["plan.phases=[{}]", "plan.phases.1.until=3"], "'1' is none of the 1 places 0 to 0"),
        (["plan.phases.1.until=3"], "'1' is none of the 1 places 0 to 0"),
        (["plan=3", "plan.phases.0.until=3"], "'plan' is a single value"),
        (["plan.phases=[{}]", "plan.phases.x=3"], "'x' is none of the 1 places"),
        (["plans.steps=3"], "unknown keys plans; known are data, model, plan"),
        (["plan.step=3"], "unknown option 'step'; did you mean 'steps'"),
        (["plan.phases=[{\"num_frames\": 8}]"], r"clips of 4k\+1 frames, but the phases have \[8\]"),
        (["source.clip_frames=5"], "clips of 17 frames, but worlds are rendered with 5; set source.clip_frames=17"),
        (["data=folder", "source.clip_frames=5"], "source: unknown option 'clip_frames'"),
    ],
)  # fmt: skip
def test_unsuitable_configurations_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        read_config("video_vae", None, changes)


def test_files_that_are_no_configuration_are_refused(tmp_path):
    path = tmp_path / "c.json"
    for text, message in (("{", "is not valid JSON"), ("[]", "must hold a JSON object, not a list"),
                          ('{"stage": "vggt"}', "configuration of stage 'vggt', not of 'video_vae'")):  # fmt: skip
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_config("video_vae", path)
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_config("video_vae", tmp_path / "none.json")
    with pytest.raises(InputError, match="stage 'tokenizer' is unknown"):
        TrainConfig("tokenizer")


def test_an_interrupted_command_says_how_to_go_on(tmp_path, config, monkeypatch):
    from gen3r_core.training.video_vae import VideoVAEStage

    original = VideoVAEStage.loss

    def loss(self, batch, step, generator):
        if step == 1:
            signal.raise_signal(signal.SIGINT)
        return original(self, batch, step, generator)

    monkeypatch.setattr(VideoVAEStage, "loss", loss)
    done = gen3r("train", "video_vae", "--config", config, "--out", tmp_path / "out", "--device", "cpu")
    assert done.code == 130
    assert "stopped by SIGINT after step 2, which is saved; go on with --resume" in done.err
