"""The worker process: a thread that infers, one that listens, and one that shows that the process lives.

It imports torch only after it said hello, and ends with its parent, whatever that one dies of.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import faulthandler
import gc
import logging
import os
import queue
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from gen3r_core.errors import CancelledError, Gen3RError, InputError, OutOfMemoryError
from gen3r_core.serving.codes import ErrorCode
from gen3r_core.serving.loading import load_pipeline
from gen3r_core.serving.messages import (
    Beat,
    Finished,
    JobProgress,
    Link,
    LoadFailed,
    Loading,
    Quit,
    Ready,
    RunJob,
    StopJob,
)
from gen3r_core.serving.options import WorkerOptions, spare_cores
from gen3r_core.serving.requests import unpack
from gen3r_core.serving.shared import SharedArrays, write_block

if TYPE_CHECKING:
    from gen3r_core.serving.engine import Engine

_LOG = logging.getLogger(__name__)
_PR_SET_PDEATHSIG = 1
_OOM_SCORE = 500
"""Of 1000: when memory runs out, the kernel shall take the worker and not the node."""

_REPORT_S = 0.05
"""Seconds between reports of many small steps."""

_GRACE_S = 1.0
"""Seconds that the running job has to stop when the worker shall end."""


class Worker:
    """What the threads share.

    Args:
        link: to the client.
        options: of this process.
    """

    def __init__(self, link: Link, options: WorkerOptions) -> None:
        self.link = link
        self.options = options
        self._jobs: queue.SimpleQueue[tuple[RunJob, int] | None] = queue.SimpleQueue()
        self._stopped: int | None = None  # number of the job to stop
        self._quitting = threading.Event()
        self._ended = threading.Event()
        self._said = ("", -_REPORT_S)  # stage and time of the last report
        self._device: str | None = None  # the GPU, once the model is there

    def run(self) -> None:
        """Load the model and do jobs until the client wants no more."""
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()
        threading.Thread(target=self._listen, name="listener", daemon=True).start()
        try:
            engine = self._load()
            while engine is not None and (job := self._jobs.get()) is not None:
                self._work(engine, *job)
        except OSError as error:
            _LOG.info("the client is gone: %s", error)
        finally:
            self._ended.set()

    # ------------------------------------------------------------------ threads

    def _beat(self) -> None:
        with contextlib.suppress(OSError):  # the client is gone, which the listener deals with
            while not self._quitting.wait(self.options.heartbeat_s):
                self.link.send(Beat(self._device_memory()))

    def _device_memory(self) -> tuple[int, int] | None:
        """Bytes in use and in all of the GPU that the model is on."""
        if self._device is None:
            return None
        import torch  # pragma: gpu-only

        free, total = torch.cuda.mem_get_info(self._device)  # pragma: gpu-only
        return total - free, total  # pragma: gpu-only

    def _listen(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while not isinstance((got := self.link.receive())[0], Quit):
                message, descriptor = got
                if isinstance(message, RunJob) and descriptor is not None:
                    self._jobs.put((message, descriptor))
                elif isinstance(message, StopJob):
                    self._stopped = message.number
        self._quitting.set()
        self._jobs.put(None)
        if not self._ended.wait(_GRACE_S):  # in a long import, or one long call of a library
            os._exit(1)

    # ------------------------------------------------------------------ the model

    def _load(self) -> Engine | None:
        last = -1.0

        def report(fraction: float, words: str) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= _REPORT_S:
                last = now
                self.link.send(Loading(fraction, words))

        gc.disable()  # there is no garbage in half a million new objects; looking for it takes a quarter of the time
        try:
            pipeline, facts = load_pipeline(self.options, report)
            import torch

            from gen3r_core.serving.engine import Engine

            torch.set_num_threads(self.options.threads or spare_cores())
            engine = Engine(pipeline)
            self._device = facts.device if facts.device.startswith("cuda") else None
        except ConnectionError:  # of the link
            raise
        except Gen3RError as error:
            self.link.send(LoadFailed(str(error)))
        except Exception as error:  # noqa: BLE001 - whatever it is, the client must be told
            _LOG.exception("the model cannot be loaded")
            self.link.send(LoadFailed(_describe(error)))
        else:
            self.link.send(Ready(facts))
            return engine
        finally:
            gc.enable()
            gc.freeze()
        return None

    # ------------------------------------------------------------------ jobs

    def _work(self, engine: Engine, job: RunJob, descriptor: int) -> None:
        """Do a job; whatever goes wrong with it is reported."""
        start = time.perf_counter()
        arrays = SharedArrays(descriptor, job.layout, private=True)
        block: int | None = None
        try:
            request = unpack(job.kind, job.plain, arrays)
            made = engine.run(
                request,
                lambda: self._stopped != job.number and not self._quitting.is_set(),
                lambda stage, step, total: self._report(job.number, stage, step, total),
            )
            begun = time.perf_counter()
            block, layout = write_block(made.arrays)
            end = time.perf_counter()
            known = sum(made.seconds.values()) + end - begun
            seconds = {"prepare": max(0.0, end - start - known), **made.seconds, "share": end - begun}
            finished = Finished(job.number, ErrorCode.OK, "", seconds, made.metres_per_unit, made.not_fitted, layout)
        except Exception as error:  # noqa: BLE001 - the worker goes on, the client is told
            finished = Finished(job.number, *self._judge(error), {"all": time.perf_counter() - start})
        self._said = ("", -_REPORT_S)
        if finished.code is ErrorCode.OUT_OF_MEMORY:  # not earlier: the error held on to all that the job had
            _free_memory()
        try:
            self.link.send(finished, block)
        finally:
            if block is not None:
                os.close(block)
        arrays.release()

    def _judge(self, error: Exception) -> tuple[ErrorCode, str]:
        """Code and words for what a job raised."""
        if isinstance(error, CancelledError):
            return ErrorCode.CANCELED, str(error)
        if isinstance(error, InputError):
            return ErrorCode.INVALID_REQUEST, str(error)
        if isinstance(error, OutOfMemoryError | MemoryError) or _no_memory_file(error):
            message = str(error) if isinstance(error, Gen3RError) else _describe(error)
            return ErrorCode.OUT_OF_MEMORY, message
        if isinstance(error, Gen3RError):
            return ErrorCode.INFERENCE_FAILED, str(error)
        _LOG.error("a job failed", exc_info=error)
        return ErrorCode.INFERENCE_FAILED, _describe(error)

    def _report(self, number: int, stage: str, step: int, total: int) -> None:
        """Pass every step of denoising on, and of the many small ones those that a reader can follow."""
        now = time.monotonic()
        last_stage, last = self._said
        if stage != last_stage or step == total or stage == "denoise" or now - last >= _REPORT_S:
            self._said = (stage, now)
            self.link.send(JobProgress(number, stage, step, total))


def _describe(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _no_memory_file(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOMEM, errno.ENOSPC)


def _free_memory() -> None:
    """What the failed job held goes back to the device."""
    gc.collect()
    import torch

    if torch.cuda.is_available():  # pragma: gpu-only
        torch.cuda.empty_cache()


def settle(options: WorkerOptions, parent: int) -> None:
    """Make this process a good neighbour: second to the node in all, and gone with it.

    Args:
        options: its niceness.
        parent: pid of the process that started it.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the node decides when to end
    os.nice(options.niceness)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE), encoding="ascii")
    faulthandler.enable()


def main(descriptor: int, parent: int) -> None:
    """Be a worker.

    Args:
        descriptor: this end of the pipe; options come first.
        parent: pid of the client's process.
    """
    os.set_inheritable(descriptor, False)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="gen3r worker: %(message)s")
    link = Link(Connection(descriptor))
    try:
        options, _ = link.receive()
    except EOFError:  # the client was quicker to end
        return
    settle(options, parent)
    Worker(link, options).run()
    gc.freeze()  # taking half a million objects of the libraries apart takes seconds
