"""How much memory processes and the machine have, as Linux tells it."""

from __future__ import annotations

import os
import resource
from pathlib import Path

_MB = 1e6


def resident_mb(pid: int | None = None) -> float | None:
    """Megabytes that a process has in memory; None where it is not there.

    Args:
        pid: of the process; None: this one.
    """
    try:
        fields = Path(f"/proc/{os.getpid() if pid is None else pid}/statm").read_text(encoding="ascii").split()
        return int(fields[1]) * resource.getpagesize() / _MB
    except (OSError, IndexError, ValueError):
        return None


def available_mb() -> float | None:
    """Megabytes that new processes could have without swapping; None where the kernel does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 / _MB for line in lines if line.startswith("MemAvailable:"))
    except (OSError, IndexError, ValueError, StopIteration):
        return None
