"""What a worker is doing, as its client knows it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class WorkerState(StrEnum):
    """From nothing to work and back.

    ``STOPPED``: there is no worker, and none is wanted. ``STARTING``: its process starts. ``LOADING``: it loads the
    model. ``READY``: it waits for jobs. ``BUSY``: it does one. ``RESTARTING``: it died, and another starts after a
    while. ``FAILED``: the model cannot be loaded; nothing happens until it is configured anew.
    """

    STOPPED = "stopped"
    STARTING = "starting"
    LOADING = "loading"
    READY = "ready"
    BUSY = "busy"
    RESTARTING = "restarting"
    FAILED = "failed"


@dataclass(frozen=True)
class ModelFacts:
    """The model that is loaded.

    Attributes:
        name: of the weights.
        num_frames: of a generation where a request names none.
        image_size: the same, ``(height, width)``.
        device: where it lies, "cpu" or "cuda:0".
        dtype: of its weights, "float32".
        parameters: their number.
    """

    name: str
    num_frames: int
    image_size: tuple[int, int]
    device: str
    dtype: str
    parameters: int


@dataclass(frozen=True)
class WorkerStatus:
    """A snapshot.

    Attributes:
        state: see :class:`WorkerState`.
        words: what it is doing, or why it failed.
        progress: of loading, 0 to 1; 1 once the model is there.
        restarts: how many workers died since this model was configured.
        last_failure: why the last of them did; empty if none did.
        model: None until it is loaded.
        pid: of the process, None where there is none.
        device_memory: bytes of the GPU that are in use, by whomever, and that it has; None where there is none.
    """

    state: WorkerState = WorkerState.STOPPED
    words: str = ""
    progress: float = 0.0
    restarts: int = 0
    last_failure: str = ""
    model: ModelFacts | None = None
    pid: int | None = None
    device_memory: tuple[int, int] | None = None
