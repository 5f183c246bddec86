"""Starting a worker process and hearing from it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gen3r_core.serving.messages import Link, Quit
from gen3r_core.serving.options import WorkerOptions, spare_cores

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

# The package is found where it is here, in whatever way this process came by it; else the path is the usual one.
_START = """
import sys
sys.path.append(sys.argv[1])
from gen3r_core.serving.worker import main
main(*map(int, sys.argv[2:]))
"""
_ROOT = str(Path(__file__).resolve().parents[2])

_REAP_S = 10.0
_ENDING_S = 5.0


class WorkerProcess:
    """A new interpreter, not a copy of this process: it shares no lock, thread or CUDA context with it.

    Call it from a thread that lives as long as the worker shall: the kernel ends the worker with that thread.

    Args:
        options: of the worker.
        heard: called in a thread of its own with this object, each message (None for the last time, when the process
            is gone), and the descriptor of the message's block, which becomes the callee's.

    Raises:
        OSError: there are no processes or descriptors left.
    """

    def __init__(self, options: WorkerOptions, heard: Callable[[WorkerProcess, Any, int | None], None]) -> None:
        here, there = multiprocessing.Pipe()
        threads = str(options.threads or spare_cores())
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _START, _ROOT, str(there.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                pass_fds=[there.fileno()],
                env={**os.environ, **dict.fromkeys(_THREADS, threads)},
                process_group=0,  # Ctrl-C is for the node, which ends its worker
            )
        except BaseException:
            here.close()
            raise
        finally:
            there.close()
        self._link = Link(here)
        self._heard = heard
        with contextlib.suppress(OSError):  # it is dead already: the listener says so
            self._link.send(options)
        threading.Thread(target=self._listen, name="gen3r worker listener", daemon=True).start()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def send(self, message: object, descriptor: int | None = None) -> None:
        """Send a message; one that comes too late is lost, as the listener will tell."""
        with contextlib.suppress(OSError):
            self._link.send(message, descriptor)

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def quit(self, patience_s: float) -> None:
        """Ask it to end, wait, and kill it where that takes too long."""
        self.send(Quit())
        try:
            self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait(_REAP_S)

    def death(self) -> str:
        """In words, what ended it."""
        code = self._process.wait(_REAP_S)
        if code >= 0:
            return f"ended with exit code {code}"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = "unknown"
        advice = "; the kernel does so when memory runs out" if -code == signal.SIGKILL else ""
        return f"killed by signal {-code} ({name}{advice})"

    def _listen(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                message, descriptor = self._link.receive()
                self._heard(self, message, descriptor)
        # Without its end of the pipe it is of no use, whatever it still does. One that is ending by itself may finish.
        try:
            self._process.wait(_ENDING_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(_REAP_S)
        self._heard(self, None, None)
        self._link.close()
