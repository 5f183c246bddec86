"""Spared steps: what they add, what calibration measures, and that the latents' error tells good from bad."""

import json
from dataclasses import replace

import pytest
import torch
from lively import assert_scenes_close
from scene_equality import identical

from gen3r_core.denoising import NEGATIVE, POSITIVE, Guidance
from gen3r_core.errors import CancelledError, InputError
from gen3r_core.execution.calibration import Calibration, Calibrator, calibrate
from gen3r_core.execution.grid import GridResult, bad_cache_error, record
from gen3r_core.execution.step_cache import ResidualCache, forecast
from gen3r_core.execution.trajectory import Trajectory, TrajectoryError, compare
from gen3r_core.schedulers import FlowSolver

INF = float("inf")


def solver(steps):
    return FlowSolver("euler", steps, shift=1.0)


# --- the cache by itself ---------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [0, 1])
def test_forecasts(order):
    past = [(1.0, torch.tensor([0.0, 4.0])), (0.75, torch.tensor([1.0, 3.0]))]
    found = forecast(past, 0.25, order)
    torch.testing.assert_close(found, torch.tensor([1.0, 3.0] if order == 0 else [3.0, 1.0]))


def linear_in_level(levels):
    """Stands for the blocks: they add a residual that is a line over the noise level, another for each branch."""

    def run(index, tokens):
        scale = torch.tensor([1.0, 10.0])[: len(tokens)] if len(tokens) > 1 else torch.tensor([10.0])
        return tokens + levels[index] * scale[:, None, None]

    return run


@pytest.mark.parametrize(("order", "exact"), [(1, True), (0, False)])
def test_a_line_is_forecast_exactly(order, exact):
    cache, steps = ResidualCache([False, False, True, False, True, True], order), solver(6)
    cache.begin(steps)
    run = linear_in_level(steps.sigmas.tolist())
    calls = []
    for index in range(6):
        tokens = torch.randn(2, 3, 4)

        def computed(x, index=index):
            calls.append(index)
            return run(index, x)

        found = cache.through(index, (NEGATIVE, POSITIVE))(tokens, computed)
        close = torch.allclose(found, run(index, tokens), atol=0.1)  # residuals are stored in bfloat16
        assert close or not exact or index not in {2, 4, 5}
        assert close == (exact or index not in {2, 4, 5})
    assert calls == [0, 1, 3]


def test_the_prompts_branch_goes_on_alone_where_guidance_ends():
    cache, steps = ResidualCache([False, True, True]), solver(3)
    cache.begin(steps)
    both = torch.zeros(2, 1, 1)
    cache.through(0, (NEGATIVE, POSITIVE))(both, lambda x: x + torch.tensor([1.0, 10.0])[:, None, None])
    alone = cache.through(1, (POSITIVE,))(both[:1], pytest.fail)
    assert float(alone) == 10.0
    # In turn, each has its own.
    assert float(cache.through(2, (NEGATIVE,))(both[:1], pytest.fail)) == 1.0


def test_a_branch_without_a_past_is_computed():
    cache = ResidualCache([False, True])
    cache.begin(solver(2))
    cache.through(0, (POSITIVE,))(torch.zeros(1, 1, 1), lambda x: x + 1)
    found = cache.through(1, (NEGATIVE, POSITIVE))(torch.zeros(2, 1, 1), lambda x: x + 7)
    assert found.flatten().tolist() == [7.0, 7.0]


@pytest.mark.parametrize(("skips", "order", "words"), [([True], 0, "first 1"), ([False, True], 1, "first 2")])
def test_first_steps_cannot_be_spared(skips, order, words):
    with pytest.raises(InputError, match=f"the {words} steps must be computed"):
        ResidualCache(skips, order)


def test_no_such_order():
    with pytest.raises(InputError, match="order 0 or 1, got 2"):
        ResidualCache([False], 2)


@pytest.mark.parametrize("levels", [None, [0.9, 0.5, 0.2]])
def test_another_schedule_is_refused(levels):
    cache = ResidualCache([False, True, False], 0, levels)
    with pytest.raises(InputError, match="schedule of 3 steps, the job has another of "):
        cache.begin(solver(3 if levels else 4))


# --- calibration -----------------------------------------------------------------------------------------


