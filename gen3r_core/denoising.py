"""From noise to latents: the flow is predicted and integrated, step by step.

Nothing in the loop makes the host wait for the device, so that its work is queued ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from gen3r_core.conditioning import Conditions
from gen3r_core.errors import InputError
from gen3r_core.models.transformer import CameraTransformer, Through
from gen3r_core.progress import JobMonitor
from gen3r_core.schedulers import FlowSolver

NEGATIVE, POSITIVE = "negative", "positive"
"""Branches of guidance: the negative prompt's and the prompt's."""


class SharedBranches(Protocol):
    """Shares the branches of guidance among processes; see :mod:`gen3r_core.execution.branch_processes`."""

    def agree(self, latents: Tensor) -> Tensor:
        """The same latents in all processes."""

    def flow(self, predict: Callable[[Sequence[str]], Tensor], branches: Sequence[str]) -> Tensor:
        """Flows of all branches, of which this process predicts its own."""


class StepCache(Protocol):
    """Spares steps the transformer's blocks; see :mod:`gen3r_core.execution.step_cache`."""

    def begin(self, solver: FlowSolver) -> None:
        """A job begins; forget the last."""

    def end(self) -> None:
        """The job is over or was broken off; free the memory."""

    def through(self, index: int, branches: Sequence[str]) -> Through:
        """What takes the tokens of some branches, batched in this order, through the blocks at a step."""


LatentsWatch = Callable[[float, Tensor], None]
"""Told the noise level and the latents ``[B, C, f, h, w]`` before the first step and after each."""


@dataclass(frozen=True)
class Guidance:
    """How the prompt is weighed against the negative prompt.

    Attributes:
        weight: of the prompt; 1 or less runs unguided.
        begin, end: shares of the steps between which guidance is on; outside only the prompt's branch runs, at half the
            cost (arXiv 2404.07724 finds guidance useful in a limited interval).

    Raises:
        InputError: the shares are not 0 <= begin <= end <= 1.
    """

    weight: float
    begin: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.begin <= self.end <= 1:
            raise InputError(
                f"guidance lasts from one share of the steps to a later one, 0 to 1, got {self.begin} to {self.end}"
            )

    def at(self, index: int, steps: int) -> bool:
        """Whether the step ``index`` of ``steps`` is guided."""
        return self.weight > 1 and round(self.begin * steps) <= index < round(self.end * steps)


class _Predictor:
    """The transformer with a job's conditions, embedded once."""

    def __init__(self, transformer: CameraTransformer, conditions: Conditions, latents: Tensor) -> None:
        self._transformer = transformer
        self._conditions = conditions
        self._rotary = transformer.rope(latents)
        dtype = transformer.patch_embedding.weight.dtype
        image = conditions.image_tokens.to(dtype)
        texts = {NEGATIVE: conditions.negative_text, POSITIVE: conditions.text}
        self._contexts = {
            name: transformer.embed_context(text.to(dtype), image) for name, text in texts.items() if text is not None
        }

    def flow(self, latents: Tensor, timestep: Tensor, branches: Sequence[str], through: Through | None) -> Tensor:
        """Flows ``[len(branches) * B, C, f, h, w]`` of some branches, computed as one batch."""
        flow: Tensor = self._transformer(
            torch.cat((latents, self._conditions.control_latents), dim=1),
            timestep.expand(len(latents)),
            camera_tokens=self._conditions.camera_tokens,
            context=torch.cat([self._contexts[name] for name in branches]),
            rotary=self._rotary,
            through=through,
        )
        return flow


def denoise(
    transformer: CameraTransformer,
    latents: Tensor,
    conditions: Conditions,
    solver: FlowSolver,
    guidance: Guidance,
    monitor: JobMonitor,
    *,
    together: bool = True,
    cache: StepCache | None = None,
    watch: LatentsWatch | None = None,
    shared: SharedBranches | None = None,
) -> Tensor:
    """Integrate the flow from noise to latents.

    Args:
        transformer: on the device.
        latents: ``[B, C, f, h, 2w]`` float32 standard normal noise.
        conditions: of the B jobs.
        solver: fresh.
        guidance: how strong, and when.
        monitor: told after each step, as stage "denoise".
        together: whether the two branches are one batch; otherwise they run in turn, in less memory.
        cache: spares steps the transformer's blocks.
        watch: sees the latents on their way.
        shared: other processes that take a part of the branches.

    Returns:
        ``[B, C, f, h, 2w]`` float32.

    Raises:
        CancelledError: the monitor's callback asked for it.
    """
    steps = len(solver)
    predictor = _Predictor(transformer, conditions, latents)
    timesteps = solver.timesteps.to(device=latents.device)
    levels = solver.sigmas.tolist()
    if cache is not None:
        cache.begin(solver)
    if shared is not None:
        latents = shared.agree(latents)
    if watch is not None:
        watch(levels[0], latents)
    try:
        for index in range(steps):
            guided = conditions.negative_text is not None and guidance.at(index, steps)
            branches = (NEGATIVE, POSITIVE) if guided else (POSITIVE,)
            predict = partial(_predict, predictor, latents, timesteps[index], index, cache)
            if shared is not None:
                flow = shared.flow(predict, branches)
            else:
                groups = [branches] if together else [(name,) for name in branches]
                flow = torch.cat([predict(group) for group in groups])
            if guided:
                negative, positive = flow.chunk(2)
                flow = negative + guidance.weight * (positive - negative)
            latents = solver.step(flow, index, latents)
            if watch is not None:
                watch(levels[index + 1], latents)
            monitor.report("denoise", index + 1, steps)
    finally:
        if cache is not None:
            cache.end()
    return latents


def _predict(
    predictor: _Predictor,
    latents: Tensor,
    timestep: Tensor,
    index: int,
    cache: StepCache | None,
    branches: Sequence[str],
) -> Tensor:
    return predictor.flow(latents, timestep, branches, None if cache is None else cache.through(index, branches))
