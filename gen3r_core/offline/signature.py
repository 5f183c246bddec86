"""What the work of a run depends on: a run may go on with another's work only where this is the same."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gen3r_core.io.replacing import is_leftover
from gen3r_core.offline.model import OfflineModel
from gen3r_core.offline.options import OfflineOptions
from gen3r_core.offline.work import work_folder_of

__all__ = ["later_of", "signature_of"]

_GENERATE = ("stretches", "prompt", "seed", "steps")
_FUSE = ("confirm", "voxel", "max_points", "mesh")
_WRITE = ("depth",)


def signature_of(recording: Path, destination: Path, model: OfflineModel, options: OfflineOptions) -> dict[str, Any]:
    """What all work depends on, as values for JSON: the recording, the model, and options of the stages up to "views".

    Args:
        recording: resolved; it exists.
        destination: folder of the map.
        model: what predicts.
        options: how.
    """
    return {
        "recording": str(recording),
        "changed": _changed(recording, destination),
        "model": model.name,
        "sight": [model.sight.longest, model.sight.multiple],
        "options": {
            name: value for name, value in options.facts().items() if name not in {*_GENERATE, *_FUSE, *_WRITE}
        },
    }


def later_of(options: OfflineOptions) -> dict[str, Any]:
    """What the stages after "views" depend on besides, by their names and in their order, as values for JSON.

    Args:
        options: how.
    """
    facts = options.facts()
    return {
        "generate": {name: facts[name] for name in _GENERATE} if options.stretches else None,
        "fuse": {name: facts[name] for name in _FUSE},
    }


def _changed(recording: Path, destination: Path) -> list[float]:
    """Tells whether a recording was changed: when the newest of its files was, in seconds, and their size in bytes."""
    stats = [path.stat() for path in _files(recording, {destination.resolve(), work_folder_of(destination).resolve()})]
    return [max((one.st_mtime for one in stats), default=0.0), sum(one.st_size for one in stats)]


def _files(recording: Path, own: set[Path]) -> Iterator[Path]:
    """Files of a recording, without folders that the run itself writes and what a killed one left of them."""
    if recording.is_file():
        yield recording
        return
    for place, folders, names in os.walk(recording):
        folder = Path(place)
        folders[:] = [name for name in folders if folder / name not in own and not is_leftover(name)]
        yield from (path for path in (folder / name for name in names) if path.is_file())
