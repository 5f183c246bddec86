"""Callbacks that never wait, in the thread that looks for them; those that may, in threads of their own.

rclpy's executor of several threads hands every callback to another one and goes on looking for more meanwhile. Python
runs one thread at a time: the search takes the time that the callbacks need, and a callback of half a millisecond took
up to 50 ms while a model inferred on two cores.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from typing import Any

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import Executor, ExternalShutdownException, ShutdownException, TimeoutException

_REMEMBERED = 300
"""Of each kind: ten seconds of images at 30 Hz."""

_ENOUGH = 100
"""So many are needed before 99 of 100 says anything."""


class PatientGroup(ReentrantCallbackGroup):
    """Callbacks that may wait: each is called in a thread of its own."""


class Durations:
    """The last of a kind. One thread adds, any may ask."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=_REMEMBERED)

    def __len__(self) -> int:
        return len(self._seconds)

    def add(self, seconds: float) -> None:
        """It happened again, and took so long."""
        self._seconds.append(seconds)

    @property
    def milliseconds(self) -> tuple[float, float]:
        """What 99 of 100 of them, and all, did not exceed; 0 where there are none."""
        took = sorted(self._seconds.copy())
        return (1e3 * took[math.ceil(0.99 * len(took)) - 1], 1e3 * took[-1]) if took else (0.0, 0.0)


class CallbackTimes:
    """What callbacks took, by the name of what called them. One thread adds, any may ask."""

    def __init__(self) -> None:
        self._by_name: dict[str, Durations] = {}

    def add(self, name: str, seconds: float) -> None:
        """One of that name took so long."""
        self._by_name.setdefault(name, Durations()).add(seconds)

    def slowest(self) -> tuple[str, float]:
        """That which 99 of 100 took longest of, of those that there are many of: name and milliseconds."""
        found = [(name, took.milliseconds[0]) for name, took in self._by_name.copy().items() if len(took) >= _ENOUGH]
        return max(found, key=lambda one: one[1], default=("", 0.0))

    def longest(self) -> tuple[str, float]:
        """The longest of all: name and milliseconds."""
        found = [(name, took.milliseconds[1]) for name, took in self._by_name.copy().items()]
        return max(found, key=lambda one: one[1], default=("", 0.0))


class CallbackExecutor(Executor):
    """Serves callbacks one after the other, but those of a :class:`PatientGroup` and goals of actions beside them.

    Attributes:
        times: of the callbacks that follow each other; taking the message in counts.
        own_times: the same without the time in which other threads and processes had the core.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.times, self.own_times = CallbackTimes(), CallbackTimes()
        self._patient: dict[Any, threading.Thread] = {}

    def spin_once(self, timeout_sec: float | None = None) -> None:
        """Serve one callback, or start the thread that does.

        Args:
            timeout_sec: wait so long for one; None for ever.

        Raises:
            Exception: what a callback raised; from another thread at a later call.
        """
        for task in [task for task in self._patient if task.done()]:
            del self._patient[task]
            task.result()
        try:
            task, entity, _ = self.wait_for_ready_callbacks(timeout_sec)
        except (ExternalShutdownException, ShutdownException, TimeoutException):
            return
        if entity is None or isinstance(entity.callback_group, PatientGroup):  # a goal of an action has no entity
            if task not in self._patient:  # until it has begun it is offered again
                self._patient[task] = thread = threading.Thread(target=task, name="gen3r callback", daemon=True)
                thread.start()
            return
        start, waited = time.perf_counter(), _waited()
        task()
        took = time.perf_counter() - start
        self.times.add(_name(entity), took)
        self.own_times.add(_name(entity), max(0.0, took - (_waited() - waited)))
        task.result()

    def shutdown(self, timeout_sec: float | None = None) -> bool:
        """Stop.

        Args:
            timeout_sec: wait so long for callbacks that have begun; None for ever.

        Returns:
            whether all ended.
        """
        until = None if timeout_sec is None else time.monotonic() + timeout_sec
        for thread in self._patient.values():
            thread.join(None if until is None else max(0.0, until - time.monotonic()))
        ended = not any(thread.is_alive() for thread in self._patient.values())
        return super().shutdown(timeout_sec) and ended


def _waited() -> float:
    """Seconds that this thread was ready to run and had no core, so far; 0 where the kernel does not tell."""
    try:
        with open("/proc/thread-self/schedstat", "rb") as file:  # noqa: PTH123 - twice a callback: the quickest way
            return int(file.read().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


def _name(entity: Any) -> str:
    """Its topic or service, a timer's function; of anything else its kind."""
    names = (getattr(entity, "topic_name", None), getattr(entity, "service_name", None))
    function = getattr(getattr(entity, "callback", None), "__qualname__", None)
    return next((str(name) for name in (*names, function) if name), type(entity).__name__)