def test_calibration_measures_the_error_of_each_distance():
    measure, steps = Calibrator(), solver(5)
    measure.begin(steps)
    tokens = torch.zeros(2, 1, 2)
    for index, size in enumerate([1.0, 2.0, 4.0, 8.0, 8.0]):
        added = torch.tensor([[[99.0, index]], [[size, 0.0]]])
        measure.through(index, (NEGATIVE, POSITIVE))(tokens, lambda x, added=added: x + added)
        measure.through(index, (NEGATIVE,))(tokens[:1], lambda x: x + 1)  # not measured
    measure.end()
    found = measure.result("test")
    assert found.errors[0] == [[INF, 0.5, 0.5, 0.5, 0.0], [INF, INF, 0.75, 0.75, 0.5], [INF, INF, INF, 0.875, 0.75]]
    # Lines over equal steps: 2 * last - before.
    assert found.errors[1][0] == pytest.approx([INF, INF, 0.25, 0.25, 0.5], abs=1e-5)
    assert found.errors[1][1] == pytest.approx([INF] * 4 + [abs(2 * 4 - 1 - 8) / 8], abs=1e-5)
    # Of several jobs the largest error counts.
    measure.begin(steps)
    for index, size in enumerate([1.0, 1.0, 4.0, 4.0, 1.0]):
        measure.through(index, (POSITIVE,))(tokens[:1], lambda x, size=size: x + size)
    measure.end()
    assert measure.result("test").errors[0][0] == [INF, 0.5, 0.75, 0.5, 3.0]


def table(first, steps):
    rows = [[INF if step < row else first * row for step in range(steps)] for row in (1, 2, 3)]
    return Calibration("test", solver(steps).sigmas.tolist()[:-1], [rows, [[INF] * steps] * 3])


@pytest.mark.parametrize(
    ("error", "threshold", "pattern"),
    [
        (0.1, 0.0, "........"),
        (0.1, 0.1, ".s.s.s.."),
        (0.1, 0.31, ".ss.ss.."),
        (0.01, 0.3, ".sss.ss."),  # no more than three in a row, and never the last
    ],
)
def test_choosing_steps(error, threshold, pattern):
    assert "".join(".s"[spared] for spared in table(error, 8).choose(threshold)) == pattern


def test_the_order_that_spares_more_is_taken():
    first = table(0.1, 8)
    lines = [[INF if step < 2 * row else 0.0 for step in range(8)] for row in (1, 2, 3)]
    assert first.cache(0.1).order == 0
    assert replace(first, errors=[first.errors[0], lines]).cache(0.1).order == 1


def test_calibrations_can_be_stored(tmp_path):
    path = tmp_path / "c.json"
    table(0.125, 8).save(path)
    assert Calibration.load(path) == table(0.125, 8)
    values = json.loads(path.read_text())
    for change in ({"format": "x"}, {"levels": [1]}, {"errors": None}):
        path.write_text(json.dumps(values | change))
        with pytest.raises(InputError, match=r"c.json cannot be used: .* Make it anew with 'gen3r calibrate'"):
            Calibration.load(path)
    with pytest.raises(InputError, match="cannot be used"):
        Calibration.load(tmp_path / "absent.json")


# --- in the pipeline -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def calm(pipeline):
    """The pipeline with a transformer whose residual changes slowly from step to step, as trained ones' do."""
    embedder = pipeline.transformer.condition_embedder.time_proj
    before = embedder.weight.data.clone()
    embedder.weight.data.mul_(0.02)
    yield pipeline
    embedder.weight.data.copy_(before)


@pytest.fixture(scope="module")
def many(sampling):
    return replace(sampling, steps=12)


@pytest.fixture(scope="module")
def exact(calm, job, many):
    return record(calm, job.task, many)


def test_calibration_changes_nothing(calm, job, many):
    expected = calm.generate(job, many)
    found = calibrate(calm, [job, replace(job, seed=7)], many, model="calm")
    assert calm.cache is None
    assert len(found.levels) == 12
    assert identical(calm.generate(job, many), expected)
    assert all(0 < error < 1 for error in found.errors[0][0][1:])
    # Farther means worse, by and large.
    near, far = (sum(row[3:]) for row in (found.errors[0][0], found.errors[0][2]))
    assert far > 1.5 * near


