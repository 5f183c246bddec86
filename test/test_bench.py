"""Timed jobs on a tiny model, and their table."""

import json
from dataclasses import replace

import pytest
import torch

from gen3r_core import __version__
from gen3r_core.bench import BenchReport, BenchResult, describe_machine, format_table, resident_bytes, run_bench
from gen3r_core.jobs import Sampling
from gen3r_core.sizes import random_pipeline

STAGES = ["text", "image", "cameras", "video_encode", "denoise", "geometry", "video_decode"]


@pytest.fixture(scope="module")
def results():
    pipeline = random_pipeline("tiny")
    seen = []
    found = run_bench(
        pipeline, ["2view", "vggt"], Sampling(steps=3, num_frames=1), warmup=1, repeats=2, callback=seen.append
    )
    return found, seen


def test_generated_jobs(results):
    job = results[0][0]
    assert (job.task, job.num_frames, job.size, job.steps) == ("2view", 1, (112, 112), 3)
    assert list(job.seconds) == STAGES
    assert len(job.runs) == 2
    assert min(job.runs) <= job.total <= max(job.runs)
    assert job.per_step == pytest.approx(job.seconds["denoise"] / 3)
    assert sum(job.seconds.values()) < sum(job.runs)
    assert 0.05 < job.allocated_gib < 64
    assert job.reserved_gib is None


def test_feed_forward_jobs(results):
    job = results[0][1]
    assert (job.task, job.steps, job.per_step) == ("vggt", 0, None)
    assert list(job.seconds) == ["vggt"]
    assert 0 < job.seconds["vggt"] <= max(job.runs)


def test_warm_up_jobs_have_few_steps(results):
    steps = [report.step for report in results[1] if report.stage == "denoise"]
    assert steps == [0, 1, 2, *[0, 1, 2, 3] * 2]
    # The text is encoded in every job: two prompts, of which none is remembered.
    assert sum(report.stage == "text" and report.step == 1 for report in results[1]) == 3


def test_the_table(results):
    options = {"dtype": "float32", "steps": 3}
    report = BenchReport("tiny", describe_machine(torch.device("cpu")), options, results[0])
    table = format_table(report)
    head, empty, *lines = table.splitlines()
    assert head.startswith("Model size tiny; device ")
    assert f"gen3r {__version__}" in head
    assert head.endswith("dtype float32, steps 3.")
    assert empty == ""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert all(len(row) == 3 for row in cells)
    assert cells[0] == ["", "2view, 1 x 112x112", "vggt, 1 x 112x112"]
    rows = {row[0]: row[1:] for row in cells[2:]}
    assert list(rows) == [*(f"{stage} s" for stage in [*STAGES, "vggt"]), "per step s", "**whole job s**",
                          "peak memory allocated GiB", "peak memory reserved GiB"]  # fmt: skip
    assert rows["vggt s"] == ["-", f"{results[0][1].seconds['vggt']:.3f}"]
    assert rows["denoise s"] == [f"{results[0][0].seconds['denoise']:.3f}", "-"]
    assert rows["per step s"] == [f"{results[0][0].per_step:.3f}", "-"]
    assert rows["peak memory reserved GiB"] == ["-", "-"]


def test_a_report_can_be_stored(results):
    report = BenchReport("tiny", {"device": "CPU"}, {"steps": 3}, results[0])
    stored = json.loads(json.dumps(report.to_dict()))
    assert stored["model"] == "tiny"
    assert [result["task"] for result in stored["results"]] == ["2view", "vggt"]
    again = [BenchResult(**result | {"size": tuple(result["size"])}) for result in stored["results"]]
    assert again == results[0]
    assert format_table(replace(report, results=again)) == format_table(report)


def test_peak_memory_is_seen_while_it_lasts():
    """A job that holds 256 MiB for a moment: its peak is over what remains afterwards."""
    pipeline = random_pipeline("tiny")

    def hold(*_):
        torch.ones(2**26).sum()

    before = resident_bytes()
    hook = pipeline.vggt.register_forward_pre_hook(hold)
    try:
        peak = run_bench(pipeline, ["vggt"], Sampling(num_frames=1), warmup=0, repeats=3)[0].allocated_gib
    finally:
        hook.remove()
    assert peak > (before + 0.8 * 2**28) / 2**30
