"""From windows to one world: joined, loops closed, scale and gravity taken from what the robot knows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gen3r_core.errors import InputError
from gen3r_core.geometry.poses import Array, invert_poses, poses_from, rotation_angles
from gen3r_core.geometry.sim3 import Sim3
from gen3r_core.mapping.joining import Join, JoinOptions, join_windows
from gen3r_core.mapping.known import KnownPoses, WindowCameras, mend_jumps, mismatch
from gen3r_core.mapping.loops import Loop, LoopOptions, candidates, verify
from gen3r_core.mapping.pose_graph import Kernel, PoseGraph, Solution, SolverOptions
from gen3r_core.mapping.similarity import IDENTITY, compose, so3_log
from gen3r_core.mapping.windows import Predictor, WindowStore
from gen3r_core.progress import JobMonitor
from gen3r_core.reconstruction.metric import DepthScale, MetricOptions, fit_metric

__all__ = ["CameraNoise", "Placement", "PlacementOptions", "chain", "place_windows"]

_LEVEL = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
"""Without known poses the world is the first window's camera, turned so that z is about up."""

_WIDEST, _USUAL = 0.25, 2.0
"""Tolerances of loops: at most, and in median residuals of windows that follow each other."""
_NEAR_WINDOWS, _CONFIRMING = 3, 4.0
"""Loops that can confirm each other: windows apart, and standard deviations."""
_DOUBTED = (0.5, math.radians(10), 0.3)
"""Standard deviations of joins that are not trusted: median depths, radians, logarithm of scale."""


@dataclass(frozen=True)
class CameraNoise:
    """How far off a window's cameras are within it.

    Attributes:
        rotation: radians.
        translation: over the window's median depth.
    """

    rotation: float
    translation: float


@dataclass(frozen=True)
class PlacementOptions:
    """How windows are placed.

    Attributes:
        join: two windows that follow each other.
        loops: places that are visited again; None closes no loop.
        solver: the pose graph.
        least_noise: of cameras within a window; what windows disagree by in their shared frames counts if it is more.
        most_noise: of windows between which loops are believed.
        min_baseline_m: metres that the known poses spread over, at least, for a scale.
    """

    join: JoinOptions = field(default_factory=JoinOptions)
    loops: LoopOptions | None = field(default_factory=LoopOptions)
    solver: SolverOptions = field(default_factory=SolverOptions)
    least_noise: CameraNoise = field(default_factory=lambda: CameraNoise(math.radians(0.2), 0.004))
    most_noise: CameraNoise = field(default_factory=lambda: CameraNoise(math.radians(8), 0.15))
    min_baseline_m: float = 0.3


@dataclass(frozen=True, eq=False)
class Placement:
    """A sequence in one world.

    Attributes:
        metric: whether the world's unit is the metre. Otherwise it is that of the first window.
        reason: one sentence why not; empty if it is.
        windows: similarity from each window to the world.
        T_world_cam: ``[N, 4, 4]`` camera to world, one for each frame. With known poses the world is theirs, as of
            the first of them; otherwise its origin is the first camera, and z is up as far as that one is level.
        stamps: ``[N]`` int64.
        owner: ``[N]`` the window whose depth of a frame is to be used: where it is farthest from the ends.
        joins: between windows that follow each other.
        loops: that were tried.
        loop_weights: ``[len(loops)]`` what the graph thinks of them, 0 to 1; 0 for those that were not believed.
        noise: of cameras within windows, as it was found.
        jumps: frames before which known poses jumped; those steps were not used.
        drift: what was found of the odometry's systematic errors: radians per radian turned, and per metre; zeros
            without it.
        solution: of the pose graph: windows first, then frames.
    """

    metric: bool
    reason: str
    windows: list[Sim3]
    T_world_cam: Array
    stamps: NDArray[np.int64]
    owner: NDArray[np.int64]
    joins: list[Join]
    loops: list[Loop]
    loop_weights: Array
    noise: CameraNoise
    jumps: tuple[int, ...]
    drift: tuple[float, float]
    solution: Solution

    @property
    def scales(self) -> Array:
        """``[W]`` world units per unit of each window."""
        return np.array([window.scale for window in self.windows])


@dataclass(frozen=True, eq=False)
class _Facts:
    """What is remembered of each window: all but its maps."""

    frames: list[NDArray[np.int64]]
    poses: list[Array]
    depth: list[float]
    features: NDArray[np.float32]
    stamps: NDArray[np.int64]
    owner: NDArray[np.int64]
    joins: list[Join]


