"""The demonstration's processes: started in a graph of their own, watched, and ended whatever happens."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Self

from gen3r_core.errors import Gen3RError

_TAIL_LINES = 25
_TAIL_BYTES = 20_000
_HIGHEST_DOMAIN = 100
"""The ports of higher ones meet those that Linux gives to outgoing connections."""
_PATIENCE_S = 10.0


class DemoError(Gen3RError):
    """The demonstration cannot go on; says why, and where to look."""


@contextlib.contextmanager
def own_domain() -> Iterator[int]:
    """A ROS domain that no other demonstration on this machine has at the time.

    Raises:
        DemoError: all are taken.
    """
    for domain in range(_HIGHEST_DOMAIN, 0, -1):
        try:
            file = (Path(tempfile.gettempdir()) / f"gen3r-demo-ros-domain-{domain}.lock").open("a")
        except PermissionError:  # another user's
            continue
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield domain
            return
    raise DemoError("all ROS domains are taken by other demonstrations; wait until one of them has ended")


def graph_variables(domain: int, logs: Path) -> dict[str, str]:
    """Variables of a process on that domain that talks to nobody outside this machine."""
    return {
        "ROS_DOMAIN_ID": str(domain),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "ROS_LOCALHOST_ONLY": "1",  # the same before Iron
        "ROS_LOG_DIR": str(logs),
        "PYTHONUNBUFFERED": "1",
    }


class Processes:
    """Modules run by this Python, each with a log; leaving the block ends them.

    Args:
        logs: folder of the logs.
        environment: of the processes.
    """

    def __init__(self, logs: Path, environment: Mapping[str, str] | None = None) -> None:
        self._logs, self._environment = logs, {**os.environ, **(environment or {})}
        self._running: dict[str, tuple[subprocess.Popen[bytes], BinaryIO]] = {}

    def start(self, name: str, module: str, arguments: Sequence[str]) -> int:
        """Start one; its number."""
        log = self.log(name).open("wb")
        # A session of its own: Ctrl-C reaches this process alone, which then ends the others in order.
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        self._running[name] = (process, log)
        return process.pid

    def log(self, name: str) -> Path:
        """Where a process writes."""
        return self._logs / f"{name}.log"

    def check(self) -> None:
        """See that all are there.

        Raises:
            DemoError: one ended; the end of its log is in the message.
        """
        for name, (process, _) in self._running.items():
            code = process.poll()
            if code is not None:
                raise DemoError(f"{name} ended with {_words(code)}. The end of {self.log(name)}:\n{self.tail(name)}")

    def tail(self, name: str) -> str:
        """The last lines that a process wrote, indented."""
        try:
            with self.log(name).open("rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - _TAIL_BYTES))
                lines = file.read().decode(errors="replace").splitlines()[-_TAIL_LINES:]
        except OSError as error:
            lines = [f"(it cannot be read: {error})"]
        return "\n".join(f"    {line}" for line in lines or ["(it is empty)"])

    def stop(self, patience_s: float = _PATIENCE_S) -> dict[str, int]:
        """End all: ask as Ctrl-C does, and kill what is still there after a while.

        Returns:
            exit codes by name; negative ones were killed.
        """
        for process, _ in self._running.values():
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        until = time.monotonic() + patience_s
        codes = {}
        for name, (process, log) in self._running.items():
            try:
                codes[name] = process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # its own children as well
                codes[name] = process.wait()
            log.close()
        self._running.clear()
        return codes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


def _words(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
