"""What happens now, and since when: one line that is written over on a terminal, a line a step elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TextIO

_EVERY_S = 0.2
_CLEAR = "\r\x1b[2K"


class Terminal:
    """Tells of one step after the other.

    Args:
        stream: where to; None takes stdout.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._live = self._stream.isatty()
        self.start = self._since = time.monotonic()
        self._step = ""
        self._last = 0.0

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self.start

    def step(self, text: str) -> None:
        """A new step begins."""
        self.end()
        self._step, self._since = text, time.monotonic()
        if not self._live:
            self._write(f"[{self.seconds:6.1f} s] {text} ...\n")

    def more(self, words: str) -> None:
        """How far the step is; cheap to call all the time."""
        now = time.monotonic()
        if self._live and now - self._last >= _EVERY_S:
            self._last = now
            line = f"[{self.seconds:6.1f} s] {self._step} ... {words}"
            self._write(f"{_CLEAR}{line[:150]}")

    def end(self, words: str = "") -> None:
        """The step is done."""
        if self._step:
            took = time.monotonic() - self._since
            tail = f": {words}" if words else ""
            begin = _CLEAR if self._live else ""
            self._write(f"{begin}[{self.seconds:6.1f} s] {self._step}{tail} ({took:.1f} s)\n")
        self._step = ""

    def line(self, text: str) -> None:
        """Something else to say."""
        self._write(f"{_CLEAR if self._live else ''}{text}\n")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
