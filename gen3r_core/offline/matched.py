"""Windows whose cameras are those of matches between images, and whose depth is fitted to them.

Without odometry a network's cameras are all there is, and those of small networks are tens of degrees off where a
robot turns. Matches are exact: see :mod:`gen3r_core.mapping.matched`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from gen3r_core.mapping.features import FeatureBook
from gen3r_core.mapping.matched import MatchedWindow, MatchOptions, match_window
from gen3r_core.mapping.windows import Window, WindowStore
from gen3r_core.offline.anchored import Notes, fit_window
from gen3r_core.progress import JobMonitor
from gen3r_core.reconstruction.anchoring import AnchorOptions

__all__ = ["match_windows"]

_NOTES = "notes.json"
_ANCHOR = AnchorOptions(longest=160, smallest=0.5, largest=2.0)
"""The cameras' unit is that of the depth already, but for some percent."""


def match_windows(
    raw: WindowStore,
    names: Sequence[str],
    matched: WindowStore,
    book: FeatureBook,
    monitor: JobMonitor,
    device: torch.device | str = "cpu",
    options: MatchOptions | None = None,
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
            found = match_window(raw.get(name), book, options)
            window, how = _anchored(found, device)
            notes.take(name, f"{how}|{found.matches} {found.before} {found.after}")
            matched.put(name, window)
        monitor.report("match", number + 1, len(names))
    counts = [[int(value) for value in note.rpartition("|")[2].split()] for note in notes.found.values()]
    total, before, after = (sum(column) for column in zip(*counts, strict=True))
    # Numbers in a reason are of one window only.
    reasons = (re.sub(r"[:,].*", "", note.rpartition("|")[0]) for note in notes.found.values())
    return {"windows": dict(Counter(reasons)), "matches": total, "before": before, "after": after}


def _anchored(found: MatchedWindow, device: torch.device | str) -> tuple[Window, str]:
    if found.reason:
        return found.window, f"as predicted; {found.reason}"
    fitted = fit_window(found.window, found.window.T_window_cam, device, _ANCHOR)
    if isinstance(fitted, str):
        return found.window, "cameras of matches"
    return replace(fitted, T_window_cam=found.window.T_window_cam), "cameras of matches and depth fitted to them"
