"""Progress of a job: what a caller is told after each step, and how it can stop the job."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.profiler import record_function

from gen3r_core.errors import CancelledError

STAGE_MARK = "gen3r stage: "
"""What the names of stages begin with in a profiler's trace."""


@dataclass(frozen=True)
class Progress:
    """A report.

    Attributes:
        stage: "text", "image", "cameras", "video_encode", "denoise", "geometry", "video_decode"
            or "vggt".
        step: steps of the stage that are done.
        total: steps of the stage.
    """

    stage: str
    step: int
    total: int


Callback = Callable[[Progress], bool | None]
"""Called after each step; returning False cancels the job (:class:`CancelledError`)."""


class JobMonitor:
    """Reports progress, honours cancellation, and measures seconds per stage.

    Args:
        callback: see :data:`Callback`; None reports to nobody.
        device: stages end with a synchronisation of this device, so that their times are true.

    Attributes:
        seconds: wall time by stage, in the order of the stages.
        lowered: "stage: level" for each time that memory ran out and the job went on with less of it.
    """

    def __init__(self, callback: Callback | None = None, device: torch.device | str = "cpu") -> None:
        self._callback = callback
        self._device = torch.device(device)
        self.seconds: dict[str, float] = {}
        self.lowered: list[str] = []

    def report(self, stage: str, step: int, total: int) -> None:
        """Tell the caller.

        Raises:
            CancelledError: the caller wants the job to stop.
        """
        if self._callback is not None and self._callback(Progress(stage, step, total)) is False:
            raise CancelledError(f"cancelled during {stage} after step {step} of {total}")

    @contextmanager
    def stage(self, name: str, total: int = 1) -> Iterator[None]:
        """Time a stage; reports its start (step 0) and, where it is a single step, its end."""
        self.report(name, 0, total)
        start = time.perf_counter()
        with record_function(STAGE_MARK + name):
            yield
            if self._device.type == "cuda":  # pragma: gpu-only
                torch.cuda.synchronize(self._device)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        if total == 1:
            self.report(name, 1, 1)
