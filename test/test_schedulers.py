"""Solvers of the flow: noise levels, and whether they integrate."""

import math

import pytest
import torch

from gen3r_core.checkpoint.folder import SCHEDULER_DEFAULTS
from gen3r_core.errors import InputError
from gen3r_core.schedulers import MULTISTEP_SHIFT, SOLVERS, FlowSolver


def shifted(sigma, shift):
    return shift * sigma / (1 + (shift - 1) * sigma)


def integrate(solver, flow, start):
    latents = start
    for index in range(len(solver)):
        latents = solver.step(flow(latents, float(solver.sigmas[index])), index, latents)
    return latents


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_levels_fall_from_noise_to_nothing(name, steps):
    solver = FlowSolver(name, steps, euler=SCHEDULER_DEFAULTS)
    assert len(solver) == len(solver.timesteps) == steps
    assert solver.sigmas.shape == (steps + 1,)
    assert solver.sigmas.dtype == torch.float32
    assert solver.sigmas[0] > 0.99
    assert solver.sigmas[-1] == 0
    assert (solver.sigmas.diff() < 0).all()
    assert (solver.timesteps.float() - 1000 * solver.sigmas[:-1]).abs().max() <= 1


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_a_straight_flow_is_integrated_exactly(name, steps):
    """Noise minus clean latents, whatever the level: every solver ends at the clean latents."""
    draw = torch.Generator().manual_seed(0)
    noise, clean = (torch.randn(1, 16, 2, 3, 4, generator=draw) for _ in range(2))
    solver = FlowSolver(name, steps, euler=SCHEDULER_DEFAULTS)
    end = integrate(solver, lambda _latents, _sigma: noise - clean, noise)
    # UniPC's first level is 0.999 and not 1, so a thousandth of the noise is taken for signal.
    torch.testing.assert_close(end, clean, rtol=0, atol=5e-3 if name == "unipc" else 1e-4)


@pytest.mark.parametrize("name", SOLVERS)
def test_more_steps_come_nearer(name):
    """Clean latents drawn from N(0, 1/4): the flow has a closed form, its end is half of the noise."""

    def flow(x, sigma):
        # x = (1 - s) a + s n; E[n - a | x] for a ~ N(0, 1/4), n ~ N(0, 1).
        variance = (1 - sigma) ** 2 / 4 + sigma**2
        return x * (sigma - (1 - sigma) / 4) / variance

    noise = torch.linspace(-2, 2, 9, dtype=torch.float64).float().view(1, 1, 1, 3, 3)
    errors = [
        float((integrate(FlowSolver(name, steps, shift=1.0), flow, noise) - noise / 2).abs().max())
        for steps in (5, 20, 80)
    ]
    assert errors[0] > errors[1] > errors[2] or errors[2] < 2e-3
    assert errors[2] < 0.02


def test_the_shift_of_euler_applies_twice():
    """Once to the training table and once more to the line between its ends (as published)."""
    solver = FlowSolver("euler", 4, euler=SCHEDULER_DEFAULTS)
    low, high = shifted(1 / 1000, 2.0), shifted(1.0, 2.0)
    line = torch.linspace(1000 * high, 1000 * low, 4) / 1000
    torch.testing.assert_close(solver.sigmas[:-1], shifted(line, 2.0), rtol=1e-5, atol=1e-6)
    assert solver.shift == 2.0


@pytest.mark.parametrize("name", SOLVERS)
def test_a_shift_can_be_asked_for(name):
    by_default = FlowSolver(name, 5, euler=SCHEDULER_DEFAULTS)
    assert by_default.shift == (2.0 if name == "euler" else MULTISTEP_SHIFT)
    moved = FlowSolver(name, 5, shift=9.0, euler=SCHEDULER_DEFAULTS)
    assert moved.shift == 9.0
    assert (moved.sigmas[1:-1] > by_default.sigmas[1:-1]).all()
    assert SCHEDULER_DEFAULTS["shift"] == 2.0  # what was given is not changed


def test_dynamic_shifting_of_a_checkpoint():
    dynamic = FlowSolver("euler", 3, euler={"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15})
    line = torch.linspace(1000, 1, 3) / 1000
    expected = math.e / (math.e + (1 / line - 1))
    torch.testing.assert_close(dynamic.sigmas[:-1], expected, rtol=1e-4, atol=1e-5)


def test_keys_of_the_checkpoint_that_the_scheduler_does_not_know_are_passed_over():
    FlowSolver("euler", 2, euler={"_class_name": "X", "something_new": 1, "shift": 3.0})


@pytest.mark.parametrize("name", SOLVERS)
def test_the_levels_of_training(name):
    solver = FlowSolver(name, 3, shift=3.0, euler=SCHEDULER_DEFAULTS)
    levels = solver.training_sigmas
    assert levels.shape == (1000,)
    assert levels[0] == 1
    torch.testing.assert_close(levels[500], torch.tensor(shifted(0.5, 3.0)))
    torch.testing.assert_close(levels[-1], torch.tensor(shifted(0.001, 3.0)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("heun", 5), r"scheduler 'heun' is unknown; choose one of: euler, unipc, dpm\+\+"),
        (("euler", 0), "the number of steps must be at least 1, got 0"),
        (("unipc", -3), "at least 1, got -3"),
    ],
)
def test_what_cannot_be_solved(arguments, message):
    with pytest.raises(InputError, match=message):
        FlowSolver(*arguments)


@pytest.mark.parametrize("shift", [0.0, -1.0, float("nan")])
def test_shifts_that_make_no_sense(shift):
    with pytest.raises(InputError, match=f"shift of the noise levels must be positive, got {shift}"):
        FlowSolver("dpm++", 5, shift=shift)
