"""Several recordings, each in a process of its own, spread over the devices at hand."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path

from gen3r_core.io.atomic import output_error

__all__ = ["command_line", "destinations", "spread", "worst"]

EXIT_FAILED, EXIT_PARTLY = 1, 3
_END_S = 15.0


def destinations(paths: Sequence[Path], parent: Path) -> list[Path]:
    """A folder for each recording, named after it; of the same names the later ones get a number."""
    taken: set[str] = set()
    found = []
    for path in paths:
        stem = path.resolve().stem or "recording"
        name, number = stem, 2
        while name in taken:
            name, number = f"{stem}_{number}", number + 1
        taken.add(name)
        found.append(parent / name)
    return found


def command_line(args: argparse.Namespace, path: Path, destination: Path, device: str) -> list[str]:
    """What reconstructs one of them; the same options."""
    line = [sys.executable, "-m", "gen3r_core.cli", "reconstruct", str(path), "--output_dir", str(destination),
            "--device", device]  # fmt: skip
    for name, value in sorted(vars(args).items()):
        if name in ("path", "output_dir", "device", "command", "run", "debug") or value in (None, False):
            continue
        flag = "--" + (name.replace("_", "-") if name in _DASHED else name)
        if value is True:
            line.append(flag)
        elif isinstance(value, list):
            for one in value:
                line += [flag, str(one)]
        else:
            line += [flag, str(value)]
    return line


_DASHED = ("max_points", "save_depth", "no_graph", "no_anchor")


def spread(args: argparse.Namespace, devices: Sequence[str]) -> dict[Path, int]:
    """Reconstruct all; each device takes the next one when it is done with the last.

    Args:
        args: of the command, with several recordings.
        devices: names; the same one twice does two at a time.

    Returns:
        Exit codes by recording.

    Raises:
        OutputError: the parent folder cannot be made.
        KeyboardInterrupt: the processes have ended then, and their work can be resumed.
    """
    try:
        args.output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(args.output_dir, error) from error
    waiting = deque(zip(args.path, destinations(args.path, args.output_dir), strict=True))
    running: list[subprocess.Popen[bytes]] = []
    codes: dict[Path, int] = {}
    stopped = threading.Event()

    def work(device: str) -> None:
        while not stopped.is_set():
            try:
                path, destination = waiting.popleft()
            except IndexError:
                return
            process = subprocess.Popen(command_line(args, path, destination, device))
            running.append(process)
            codes[destination] = process.wait()

    threads = [threading.Thread(target=work, args=(device,), daemon=True) for device in devices]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive():
                thread.join(0.2)
    except KeyboardInterrupt:
        stopped.set()
        _end(running)
        raise
    return codes


def _end(running: Sequence[subprocess.Popen[bytes]]) -> None:
    """As Ctrl-C does, which a terminal sends to all of them anyway."""
    for process in running:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
    for process in running:
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()


def worst(codes: Iterable[int]) -> int:
    """1 if one failed, else 3 if something was lost of one, else 0."""
    found = set(codes)
    if found - {0, EXIT_PARTLY}:
        return EXIT_FAILED
    return EXIT_PARTLY if EXIT_PARTLY in found else 0
