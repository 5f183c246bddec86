"""Running the stages of a job: each is timed, and done again at a more sparing level where memory ran out."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from gen3r_core.devices import memory_errors
from gen3r_core.errors import OutOfMemoryError
from gen3r_core.execution.placement import Placement
from gen3r_core.progress import JobMonitor

_LOG = logging.getLogger(__name__)

T = TypeVar("T")


def release_memory(device: torch.device) -> None:
    """Give back what the allocator holds without using it."""
    gc.collect()
    if device.type == "cuda":  # pragma: gpu-only
        torch.cuda.empty_cache()


def run_stage(placement: Placement, monitor: JobMonitor, name: str, function: Callable[[], T], *, total: int = 1) -> T:
    """Run one stage.

    Args:
        placement: lowered where memory runs out, and left so for later stages and jobs.
        monitor: told of the stage; see :meth:`gen3r_core.progress.JobMonitor.stage`.
        name: of the stage.
        function: does it, anew each time it is called.
        total: steps of the stage.

    Raises:
        OutOfMemoryError: memory ran out at the last level, too.
    """
    while True:
        try:
            with memory_errors(), monitor.stage(name, total):
                return function()
        except OutOfMemoryError as error:
            lower = placement.lower()
            if lower is None:
                raise
            reason = str(error).partition(";")[0]
        # Out of the handler: the error's traceback held the tensors of all frames.
        placement.change(lower)
        release_memory(placement.device)
        monitor.lowered.append(f"{name}: {lower.name}")
        _LOG.warning("%s in stage %r; going on with less of it: %s", reason, name, lower.words)
