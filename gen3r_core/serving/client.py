"""Inference in a process of its own, from the side of a node: no call here waits for it.

    worker = InferenceWorker(WorkerOptions(checkpoint="checkpoints/gen3r"), wake=guard_condition.trigger)
    worker.start()
    ticket = worker.reconstruct(ReconstructRequest(images))
    for event in worker.events.drain(): ...

Needs numpy only; torch is imported by the worker process.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Self

from gen3r_core.errors import InputError
from gen3r_core.serving.codes import ErrorCode
from gen3r_core.serving.events import EndedEvent, EventQueue
from gen3r_core.serving.inbox import Cancel, Close, Configure, Submit
from gen3r_core.serving.options import WorkerOptions
from gen3r_core.serving.requests import PredictRequest, ReconstructRequest, Request
from gen3r_core.serving.status import WorkerStatus
from gen3r_core.serving.supervisor import Supervisor
from gen3r_core.serving.tickets import Outcome, Ticket


class InferenceWorker:
    """A worker process and the jobs it is given. Any thread may use it, and no method but :meth:`join` waits.

    There are two slots, one for reconstruction and one for prediction. A job waits in its slot until the worker is
    free; a newer one takes its place. Predictions come first.

    Args:
        options: of the first worker; :meth:`configure` changes them.
        wake: called after each event, in a thread of the client: a guard condition's ``trigger``, say.

    Attributes:
        events: what happened; see :mod:`gen3r_core.serving.events`.
    """

    def __init__(self, options: WorkerOptions | None = None, *, wake: Callable[[], None] | None = None) -> None:
        self.events = EventQueue(wake)
        self._options = options or WorkerOptions()
        self._lock = threading.Lock()
        self._supervisor: Supervisor | None = None  # that jobs are given to
        self._latest: Supervisor | None = None  # the same, or one that is ending
        self._thread: threading.Thread | None = None

    @property
    def status(self) -> WorkerStatus:
        """What the worker is doing."""
        return WorkerStatus() if self._latest is None else self._latest.status

    def start(self) -> None:
        """Start the worker; nothing happens where there is one."""
        with self._lock:
            if self._supervisor is None:
                self._begin()

    def configure(self, options: WorkerOptions) -> None:
        """Start the worker with other options, in place of the present one; its jobs end as NOT_ACTIVE."""
        with self._lock:
            self._options = options
            if self._supervisor is None:
                self._begin()
            else:
                self._supervisor.inbox.put(Configure(options))

    def stop(self) -> None:
        """Have the worker end, and its jobs as NOT_ACTIVE; returns before they have."""
        with self._lock:
            supervisor, self._supervisor = self._supervisor, None
            if supervisor is not None:
                supervisor.inbox.put(Close())

    def join(self, timeout: float | None = None) -> bool:
        """Wait until a stopped worker is gone; False if it is not after ``timeout`` seconds."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout)
        return thread is None or not thread.is_alive()

    def reconstruct(self, request: ReconstructRequest, *, deadline_s: float | None = None) -> Ticket:
        """Hand in a reconstruction. A waiting one ends as SUPERSEDED.

        Args:
            request: what to do; its images are read later, by reference.
            deadline_s: seconds from now within which the result is of use. The job is refused where jobs of its
                kind have shown that it takes longer, and stopped when they have passed.

        Raises:
            InputError: the deadline is not a positive number, or an option of a type that cannot be sent.
        """
        return self._submit(request, deadline_s, now=False)

    def predict(
        self, request: PredictRequest, *, deadline_s: float | None = None, replace_running: bool = False
    ) -> Ticket:
        """Hand in a prediction. A waiting one ends as SUPERSEDED.

        Args:
            request: as for :meth:`reconstruct`.
            deadline_s: the same.
            replace_running: a running prediction ends as SUPERSEDED, too, within one denoising step.

        Raises:
            InputError: the deadline is not a positive number, or an option of a type that cannot be sent.
        """
        return self._submit(request, deadline_s, now=replace_running)

    def fastest(self, key: tuple[object, ...], steps: int) -> dict[str, float] | None:
        """Seconds by stage of the fastest job of a kind, see :meth:`gen3r_core.serving.pace.Pace.fastest`."""
        return None if self._latest is None else self._latest.fastest(key, steps)

    @property
    def busy_s(self) -> float:
        """Seconds that the running job still takes; 0 where there is none, or nothing tells."""
        return 0.0 if self._latest is None else self._latest.busy_s

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()
        self.join()

    def _begin(self) -> None:
        """Under the lock: a new thread that looks after the worker."""
        self._supervisor = self._latest = supervisor = Supervisor(self.events)
        supervisor.inbox.put(Configure(self._options))
        self._thread = threading.Thread(target=self._supervise, args=(supervisor, self._thread), daemon=True)
        self._thread.name = "gen3r worker supervisor"
        self._thread.start()

    def _supervise(self, supervisor: Supervisor, before: threading.Thread | None) -> None:
        if before is not None:  # its worker still has the memory of the device
            before.join()
        try:
            supervisor.run()
        finally:
            with self._lock:  # from here on nobody puts anything into the inbox
                if self._supervisor is supervisor:
                    self._supervisor = None
            supervisor.refuse_rest()

    def _submit(self, request: Request, deadline_s: float | None, *, now: bool) -> Ticket:
        if deadline_s is not None and not deadline_s > 0:
            raise InputError(f"a deadline is a positive number of seconds from now, got {deadline_s}")
        ticket = Ticket(request, deadline_s, self._cancel)
        with self._lock:
            supervisor = self._supervisor
            if supervisor is not None:
                supervisor.inbox.put(Submit(ticket, now))
                return ticket
        outcome = Outcome(ErrorCode.NOT_ACTIVE, "there is no inference worker; start it first")
        ticket.end(outcome)
        self.events.put(EndedEvent(ticket, outcome))
        return ticket

    def _cancel(self, ticket: Ticket) -> None:
        supervisor = self._supervisor
        if supervisor is not None and not ticket.done:
            supervisor.inbox.put(Cancel(ticket))
