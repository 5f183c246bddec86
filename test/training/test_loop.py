"""The trainer: learning, schedule, resuming, what is not finite, signals, several processes."""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import tiny_stage
import torch
from safetensors.torch import load_file
from tiny_stage import TinyStage, plan, trainer
from training_clips import small_disk

from gen3r_core.errors import CancelledError, InputError, OutputError
from gen3r_core.training.checkpoints import find_states, save_state
from gen3r_core.training.monitor import catch_signals, format_duration
from gen3r_core.training.optimisation import make_optimizer, trained_parameters
from gen3r_core.training.stage import TrainingError

HELPERS = Path(tiny_stage.__file__).parent


def figures(folder, kind="train"):
    lines = [json.loads(line) for line in (folder / "figures.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def weights(folder):
    return load_file(folder / "tiny" / "model.safetensors")


def states(folder):
    return [path.name for path in find_states(folder / "checkpoints")]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# --- what a training does ------------------------------------------------------------------------------


def test_it_learns_validates_finishes_and_exports(tmp_path):
    stage = TinyStage()
    frozen = stage.module.frozen.clone()
    result = trainer(tmp_path, stage, plan(steps=60)).run()
    assert result == tmp_path / "tiny"
    lines = figures(tmp_path)
    assert [line["step"] for line in lines] == list(range(5, 61, 5))
    assert lines[-1]["loss"] < 0.3 * lines[0]["loss"]
    assert lines[-1].keys() >= {"error", "gradient_norm", "learning_rate", "clips_per_second", "skipped", "minutes"}
    checks = figures(tmp_path, "validation")
    assert [line["step"] for line in checks] == [10, 20, 30, 40, 50, 60, 60]
    assert checks[-1]["error"] < 0.6 * checks[0]["error"]
    assert stage.finished == [(4, 5)] * 3
    assert torch.equal(weights(tmp_path)["frozen"], frozen)
    assert states(tmp_path) == ["step-000000060.pt", "step-000000055.pt"]


def test_the_exported_weights_are_the_moving_average(tmp_path):
    stage = TinyStage()
    trainer(tmp_path, stage, plan(steps=4, phases=[{**plan().phases[0], "warmup_steps": 0}])).run()
    state = torch.load(tmp_path / "checkpoints" / "step-000000004.pt", weights_only=True)
    assert same(weights(tmp_path), state["average"])
    assert same(dict(stage.module.state_dict()), state["weights"])
    assert not same(state["weights"], state["average"])


def test_the_average_is_exact(tmp_path):
    stage = TinyStage()
    taught = trainer(tmp_path, stage, plan(ema_decay=0.3))
    expected = stage.module.layers[0].weight.detach().double().clone()
    taught._enter_phase(0)
    for step in range(6):
        taught._train_step(0.0)
        decay = min(0.3, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * stage.module.layers[0].weight.detach().double()
    with taught._average.in_place():
        torch.testing.assert_close(stage.module.layers[0].weight.double(), expected, rtol=1e-5, atol=1e-6)
    without = trainer(tmp_path, TinyStage(), plan(ema_decay=0.0))
    before = without.stage.module.layers[0].weight.clone()
    with without._average.in_place():
        assert torch.equal(without.stage.module.layers[0].weight, before)


def test_phases_set_clips_rate_and_the_stages_settings(tmp_path):
    stage = TinyStage()
    first = {"until": 0.5, "num_frames": 1, "size": [16, 8], "crop": [8, 8], "batch_size": 3, "learning_rate": 0.1,
             "warmup_steps": 0, "stage": {"kl": 1}}  # fmt: skip
    second = {"num_frames": 5, "crop": None, "batch_size": 2, "learning_rate": 0.2, "picture_every": 4}
    taught = trainer(tmp_path, stage, plan(steps=8, phases=[first, second], log_every=1, validate_every=0))
    taught.run()
    assert stage.configured == [{"kl": 1}, {}]
    assert stage.finished == [(2, 5)] * 3
    assert stage.shapes == [(3, 1, (8, 8))] * 4 + [(2, 1, (16, 8))] + [(2, 5, (16, 8))] * 3
    rates = [line["learning_rate"] for line in figures(tmp_path)]
    assert rates == pytest.approx(
        [0.1, 0.1 * 0.853553, 0.05, 0.1 * 0.146447, 0.2, 0.2 * 0.853553, 0.1, 0.2 * 0.146447], rel=1e-4
    )


def test_time_ends_a_training_and_its_rate_falls_with_it(tmp_path):
    stage = TinyStage(seconds=0.02)
    began = time.monotonic()
    trainer(tmp_path, stage, plan(steps=10**6, max_minutes=1 / 60, checkpoint_every=0, validate_every=0)).run()
    assert 0.9 < time.monotonic() - began < 10
    lines = figures(tmp_path)
    assert 5 <= lines[-1]["step"] < 60
    assert lines[-1]["learning_rate"] < 0.3 * lines[1]["learning_rate"]


def test_accumulated_gradients_equal_those_of_a_larger_batch(tmp_path):
    results = []
    for name, batch, accumulation in (("one", 8, 1), ("four", 2, 4)):
        stage = TinyStage(noise=0.0)
        phases = [{**plan().phases[0], "batch_size": batch}]
        trainer(tmp_path / name, stage, plan(phases=phases, accumulation=accumulation)).run()
        results.append(weights(tmp_path / name))
    for key, value in results[0].items():
        torch.testing.assert_close(results[1][key], value, rtol=1e-4, atol=1e-5, msg=key)


def test_weight_decay_is_for_matrices():
    module = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.LayerNorm(3))
    groups = make_optimizer(module, plan(weight_decay=0.5)).param_groups
    assert [(group["weight_decay"], len(group["params"])) for group in groups] == [(0.5, 1), (0.0, 3)]
    assert groups[0]["params"][0] is module[0].weight


def test_only_float32_networks_with_something_to_learn_are_trained():
    with pytest.raises(InputError, match="no parameter that requires a gradient"):
        trained_parameters(torch.nn.Linear(2, 2).requires_grad_(False))
    with pytest.raises(InputError, match=r"parameter weight is torch\.bfloat16"):
        trained_parameters(torch.nn.Linear(2, 2).to(torch.bfloat16))


def test_tensorboard_and_the_bar(tmp_path, capsys):
    pytest.importorskip("tensorboard")
    trainer(tmp_path, TinyStage(), plan(steps=10, tensorboard=True), bar=True).run()
    events = list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))
    assert len(events) == 1
    assert b"validation/error" in events[0].read_bytes()
    shown = capsys.readouterr().err
    assert "10/10" in shown
    assert "left=" in shown


