"""Where the keyframes of a recording are: windows of each camera placed, with what the recording knows of poses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen3r_core.errors import InputError
from gen3r_core.geometry.poses import Array, interpolate_poses, invert_poses
from gen3r_core.geometry.sim3 import Sim3
from gen3r_core.io.atomic import atomic_path
from gen3r_core.mapping.features import FeatureBook
from gen3r_core.mapping.known import DriftModel, KnownPoses
from gen3r_core.mapping.sequence import Placement, PlacementOptions, chain, place_windows
from gen3r_core.mapping.sightings import match_loops
from gen3r_core.mapping.surfaces import SurfaceOptions, surface_loops
from gen3r_core.mapping.windows import Predictor, WindowStore
from gen3r_core.offline.keyframes import Keyframes
from gen3r_core.progress import JobMonitor
from gen3r_core.reconstruction.metric import DepthScale, scale_from_depth

__all__ = ["PRECISE", "Placed", "correction", "drift_of", "place", "window_scales"]

PRECISE = DriftModel(turn=0, yaw_deg_per_m=0, distance=0.003, turn_noise=0.003, step_m=0.001, step_deg=0.02, up_deg=0.1)
"""What is localised, or was reconstructed before, does not drift."""
_LOCALISED = ("map", "world", "earth", "utm", "enu")
_ROUNDS = (SurfaceOptions(), SurfaceOptions(turn_deg=2.0, shift_m=0.15))
"""When the first loops are closed, others lie nearer to each other, and there is less to be put right."""
_STEP = 0.25
"""Units that the median step of poses of unknown unit is brought to, while they are used: as if it were metres."""


@dataclass(frozen=True, eq=False)
class Placed:
    """A camera's frames and windows in the world.

    Attributes:
        metric: whether the unit is the metre.
        reason: why not; empty if it is.
        scales: ``[W]`` of windows: world units per unit.
        T_world_cam: ``[N, 4, 4]`` of frames.
        owner: ``[N]`` the window whose depth of a frame is to be used.
        facts: about joins and loops, for the report.
    """

    metric: bool
    reason: str
    scales: Array
    T_world_cam: Array
    owner: NDArray[np.int64]
    facts: dict[str, Any]

    def save(self, path: Path) -> None:
        """Write it, whole or not at all."""
        import json

        with atomic_path(path) as partial, partial.open("wb") as file:
            np.savez(file, metric=self.metric, reason=self.reason, scales=self.scales, T_world_cam=self.T_world_cam,
                     owner=self.owner, facts=json.dumps(self.facts))  # fmt: skip

    @classmethod
    def load(cls, path: Path) -> Placed:
        """What was saved.

        Raises:
            InputError: it is damaged.
        """
        import json

        try:
            with np.load(path, allow_pickle=False) as file:
                return cls(bool(file["metric"]), str(file["reason"]), file["scales"], file["T_world_cam"],
                           file["owner"], json.loads(str(file["facts"])))  # fmt: skip
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise InputError(f"{path}: the placement of the run before is damaged: {error}; remove it") from error


def drift_of(world: str | None) -> DriftModel:
    """How poses in a frame go wrong: in a map hardly, in an odometry's frame as odometry does."""
    return PRECISE if world is not None and world.rpartition("/")[2] in _LOCALISED else DriftModel()


def place(  # noqa: PLR0913 - what is known of a drive
    store: WindowStore,
    names: Sequence[str],
    predictor: Predictor,
    known: Array,
    drift: DriftModel,
    *,
    metres: bool,
    graph: bool,
    surfaces: bool,
    book: FeatureBook | None,
    depth_scales: dict[int, DepthScale],
    monitor: JobMonitor,
) -> Placed:
    """Put a camera's frames into one world.

    Args:
        store: has the windows.
        names: of the windows, in order.
        predictor: looks at loops.
        known: ``[N, 4, 4]`` of all frames, camera to world; NaN where unknown.
        drift: how they go wrong.
        metres: whether they are in metres.
        graph: False joins windows one behind the other.
        surfaces: whether windows are in metres and have known cameras: then their surfaces close loops, and not what
            the model says of two visits together.
        book: features of the frames, whose matches close loops instead of the model; None for none.
        depth_scales: metres per unit of windows that a depth camera saw.
        monitor: told of stages "join", "loops" and "graph".
    """
    unit = 1.0 if metres else _unit_of(known)
    options = PlacementOptions() if graph else PlacementOptions(loops=None)
    poses = known.copy()
    poses[:, :3, 3] *= unit
    there = bool(np.isfinite(known).all(axis=(1, 2)).any())
    usable = KnownPoses(poses, drift) if there and graph else None
    measured = depth_scales if graph else {}
    looking = predictor if graph and not surfaces and book is None else None
    sighted = [] if book is None or not graph else match_loops(store, names, book, monitor=monitor)
    found = place_windows(
        store, names, looking, options, known=usable, depth_scales=measured, found_loops=sighted, monitor=monitor
    )
    if graph and surfaces:
        for limits in _ROUNDS:
            loops = [*sighted, *surface_loops(store, names, found.windows, limits, monitor=monitor)]
            found = place_windows(
                store, names, None, options, known=usable, depth_scales=measured, found_loops=loops, monitor=monitor
            )
    facts = _facts(found)
    if not graph:
        return _chained(store, names, found, facts)
    T = found.T_world_cam.copy()
    T[:, :3, 3] /= unit
    scales = np.array([window.scale for window in found.windows]) / unit
    metric = found.metric and (metres or not there)
    reason = found.reason if metric or not found.metric else "the unit of the recording's poses is not known"
    return Placed(metric, reason, scales, T, found.owner, facts)


