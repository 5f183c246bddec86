"""What client and worker say to each other over their pipe, pickled; arrays follow as descriptors of shared memory."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any

from gen3r_core.serving.codes import ErrorCode
from gen3r_core.serving.requests import JobKind
from gen3r_core.serving.shared import Layout
from gen3r_core.serving.status import ModelFacts

# --- client to worker ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunJob:
    """Do this; the block with its arrays follows."""

    number: int
    kind: JobKind
    plain: Mapping[str, Any]
    layout: Layout


@dataclass(frozen=True)
class StopJob:
    """Stop this job as soon as possible; it may have ended already."""

    number: int


@dataclass(frozen=True)
class Quit:
    """Stop everything and end."""


# --- worker to client ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Beat:
    """A sign of life.

    Attributes:
        device_memory: see :class:`~gen3r_core.serving.status.WorkerStatus`.
    """

    device_memory: tuple[int, int] | None = None


@dataclass(frozen=True)
class Loading:
    """How far the model is loaded, 0 to 1, and what is being done."""

    fraction: float
    words: str


@dataclass(frozen=True)
class Ready:
    """The model is loaded."""

    model: ModelFacts


@dataclass(frozen=True)
class LoadFailed:
    """The model cannot be loaded, and why."""

    message: str


@dataclass(frozen=True)
class JobProgress:
    """A report of the running job."""

    number: int
    stage: str
    step: int
    total: int


@dataclass(frozen=True)
class Finished:
    """A job ended. Where it has a layout, the block with the arrays of its result follows.

    Attributes:
        number: of the job.
        code: how it ended.
        message: in words, empty when OK.
        seconds: wall time by stage; all stages of a job together last about as long as it.
        metres_per_unit: of the scene.
        not_fitted: why its depth was not fitted to known poses.
        layout: of the block.
    """

    number: int
    code: ErrorCode
    message: str
    seconds: Mapping[str, float]
    metres_per_unit: float | None = None
    not_fitted: str = ""
    layout: Layout | None = None


class Link:
    """One end of the pipe; any thread may send, one receives.

    Args:
        connection: taken over.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()

    def send(self, message: object, descriptor: int | None = None) -> None:
        """Send a message, and the block that follows it.

        Args:
            message: of this module.
            descriptor: stays the caller's.

        Raises:
            OSError: the other end is gone.
        """
        with self._sending:
            self._connection.send(message)
            if descriptor is not None:
                send_handle(self._connection, descriptor, None)  # the pid is for Windows

    def receive(self) -> tuple[Any, int | None]:
        """Wait for a message; with it the descriptor of its block, which becomes the caller's.

        Raises:
            EOFError: the other end is gone.
            OSError: the same, or this end was closed.
        """
        message = self._connection.recv()
        return message, recv_handle(self._connection) if getattr(message, "layout", None) is not None else None

    def close(self) -> None:
        """Close this end; the other learns of it."""
        self._connection.close()
