"""Windows whose cameras are those of matches between images, and whose depth is corrected by what these show.

Without odometry a network's cameras are all there is, and those of small networks are tens of degrees off where a
robot turns. Matches are exact: see :mod:`gen3r_core.mapping.matched`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from gen3r_core.mapping.features import FeatureBook
from gen3r_core.mapping.matched import MatchOptions
from gen3r_core.mapping.refining import RefineOptions, refine_window
from gen3r_core.mapping.windows import WindowStore
from gen3r_core.offline.anchored import Notes
from gen3r_core.offline.keyframes import Keyframes
from gen3r_core.progress import JobMonitor

__all__ = ["feature_book", "match_windows", "refinement"]

_NOTES = "notes.json"


def match_windows(
    raw: WindowStore,
    names: Sequence[str],
    matched: WindowStore,
    book: FeatureBook,
    monitor: JobMonitor,
    device: torch.device | str = "cpu",
    options: RefineOptions | None = None,
) -> dict[str, Any]:
    """Give windows the cameras of matches, where those explain the images better.

    Args:
        raw: has the windows as the model predicted them.
        names: of the windows, in order.
        matched: gets them, with cameras of matches or as they are. What it has is not done again.
        book: finds features.
        monitor: told of stage "match", in windows.
        device: where to compare images.
        options: what is believed.

    Returns:
        "windows", how many by what was done, and "matches", "before" and "after": how many there are, and how many
        the network's cameras and the new ones explain.

    Raises:
        InputError: a window is missing.
        OutputError: one cannot be written.
        CancelledError: the monitor's callback asked for it.
    """
    notes = Notes(matched.folder / _NOTES)
    monitor.report("match", 0, len(names))
    for number, name in enumerate(names):
        if name not in notes.found or matched.find(name) is None:
            found = refine_window(raw.get(name), book, options, device)
            how = f"as predicted; {found.reason}" if found.reason else "cameras of matches"
            notes.take(name, f"{how}|{found.matches} {found.before} {found.after}")
            matched.put(name, found.window)
        monitor.report("match", number + 1, len(names))
    counts = [[int(value) for value in note.rpartition("|")[2].split()] for note in notes.found.values()]
    total, before, after = (sum(column) for column in zip(*counts, strict=True))
    # Numbers in a reason are of one window only.
    reasons = (re.sub(r"[:,].*", "", note.rpartition("|")[0]) for note in notes.found.values())
    return {"windows": dict(Counter(reasons)), "matches": total, "before": before, "after": after}


def feature_book(keyframes: Keyframes, camera: str) -> FeatureBook:
    """Features of a camera's keyframes, of finer images than the model's where they are kept."""
    numbers = keyframes.of(camera)
    if not keyframes.has_fine(numbers[0]):
        return FeatureBook(lambda frame: keyframes.image(numbers[frame]))
    size = keyframes.image(numbers[0]).shape[:2]
    return FeatureBook(lambda frame: keyframes.fine(numbers[frame]), size=(size[0], size[1]))


def refinement(keyframes: Keyframes, camera: str) -> RefineOptions:
    """How a camera's windows are refined: with its focal length, or with what matches tell of it."""
    known = all(keyframes.table[number].intrinsics is not None for number in keyframes.of(camera))
    return RefineOptions(match=MatchOptions(calibrated=known))
