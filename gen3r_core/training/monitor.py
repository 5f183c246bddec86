"""What a training tells the outside, and how the outside stops it: figures, progress bar, signals."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from gen3r_core.errors import InputError
from gen3r_core.io.atomic import output_error

__all__ = ["Figures", "StopRequest", "catch_signals", "format_duration"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def format_duration(seconds: float) -> str:
    """`1:02:03`, or `2:03` below an hour."""
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class StopRequest:
    """Whether somebody wants the training to stop, and who."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __bool__(self) -> bool:
        """True once a signal came."""
        return self.signal is not None

    @property
    def name(self) -> str:
        """The signal's name, or how else it was asked for."""
        return signal.Signals(self.signal).name if self.signal is not None else "another process"


@contextmanager
def catch_signals() -> Iterator[StopRequest]:
    """Inside, the first SIGINT or SIGTERM only makes the yielded request true; a second one acts as ever.

    Signals reach the main thread only; elsewhere nothing is caught.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, _frame: FrameType | None) -> None:
        request.signal = number
        restore()

    for number in SIGNALS:
        signal.signal(number, note)
    try:
        yield request
    finally:
        restore()


class Figures:
    """Figures over the steps: a progress bar, lines of JSON, and TensorBoard.

    Args:
        folder: of the training; `figures.jsonl` and `tensorboard/` are written there.
        active: False tells nobody (processes other than the first).
        tensorboard: write for TensorBoard.
        step: where a resumed training begins.
        total: steps of the plan.
        bar: show a progress bar on stderr.

    Raises:
        InputError: TensorBoard is wanted but not installed.
    """

    def __init__(self, folder: Path, *, active: bool, tensorboard: bool, step: int, total: int, bar: bool) -> None:
        self._path = folder / "figures.jsonl"
        self._active = active
        self._writer: Any = _summary_writer(folder / "tensorboard", step) if active and tensorboard else None
        self._bar: Any = None
        if active and bar:
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=step, unit="step", mininterval=0.5, dynamic_ncols=True)

    def step(self) -> None:
        """One more step is done."""
        if self._bar is not None:
            self._bar.update(1)

    def show(self, **values: str) -> None:
        """Text behind the bar."""
        if self._bar is not None:
            self._bar.set_postfix(values, refresh=False)

    def write(self, kind: str, step: int, elapsed: float, values: Mapping[str, float]) -> None:
        """Figures of a step.

        Args:
            kind: "train", "validation" or the like.
            step: steps done.
            elapsed: seconds of training until now.
            values: by name.

        Raises:
            OutputError: the file cannot be written.
        """
        if not self._active:
            return
        line = {"kind": kind, "step": step, "minutes": round(elapsed / 60, 4)}
        rounded = {key: float(f"{value:.6g}") for key, value in values.items()}
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**line, **rounded}) + "\n")
            if self._writer is not None:
                for key, value in values.items():
                    self._writer.add_scalar(f"{kind}/{key}", value, step)
        except OSError as error:
            raise output_error(self._path, error) from error

    def close(self) -> None:
        """Brings everything to the disk."""
        if self._bar is not None:
            self._bar.close()
        if self._writer is not None:
            self._writer.close()


def _summary_writer(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(
            "TensorBoard is not installed: pip install 'gen3r[train]', or switch it off: --set plan.tensorboard=false"
        ) from error
    return SummaryWriter(str(folder), purge_step=step or None)
