"""A ROS graph that belongs to one test run: its own domain, this machine only, and processes that end with it."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_SEGMENT_LOCK = re.compile(r"fast(dds|rtps)_[0-9a-f]+_el")  # of Fast DDS 3 and 2
_HIGHEST_DOMAIN = 100  # the ports of higher ones meet those that Linux gives to outgoing connections


@contextlib.contextmanager
def own_domain():
    """A domain that no other test run on this machine has at the time."""
    for domain in range(1, _HIGHEST_DOMAIN + 1):
        path = Path(tempfile.gettempdir()) / f"gen3r-test-ros-domain-{domain}.lock"
        try:
            file = path.open("a")
        except PermissionError:  # another user's
            continue
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield domain
            return
    raise RuntimeError("all ROS domains are taken by other test runs")


@functools.cache
def _shell_environment() -> dict[str, str]:
    done = subprocess.run(
        ["bash", "scripts/env.sh", "env", "-0"], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
    )
    return dict(entry.split("=", 1) for entry in done.stdout.split("\0") if entry)


def graph_environment(domain: int, logs: Path) -> dict[str, str]:
    """The variables of a process on that domain, whose logs go to that folder."""
    return {
        **_shell_environment(),
        "ROS_PYTHON_CHECK_FIELDS": "1",
        "ROS_DOMAIN_ID": str(domain),
        "ROS_LOG_DIR": str(logs),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    }


class GraphProcess:
    """A Python script in a process of its own.

    Attributes:
        output: what it has written so far, stdout and stderr together, is in this file.
    """

    def __init__(self, script: Path, *arguments: str, environment: dict[str, str], output: Path) -> None:
        self.output = output
        with output.open("wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-u", str(script), *arguments],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_for(self, text: str, timeout: float = 20.0) -> str:
        """The first line with this text.

        Raises:
            AssertionError: the process ended, or the time was over, without one.
        """
        deadline = time.monotonic() + timeout
        while True:
            ended = self._process.poll()
            for line in self.output.read_text(errors="replace").splitlines():
                if text in line:
                    return line
            if ended is not None or time.monotonic() > deadline:
                what = f"ended with {ended}" if ended is not None else f"said nothing of it in {timeout} s"
                raise AssertionError(f"no {text!r}: the process {what}; it wrote:\n{self.output.read_text()}")
            time.sleep(0.02)

    def wait(self, timeout: float = 20.0) -> int:
        """Its exit code, when it ends by itself."""
        return self._process.wait(timeout)

    def stop(self, timeout: float = 10.0) -> int:
        """Ask it to end, as Ctrl-C does.

        Returns:
            its exit code; a process that had to be killed has a negative one.
        """
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
                # A killed process leaves its shared memory behind, 64 MB of it.
                subprocess.run(
                    ["fastdds", "shm", "clean"], env=_shell_environment(), capture_output=True, timeout=30, check=False
                )
        return self._process.returncode


def own_segments(pid: int) -> list[int]:
    """Sizes in bytes of the shared-memory segments that Fast DDS made for this process: it holds their locks."""
    sizes = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
            target = descriptor.readlink()
            if _SEGMENT_LOCK.fullmatch(target.name):
                sizes.append(target.with_name(target.name.removesuffix("_el")).stat().st_size)
    return sizes


def children(pid: int) -> list[int]:
    """Processes that the threads of a process have started, and that are there still."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the thread ended meanwhile
            found += map(int, (task / "children").read_text().split())
    return found
