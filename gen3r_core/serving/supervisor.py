"""The client's own thread: it starts the worker, gives it jobs, watches it, and starts another when it died."""

from __future__ import annotations

import logging
import math
import os
import queue
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gen3r_core.serving.codes import ErrorCode
from gen3r_core.serving.events import EndedEvent, EventQueue, ProgressEvent, StatusEvent
from gen3r_core.serving.inbox import Cancel, Configure, Heard, Item, Running, Submit
from gen3r_core.serving.messages import Beat, Finished, JobProgress, LoadFailed, Loading, Ready, RunJob, StopJob
from gen3r_core.serving.options import WorkerOptions
from gen3r_core.serving.pace import REPEATED, Pace
from gen3r_core.serving.process import WorkerProcess
from gen3r_core.serving.requests import JobKind
from gen3r_core.serving.results import SceneResult
from gen3r_core.serving.shared import SharedArrays, write_block
from gen3r_core.serving.status import WorkerState, WorkerStatus
from gen3r_core.serving.tickets import Outcome, Ticket

_LOG = logging.getLogger(__name__)

PRIORITY = (JobKind.PREDICT, JobKind.RECONSTRUCT)
"""Who is first."""

MOST_LOAD_DEATHS = 5
"""So many workers in a row may die while they load; then the model counts as one that cannot be loaded."""

_QUIT_S = 3.0
"""Seconds that a worker has to end when another model is wanted, or none."""

_SLOW_S = 1.0
"""A wait that took so much longer than it should: this process itself was held up, and says nothing of the worker."""


