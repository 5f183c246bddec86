"""Guidance's branches in two processes: the same result as in one."""

import json
import os
import subprocess
import sys
import threading
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from command_line import gen3r, write_picture

from gen3r_core.errors import DeviceError, InputError
from gen3r_core.execution.branch_processes import BranchProcesses, is_first, join, processes


def in_two(work):
    """Run ``work(branch_processes)`` as both ranks of a Gloo group, in threads; their results in order."""
    store, found = dist.HashStore(), {}

    def one(rank):
        group = dist.ProcessGroupGloo(store, rank, 2, timedelta(seconds=20))
        try:
            found[rank] = work(BranchProcesses(group))
        except DeviceError as error:
            found[rank] = error

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found[0], found[1]


def test_each_computes_one_branch_and_both_have_all():
    asked = {0: [], 1: []}

    def work(branches):
        def predict(names):
            asked[branches.rank].append(tuple(names))
            return torch.cat([torch.full((1, 2, 3), {"negative": -1.0, "positive": 5.0}[name]) for name in names])

        return branches.flow(predict, ("negative", "positive")), branches.flow(predict, ("positive",))

    for guided, single in in_two(work):
        assert guided[:, 0, 0].tolist() == [-1.0, 5.0]
        assert single.shape == (1, 2, 3)
    assert asked == {0: [("negative",), ("positive",)], 1: [("positive",), ("positive",)]}


def test_the_first_process_decides_on_the_noise():
    first, second = in_two(lambda branches: branches.agree(torch.full((2, 2), float(branches.rank + 3)).t()))
    assert first.tolist() == second.tolist() == [[3.0, 3.0], [3.0, 3.0]]


def test_memory_that_runs_out_is_told():
    def work(branches):
        def predict(_names):
            raise torch.OutOfMemoryError("CUDA out of memory")

        return branches.flow(predict, ("negative", "positive"))

    for error in in_two(work):
        assert isinstance(error, DeviceError)
        assert "one process alone" in str(error)


def test_other_numbers_of_processes(monkeypatch):
    assert processes() == 1
    assert is_first()
    assert join(torch.device("cpu")) is None
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(InputError, match="3 processes were started, but guidance has two branches"):
        processes()
    with pytest.raises(InputError, match="two processes can share them"):
        BranchProcesses(None)


@pytest.mark.slow
def test_two_processes_give_the_result_of_one(tmp_path):
    """The whole command, with the shipped weights and strong guidance."""
    images = [str(write_picture(tmp_path / f"{index}.png", index)) for index in range(2)]
    options = ["infer", "--task", "2view", "--frame_path", *images, "--prompts", "a room", "--steps", "3", "--device",
               "cpu", "--guidance", "4", "--num_frames", "5", "--size", "112", "--cameras", "free"]  # fmt: skip
    done = gen3r(*options, "--output_dir", tmp_path / "alone")
    assert done.code == 0, done.err
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "gen3r_core.cli", *options]
    done = subprocess.run(
        [*command, "--output_dir", tmp_path / "shared"], capture_output=True, text=True, timeout=300, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("frames of 112x112 in") == 1
    alone, shared = (json.loads((tmp_path / name / "cameras.json").read_text()) for name in ("alone", "shared"))
    for key in ("extrinsics", "intrinsics"):
        torch.testing.assert_close(torch.tensor(shared[key]), torch.tensor(alone[key]), rtol=1e-4, atol=1e-4)
