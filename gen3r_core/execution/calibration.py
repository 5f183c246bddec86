"""Measuring how well residuals can be forecast, and which steps may therefore be spared.

MagCache (arXiv 2506.09045) estimates the error of reuse from the ratio of two residuals' magnitudes. During calibration
both residuals are at hand, so the error itself is measured, for each step and each distance to the last computed one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gen3r_core.denoising import POSITIVE
from gen3r_core.errors import InputError
from gen3r_core.execution.step_cache import HIGHEST_ORDER, ResidualCache, forecast
from gen3r_core.io.atomic import write_json_atomic
from gen3r_core.schedulers import FlowSolver

if TYPE_CHECKING:
    from gen3r_core.jobs import Job, Sampling
    from gen3r_core.pipeline import Gen3RPipeline
    from gen3r_core.progress import Callback

MOST_IN_A_ROW = 3
"""Steps in a row that may be spared; so far forecasts are calibrated."""

_FORMAT = "gen3r-calibration-1"


@dataclass(frozen=True)
class Calibration:
    """Errors of forecast residuals, relative to the residual's norm.

    Attributes:
        model: what was measured, for people.
        levels: noise level of each step.
        errors: ``[order][distance - 1][step]``; infinite where there is no earlier step at that distance.
    """

    model: str
    levels: list[float]
    errors: list[list[list[float]]]

    def choose(self, threshold: float, order: int = 0) -> list[bool]:
        """Which steps to spare: as many in a row as their errors add up to no more than the threshold.

        Args:
            threshold: sum of relative errors between two computed steps (MagCache's rule).
            order: of the forecast.

        Returns:
            one flag a step; the last step is always computed.
        """
        steps, skips, row, total = len(self.levels), [], 0, 0.0
        for step in range(steps):
            error = self.errors[order][row][step] if row < MOST_IN_A_ROW else float("inf")
            enough = step >= order + 1 + row
            if enough and step < steps - 1 and total + error <= threshold:
                row, total = row + 1, total + error
            else:
                row, total = 0, 0.0
            skips.append(row > 0)
        return skips

    def cache(self, threshold: float) -> ResidualCache:
        """The cache that follows from :meth:`choose`, of the order that spares the most steps."""
        order = max(range(HIGHEST_ORDER + 1), key=lambda one: sum(self.choose(threshold, one)))
        return ResidualCache(self.choose(threshold, order), order, self.levels)

    def save(self, path: Path) -> None:
        """Write as JSON.

        Raises:
            OutputError: it cannot be written.
        """
        values = asdict(self)
        values["errors"] = [
            [[None if e == float("inf") else round(e, 6) for e in row] for row in table] for table in self.errors
        ]
        write_json_atomic(path, {"format": _FORMAT, **values})

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Read a file of :meth:`save`.

        Raises:
            InputError: unreadable, or another kind of file.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values["format"] != _FORMAT:
                raise ValueError(f"its format is {values['format']!r}")
            levels = [float(level) for level in values["levels"]]
            errors = [
                [[float("inf") if e is None else float(e) for e in row] for row in table] for table in values["errors"]
            ]
            shape = [len(errors), *({len(table) for table in errors}), *({len(row) for t in errors for row in t})]
            if shape != [HIGHEST_ORDER + 1, MOST_IN_A_ROW, len(levels)]:
                raise ValueError(f"its errors have shape {shape}")
            return cls(str(values["model"]), levels, errors)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"calibration {path} cannot be used: {error}. Make it anew with 'gen3r calibrate'"
            ) from error


class Calibrator:
    """A cache that spares nothing and measures what sparing would cost. Errors of several jobs: the largest counts."""

    def __init__(self) -> None:
        self.levels: list[float] = []
        self._past: list[tuple[float, Tensor]] = []
        self._found: list[list[list[Tensor | None]]] = []
        self._jobs: list[list[list[list[Tensor | None]]]] = []

    def begin(self, solver: FlowSolver) -> None:
        """A job begins."""
        self._past.clear()
        self.levels = solver.sigmas.tolist()[:-1]
        steps = len(self.levels)
        self._found = [[[None] * steps for _ in range(MOST_IN_A_ROW)] for _ in range(HIGHEST_ORDER + 1)]

    def end(self) -> None:
        """The job is over: keep its errors."""
        self._past.clear()
        self._jobs.append(self._found)

    def through(self, index: int, branches: Sequence[str]) -> Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]:
        """See :class:`gen3r_core.denoising.StepCache`; the prompt's branch is measured."""

        def take(tokens: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
            result = run(tokens)
            if POSITIVE in branches:
                added = (result - tokens).chunk(len(branches))[list(branches).index(POSITIVE)]
                self._measure(index, added)
            return result

        return take

    def _measure(self, index: int, residual: Tensor) -> None:
        level = self.levels[index]
        for order in range(HIGHEST_ORDER + 1):
            for distance in range(1, MOST_IN_A_ROW + 1):
                # Computed steps before a row of spared ones are assumed to be as far apart as the row is long.
                places = [-distance * back for back in range(order + 1, 0, -1)]
                if -places[0] <= len(self._past):
                    guess = forecast([self._past[place] for place in places], level, order)
                    error = torch.linalg.vector_norm(guess - residual) / torch.linalg.vector_norm(residual)
                    self._found[order][distance - 1][index] = error
        self._past.append((level, residual))
        del self._past[: -(HIGHEST_ORDER + 1) * MOST_IN_A_ROW]

    def result(self, model: str) -> Calibration:
        """What was measured.

        Args:
            model: its name, for people.
        """
        steps = range(len(self.levels))
        errors = [
            [
                [max(_number(job[order][row][step]) for job in self._jobs) for step in steps]
                for row in range(MOST_IN_A_ROW)
            ]
            for order in range(HIGHEST_ORDER + 1)
        ]
        return Calibration(model, self.levels, errors)


def _number(error: Tensor | None) -> float:
    return float("inf") if error is None else float(error)


def calibrate(
    pipeline: Gen3RPipeline,
    jobs: Sequence[Job],
    sampling: Sampling,
    *,
    model: str = "",
    callback: Callback | None = None,
) -> Calibration:
    """Run jobs without sparing a step and measure.

    Args:
        pipeline: the model; it is left as it was.
        jobs: typical ones; of each step the largest error counts.
        sampling: the schedule to calibrate for.
        model: its name, for people.
        callback: told about progress.

    Raises:
        InputError: a job cannot be used.
    """
    measure = Calibrator()
    before, pipeline.cache = pipeline.cache, measure
    try:
        for job in jobs:
            pipeline.generate(job, sampling, callback=callback)
    finally:
        pipeline.cache = before
    return measure.result(model)