def test_without_tensorboard_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match=r"pip install 'gen3r\[train\]'"):
        trainer(tmp_path, TinyStage(), plan(tensorboard=True)).run()


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3723, "1:02:03"), (-4, "0:00")])
def test_durations(seconds, text):
    assert format_duration(seconds) == text


# --- what is not finite --------------------------------------------------------------------------------


def test_a_step_that_is_not_finite_changes_nothing(tmp_path):
    stage = TinyStage(nan_at=[3])
    taught = trainer(tmp_path, stage, plan())
    taught._enter_phase(0)
    for _ in range(3):
        taught._train_step(0.0)
    before = {key: value.clone() for key, value in stage.module.state_dict().items()}
    moments = taught._shared.optimizer.state[stage.module.layers[0].weight]["exp_avg"].clone()
    taught._train_step(0.0)
    assert same(dict(stage.module.state_dict()), before)
    assert torch.equal(taught._shared.optimizer.state[stage.module.layers[0].weight]["exp_avg"], moments)
    taught._train_step(0.0)
    assert not same(dict(stage.module.state_dict()), before)


def test_skipped_steps_are_counted_and_the_training_goes_on(tmp_path):
    stage = TinyStage(nan_at=[*range(1, 16), 18])
    trainer(tmp_path, stage, plan(steps=40)).run()
    assert [line["skipped"] for line in figures(tmp_path)] == [4, 9, 14, 16, 16, 16, 16, 16]
    assert all(torch.isfinite(value).all() for value in weights(tmp_path).values())