def place_windows(
    store: WindowStore,
    names: Sequence[str],
    predictor: Predictor | None = None,
    options: PlacementOptions | None = None,
    *,
    known: KnownPoses | None = None,
    depth_scales: Mapping[int, DepthScale] | None = None,
    found_loops: Sequence[Loop] = (),
    monitor: JobMonitor | None = None,
) -> Placement:
    """Put all windows and cameras of a sequence into one world.

    Args:
        store: has the windows.
        names: of the windows, in order (:func:`~gen3r_core.mapping.windows.run_windows`).
        predictor: the model, to look at loops; None closes none.
        options: how.
        known: poses of the frames as the robot knows them.
        depth_scales: by number of a window, its metres per unit as a depth camera has it
            (:func:`~gen3r_core.reconstruction.metric.scale_from_depth`).
        found_loops: others than the model's (:func:`~gen3r_core.mapping.surfaces.surface_loops`).
        monitor: told of stages "join", "loops" and "graph".

    Raises:
        InputError: a window is missing, or there are not as many known poses as frames.
        CancelledError: the monitor's callback asked for it.
    """
    options, monitor = options or PlacementOptions(), monitor or JobMonitor()
    facts = _gather(store, names, options, monitor)
    count = len(facts.stamps)
    if known is not None and len(known.T_world_cam) != count:
        raise InputError(
            f"there are {count} frames and {len(known.T_world_cam)} known poses; give NaN for unknown ones"
        )
    loops = [*_close_loops(facts, store, names, predictor, options, monitor), *found_loops]
    usable = known if known is not None and len(known.frames) >= 2 else None
    moved = usable is not None and usable.extent >= options.min_baseline_m
    scales = {number: one for number, one in (depth_scales or {}).items() if one.metric}
    noise = _camera_noise(facts, options)
    jumps: set[int] = set()
    up = usable.T_world_cam[:, 2, :3] if usable is not None else None
    if usable is not None and moved:
        usable, jumps = mend_jumps(usable, [
            WindowCameras(frames, poses, noise.translation * depth, noise.rotation)
            for frames, poses, depth in zip(facts.frames, facts.poses, facts.depth, strict=True)
        ])  # fmt: skip
    start = _start(facts, usable if moved else None, scales)
    graph = PoseGraph(start)
    if usable is not None and moved and (usable.drift.turn > 0 or usable.drift.yaw_deg_per_m > 0):
        graph.share([max(usable.drift.turn, 1e-6), max(math.radians(usable.drift.yaw_deg_per_m), 1e-6)])
    noises = _window_noises(facts, noise, usable if moved else None)
    loops = [_doubted(loop, noises, options) for loop in loops]
    _add_windows(graph, facts, noises, loops)
    _hold(graph, facts, usable if moved else None, bool(scales))
    if usable is not None and up is not None and moved:
        _add_known(graph, len(names), usable, up, jumps)
    for number, scale in scales.items():
        graph.add_scale("depth", number, scale.metres_per_unit, max(scale.spread / 10, 0.005), kernel=Kernel.CAUCHY)
    solution = graph.solve(options.solver, monitor)
    weights = np.zeros(len(loops))
    weights[[not loop.reason for loop in loops]] = solution.weights.get("loops", np.zeros(0))
    drift = solution.shared if len(solution.shared) else np.zeros(2)
    metric = moved or bool(scales)
    reason = "" if metric else "nothing tells metres: there are no known poses that move, and no metric depth"
    return Placement(
        metric=metric,
        reason=reason,
        windows=[solution.sim3(number) for number in range(len(names))],
        T_world_cam=poses_from(solution.rotations[len(names) :], solution.translations[len(names) :]),
        stamps=facts.stamps,
        owner=facts.owner,
        joins=facts.joins,
        loops=loops,
        loop_weights=weights,
        noise=noise,
        jumps=tuple(sorted(jumps)),
        drift=(float(drift[0]), float(drift[1])),
        solution=solution,
    )


def chain(joins: Sequence[Join], first: Sim3 = IDENTITY) -> list[Sim3]:
    """Windows one behind the other, without a graph: each as it was joined to the one before."""
    found = [first]
    for join in joins:
        found.append(compose(found[-1], join.measured.sim3))
    return found