def _chained(store: WindowStore, names: Sequence[str], found: Placement, facts: dict[str, Any]) -> Placed:
    windows: list[Sim3] = chain(found.joins, found.windows[0])
    poses = []
    for frame, owner in enumerate(found.owner.tolist()):
        window = store.get(names[owner])
        poses.append(windows[owner].apply_poses(window.T_window_cam[window.at(frame)]))
    return Placed(False, "windows were joined one behind the other, without what the recording knows of metres",
                  np.array([window.scale for window in windows]), np.stack(poses), found.owner, facts)  # fmt: skip


def window_scales(
    store: WindowStore, names: Sequence[str], keyframes: Keyframes, numbers: Sequence[int]
) -> dict[int, DepthScale]:
    """Metres per unit of windows, as a depth camera has it."""
    scales = {}
    for place_, name in enumerate(names):
        window = store.get(name)
        seen = [at for at, frame in enumerate(window.frames.tolist()) if keyframes.table[numbers[frame]].depth]
        if seen:
            metres = np.stack([keyframes.depth(numbers[int(window.frames[at])]) for at in seen])
            scale = scale_from_depth(window.depth[seen].astype(np.float32), metres)
            if scale.metric:
                scales[place_] = scale
    return scales


def correction(first: Placed, own: Array, stamps: Sequence[int], others: Array, other_stamps: Sequence[int]) -> Array:
    """Another camera's known poses, corrected as the first camera's were.

    Args:
        first: how the first camera was placed.
        own: ``[N, 4, 4]`` its known poses; NaN where unknown.
        stamps: of its frames.
        others: ``[M, 4, 4]`` known poses of the other camera; NaN where unknown.
        other_stamps: of its frames.

    Returns:
        ``[M, 4, 4]``; NaN where nothing is known. Outside of the first camera's time its first and last correction
        hold, and none where its own poses are not known.
    """
    there = np.isfinite(own).all(axis=(1, 2))
    usable = np.isfinite(others).all(axis=(1, 2))
    knots, index = np.unique(np.array(stamps, dtype=np.int64)[there], return_index=True)
    if not len(knots):
        return others.copy()
    moved = (first.T_world_cam[there] @ invert_poses(own[there]))[index]
    at = np.array(other_stamps, dtype=np.int64)[usable]
    seconds = (knots - knots[0]).astype(np.float64) / 1e9, (at - knots[0]).astype(np.float64) / 1e9
    found = np.full_like(others, np.nan)
    found[usable] = interpolate_poses(moved, *seconds) @ others[usable]
    return found


def _unit_of(known: Array) -> float:
    there = known[np.isfinite(known).all(axis=(1, 2)), :3, 3]
    steps = np.linalg.norm(np.diff(there, axis=0), axis=1)
    steps = steps[steps > 0]
    return _STEP / float(np.median(steps)) if len(steps) else 1.0


def _facts(found: Placement) -> dict[str, Any]:
    trusted = [join for join in found.joins if join.trusted]
    kept = [loop for loop, weight in zip(found.loops, found.loop_weights.tolist(), strict=True) if weight > 0.5]
    reasons: dict[str, int] = {}
    for loop in found.loops:
        if loop.reason:
            words = loop.reason.partition(":")[0].partition(", by")[0]
            reasons[words] = reasons.get(words, 0) + 1
    return {
        "windows": len(found.windows),
        "joins": len(found.joins),
        "joins_trusted": len(trusted),
        "join_residual": round(float(np.median([join.residual for join in trusted])), 4) if trusted else None,
        "loops_tried": len(found.loops),
        "loops": len(kept),
        "loops_refused": reasons,
        "jumps": len(found.jumps),
        "camera_noise_deg": round(float(np.degrees(found.noise.rotation)), 3),
        "odometry_turn": round(found.drift[0], 5),
        "odometry_yaw_deg_per_m": round(float(np.degrees(found.drift[1])), 4),
    }
