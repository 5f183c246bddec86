"""Solvers against the golden kit."""

from __future__ import annotations

import re

import golden
import pytest
import torch

from gen3r_core.schedulers import FlowSolver

pytestmark = [pytest.mark.parity, golden.requires_golden]
LIMIT = 1e-5
_NAMES = {"euler": "euler", "unipc": "unipc", "dpmpp": "dpm++"}


@pytest.mark.parametrize("name", golden.cases("schedulers") or ["schedulers_absent"])
def test_solvers(name: str) -> None:
    case = golden.load(name)
    config = case.meta["euler_constructor"]
    compared = 0
    for tag in sorted({key.partition("/")[0] for key in case.outputs}):
        run = re.fullmatch(r"(\w+?)_shift([\d.]+)_n(\d+)", tag)
        if run is None:
            table = re.fullmatch(r"euler_train_shift([\d.]+)", tag)
            assert table, f"unknown scheduler case {tag}"
            solver = FlowSolver("euler", 1, shift=float(table[1]), euler=config)
            training = solver.training_sigmas
            golden.assert_close(training, case.outputs[f"{tag}/sigmas"], LIMIT)
            golden.assert_close(training * config["num_train_timesteps"], case.outputs[f"{tag}/timesteps"], LIMIT)
            continue
        solver = FlowSolver(_NAMES[run[1]], int(run[3]), shift=float(run[2]), euler=config)
        golden.assert_close(solver.sigmas, case.outputs[f"{tag}/sigmas"], LIMIT)
        golden.assert_close(solver.timesteps, case.outputs[f"{tag}/timesteps"], LIMIT)
        latents = case.inputs["sample"]
        for index, expected in enumerate(case.outputs[f"{tag}/steps"]):
            latents = solver.step(case.inputs["model_outputs"][index], index, latents)
            assert latents.dtype == torch.float32
            golden.assert_close(latents, expected, LIMIT)
            compared += 1
    assert compared
