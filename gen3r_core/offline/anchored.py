"""Windows whose cameras are the known ones, and whose depth is fitted to them.

Over the length of a window odometry is nearly exact, and better than what a network says of a camera that turns. So
the cameras of a window become the known ones, and its depth what neighbouring images show from there
(:mod:`gen3r_core.reconstruction.anchoring`). A robot that turns on the spot shows nothing: then the depth gets the
scale of the frames that the window shares with the one before.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from gen3r_core.geometry.poses import Array, invert_poses
from gen3r_core.io.atomic import write_json_atomic
from gen3r_core.mapping.joining import shared_frames
from gen3r_core.mapping.windows import Window, WindowStore
from gen3r_core.progress import JobMonitor
from gen3r_core.reconstruction.anchoring import AnchorOptions, anchor_depth
from gen3r_core.reconstruction.metric import scale_from_depth

__all__ = ["Notes", "anchor_windows"]

_PIXEL_CENTRE = 0.5
_DOUBTED = 0.1
"""What confidence is multiplied by where neighbouring views do not see the same place."""
_NOTES = "notes.json"
_OPTIONS = AnchorOptions(longest=160)


def anchor_windows(
    raw: WindowStore,
    names: Sequence[str],
    fitted: WindowStore,
    poses: Array,
    monitor: JobMonitor,
    device: torch.device | str = "cpu",
) -> dict[str, int]:
    """Fit windows to known poses.

    Args:
        raw: has the windows as the model predicted them.
        names: of the windows, in order.
        fitted: gets those that could be fitted, in metres, and the others as they are. What it has is not done again.
        poses: ``[N, 4, 4]`` of all frames, camera to world, metres; NaN where unknown.
        monitor: told of stage "anchor", in windows.
        device: where to compare images.

    Returns:
        How many windows were fitted, scaled, or left as predicted and why: by what was done.

    Raises:
        InputError: a window is missing.
        OutputError: one cannot be written.
        CancelledError: the monitor's callback asked for it.
    """
    notes = Notes(fitted.folder / _NOTES)
    before: Window | None = None  # the last one, if it is in metres
    monitor.report("anchor", 0, len(names))
    for number, name in enumerate(names):
        window = raw.get(name)
        own = poses[window.frames]
        there = bool(np.isfinite(own).all())
        kept = fitted.find(name)
        if kept is None:
            made = _fitted(window, own, device) if there else "not all of its poses are known"
            note = f"as predicted: {made}" if isinstance(made, str) else "fitted"
            if isinstance(made, str) and there and before is not None:
                scaled = _scaled(window, own, before)
                made, note = (made, note) if scaled is None else (scaled, f"scaled as the one before: {made}")
            kept = window if isinstance(made, str) else made
            notes.take(name, note)
            fitted.put(name, kept)
        metric = there and bool(np.allclose(kept.T_window_cam, _moved(own), atol=1e-9))
        before = kept if metric else None
        monitor.report("anchor", number + 1, len(names))
    return dict(Counter(notes.found.values()))


class Notes:
    """What was done with each window, by its name; on disk before the window is."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.found: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def take(self, name: str, note: str) -> None:
        """Write down what is about to be done with a window."""
        self.found[name] = note
        write_json_atomic(self._path, self.found)


def _moved(poses: Array) -> Array:
    """A window's world is its first camera, as far as the model's is; gravity does not matter there."""
    return np.asarray(invert_poses(poses[0]) @ poses)


def _fitted(window: Window, poses: Array, device: torch.device | str) -> Window | str:
    """A window with known cameras ``[n, 4, 4]`` (camera to world) and depth that fits them, or why there is none."""
    K = window.intrinsics.copy()
    K[:, :2, 2] += _PIXEL_CENTRE
    images = torch.from_numpy(window.colors).to(device).permute(0, 3, 1, 2).float() / 255
    depth = torch.from_numpy(window.depth.astype(np.float32)).to(device).clamp(min=1e-3)
    found = anchor_depth(images, depth, torch.from_numpy(K).to(device), torch.from_numpy(poses).to(device), _OPTIONS)
    if found.reason:
        return found.reason
    agreeing = (found.agreeing >= found.needed).cpu().numpy()
    return _with(window, poses, found.depth.cpu().numpy().astype(np.float32), agreeing)


def _scaled(window: Window, poses: Array, before: Window) -> Window | None:
    shared = shared_frames(before, window)
    pairs = [(window.at(int(frame)), before.at(int(frame))) for frame in shared]
    own = window.depth[[a for a, _ in pairs]].astype(np.float32)
    metres = before.depth[[b for _, b in pairs]].astype(np.float32)
    scale = scale_from_depth(own, metres)
    if not scale.metric:
        return None
    depth = window.depth.astype(np.float32) * scale.metres_per_unit
    return _with(window, poses, depth, np.ones(depth.shape, dtype=bool))


def _with(window: Window, poses: Array, depth: np.ndarray, agreeing: np.ndarray) -> Window:
    confidence = window.confidence.astype(np.float32) * np.where(agreeing, 1.0, _DOUBTED)
    return replace(
        window,
        depth=np.where((window.depth > 0) & (depth < 6e4), depth, 0).astype(np.float16),
        confidence=confidence.astype(np.float16),
        T_window_cam=_moved(poses),
    )