def _gather(store: WindowStore, names: Sequence[str], options: PlacementOptions, monitor: JobMonitor) -> _Facts:
    if not names:
        raise InputError("there is no window to place")
    frames, poses, depth, joins = [], [], [], []
    features: list[NDArray[np.float32]] = []
    stamps: list[int] = []
    owner: list[int] = []
    middle: list[float] = []
    before = None
    monitor.report("join", 0, len(names))
    for number, name in enumerate(names):
        window = store.get(name)
        frames.append(window.frames)
        poses.append(window.T_window_cam)
        near = window.depth[window.depth > 0]
        depth.append(float(np.median(near.astype(np.float32))) if len(near) else 1.0)
        for place, frame in enumerate(window.frames.tolist()):
            inner = min(place, len(window) - 1 - place)
            if frame == len(stamps):
                features.append(window.features[place])
                stamps.append(int(window.stamps[place]))
                owner.append(number)
                middle.append(inner)
            elif frame > len(stamps):
                raise InputError(f"window {name} begins behind frame {len(stamps)}: a window between is missing")
            elif inner > middle[frame]:
                owner[frame], middle[frame] = number, inner
        if before is not None:
            joins.append(join_windows(before, window, options.join))
        before = window
        monitor.report("join", number + 1, len(names))
    return _Facts(frames, poses, depth, np.stack(features), np.array(stamps), np.array(owner), joins)


def _close_loops(
    facts: _Facts,
    store: WindowStore,
    names: Sequence[str],
    predictor: Predictor | None,
    options: PlacementOptions,
    monitor: JobMonitor,
) -> list[Loop]:
    if predictor is None or options.loops is None:
        return []
    found = []
    pairs = candidates(facts.features, len(names), options.loops)
    # A model whose windows differ by so much wherever they follow each other cannot be asked for more at loops.
    usual = [join.residual for join in facts.joins if join.trusted]
    tolerance = min(_WIDEST, max(options.loops.tolerance, _USUAL * float(np.median(usual)))) if usual else _WIDEST
    looking, joining = replace(options.loops, tolerance=tolerance), replace(options.join, tolerance=tolerance)
    monitor.report("loops", 0, len(pairs))
    for done, pair in enumerate(pairs):
        first, second = int(facts.owner[pair.first]), int(facts.owner[pair.second])
        # Two windows that share frames tell nothing that their join does not.
        if facts.frames[first][-1] < facts.frames[second][0]:
            found.append(
                verify(pair, (names[first], names[second]), (first, second), store, predictor, looking, joining)
            )
        monitor.report("loops", done + 1, len(pairs))
    return _confirmed(found, facts, _camera_noise(facts, options))


def _confirmed(loops: Sequence[Loop], facts: _Facts, noise: CameraNoise) -> list[Loop]:
    """Loops that another one nearby agrees with; one alone can be false, and nothing in a chain would object."""
    windows = chain(facts.joins)
    believed = [number for number, loop in enumerate(loops) if not loop.reason]
    agreed: set[int] = set()
    for one in believed:
        for other in believed:
            if one < other and _agree(loops[one], loops[other], windows, facts, noise):
                agreed |= {one, other}
    return [
        loop if loop.reason or number in agreed else replace(loop, reason="no other loop near it agrees")
        for number, loop in enumerate(loops)
    ]


def _agree(first: Loop, second: Loop, windows: Sequence[Sim3], facts: _Facts, noise: CameraNoise) -> bool:
    """Whether two loops close a circle, by way of the windows between their ends."""
    (a, b), (c, d) = first.windows, second.windows
    steps = abs(a - c) + abs(b - d)
    if first.measured is None or second.measured is None or max(abs(a - c), abs(b - d)) > _NEAR_WINDOWS:
        return False
    there = compose(windows[c].inverse(), windows[a])
    back = compose(windows[b].inverse(), windows[d])
    predicted = compose(compose(there, first.measured.sim3), back)
    off = compose(second.measured.sim3.inverse(), predicted)
    far = float(np.linalg.norm(off.translation)) / facts.depth[d]
    limit = _CONFIRMING * math.sqrt(2 * 3 + steps)
    turned = float(rotation_angles(off.rotation))
    return (
        far < limit * max(noise.translation, 0.01)
        and turned < limit * max(noise.rotation, math.radians(0.5))
        and abs(math.log(off.scale)) < limit * max(noise.translation, 0.01)
    )


