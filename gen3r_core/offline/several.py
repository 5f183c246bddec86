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


def command_line(
    parser: argparse.ArgumentParser, args: argparse.Namespace, path: Path, destination: Path, device: str
) -> list[str]:
    """What reconstructs one of them; the same options.

    Args:
        parser: that ``args`` come from; it knows how each option is spelled.
        args: of the command, with several recordings.
        path: of the one recording.
        destination: folder of its map.
        device: name.
    """
    line = [sys.executable, "-m", "gen3r_core.cli", *(["--debug"] if args.debug else []), "reconstruct"]
    given = {**vars(args), "output_dir": destination, "device": device}
    for action in parser._actions:  # noqa: SLF001 - argparse has no other list of them
        value = given.get(action.dest)
        if not action.option_strings or value is None or value is False:
            continue
        flag = action.option_strings[0]
        if value is True:
            line.append(flag)
        else:  # with "=", as a value may begin with a dash
            line += [f"{flag}={one}" for one in (value if isinstance(value, list) else [value])]
    return [*line, "--", str(path)]


def spread(parser: argparse.ArgumentParser, args: argparse.Namespace, devices: Sequence[str]) -> dict[Path, int]:
    """Reconstruct all; each device takes the next one when it is done with the last.

    Args:
        parser: of the command.
        args: what it made of the command line, with several recordings.
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
            process = subprocess.Popen(command_line(parser, args, path, destination, device))
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