def test_twenty_in_a_row_end_it_with_step_and_batches(tmp_path):
    stage = TinyStage(nan_at=range(7, 99))
    with pytest.raises(TrainingError, match=r"not finite for 20 steps in a row, since step 7 \(batches from 14"):
        trainer(tmp_path, stage, plan(steps=60, accumulation=2, seed=5)).run()
    assert states(tmp_path)[0] == "step-000000025.pt"


def test_skipped_steps_in_a_row_are_counted_across_a_resume(tmp_path):
    with pytest.raises(CancelledError):
        interrupted(tmp_path, TinyStage(nan_at=range(5, 99)), plan(steps=60), after=15)
    with pytest.raises(TrainingError, match="since step 5"):
        trainer(tmp_path, TinyStage(nan_at=range(5, 99)), plan(steps=60)).run(resume=True)
    assert figures(tmp_path)[-1]["step"] == 20


# --- interrupted and resumed ---------------------------------------------------------------------------


def interrupted(folder, stage, a_plan, after, number=signal.SIGTERM):
    """A training that gets a signal during the step number `after`."""
    original, calls = stage.loss, itertools.count(1)

    def loss(*args):
        if next(calls) == after:
            os.kill(os.getpid(), number)
        return original(*args)

    stage.loss = loss
    trainer(folder, stage, a_plan).run()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_resumed_training_equals_an_unbroken_one(tmp_path, number):
    phases = [{**plan().phases[0], "until": 0.5}, {"learning_rate": 0.01}]
    trainer(tmp_path / "unbroken", TinyStage(), plan(phases=phases)).run()
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(CancelledError, match=rf"stopped by {number.name} after step 13, which is saved; .* --resume"):
        interrupted(tmp_path / "broken", TinyStage(), plan(phases=phases), 13, number)
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
    assert states(tmp_path / "broken")[0] == "step-000000013.pt"
    stage = TinyStage()
    trainer(tmp_path / "broken", stage, plan(phases=phases)).run(resume=True)
    assert same(weights(tmp_path / "broken"), weights(tmp_path / "unbroken"))
    assert figures(tmp_path / "broken")[-1]["loss"] == figures(tmp_path / "unbroken")[-1]["loss"]
    assert len(stage.shapes) == 7
    assert stage.configured == [{}]


def run_helper(*args, **options):
    environment = {**os.environ, "PYTHONPATH": f"{HELPERS}{os.pathsep}{HELPERS.parents[1]}", "OMP_NUM_THREADS": "1"}
    environment |= options.pop("environment", {})
    command = [sys.executable, str(HELPERS / "tiny_stage.py"), *map(str, args)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_weights(tmp_path):
    trainer(tmp_path / "unbroken", TinyStage(), plan(steps=30)).run()
    process = run_helper(tmp_path / "killed", "--steps", 30, "--seconds", 0.05)
    deadline = time.monotonic() + 100
    while not states(tmp_path / "killed") and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=20) == -signal.SIGKILL
    assert 5 <= int(states(tmp_path / "killed")[0][5:14]) < 30
    (tmp_path / "killed" / "checkpoints" / ".partial-0123.pt").write_bytes(b"half")
    trainer(tmp_path / "killed", TinyStage(), plan(steps=30)).run(resume=True)
    assert same(weights(tmp_path / "killed"), weights(tmp_path / "unbroken"))
    assert [path.name for path in (tmp_path / "killed" / "checkpoints").iterdir() if path.name[0] == "."] == []