@pytest.mark.parametrize("together", [True, False])
def test_steps_are_spared_and_the_pipeline_restored(calm, job, many, together):
    from gen3r_core.execution.levels import LEVELS

    if not together:
        calm.placement.change(LEVELS[3])
    expected = calm.generate(job, many)
    found = calibrate(calm, [job], many)
    error = sorted(found.errors[0][0])[6]
    cache = ResidualCache(found.choose(error), 0, found.levels)
    assert 2 <= sum(cache.skips) <= 6
    calls = []
    hook = calm.transformer.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    calm.cache = cache
    try:
        spared = calm.generate(job, many)
        with pytest.raises(CancelledError):
            calm.generate(job, many, callback=lambda report: (report.stage, report.step) != ("denoise", 5))
        calls.clear()
        again = calm.generate(job, many)
        assert len(calls) == (12 - sum(cache.skips)) * (1 if together else 2)
    finally:
        calm.cache = None
        hook.remove()
        calm.placement.change(LEVELS[0])
    assert identical(again, spared)  # a job that was broken off leaves nothing behind
    assert not identical(spared, expected)
    assert_scenes_close(spared, expected, 0.3)
    if together:
        assert identical(calm.generate(job, many), expected)


def test_the_error_tells_a_good_cache_from_a_bad_one(calm, job, many, exact):
    found = calibrate(calm, [job], many)
    calm.cache = ResidualCache(found.choose(sorted(found.errors[0][0])[4]), 0, found.levels)
    try:
        good = compare(record(calm, job.task, many), exact)
    finally:
        calm.cache = None
    bad = bad_cache_error(calm, job.task, many, exact)
    assert calm.cache is None
    assert compare(record(calm, job.task, many), exact).worst == 0
    assert 0 < good.worst < 0.5 * bad.worst
    limit = 0.6 * bad.worst
    assert good.accepted(limit)
    assert not bad.accepted(limit)


def test_a_measure_that_accepts_anything_says_so():
    assert GridResult([], []).verdict() is None
    small, large = (TrajectoryError([1.0, 0.0], [0.0, error]) for error in (0.01, 3.0))
    assert GridResult([], [large]).verdict() == (
        "a deliberately bad cache has error 3.0000 and is rejected (limit 0.2)"
    )
    assert "is accepted: the errors here mean nothing" in GridResult([], [large, small]).verdict()


# --- trajectories ----------------------------------------------------------------------------------------


def test_trajectories_are_compared_at_the_same_levels():
    exact, other = Trajectory(), Trajectory()
    for level in (1.0, 0.5, 0.0):
        exact(level, torch.tensor([4 * level, 0.0]))
    for level in (1.0, 0.75, 0.25, 0.0):
        other(level, torch.tensor([4 * level, level * (1 - level)]))
    found = compare(other, exact)
    assert found.levels == [1.0, 0.75, 0.25, 0.0]
    assert found.errors == pytest.approx([0, 0.1875 / 4, 0.1875 / 4, 0])
    assert found.worst == pytest.approx(0.1875 / 4)
    assert found.final == 0
    assert exact.at(2.0).tolist() == [4.0, 0.0]
    assert exact.at(-1.0).tolist() == [0.0, 0.0]


def test_a_job_that_begins_anew_is_recorded_anew():
    trajectory = Trajectory()
    for level in (1.0, 0.5, 1.0, 0.5, 0.0):
        trajectory(level, torch.tensor([level]))
    assert trajectory.levels == [1.0, 0.5, 0.0]


def test_not_a_number_is_never_accepted():
    assert not TrajectoryError([1.0], [float("nan")]).accepted(1.0)


# --- guidance on a share of the steps --------------------------------------------------------------------


def test_guidance_on_a_share_of_the_steps(pipeline, job, sampling):
    def sizes(share):
        found = []
        hook = pipeline.transformer.register_forward_hook(lambda _m, _a, out: found.append(len(out)))
        try:
            scene = pipeline.generate(job, replace(sampling, steps=5, guided_share=share))
        finally:
            hook.remove()
        return found, scene

    assert sizes((0.0, 0.6))[0] == [2, 2, 2, 1, 1]
    assert sizes((0.2, 0.8))[0] == [1, 2, 2, 2, 1]
    whole, scene = sizes((0.0, 1.0))
    assert whole == [2] * 5
    never, unguided = sizes((0.3, 0.3))
    assert never == [1] * 5
    assert identical(unguided, pipeline.generate(job, replace(sampling, steps=5, guidance=1.0)))
    assert not identical(unguided, scene)


@pytest.mark.parametrize("share", [(-0.1, 1.0), (0.5, 0.4), (0.0, 1.1)])
def test_shares_that_make_no_sense(share):
    with pytest.raises(InputError, match="guidance lasts from one share of the steps to a later one"):
        Guidance(5.0, *share)