def _camera_noise(facts: _Facts, options: PlacementOptions) -> CameraNoise:
    """From what windows disagree by, of frames that both have: the difference of two errors, each as large."""
    turns = [join.rotation_rad for join in facts.joins if join.trusted]
    steps = [join.translation for join in facts.joins if join.trusted]
    least = options.least_noise
    if not turns:
        return CameraNoise(max(least.rotation, math.radians(1)), max(least.translation, 0.02))
    return CameraNoise(
        max(least.rotation, float(np.median(np.concatenate(turns))) / math.sqrt(2)),
        max(least.translation, float(np.median(np.concatenate(steps))) / math.sqrt(2)),
    )


def _window_noises(facts: _Facts, noise: CameraNoise, known: KnownPoses | None) -> list[CameraNoise]:
    """Each window's own, where known poses show it to be worse than windows think of each other.

    Over the length of a window odometry is nearly exact, and a window that bends does so in the frames that it
    shares with the next one as well: only known poses tell.
    """
    if known is None:
        return [noise] * len(facts.frames)
    found = []
    for frames, poses, depth in zip(facts.frames, facts.poses, facts.depth, strict=True):
        rotation, place = mismatch(poses, known.T_world_cam[frames])
        found.append(CameraNoise(max(noise.rotation, rotation), max(noise.translation, place / depth)))
    return found


def _doubted(loop: Loop, noises: Sequence[CameraNoise], options: PlacementOptions) -> Loop:
    """A loop between windows that known poses show to be wrong is none: the window of both visits is no better."""
    worst = _both(*(noises[number] for number in loop.windows))
    if loop.reason or (worst.rotation <= options.most_noise.rotation
                       and worst.translation <= options.most_noise.translation):  # fmt: skip
        return loop
    return replace(loop, reason=f"known poses show a visit's window to be bent, by {math.degrees(worst.rotation):.0f} "
                   f"degrees and {worst.translation:.2f} of the depth")  # fmt: skip


def _both(first: CameraNoise, second: CameraNoise) -> CameraNoise:
    """The worse of two windows'."""
    return CameraNoise(max(first.rotation, second.rotation), max(first.translation, second.translation))


def _start(facts: _Facts, known: KnownPoses | None, scales: Mapping[int, DepthScale]) -> list[Sim3]:
    """Windows, then frames, to begin from."""
    unit = scales[min(scales)].metres_per_unit if scales else 1.0
    T0 = facts.poses[0][0]
    level = _LEVEL @ T0[:3, :3].T
    first = Sim3(unit, level, -unit * level @ T0[:3, 3])
    windows = chain(facts.joins, first)
    if scales:
        # The scale that counts is that of the window it was measured of.
        number = min(scales)
        by = scales[number].metres_per_unit / windows[number].scale
        windows = [Sim3(by * one.scale, one.rotation, by * one.translation) for one in windows]
    if known is not None:
        windows = _start_from_known(facts, known, windows)
    frames: list[Sim3] = []
    for number, numbers in enumerate(facts.owner):
        place = int(np.searchsorted(facts.frames[numbers], number))
        T = windows[numbers].apply_poses(facts.poses[numbers][place])
        frames.append(Sim3(1.0, T[:3, :3], T[:3, 3]))
    if known is not None:
        for number in known.frames.tolist():
            frames[number] = Sim3(1.0, known.T_world_cam[number, :3, :3], known.T_world_cam[number, :3, 3])
    return windows + frames


def _start_from_known(facts: _Facts, known: KnownPoses, windows: list[Sim3]) -> list[Sim3]:
    """Each window where its own frames' known poses put it; those without, beside one that has them."""
    fits: list[Sim3 | None] = []
    for frames, poses in zip(facts.frames, facts.poses, strict=True):
        fit = fit_metric(poses, known.T_world_cam[frames], MetricOptions(min_baseline_m=0.2, max_residual_ratio=0.5))
        fits.append(fit.world_from_model)
    there = [number for number, fit in enumerate(fits) if fit is not None]
    if not there:  # no window moves enough by itself
        whole = _whole_fit(facts, known, windows)
        return [compose(whole, one) for one in windows]
    found = []
    for number, one in enumerate(fits):
        nearest = min(there, key=lambda other: abs(other - number))
        moved = compose(windows[nearest].inverse(), windows[number])
        found.append(one if one is not None else compose(fits[nearest] or IDENTITY, moved))
    return found