def test_resuming_what_is_done_exports_again(tmp_path):
    trainer(tmp_path, TinyStage(), plan()).run()
    first = weights(tmp_path)
    (tmp_path / "tiny" / "model.safetensors").unlink()
    stage = TinyStage()
    trainer(tmp_path, stage, plan()).run(resume=True)
    assert same(weights(tmp_path), first)
    assert stage.shapes == []


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, caplog):
    trainer(tmp_path, TinyStage(), plan(steps=20)).run()
    newest, older = find_states(tmp_path / "checkpoints")
    newest.write_bytes(newest.read_bytes()[:-500])
    stage = TinyStage()
    trainer(tmp_path, stage, plan(steps=20)).run(resume=True)
    assert len(stage.shapes) == 5
    assert f"{newest} cannot be read" in caplog.text
    for path in (newest, older):
        path.write_bytes(b"nothing")
    with pytest.raises(TrainingError, match=r"none of the 2 checkpoints in .* can be read"):
        trainer(tmp_path, TinyStage(), plan()).run(resume=True)


def test_a_folder_belongs_to_one_training(tmp_path):
    trainer(tmp_path, TinyStage(), plan(steps=5)).run()
    with pytest.raises(TrainingError, match="holds a training already; add --resume, or choose another folder"):
        trainer(tmp_path, TinyStage(), plan()).run()
    other = TinyStage()
    other.name = "other"
    with pytest.raises(TrainingError, match="is of stage 'tiny', not 'other'"):
        trainer(tmp_path, other, plan()).run(resume=True)
    wider = TinyStage(width=17)
    with pytest.raises(TrainingError, match=r"of a network of other sizes: .* \(training\.json\)"):
        trainer(tmp_path, wider, plan()).run(resume=True)
    torch.save({"format": 99}, tmp_path / "checkpoints" / "step-000000009.pt")
    with pytest.raises(TrainingError, match="is no checkpoint of this release"):
        trainer(tmp_path, TinyStage(), plan()).run(resume=True)


def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path):
    taught = trainer(tmp_path, TinyStage(), plan(steps=5))
    taught.run()
    kept = find_states(tmp_path / "checkpoints")[0].read_bytes()
    taught.step = 6
    with small_disk(4096), pytest.raises(OutputError, match=r"cannot write .*step-000000006\.pt: .*free"):
        taught.save()
    assert states(tmp_path) == ["step-000000005.pt"]
    assert find_states(tmp_path / "checkpoints")[0].read_bytes() == kept
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1


@pytest.mark.parametrize("numbers", [50_000, 1_000_000])
def test_a_full_disk_amid_large_tensors_is_named_too(tmp_path, numbers):
    state = {"weights": [torch.zeros(numbers), torch.ones(numbers)]}
    with small_disk(300_000), pytest.raises(OutputError, match=r"step-000000001\.pt: File too large .*ulimit -f"):
        save_state(tmp_path, 1, state)
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written_are_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write .*file/run"):
        trainer(tmp_path / "file" / "run", TinyStage(), plan()).run()
    with pytest.raises(OutputError, match=r"cannot write .*file"):
        save_state(tmp_path / "file", 1, {})
    (tmp_path / "run" / "figures.jsonl").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"cannot write .*figures\.jsonl"):
        trainer(tmp_path / "run", TinyStage(), plan()).run()


def test_signals_reach_the_main_thread_only():
    seen = []

    def other():
        with catch_signals() as request:
            seen.append(bool(request))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert seen == [False]


# --- several processes ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_equal_one_with_the_double_batch(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true"}
    processes = [
        run_helper(
            tmp_path / "two", "--batch", 2, "--noise", 0,
            environment={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"},
        )
        for rank in range(2)
    ]  # fmt: skip
    trainer(tmp_path / "one", TinyStage(noise=0.0), plan()).run()
    for process in processes:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
    pairs = list(zip(figures(tmp_path / "one"), figures(tmp_path / "two"), strict=True))
    assert len(pairs) == 4
    for one, two in pairs:
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
    expected = weights(tmp_path / "one")
    for key, value in weights(tmp_path / "two").items():
        torch.testing.assert_close(value, expected[key], rtol=1e-3, atol=1e-4, msg=key)
