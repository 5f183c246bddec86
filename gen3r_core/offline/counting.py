"""Progress of stages that are done in several turns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from gen3r_core.progress import JobMonitor

__all__ = ["Counted", "Shifted"]

T = TypeVar("T")


class Shifted(JobMonitor):
    """Counts on where another camera's windows ended.

    Args:
        inner: told.
        done: steps before these.
        total: of all.
    """

    def __init__(self, inner: JobMonitor, done: int, total: int) -> None:
        super().__init__()
        self._inner, self._before, self._total = inner, done, total

    def report(self, stage: str, step: int, total: int) -> None:  # noqa: ARG002 - the total is known better here
        """See :meth:`JobMonitor.report`."""
        self._inner.report(stage, self._before + step, self._total)


class Counted:
    """Tells of things as they pass, in one or several turns.

    Args:
        monitor: told.
        stage: what it is told of.
        total: things in all turns.
    """

    def __init__(self, monitor: JobMonitor, stage: str, total: int) -> None:
        self._monitor, self._stage, self._total, self._done = monitor, stage, total, 0

    def __call__(self, things: Iterable[T]) -> Iterator[T]:
        """The same things."""
        for thing in things:
            yield thing
            self._done += 1
            self._monitor.report(self._stage, self._done, self._total)
