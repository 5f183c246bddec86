"""How long jobs take, learnt from those that were done."""

from __future__ import annotations

import math
import threading
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


def seconds_of(run: Mapping[str, float], steps: int) -> float:
    """Seconds of a whole job.

    Args:
        run: seconds by stage, of denoising by step.
        steps: of denoising.
    """
    return sum(value * (steps if name == REPEATED else 1) for name, value in run.items())


class Pace:
    """Seconds by stage of the last jobs; of denoising, by step. Any thread may ask."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], deque[dict[str, float]]] = {}
        self._glimpsed: dict[tuple[object, ...], float] = {}
        self._lock = threading.Lock()

    def learn(self, request: Request, stages: Mapping[str, float]) -> None:
        """Remember a job that went well.

        Args:
            request: that was served.
            stages: its seconds by stage, in their order.
        """
        each = {name: value / (steps_of(request) if name == REPEATED else 1) for name, value in stages.items()}
        with self._lock:
            self._known.setdefault(request.pace_key, deque(maxlen=MEMORY)).append(each)
            while len(self._known) > _KINDS:
                self._known.pop(next(iter(self._known)))

    def glimpse(self, request: Request, step_s: float) -> None:
        """Remember what a step of denoising took in a job that was stopped; it counts until one goes well.

        Args:
            request: that was served.
            step_s: seconds.
        """
        with self._lock:
            self._glimpsed[request.pace_key] = step_s
            while len(self._glimpsed) > _KINDS:
                self._glimpsed.pop(next(iter(self._glimpsed)))

    def fastest(self, key: tuple[object, ...], steps: int) -> dict[str, float] | None:
        """Seconds by stage of the fastest job of a kind, of denoising by step; None where nothing is known.

        Args:
            key: ``pace_key`` of requests of the kind.
            steps: of denoising; which job is the fastest depends on it.
        """
        with self._lock:
            runs = self._known.get(key)
            if runs:
                return min((dict(run) for run in runs), key=lambda run: seconds_of(run, steps))
            glimpsed = self._glimpsed.get(key)
            return None if glimpsed is None else {REPEATED: glimpsed}

    def least(self, request: Request) -> float | None:
        """Seconds below which no such job stayed, or could have; None if there was none."""
        steps = steps_of(request)
        run = self.fastest(request.pace_key, steps)
        return None if run is None else seconds_of(run, steps)

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
        return here + seconds_of({name: usual[name] for name in later}, steps_of(request))
