"""Shared memory that Fast DDS processes have left behind.

A process that is killed cannot remove its segment, which with our profile (``config/fastdds.xml``) is 67 MB of memory
that stays taken until the machine starts again. Beside each segment lies a file that its process has locked for as long
as it lives (``fastdds shm clean``, a tool that comes with Fast DDS but not with ROS, goes by the same).
"""

from __future__ import annotations

import fcntl
import re
import time
from pathlib import Path

FOLDER = Path("/dev/shm")  # noqa: S108 - where POSIX shared memory is on Linux
_LOCK = re.compile(r"fastdds_[0-9a-f]{16}_el")
_YOUNG_SECONDS = 60.0
"""A segment may be so young that its process has not locked it yet."""


def remove_leftovers(folder: Path = FOLDER) -> int:
    """Remove segments whose processes are gone; those of other users stay.

    Args:
        folder: where they are.

    Returns:
        bytes of memory that were freed.
    """
    freed = 0
    for lock in folder.glob("fastdds_*_el"):
        if _LOCK.fullmatch(lock.name):
            freed += _remove(lock)
    return freed


def _remove(lock: Path) -> int:
    segment = lock.with_name(lock.name.removesuffix("_el"))
    try:
        if time.time() - lock.stat().st_mtime < _YOUNG_SECONDS:
            return 0
        with lock.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            size = segment.stat().st_blocks * 512 if segment.exists() else 0
            segment.unlink(missing_ok=True)
            lock.unlink(missing_ok=True)
    except OSError:  # held by its process, another user's, or another one was quicker
        return 0
    return size