def _whole_fit(facts: _Facts, known: KnownPoses, windows: list[Sim3]) -> Sim3:
    """All windows together onto the known poses."""
    chosen = known.frames[:: max(1, len(known.frames) // 90)]
    owners = facts.owner[chosen]
    placed = np.stack(
        [
            windows[o].apply_poses(facts.poses[o][int(np.searchsorted(facts.frames[o], f))])
            for f, o in zip(chosen, owners, strict=True)
        ]
    )
    fit = fit_metric(placed, known.T_world_cam[chosen], MetricOptions(max_residual_ratio=10.0, max_scale_error=10.0))
    if fit.world_from_model is None:
        T = known.T_world_cam[chosen[0]] @ invert_poses(placed[0])
        return Sim3(1.0, T[:3, :3], T[:3, 3])
    return fit.world_from_model


def _add_windows(graph: PoseGraph, facts: _Facts, noises: Sequence[CameraNoise], loops: Sequence[Loop]) -> None:
    count = len(facts.frames)
    for number, join in enumerate(facts.joins):
        # A window is no rigid body: its own bending is an error as well.
        noise = _both(noises[number], noises[number + 1])
        wide = (noise.translation, noise.rotation, noise.translation) if join.trusted else _DOUBTED
        measured = join.measured.widened(wide[0] * facts.depth[number], wide[1], wide[2])
        graph.add_between("joins", number, number + 1, measured.sim3, measured.covariance, kernel=Kernel.CAUCHY)
    for number, (frames, poses) in enumerate(zip(facts.frames, facts.poses, strict=True)):
        noise = noises[number]
        # A window bends as a whole: all its cameras together are no more than two observations.
        spread = np.repeat(
            len(frames) / 2 * np.square([noise.translation * facts.depth[number], noise.rotation, 1.0]), [3, 3, 1]
        )
        for frame, T in zip(frames.tolist(), poses, strict=True):
            measured_pose = Sim3(1.0, T[:3, :3], T[:3, 3])
            graph.add_between("cameras", number, count + frame, measured_pose, np.diag(spread), scaled=False,
                              kernel=Kernel.CAUCHY)  # fmt: skip
    for loop in loops:
        if loop.measured is None or loop.reason:
            continue
        first, second = loop.windows
        # Three windows' bending: the two visits' and that of the window which saw both.
        noise = _both(noises[first], noises[second])
        thrice = math.sqrt(3)
        measured = loop.measured.widened(
            thrice * noise.translation * facts.depth[first], thrice * noise.rotation, thrice * noise.translation
        )
        graph.add_between("loops", first, second, measured.sim3, measured.covariance, kernel=Kernel.GEMAN_MCCLURE)


def _hold(graph: PoseGraph, facts: _Facts, known: KnownPoses | None, scaled: bool) -> None:
    """What nothing measures: cameras have no scale, and the world has to be somewhere."""
    count = len(facts.frames)
    for frame in range(len(facts.stamps)):
        graph.hold(count + frame, scale=True)
    if known is not None:
        graph.hold(count + int(known.frames[0]), pose=True)
    else:
        graph.hold(0, pose=True, scale=not scaled)


def _add_known(graph: PoseGraph, count: int, known: KnownPoses, up: Array, jumps: set[int]) -> None:
    """Steps between known poses but for jumps, and gravity: ``up`` ``[N, 3]`` in the cameras' axes."""
    drift = known.drift
    T = known.T_world_cam
    numbers = known.frames.tolist()
    both = drift.turn > 0 or drift.yaw_deg_per_m > 0
    for first, second in pairwise(numbers):
        if second in jumps:
            continue
        step = invert_poses(T[first]) @ T[second]
        away, turn = float(np.linalg.norm(step[:3, 3])), float(rotation_angles(step[:3, :3]))
        yaw = float(so3_log(step[:3, :3]) @ up[second])
        sigma = (math.hypot(drift.step_m, drift.distance * away),
                 math.hypot(math.radians(drift.step_deg), drift.turn_noise * turn), 1.0)  # fmt: skip
        bending = np.outer(up[second], [yaw, away]) if both else None
        covariance = np.diag(np.repeat(np.square(sigma), [3, 3, 1]))
        graph.add_between("odometry", count + first, count + second, Sim3(1.0, step[:3, :3], step[:3, 3]), covariance,
                          scaled=False, kernel=Kernel.CAUCHY, bending=bending)  # fmt: skip
    for number in numbers:
        graph.add_up("gravity", count + number, up[number], math.radians(drift.up_deg), kernel=Kernel.CAUCHY)
