"""Shared memory of processes that are gone is given back, and of no others."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from gen3r_ros.leftovers import FOLDER, remove_leftovers

SEGMENT = "fastdds_0123456789abcdef"


def old(path, size=0):
    path.write_bytes(b"x" * size)
    os.utime(path, (time.time() - 120, time.time() - 120))
    return path


def test_what_nobody_holds_goes(tmp_path):
    segment, lock = old(tmp_path / SEGMENT, 8192), old(tmp_path / f"{SEGMENT}_el")
    other = old(tmp_path / "fastdds_port7411_el")
    assert remove_leftovers(tmp_path) == 8192
    assert not segment.exists()
    assert not lock.exists()
    assert other.exists()  # ports are shared by processes, and small
    assert remove_leftovers(tmp_path) == 0


def test_what_is_held_or_young_stays(tmp_path):
    segment, lock = old(tmp_path / SEGMENT, 4096), old(tmp_path / f"{SEGMENT}_el")
    with lock.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert remove_leftovers(tmp_path) == 0
    os.utime(lock)
    assert remove_leftovers(tmp_path) == 0
    assert segment.exists()
    assert remove_leftovers(tmp_path / "nowhere") == 0


def test_a_lock_without_its_segment_goes(tmp_path):
    lock = old(tmp_path / f"{SEGMENT}_el")
    assert remove_leftovers(tmp_path) == 0
    assert not lock.exists()


def test_a_killed_process_leaves_its_segment_and_a_living_one_keeps_it():
    source = (
        "import rclpy; rclpy.init(); node = rclpy.create_node('leaves_memory'); print('ready', flush=True); input()"
    )
    process = subprocess.Popen([sys.executable, "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        own = [path for path in FOLDER.glob("fastdds_????????????????_el") if _holds(process.pid, path)]
        assert own
        for path in own:
            os.utime(path, (time.time() - 120, time.time() - 120))
        remove_leftovers()
        assert all(path.exists() for path in own)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert all(path.with_name(path.name[:-3]).exists() for path in own)
    remove_leftovers()
    assert not any(path.exists() or path.with_name(path.name[:-3]).exists() for path in own)


def _holds(pid, path):
    return any(entry.resolve() == path for entry in Path(f"/proc/{pid}/fd").iterdir())
