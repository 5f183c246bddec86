"""A job as its owner sees it."""

from __future__ import annotations

import itertools
import pickle
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from gen3r_core.errors import InputError
from gen3r_core.serving.codes import ErrorCode
from gen3r_core.serving.requests import JobKind, Request, pack
from gen3r_core.serving.results import SceneResult

_NUMBERS = itertools.count(1)


@dataclass(frozen=True, eq=False)
class Outcome:
    """How a job ended.

    Attributes:
        code: see :class:`ErrorCode`.
        message: what happened and what to do next; empty when OK.
        result: what was made; None unless OK.
        seconds: from submission to the end.
        stages: wall time by stage in the worker; empty if it did not come so far.
    """

    code: ErrorCode
    message: str = ""
    result: SceneResult | None = None
    seconds: float = 0.0
    stages: Mapping[str, float] = field(default_factory=dict)


class Ticket:
    """A job that was handed in. Any thread may use it.

    Args:
        request: what to do.
        deadline_s: seconds from now within which the result is of use; None for any time.
        cancel: what :meth:`cancel` calls.

    Attributes:
        number: its own, in the order of submission.
        kind: of the job.
        submitted: when, by ``time.monotonic``.
        deadline: the same; None if there is none.
        plain, arrays: the request as it is sent, see :func:`~gen3r_core.serving.requests.pack`.

    Raises:
        InputError: an option is of a type that cannot be sent.
    """

    def __init__(self, request: Request, deadline_s: float | None, cancel: Callable[[Ticket], None]) -> None:
        self.number = next(_NUMBERS)
        self.kind: JobKind = request.kind
        self.submitted = time.monotonic()
        self.deadline = None if deadline_s is None else self.submitted + deadline_s
        try:
            self.plain, self.arrays = pack(request)
            pickle.dumps(self.plain)
            hash(request.pace_key)
        except (AttributeError, TypeError, pickle.PicklingError) as error:  # what pickle says of such types
            raise InputError(f"an option of the {request.kind} job is of a wrong type: {error}") from error
        self._request: Request | None = request
        self._outcome: Outcome | None = None
        self._ended = threading.Event()
        self._cancel = cancel

    def __repr__(self) -> str:
        return (
            f"<{self.kind} {self.number}, {'running or waiting' if self._outcome is None else self._outcome.code.name}>"
        )

    @property
    def request(self) -> Request | None:
        """What to do; None once it ended, so that a kept ticket keeps no images."""
        return self._request

    @property
    def done(self) -> bool:
        """Whether it ended."""
        return self._ended.is_set()

    @property
    def outcome(self) -> Outcome | None:
        """How it ended; None before."""
        return self._outcome

    def wait(self, timeout: float | None = None) -> Outcome | None:
        """Wait until it ends; None if it did not within ``timeout`` seconds."""
        self._ended.wait(timeout)
        return self._outcome

    def cancel(self) -> None:
        """Have it end as CANCELED; returns at once, and does nothing where it ended already."""
        self._cancel(self)

    def end(self, outcome: Outcome) -> None:
        """For the client: it ended, once and for all."""
        self._request = None
        self.arrays = {}
        self._outcome = outcome
        self._ended.set()