class Supervisor:
    """All that the thread knows; nobody else writes to it.

    Args:
        events: told everything.

    Attributes:
        inbox: see :mod:`gen3r_core.serving.inbox`.
        status: the newest; any thread may read it.
    """

    def __init__(self, events: EventQueue) -> None:
        self.inbox: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self.status = WorkerStatus()
        self._events = events
        self._options = WorkerOptions()
        self._process: WorkerProcess | None = None
        self._waiting: dict[JobKind, Ticket] = {}
        self._running: Running | None = None
        self._pace = Pace()
        self._deaths = 0  # since a job went well
        self._load_deaths = 0  # since a model was loaded
        self._restart_at: float | None = None
        self._last_heard = 0.0
        self._killed_because = ""
        self._closing = False

    # ------------------------------------------------------------------ the loop

    def run(self) -> None:
        """Serve until :class:`~gen3r_core.serving.inbox.Close`."""
        item: Item | None = None
        try:
            while not self._closing:
                planned = self._pause()
                start = time.monotonic()
                try:
                    item = self.inbox.get(timeout=planned)
                except queue.Empty:
                    item = None
                if time.monotonic() - start > planned + _SLOW_S:
                    self._last_heard = time.monotonic()
                if item is not None:
                    self._handle(item)
                self._look_after_time()
                self._dispatch()
        finally:
            self._end_process()
            # Without having been told to end this is a fault of ours: nobody shall wait for ever because of it.
            state, words = WorkerState.STOPPED, "the inference worker was stopped"
            if not self._closing:
                state, words = WorkerState.FAILED, "the thread that supervises the worker failed; see the log"
            if isinstance(item, Submit) and not item.ticket.done:
                self._end(item.ticket, ErrorCode.NOT_ACTIVE, words)
            self._end_all(ErrorCode.NOT_ACTIVE, words)
            self._say(state=state, words=words, progress=0.0, model=None, pid=None)

    def fastest(self, key: tuple[object, ...], steps: int) -> dict[str, float] | None:
        """See :meth:`gen3r_core.serving.pace.Pace.fastest`; any thread may ask."""
        return self._pace.fastest(key, steps)

    @property
    def busy_s(self) -> float:
        """Seconds that the running job still takes; 0 where there is none, or nothing tells. Any thread may ask."""
        running = self._running
        if running is None or running.stop is not None or not math.isfinite(running.ready_at):
            return 0.0
        return max(0.0, running.ready_at - time.monotonic())

    def refuse_rest(self) -> None:
        """End the jobs that came too late for :meth:`run`; nothing else may be put into the inbox any more."""
        while not self.inbox.empty():
            item = self.inbox.get()
            if isinstance(item, Submit):
                self._end(item.ticket, ErrorCode.NOT_ACTIVE, self.status.words)

    def _pause(self) -> float:
        """Seconds until something may have to be done without being told."""
        times = [ticket.deadline for ticket in self._waiting.values()]
        if self._running is not None:
            running = self._running
            times.append(running.ticket.deadline if running.stop is None else None)
            times.append(None if running.stop is None else running.stopping_since + self._options.stop_s)
        if self._killed_because:  # only that it is gone remains to be heard
            times.clear()
        elif self._process is not None:
            times.append(self._last_heard + self._silence)
        times.append(self._restart_at)
        soonest = min((at for at in times if at is not None), default=None)
        return 10.0 if soonest is None else min(10.0, max(0.0, soonest - time.monotonic()))

    def _handle(self, item: Item) -> None:
        if isinstance(item, Heard):
            if item.process is not self._process:  # an earlier one, that nothing is expected of
                if item.descriptor is not None:
                    os.close(item.descriptor)
                return
            self._last_heard = time.monotonic()
            if item.message is None:
                self._worker_died()
            else:
                self._hear(item.message, item.descriptor)
        elif isinstance(item, Submit):
            self._submit(item.ticket, now=item.now)
        elif isinstance(item, Cancel):
            self._stop(item.ticket, ErrorCode.CANCELED, "canceled by its owner")
        elif isinstance(item, Configure):
            self._configure(item.options)
        else:
            self._closing = True

    def _hear(self, message: Any, descriptor: int | None) -> None:
        if isinstance(message, Beat):
            if message.device_memory != self.status.device_memory:
                self.status = replace(self.status, device_memory=message.device_memory)
            return
        if isinstance(message, Loading):
            self._say(state=WorkerState.LOADING, words=message.words, progress=message.fraction)
        elif isinstance(message, Ready):
            self._load_deaths = 0
            self._say(state=WorkerState.READY, words="", progress=1.0, model=message.model)
        elif isinstance(message, LoadFailed):
            self._process = None  # it ends by itself
            self._fail(message.message)
        elif isinstance(message, JobProgress):
            self._progress(message)
        elif isinstance(message, Finished):
            self._finished(message, descriptor)

    # ------------------------------------------------------------------ jobs

    def _submit(self, ticket: Ticket, *, now: bool) -> None:
        state = self.status.state
        if state is WorkerState.FAILED:
            self._end(ticket, ErrorCode.WORKER_FAILED, f"there is no model: {self.status.words}")
            return
        newer = f"a newer {ticket.kind} job took its place"
        older = self._waiting.pop(ticket.kind, None)
        if older is not None:
            self._end(older, ErrorCode.SUPERSEDED, newer)
        running = self._running
        if now and running is not None and running.ticket.kind is ticket.kind:
            self._stop(running.ticket, ErrorCode.SUPERSEDED, newer)
        if not self._hopeless(ticket):
            self._waiting[ticket.kind] = ticket

    def _hopeless(self, ticket: Ticket) -> bool:
        """Refuse a job that cannot meet its deadline, going by the fastest of its kind."""
        request = ticket.request
        least = None if request is None else self._pace.least(request)
        if ticket.deadline is None or least is None:
            return False
        before = self.busy_s
        left = ticket.deadline - time.monotonic()
        if before + least <= left:
            return False
        wait = f" after {before:.3g} s of the job before it" if before else ""
        message = (
            f"such a job takes at least {least:.3g} s{wait}, and {max(left, 0):.3g} s are left; allow more time, or "
            f"ask for less (fewer steps, views or pixels)"
        )
        self._end(ticket, ErrorCode.DEADLINE_MISSED, message)
        return True

    def _dispatch(self) -> None:
        """Give the worker the next job."""
        while self._running is None and self._waiting and self.status.state is WorkerState.READY:
            ticket = self._waiting.pop(next(kind for kind in PRIORITY if kind in self._waiting))
            request = ticket.request
            if request is None or self._process is None or self._hopeless(ticket):
                continue
            try:
                block, layout = write_block(ticket.arrays)
            except OSError as error:
                self._end(ticket, ErrorCode.OUT_OF_MEMORY, f"there is no memory for the images: {error}")
                continue
            self._running = Running(ticket, request, since=time.monotonic())
            self._process.send(RunJob(ticket.number, ticket.kind, ticket.plain, layout), block)
            os.close(block)
            self._say(state=WorkerState.BUSY, words=str(ticket.kind))

    def _progress(self, report: JobProgress) -> None:
        running = self._running
        if running is None or running.ticket.number != report.number:
            return
        now = time.monotonic()
        if report.stage != running.stage:
            running.stage, running.since = report.stage, now
        if report.stage == REPEATED and report.step > running.step:
            since = running.step_at or running.since
            running.step_s = min(running.step_s, (now - since) / (report.step - running.step))
            running.step, running.step_at = report.step, now
        left = self._pace.left(running.request, report.stage, report.step, report.total, now - running.since)
        running.ready_at = now + left
        self._events.put(ProgressEvent(running.ticket, report.stage, report.step, report.total, left))

    def _finished(self, message: Finished, descriptor: int | None) -> None:
        running, self._running = self._running, None
        code, words, result = message.code, message.message, None
        if descriptor is not None and message.layout is not None:
            model = self.status.model
            try:
                memory = SharedArrays(descriptor, message.layout)
                name = "" if model is None else model.name
                result = SceneResult(memory, name, message.metres_per_unit, message.not_fitted)
            except OSError as error:
                code, words = ErrorCode.OUT_OF_MEMORY, f"there is no memory for the result: {error}"
        self._say(state=WorkerState.READY, words="")
        if running is not None:
            if code is ErrorCode.OK:
                self._deaths = 0
                self._pace.learn(running.request, message.seconds)
            elif running.step:  # it was stopped, or failed; how slow it was is worth knowing
                self._pace.glimpse(running.request, running.step_s)
            if running.stop is not None and code in (ErrorCode.OK, ErrorCode.CANCELED):
                code, words = running.stop[0], "; ".join(filter(None, (running.stop[1], words)))
                if result is not None:
                    result.release()
                result = None
            self._end(running.ticket, code, words, result, message.seconds)

    def _stop(self, ticket: Ticket, code: ErrorCode, message: str) -> None:
        """End a waiting job, or have the running one end."""
        if self._waiting.get(ticket.kind) is ticket:
            del self._waiting[ticket.kind]
            self._end(ticket, code, message)
        running = self._running
        if running is not None and running.ticket is ticket and running.stop is None and self._process is not None:
            running.stop, running.stopping_since = (code, message), time.monotonic()
            self._process.send(StopJob(ticket.number))

    def _end(
        self,
        ticket: Ticket,
        code: ErrorCode,
        message: str,
        result: SceneResult | None = None,
        stages: Mapping[str, float] | None = None,
    ) -> None:
        outcome = Outcome(code, message, result, time.monotonic() - ticket.submitted, stages or {})
        ticket.end(outcome)
        self._events.put(EndedEvent(ticket, outcome))

    def _end_all(self, code: ErrorCode, message: str) -> None:
        running, self._running = self._running, None
        if running is not None:
            self._end(running.ticket, code, message)
        self._end_waiting(code, message)

    def _end_waiting(self, code: ErrorCode, message: str) -> None:
        while self._waiting:
            self._end(self._waiting.popitem()[1], code, message)

    # ------------------------------------------------------------------ the process

    @property
    def _silence(self) -> float:
        loading = self.status.state in (WorkerState.STARTING, WorkerState.LOADING)
        return self._options.load_silence_s if loading else self._options.silence_s

    def _configure(self, options: WorkerOptions) -> None:
        self._end_process()
        self._end_all(ErrorCode.NOT_ACTIVE, "the inference worker was given another model")
        self._options = options
        self._deaths = self._load_deaths = 0
        self._pace = Pace()
        self.status = WorkerStatus()
        self._start_process()

    def _start_process(self) -> None:
        self._restart_at = None
        self._killed_because = ""
        self._last_heard = time.monotonic()
        try:
            self._process = WorkerProcess(
                self._options, lambda process, message, block: self.inbox.put(Heard(process, message, block))
            )
        except OSError as error:
            self._restart_later(f"its process cannot be started: {error}")
            return
        self._say(state=WorkerState.STARTING, words="starting the process", progress=0.0, pid=self._process.pid)

    def _end_process(self) -> None:
        process, self._process = self._process, None
        self._restart_at = None
        if process is None:
            return
        loaded = self.status.state in (WorkerState.READY, WorkerState.BUSY)
        process.quit(_QUIT_S if loaded else 0.0)  # there is nothing to be gained from one that loads

    def _worker_died(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            self._restart_later(self._killed_because or process.death())

    def _restart_later(self, reason: str) -> None:
        self._schedule_restart(reason)
        running, self._running = self._running, None
        if running is not None:
            lost = f"the inference worker was lost: {reason}; another one is started"
            code, message = running.stop or (ErrorCode.WORKER_FAILED, "")
            self._end(running.ticket, code, f"{message}; {lost}" if message else lost)

    def _schedule_restart(self, reason: str) -> None:
        if self.status.state not in (WorkerState.READY, WorkerState.BUSY):
            self._load_deaths += 1
        self._deaths += 1
        restarts = self.status.restarts + 1
        self.status = replace(self.status, restarts=restarts, last_failure=reason, progress=0.0, model=None, pid=None)
        if self._load_deaths >= MOST_LOAD_DEATHS:
            self._fail(f"{self._load_deaths} workers in a row were lost while they loaded it, the last: {reason}")
            return
        wait = min(self._options.backoff_s * 2 ** (self._deaths - 1), self._options.most_backoff_s)
        self._restart_at = time.monotonic() + wait
        _LOG.warning("the inference worker was lost: %s; another one starts in %.3g s", reason, wait)
        self._say(state=WorkerState.RESTARTING, words=f"{reason}; another worker starts in {wait:.3g} s")

    def _fail(self, reason: str) -> None:
        """No model, and none to be expected."""
        self._say(state=WorkerState.FAILED, words=reason, progress=0.0, model=None, pid=None)
        self._end_all(ErrorCode.WORKER_FAILED, f"there is no model: {reason}")

    def _look_after_time(self) -> None:
        now = time.monotonic()
        for ticket in [*self._waiting.values()]:
            if ticket.deadline is not None and now >= ticket.deadline:
                self._stop(ticket, ErrorCode.DEADLINE_MISSED, "its deadline passed while it waited")
        running = self._running
        if running is not None:
            deadline = running.ticket.deadline
            if running.stop is not None and now - running.stopping_since >= self._options.stop_s:
                self._kill(f"it did not stop its job for {self._options.stop_s:.3g} s")
            elif deadline is not None and now >= deadline:
                self._stop(running.ticket, ErrorCode.DEADLINE_MISSED, "its deadline passed")
        if self._process is not None and now - self._last_heard >= self._silence:
            self._kill(f"it gave no sign of life for {self._silence:.3g} s")
        if self._restart_at is not None and now >= self._restart_at:
            self._start_process()

    def _kill(self, reason: str) -> None:
        """End a worker that hangs; the rest follows when it is gone."""
        if self._process is not None and not self._killed_because:
            self._killed_because = f"{reason}, and was killed"
            self._process.kill()

    def _say(self, **changes: Any) -> None:
        self.status = replace(self.status, **changes)
        self._events.put(StatusEvent(self.status))
