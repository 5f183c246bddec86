"""How long jobs take, learnt from those that were done."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping

from gen3r_core.serving.requests import PredictRequest, Request

REPEATED = "denoise"
"""The stage whose steps the request counts."""

LONG = (REPEATED, "vggt")
"""Stages that are nearly all of a job on a GPU: their own steps tell enough where no job was done before."""

MEMORY = 5
"""Jobs of a kind that are remembered."""

_KINDS = 64


def steps_of(request: Request) -> int:
    """Denoising steps."""
    return request.options.steps if isinstance(request, PredictRequest) else 1


class Pace:
    """Seconds by stage of the last jobs; of denoising, by step."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], deque[dict[str, float]]] = {}

    def learn(self, request: Request, stages: Mapping[str, float]) -> None:
        """Remember a job that went well.

        Args:
            request: that was served.
            stages: its seconds by stage, in their order.
        """
        each = {name: value / (steps_of(request) if name == REPEATED else 1) for name, value in stages.items()}
        self._known.setdefault(request.pace_key, deque(maxlen=MEMORY)).append(each)
        while len(self._known) > _KINDS:
            self._known.pop(next(iter(self._known)))

    def least(self, request: Request) -> float | None:
        """Seconds below which no such job stayed; None if there was none."""
        runs = self._known.get(request.pace_key)
        return None if not runs else min(self._total(run, steps_of(request)) for run in runs)

    def left(self, request: Request, stage: str, step: int, total: int, in_stage: float) -> float:
        """Seconds that a running job still needs.

        Args:
            request: that is served.
            stage: it is in.
            step: steps of the stage that are done.
            total: steps of the stage.
            in_stage: seconds since the stage began.

        Returns:
            NaN where neither earlier jobs nor this one tell.
        """
        runs = self._known.get(request.pace_key)
        usual = runs[-1] if runs else {}
        if not usual and stage not in LONG:
            return math.nan
        if step > 0:
            here = in_stage / step * (total - step)
        elif stage in usual:
            here = max(0.0, usual[stage] * (total if stage == REPEATED else 1) - in_stage)
        else:
            return math.nan
        later = list(usual)[list(usual).index(stage) + 1 :] if stage in usual else []
        return here + self._total({name: usual[name] for name in later}, steps_of(request))

    @staticmethod
    def _total(run: Mapping[str, float], steps: int) -> float:
        return sum(value * (steps if name == REPEATED else 1) for name, value in run.items())
