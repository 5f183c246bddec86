"""What a client is told, and a queue for it that wakes whoever waits on a descriptor."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass

from gen3r_core.serving.status import WorkerState, WorkerStatus
from gen3r_core.serving.tickets import Outcome, Ticket

_LOG = logging.getLogger(__name__)

CAPACITY = 256
"""Events that are kept for a reader who does not come; the oldest go."""


@dataclass(frozen=True)
class StatusEvent:
    """The worker's status changed."""

    status: WorkerStatus


@dataclass(frozen=True)
class ProgressEvent:
    """A job got on.

    Attributes:
        ticket: of the job.
        stage: one of the pipeline's, see :class:`gen3r_core.progress.Progress`.
        step: steps of the stage that are done.
        total: steps of the stage.
        seconds_left: of the whole job, estimated; NaN while nothing is known. A stage that no job of its kind has
            come to yet counts nothing.
    """

    ticket: Ticket
    stage: str
    step: int
    total: int
    seconds_left: float


@dataclass(frozen=True)
class EndedEvent:
    """A job ended, well or not."""

    ticket: Ticket
    outcome: Outcome


Event = StatusEvent | ProgressEvent | EndedEvent


class EventQueue:
    """Events in their order; of progress, and of a status that stays the same, only the newest is kept.

    Any thread may use it. :meth:`fileno` makes it a thing to ``select`` on.

    Args:
        wake: called after each new event, in the client's own thread: return quickly, and do not wait for the client.

    Attributes:
        lost: events that nobody came for in time.
    """

    def __init__(self, wake: Callable[[], None] | None = None) -> None:
        self._wake = wake
        self._events: dict[int, Event] = {}  # by serial number, which is their order
        self._replaceable: dict[Ticket | WorkerState, int] = {}
        self._serial = 0
        self.lost = 0
        self._changed = threading.Condition()
        self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)

    def __len__(self) -> int:
        return len(self._events)

    def fileno(self) -> int:
        """A descriptor that is readable while there are events."""
        return self._descriptor

    def put(self, event: Event) -> None:
        """Add an event, or put it in the place of one that it makes obsolete."""
        with self._changed:
            key = _replaced_by_next(event)
            serial = None if key is None else self._replaceable.get(key)
            if serial is None:
                self._serial = serial = self._serial + 1
            self._events[serial] = event
            if isinstance(event, StatusEvent):  # an earlier status of another state stays as it is
                self._replaceable = {old: at for old, at in self._replaceable.items() if isinstance(old, Ticket)}
            if key is not None:
                self._replaceable[key] = serial
            if len(self._events) > CAPACITY:
                self._take(1)
                self.lost += 1
                if self.lost == 1:
                    _LOG.warning(
                        "nobody reads the events of the inference worker: those before the last %d go", CAPACITY
                    )
            os.eventfd_write(self._descriptor, 1)
            self._changed.notify_all()
        if self._wake is not None:
            try:
                self._wake()
            except Exception:  # noqa: BLE001 - it is not ours, and others wait for this thread
                _LOG.exception("the function that is called for each event failed")

    def get(self, timeout: float | None = None) -> Event | None:
        """Wait for the next event.

        Args:
            timeout: seconds; None waits for ever, 0 not at all.

        Returns:
            None when there was none in time.
        """
        end = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while not self._events:
                left = None if end is None else end - time.monotonic()
                if (left is not None and left <= 0) or not self._changed.wait(left):
                    return None
            return self._take(1)[0]

    def drain(self) -> list[Event]:
        """All events that are there."""
        with self._changed:
            return self._take(len(self._events))

    def _take(self, count: int) -> list[Event]:
        taken = [self._events.pop(serial) for serial in list(self._events)[:count]]
        self._replaceable = {key: serial for key, serial in self._replaceable.items() if serial in self._events}
        if not self._events:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._descriptor)
        return taken


def _replaced_by_next(event: Event) -> Ticket | WorkerState | None:
    """What an event must have in common with a later one to be replaced by it; None if it never is."""
    if isinstance(event, ProgressEvent):
        return event.ticket
    return event.status.state if isinstance(event, StatusEvent) else None
