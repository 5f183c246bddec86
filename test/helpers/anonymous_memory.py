"""Peak anonymous memory of Python statements, watched from outside their process.

A thread of the same process would miss peaks while the interpreter is locked; the parent does not.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_CHILD = """
import gc, sys
sys.path[:0] = {paths!r}
space = {{}}
exec({prepare!r}, space)
for statements in {measured!r}:
    gc.collect()
    print("ready", flush=True)
    sys.stdin.readline()
    exec(statements, space)
    print("done", flush=True)
    sys.stdin.readline()
    space.pop("result", None)
"""


@dataclass(frozen=True)
class Anonymous:
    """Bytes of ``RssAnon``: before, at most, and after the statements."""

    before: int
    peak: int
    after: int

    def passing(self, stays: int) -> int:
        """What was needed for a while, above ``stays`` bytes that the statements were asked to leave in memory."""
        return self.peak - self.before - stays


def _rss_anon(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this kernel does not report RssAnon")


def _watch(child: subprocess.Popen[str]) -> Anonymous:
    assert child.stdin is not None
    assert child.stdout is not None
    if child.stdout.readline().strip() != "ready":
        raise RuntimeError("the measured process failed; its error is above")
    before = peak = _rss_anon(child.pid)
    said: list[str] = []
    reader = threading.Thread(target=lambda: said.append(child.stdout.readline()))  # type: ignore[union-attr]
    reader.start()
    child.stdin.write("go\n")
    child.stdin.flush()
    while reader.is_alive():
        peak = max(peak, _rss_anon(child.pid))
        time.sleep(0.0005)
    if said[0].strip() != "done":
        raise RuntimeError("the measured process failed; its error is above")
    after = _rss_anon(child.pid)
    child.stdin.write("on\n")
    child.stdin.flush()
    return Anonymous(before, max(peak, after), after)


def measure(prepare: str, measured: Sequence[str], timeout: float = 200.0) -> list[Anonymous]:
    """Run ``prepare`` and then each of ``measured`` in a fresh interpreter; only the latter are watched.

    What statements leave in the variable ``result`` is dropped before the next ones.
    """
    script = _CHILD.format(paths=[p for p in sys.path if p], prepare=prepare, measured=list(measured))
    # Freed blocks go back to the system at once, as those of full-size tensors do: small ones would stay in the heap.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    with subprocess.Popen(
        [sys.executable, "-c", script], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        watchdog = threading.Timer(timeout, child.kill)
        watchdog.start()
        try:
            return [_watch(child) for _ in measured]
        finally:
            watchdog.cancel()
            child.stdin.close()  # type: ignore[union-attr]
