"""The multistep solvers' factors, computed on the host, against diffusers' own steps on the tensors."""

import pytest
import torch

from gen3r_core.schedulers import FlowSolver


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 24])
@pytest.mark.parametrize("name", ["unipc", "dpm++"])
def test_factors_give_the_schedulers_own_steps(name, steps):
    ours, theirs = FlowSolver(name, steps), FlowSolver(name, steps)
    generator = torch.Generator().manual_seed(0)
    a = b = torch.randn(2, 3, 4, 5, generator=generator)
    for index in range(steps):
        flow = torch.randn(a.shape, generator=generator)
        a = ours.step(flow, index, a)
        b = theirs._scheduler.step(flow, theirs.timesteps[index], b, return_dict=False)[0]
        torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-5)
    assert a.dtype == torch.float32


@pytest.mark.parametrize("name", ["unipc", "dpm++"])
def test_no_more_is_remembered_than_the_order_needs(name):
    solver = FlowSolver(name, 10)
    latents = torch.zeros(1, 2, 3)
    for index in range(10):
        latents = solver.step(torch.ones(1, 2, 3), index, latents)
        assert len(solver._remembered) <= 3
