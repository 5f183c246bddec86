"""What a worker process loads, and how it is watched."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from gen3r_core.errors import InputError


def spare_cores() -> int:
    """All cores that this process may use but one, which stays with the node; at least one."""
    return max(1, len(os.sched_getaffinity(0)) - 1)


@dataclass(frozen=True)
class WorkerOptions:
    """Settings of one worker process; another model is another process.

    Attributes:
        checkpoint: folder; None or "gen3r-small" for the model in the package.
        random_size: a model of a named size (see :mod:`gen3r_core.sizes`) with random weights in place of a
            checkpoint, to try things without one.
        prompts: file of ``gen3r embed-prompts``; with it the text encoder is not loaded.
        memory_budget: GiB that may be used on the device, see ``gen3r plan``; None takes what a job needs.
        compiled: compile the networks for predicted views, of the model's own size, when the model is loaded.
        device: "auto", "cpu", "cuda", "cuda:1", ...
        dtype: "auto", "fp32", "bf16" or "fp16".
        threads: of torch on the CPU; None takes :func:`spare_cores`.
        niceness: added to that of this process, 0 to 19, so that callbacks come first.
        heartbeat_s: seconds between signs of life.
        silence_s: a worker that gave no sign of life for so long is killed and started anew.
        load_silence_s: the same until the model is loaded: importing libraries from a slow disk blocks everything else.
        stop_s: so long may a job go on that was told to stop; then the worker is killed.
        backoff_s: wait before the first restart; doubled with each, until a job went well.
        most_backoff_s: longest such wait.

    Raises:
        InputError: a number is out of its range, or both a checkpoint and a random model are asked for.
    """

    checkpoint: str | Path | None = None
    random_size: str | None = None
    prompts: str | Path | None = None
    memory_budget: float | None = None
    compiled: bool = False
    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None
    niceness: int = 10
    heartbeat_s: float = 0.25
    silence_s: float = 10.0
    load_silence_s: float = 120.0
    stop_s: float = 60.0
    backoff_s: float = 0.5
    most_backoff_s: float = 30.0

    def __post_init__(self) -> None:
        if self.checkpoint is not None and self.random_size is not None:
            raise InputError(
                f"a worker has one model, got checkpoint {str(self.checkpoint)!r} and random size "
                f"{self.random_size!r}; leave one out"
            )
        if self.memory_budget is not None and not self.memory_budget > 0:
            raise InputError(f"the memory budget of a worker must be positive GiB, got {self.memory_budget}")
        if self.threads is not None and self.threads < 1:
            raise InputError(f"a worker needs at least 1 thread, got {self.threads}")
        if not 0 <= self.niceness <= 19:
            raise InputError(f"niceness of a worker is 0 to 19, got {self.niceness}")
        for name in ("heartbeat_s", "silence_s", "load_silence_s", "stop_s", "backoff_s", "most_backoff_s"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} of a worker must be positive seconds, got {getattr(self, name)}")
        if min(self.silence_s, self.load_silence_s) < 2 * self.heartbeat_s:
            raise InputError(
                f"a worker may be silent for at least two heartbeats of {self.heartbeat_s} s, got silence_s "
                f"{self.silence_s} and load_silence_s {self.load_silence_s}"
            )
