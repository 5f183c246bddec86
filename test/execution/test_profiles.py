"""Profiles: what they ask for, and that they leave nothing behind."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from scene_equality import identical

from gen3r_core.conditioning import LatentShape, Task
from gen3r_core.errors import InputError
from gen3r_core.execution.calibration import Calibration
from gen3r_core.execution.grid import GridResult, bench_grid, calibrate_profile
from gen3r_core.execution.levels import LEVELS
from gen3r_core.execution.plan import plan_model
from gen3r_core.execution.profiles import PROFILES, profile_named
from gen3r_core.jobs import Sampling
from gen3r_core.schedulers import FlowSolver

FULL = {"task": Task.TWO_VIEW, "num_frames": 49, "image_size": (560, 560)}


def under(name, base=None, **changes):
    return PROFILES[name].sampling(base or Sampling(), **(FULL | changes))


def test_exact_asks_for_nothing():
    assert under("exact") == Sampling()


def test_profiles_cost_less_and_less():
    evaluations = []
    for name in ("exact", "balanced", "fast", "preview"):
        sampling = under(name)
        first, last = sampling.guided_share
        tokens = 1
        if sampling.size is not None:
            shape = LatentShape(sampling.num_frames, *sampling.size)
            tokens = torch.tensor(shape.latent).prod().item() / (13 * 70 * 140)
        evaluations.append(sampling.steps * (1 + last - first) * tokens)
    assert evaluations[0] == 100
    assert all(later < 0.6 * before for before, later in pairwise(evaluations))


def test_preview_is_smaller():
    small = under("preview")
    assert (small.num_frames, small.size) == (17, (336, 336))
    assert under("preview", Sampling(size=(112, 224), num_frames=5)).size == (112, 112)
    assert under("preview", Sampling(num_frames=5)).num_frames == 5
    assert under("preview", Sampling(num_frames=1)).num_frames == 1
    assert under("preview", task=Task.ALL_VIEW).num_frames is None


def test_fewer_steps_stay_fewer_and_a_shift_belongs_to_its_solver():
    assert under("balanced", Sampling(steps=5, shift=3.0)).steps == 5
    assert under("balanced", Sampling(shift=3.0)).shift is None
    assert under("balanced", Sampling(shift=3.0, scheduler="unipc")).shift == 3.0


def test_unknown_profiles():
    with pytest.raises(InputError, match="profile 'faster' is unknown; choose one of: exact, balanced, fast, preview"):
        profile_named("faster")


def calibration_of(sampling, error):
    levels = FlowSolver(sampling.scheduler, sampling.steps).sigmas.tolist()[:-1]
    return Calibration("test", levels, [[[error] * len(levels)] * 3] * 2)


@pytest.mark.parametrize("name", PROFILES)
def test_profiles_leave_nothing_behind(pipeline, job, sampling, plain, name):
    profile = PROFILES[name]
    base = replace(sampling, steps=6)
    own = profile.sampling(base, task=job.task, num_frames=5, image_size=(112, 112))
    spares = profile.spared_error is not None
    calls = []
    hook = pipeline.transformer.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    try:
        with profile.apply(pipeline, calibration_of(own, 0.001)) as applied:
            pipeline.generate(job, own)
        applied.remove()
    finally:
        hook.remove()
    assert len(calls) == (own.steps - 3 if spares else own.steps)  # computed, three spared, computed twice
    assert identical(pipeline.generate(job, sampling), plain)


def test_without_a_calibration_no_step_is_spared(pipeline):
    with PROFILES["fast"].apply(pipeline):
        assert pipeline.cache is None


def test_calibrating_a_profile(pipeline, sampling):
    found = calibrate_profile(pipeline, PROFILES["fast"], Task.TWO_VIEW, replace(sampling, steps=4))
    assert len(found.levels) == 4
    assert calibrate_profile(pipeline, PROFILES["preview"], Task.TWO_VIEW, sampling) is None


@pytest.mark.slow
def test_a_grid_of_all(pipeline, sampling):
    made = []

    def make(level):
        pipeline.placement.change(level)
        made.append(level)
        return pipeline

    found = GridResult()
    sizes = [replace(sampling, size=size) for size in ((112, 112), (112, 224))]
    plan = plan_model("tiny", Task.TWO_VIEW, sizes[1], torch.float32, 8)
    try:
        bench_grid(
            make,
            [(None, None), (8.0, plan)],
            sizes,
            ["2view", "vggt"],
            ["exact", "fast"],
            found,
            device=torch.device("cpu"),
            errors=True,
            warmup=0,
            repeats=1,
        )
    finally:
        pipeline.placement.change(LEVELS[0])
    assert made == [LEVELS[0], LEVELS[0]]
    rows = [(r.budget_gib, r.size, r.task, r.profile) for r in found.results]
    expected = [
        (budget, size, task, profile)
        for budget in (None, 8.0)
        for size in ((112, 112), (112, 224))
        for task, profile in (("2view", "exact"), ("2view", "fast"), ("vggt", "exact"), ("vggt", "fast"))
    ]
    assert rows == expected
    exact, fast, vggt = found.results[:3]
    assert exact.error == 0
    assert exact.accepted
    assert fast.error > 0.01
    assert fast.accepted == (fast.error <= PROFILES["fast"].limit)
    assert vggt.error is None
    assert found.results[8].predicted_gib == pytest.approx(plan.peak.total / 2**30)
    assert exact.predicted_gib is None
    assert exact.host_gib == exact.allocated_gib > 0.05
    assert len(found.bad_caches) == 4
    assert min(error.worst for error in found.bad_caches) > 0.1
    assert pipeline.cache is None
    assert pipeline.watch is None
