"""Camera paths through worlds: a ground robot, a drone, a hand; never inside of anything, and with a view.

Every frame keeps :data:`CLEARANCE` metres from all surfaces (by the signed distances of the solids) and
sees a median depth over :data:`MEDIAN_DEPTH` metres.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gen3r_core.errors import Gen3RError, InputError
from gen3r_core.worlds.motion import (
    PATH_KINDS,
    Candidates,
    PathKind,
    Starts,
    camera_poses,
    drone_candidates,
    hand_candidates,
    robot_candidates,
    smooth_noise,
)
from gen3r_core.worlds.routes import Routes, follow, nearest_phase
from gen3r_core.worlds.sight import Sight
from gen3r_core.worlds.world import World

Array = NDArray[np.float64]
CLEARANCE = 0.15
MEDIAN_DEPTH = 0.3
_GOOD_DEPTH = 1.5
_MANY_THINGS = 6
_COMPARED = 6
_CONTENT = 1.4
_ROBOT_CLEARANCE = 0.25
_CANDIDATES = 24
_ROUNDS = 4
_SHORT = {"robot": 2.4, "drone": 2.0, "hand": 1.2}
_CANDIDATES_OF = {"robot": robot_candidates, "drone": drone_candidates, "hand": hand_candidates}


@dataclass(frozen=True, eq=False)
class WorldPath:
    """A camera's way through a world.

    Attributes:
        kind: "robot", "drone" or "hand".
        T_world_cam: ``[F, 4, 4]`` float64 camera to world, metres, OpenCV axes.
        intrinsics: ``[F, 3, 3]`` float64, pixels of ``size``.
        size: ``(height, width)``.
    """

    kind: PathKind
    T_world_cam: Array
    intrinsics: Array
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.T_world_cam)


def make_path(
    world: World,
    kind: PathKind,
    num_frames: int,
    size: tuple[int, int],
    *,
    seed: int = 0,
    speed: float | None = None,
    sight: Sight | None = None,
) -> WorldPath:
    """A path through a world.

    Short ones are free motions, long ones (over about 2 m) follow a route through the rooms.

    Args:
        world: the world.
        kind: "robot", "drone" or "hand".
        num_frames: F, at least 1.
        size: ``(height, width)`` of the pictures, pixels.
        seed: together with the world's.
        speed: mean metres between frames; None draws what suits the kind (0.02 to 0.1; hand half as much; all
            orders of magnitude alike).
        sight: of this world, if there is one already.

    Raises:
        InputError: for an unknown kind, no frames, or a speed that is not positive.
        Gen3RError: if no path was found (not seen in thousands of worlds).
    """
    if kind not in PATH_KINDS:
        raise InputError(f"camera paths are {', '.join(PATH_KINDS)}, got {kind!r}")
    if num_frames < 1 or min(size) < 1 or (speed is not None and not 0 < speed < 10):
        raise InputError(
            f"a camera path needs frames, a size and a speed in metres a frame, got {num_frames}, {size} and {speed}"
        )
    rng = np.random.default_rng((world.seed, 1, seed, PATH_KINDS.index(kind)))
    sight = Sight(world) if sight is None else sight
    if speed is None:
        speed = math.exp(rng.uniform(math.log(0.02), math.log(0.1))) * (0.5 if kind == "hand" else 1.0)
    K = draw_intrinsics(size, rng)
    found: tuple[float, Array] | None = None
    if (num_frames - 1) * speed <= _SHORT[kind]:
        for _ in range(_ROUNDS):
            drawn = _CANDIDATES_OF[kind](_draw_starts(world, rng), num_frames, speed, rng)
            found = _better(found, _choose(sight, kind, drawn, K, size, rng))
            if found is not None and found[0] >= _CONTENT:
                break
    routes = Routes(world) if found is None else None
    for _ in range(_ROUNDS):
        if routes is None or found is not None:
            break
        found = _choose(sight, kind, _along_routes(world, routes, kind, num_frames, speed, rng), K, size, rng)
    if found is not None:
        return WorldPath(kind, found[1], np.repeat(K[None], num_frames, axis=0), size)
    raise Gen3RError(
        f"world {world.seed} has no {kind} path of {num_frames} frames at {speed:.3f} m; take another seed"
    )


def drive(
    world: World,
    length_m: float,
    frame_spacing: float,
    *,
    size: tuple[int, int] = (224, 224),
    height: float = 0.6,
    hfov: float | None = None,
    seed: int = 0,
) -> WorldPath:
    """A ground robot's long way through all rooms, round and round, so that it comes back to where it was.

    Args:
        world: the world.
        length_m: metres to go.
        frame_spacing: metres between frames; where it turns on the spot there are more frames.
        size: ``(height, width)`` of the pictures, pixels.
        height: of the camera over the floor, metres.
        hfov: horizontal field of view, radians; None draws it.
        seed: together with the world's.

    Raises:
        InputError: if a number makes no sense.
        Gen3RError: if no way was found.
    """
    if not (0 < frame_spacing <= length_m < 1e5) or not 0.3 <= height <= 1.5:
        raise InputError(
            f"a drive needs a length, a smaller frame spacing and a camera 0.3 to 1.5 m high, got {length_m}, "
            f"{frame_spacing} and {height}"
        )
    rng = np.random.default_rng((world.seed, 2, seed))
    sight, routes = Sight(world), Routes(world)
    K = draw_intrinsics(size, rng, hfov=hfov)
    for _ in range(2 * _ROUNDS):
        xy, heading = follow(routes.loop(rng), frame_spacing, length=length_m)
        positions = np.concatenate([xy, np.full((len(xy), 1), height)], axis=1)
        zero = np.zeros(len(xy))
        drawn = Candidates(positions[None], heading[None], zero[None], zero[None])
        found = _choose(sight, "robot", drawn, K, size, rng)
        if found is not None:
            return WorldPath("robot", found[1], np.repeat(K[None], len(xy), axis=0), size)
    raise Gen3RError(f"world {world.seed} has no drive of {length_m} m with a view everywhere; take another seed")


def draw_intrinsics(size: tuple[int, int], rng: np.random.Generator, *, hfov: float | None = None) -> Array:
    """``[3, 3]`` intrinsics: square pixels, 50 to 90 degrees wide, the principal point near the middle.

    Args:
        size: ``(height, width)``, pixels.
        rng: makes the draws.
        hfov: horizontal field of view in radians instead of a drawn one.
    """
    height, width = size
    drawn = math.radians(float(rng.uniform(50, 90)))
    focal = width / 2 / math.tan((drawn if hfov is None else hfov) / 2)
    cx, cy = (side * (0.5 + float(np.clip(rng.normal(0, 0.008), -0.02, 0.02))) for side in (width, height))
    return np.array([[focal, 0.0, cx], [0.0, focal, cy], [0.0, 0.0, 1.0]])


def _draw_starts(world: World, rng: np.random.Generator) -> Starts:
    """Places with room around them, and some before doorways."""
    space = world.free_space
    open_cells = np.argwhere(space.clearance > 0.35)
    if not len(open_cells):
        open_cells = np.argwhere(space.clearance == space.clearance.max())
    chosen = open_cells[rng.integers(len(open_cells), size=_CANDIDATES)]
    points = space.points()[chosen[:, 0], chosen[:, 1]] + rng.uniform(-0.05, 0.05, (_CANDIDATES, 2))
    headings = rng.uniform(-math.pi, math.pi, _CANDIDATES)
    through = np.zeros(_CANDIDATES, dtype=bool)
    for index in range(_CANDIDATES):
        if world.openings and rng.random() < 0.4:
            opening = world.openings[int(rng.integers(len(world.openings)))]
            side = 1.0 if rng.random() < 0.5 else -1.0
            normal = np.array([side, 0.0]) if opening.axis == 0 else np.array([0.0, side])
            points[index] = np.array(opening.point) - normal * rng.uniform(0.3, 1.3) + rng.normal(0, 0.05, 2)
            headings[index] = math.atan2(normal[1], normal[0]) + rng.normal(0, 0.12)
            through[index] = True
    rooms = [world.room_at((float(x), float(y))) for x, y in points]
    ceilings = np.array([world.rooms[room or 0].height for room in rooms])
    return Starts(points, headings, ceilings, through)


def _along_routes(
    world: World, routes: Routes, kind: PathKind, frames: int, speed: float, rng: np.random.Generator
) -> Candidates:
    """A few paths along one loop, from different places on it."""
    route = routes.loop(rng)
    total = float(np.linalg.norm(np.diff(route, axis=0), axis=1).sum())
    phases = rng.uniform(0, max(total, 1e-6), 4).tolist()
    phases += nearest_phase(route, [opening.point for opening in world.openings][:2], 0.4 * frames * speed)
    lowest = min(room.height for room in world.rooms)
    found = [follow(route, speed, start=start, frames=frames, most_turn=math.radians(8)) for start in phases]
    xy, yaw = (np.stack([pair[index] for pair in found]) for index in (0, 1))
    shape = (len(phases), frames)
    periods = max(1.0, frames * speed / 4)
    zero = np.zeros(shape)
    if kind == "robot":
        z = zero + min(float(rng.uniform(0.3, 1.5)), lowest - 0.4)
        pitch, roll = zero + math.radians(float(rng.uniform(-5, 2))), zero
    elif kind == "drone":
        z = (float(rng.uniform(0.8, 1.6)) + 0.25 * smooth_noise(rng, shape, periods)).clip(0.4, lowest - 0.4)
        pitch = math.radians(-6) + math.radians(4) * smooth_noise(rng, shape, periods)
        roll = (-np.gradient(yaw, axis=1) * 0.4 if frames > 1 else zero).clip(-0.1, 0.1)
    else:
        z = min(float(rng.uniform(1.3, 1.7)), lowest - 0.4) + 0.02 * smooth_noise(rng, shape, 4 * periods)
        yaw = yaw + math.radians(6) * smooth_noise(rng, shape, periods)
        pitch = math.radians(-6) + math.radians(1) * smooth_noise(rng, shape, 4 * periods)
        roll = math.radians(1.2) * smooth_noise(rng, shape, 4 * periods)
    return Candidates(np.concatenate([xy, z[..., None]], axis=-1), yaw, pitch, roll)


def _choose(
    sight: Sight, kind: PathKind, drawn: Candidates, K: Array, size: tuple[int, int], rng: np.random.Generator
) -> tuple[float, Array] | None:
    """Of a few clear candidates the one that sees far and many things, None if none sees enough.

    Returns:
        A score from 0 to 2, and poses ``[F, 4, 4]``.
    """
    clear = sight.clearance(drawn.positions).min(axis=1) >= CLEARANCE + 0.01
    if kind == "robot":
        clear &= sight.world.free_space.at(drawn.positions[..., :2]).min(axis=1) >= _ROBOT_CLEARANCE - 0.05
    poses = camera_poses(drawn.positions, drawn.yaw, drawn.pitch, drawn.roll)
    tangents = (float(size[0] / 2 / K[1, 1]), float(size[1] / 2 / K[0, 0]))
    owners = np.array([*sight.world.owners, -1])
    best: tuple[float, Array] | None = None
    for index in rng.permutation(np.flatnonzero(clear)).tolist()[:_COMPARED]:
        depth, ids = sight.look(poses[index], tangents)
        median = float(np.median(depth, axis=1).min())
        if median <= MEDIAN_DEPTH:
            continue
        things = len(np.unique(owners[ids])) - 1
        score = min(median, _GOOD_DEPTH) / _GOOD_DEPTH + min(things, _MANY_THINGS) / _MANY_THINGS
        if best is None or score > best[0]:
            best = (score, poses[index])
    return best


def _better(one: tuple[float, Array] | None, other: tuple[float, Array] | None) -> tuple[float, Array] | None:
    if one is None or other is None:
        return other if one is None else one
    return max(one, other, key=lambda pair: pair[0])
