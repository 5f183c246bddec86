"""What the supervisor of a worker is told, by the client and by the worker, and what it keeps of the job that runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gen3r_core.serving.codes import ErrorCode
from gen3r_core.serving.options import WorkerOptions
from gen3r_core.serving.process import WorkerProcess
from gen3r_core.serving.requests import Request
from gen3r_core.serving.tickets import Ticket


@dataclass(frozen=True)
class Configure:
    """Load this model in place of the present one."""

    options: WorkerOptions


@dataclass(frozen=True)
class Submit:
    """A new job; ``now`` also takes the place of a running one of its kind."""

    ticket: Ticket
    now: bool


@dataclass(frozen=True)
class Cancel:
    """Its owner wants it no more."""

    ticket: Ticket


@dataclass(frozen=True)
class Close:
    """End the worker, and then this thread."""


@dataclass(frozen=True)
class Heard:
    """A message of a worker process; None when it is gone."""

    process: WorkerProcess
    message: Any
    descriptor: int | None


Item = Configure | Submit | Cancel | Close | Heard
"""What may lie in the inbox."""


@dataclass
class Running:
    """The job that the worker does.

    Attributes:
        ticket: of the job.
        request: what to do.
        stage: it is in, and since when.
        since: by ``time.monotonic``.
        ready_at: when it will probably be done, NaN while unknown.
        step: of denoising that was done last; 0 before the first.
        step_at: when that was.
        step_s: seconds of its fastest step of denoising; infinite before the first.
        stop: why it was told to stop, if it was, and what its owner will be told.
        stopping_since: when that was.
    """

    ticket: Ticket
    request: Request
    stage: str = ""
    since: float = 0.0
    ready_at: float = float("nan")
    step: int = 0
    step_at: float = 0.0
    step_s: float = float("inf")
    stop: tuple[ErrorCode, str] | None = None
    stopping_since: float = 0.0
