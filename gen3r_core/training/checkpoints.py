"""States of a training on disk: whole files, the last two of them."""

from __future__ import annotations

import logging
import pickle
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from gen3r_core.errors import OutputError
from gen3r_core.io.atomic import PARTIAL, atomic_path, output_error
from gen3r_core.training.stage import TrainingError

__all__ = ["find_states", "load_state", "save_state"]

FORMAT = 1
KEPT = 2
_NAME = re.compile(r"step-(\d{9})\.pt")
_UNREADABLE = (
    OSError, RuntimeError, ValueError, EOFError, LookupError, TypeError, AttributeError, AssertionError,
    OverflowError, struct.error, pickle.UnpicklingError,
)  # fmt: skip
"""What torch.load raises on damaged files."""
_LOG = logging.getLogger(__name__)


def find_states(folder: Path) -> list[Path]:
    """The checkpoints in a folder, newest first; none where it does not exist."""
    found = [path for path in folder.glob("step-*.pt") if _NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, reverse=True)


def save_state(folder: Path, step: int, state: Mapping[str, Any]) -> Path:
    """Writes a checkpoint beside the others, names it when it is complete, and removes all but the last two.

    Args:
        folder: of the checkpoints; it is made if missing.
        step: steps done.
        state: tensors and plain values.

    Returns:
        The file.

    Raises:
        OutputError: it cannot be written (a full disk, say); earlier checkpoints stay.
    """
    path = folder / f"step-{step:09d}.pt"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left_over in folder.glob(f"{PARTIAL}*"):  # of a process that was killed while it wrote
            left_over.unlink(missing_ok=True)
    except OSError as error:
        raise output_error(folder, error) from error
    with atomic_path(path) as partial:
        try:
            with partial.open("wb") as file:
                torch.save({"format": FORMAT, **state}, file)
        except RuntimeError as error:  # what torch makes of an OSError while it writes
            cause = error.__context__ if isinstance(error.__context__, OSError) else error.__cause__
            if isinstance(cause, OSError):
                raise output_error(path, cause) from error
            raise OutputError(f"cannot write {path}: {error}; free some space or choose another folder") from error
    for older in find_states(folder)[KEPT:]:
        older.unlink(missing_ok=True)
    return path


def load_state(folder: Path, stage: str) -> dict[str, Any] | None:
    """The newest checkpoint that can be read, on the host.

    Args:
        folder: of the checkpoints.
        stage: the stage's name, which must be the checkpoint's.

    Returns:
        What :func:`save_state` was given; None where there is no checkpoint.

    Raises:
        TrainingError: there are checkpoints but none can be read, or they are of another stage or format.
    """
    states = find_states(folder)
    for path in states:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except _UNREADABLE as error:
            _LOG.warning("%s cannot be read (%s); trying the one before it", path, type(error).__name__)
            continue
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            raise TrainingError(f"{path} is no checkpoint of this release; start into another folder")
        if state.get("stage") != stage:
            raise TrainingError(f"{path} is of stage {state.get('stage')!r}, not {stage!r}; name another folder")
        return state
    if states:
        raise TrainingError(f"none of the {len(states)} checkpoints in {folder} can be read; start into another folder")
    return None
