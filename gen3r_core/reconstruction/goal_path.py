"""From the path a robot shall drive to the cameras of the video that shows it.

A path of base poses, as navigation stacks have it, becomes one camera a frame: joined to where the camera is now,
evenly spaced in distance and turning, in metres in the robot's world or in a model's units and world.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike

from gen3r_core.errors import InputError
from gen3r_core.geometry.poses import (
    Array,
    checked_poses,
    interpolate_poses,
    invert_poses,
    poses_from,
    quaternion_to_matrix,
    rotation_angles,
)
from gen3r_core.geometry.sim3 import Sim3

if TYPE_CHECKING:
    from gen3r_core.scene import CameraPath

__all__ = ["GoalCameras", "Heading", "base_poses", "goal_cameras"]

Heading = Literal["auto", "given", "path"]

TURN_LEVER_M = 0.3
"""Metres that one radian of turning counts for, so that a turn on the spot gets frames."""

JOIN_DISTANCE_M = 0.5
"""How far (turns counted) a robot may be from a path and still be on it."""

SHORTEST_M = 1e-3
_ALIKE = 1e-9
_LARGEST = 1e8


@dataclass(frozen=True, eq=False)
class GoalCameras:
    """Cameras along a goal path, one a frame.

    Attributes:
        T_world_cam: ``[F, 4, 4]`` float64 camera to the path's fixed frame, metres, OpenCV axes.
        length_m: metres that the base goes.
        turned_rad: radians that it turns.
        heading: "given", or "path" where the path's directions replaced orientations that said nothing.
        skipped_m: length of the path's beginning that is left out as the robot has already passed it; metres, turns
            counted.
    """

    T_world_cam: Array
    length_m: float
    turned_rad: float
    heading: Literal["given", "path"]
    skipped_m: float

    def __len__(self) -> int:
        return int(self.T_world_cam.shape[0])

    def in_model(self, world_from_model: Sim3) -> Array:
        """``T_model_cam`` ``[F, 4, 4]`` float64: in the model's world, lengths in its units.

        Args:
            world_from_model: scale in metres per unit, as :func:`~gen3r_core.reconstruction.metric.fit_metric` finds.
        """
        return world_from_model.inverse().apply_poses(self.T_world_cam)

    def camera_path(self, intrinsics: ArrayLike, image_size: tuple[int, int], world_from_model: Sim3) -> CameraPath:
        """The path as the pipeline takes it; loads PyTorch.

        In the model's world, but lengths in metres and ``metres_per_unit`` beside them: the pipeline divides where it
        makes rays, and the scene that comes back knows its scale. The model's world begins at a camera, so that
        float32 is fine enough, which it may not be in a map.

        Args:
            intrinsics: ``[3, 3]`` for all frames, or ``[F, 3, 3]``, pixels of ``image_size``.
            image_size: ``(height, width)``.
            world_from_model: see :meth:`in_model`.

        Returns:
            The path, float32.

        Raises:
            InputError: if the intrinsics make no sense.
        """
        import torch

        from gen3r_core.scene import CameraPath

        poses = self.in_model(world_from_model)
        poses[:, :3, 3] *= world_from_model.scale
        K = np.asarray(intrinsics, dtype=np.float32)
        if K.shape == (3, 3):
            K = np.repeat(K[None], len(self), axis=0)
        T = torch.from_numpy(poses.astype(np.float32))
        return CameraPath(T, torch.from_numpy(K), image_size, world_from_model.scale)


def goal_cameras(
    positions: ArrayLike,
    quaternions: ArrayLike,
    T_base_cam: ArrayLike,
    num_frames: int,
    *,
    T_world_start: ArrayLike | None = None,
    heading: Heading = "auto",
    lever_m: float = TURN_LEVER_M,
    join_distance_m: float = JOIN_DISTANCE_M,
    horizon_m: float | None = None,
) -> GoalCameras:
    """Cameras evenly spaced along a path of base poses.

    Between poses the base goes straight and turns at constant speed (slerp). Frames are spaced evenly in
    ``metres + lever * radians``. With a start, the first camera is exactly that; where the path runs past it, it is
    joined there and what lies before is left out, otherwise a straight leg leads to the path's first pose.

    Args:
        positions: ``[N, 3]`` of the base, metres, in a fixed frame with z up (REP-103).
        quaternions: ``[N, 4]`` of the base, ``x, y, z, w``, any length but zero. See ``heading``.
        T_base_cam: ``[4, 4]`` camera (OpenCV axes: the optical frame) to base.
        num_frames: F, at least 2.
        T_world_start: ``[4, 4]`` where the camera is now (newest keyframe), camera to the same fixed frame; None to
            begin with the path.
        heading: "given" takes orientations as they are; "path" looks along the path, level; "auto" looks along the
            path if all orientations are the identity or zero, as planners leave them that plan positions.
        lever_m: metres that one radian counts for.
        join_distance_m: how far the start may be from the path (turns counted) to be on it.
        horizon_m: take no more of the path than this (turns counted); None for all of it.

    Returns:
        The cameras.

    Raises:
        InputError: saying which value of which pose is wrong, or that the path leads nowhere.
    """
    if num_frames < 2:
        raise InputError(f"a goal path needs at least 2 frames, got {num_frames}")
    for name, value, least in (("lever_m", lever_m, 0.0), ("join_distance_m", join_distance_m, 0.0)):
        if not (math.isfinite(value) and value >= least):
            raise InputError(f"{name} must be a number of 0 or more, got {value}")
    if horizon_m is not None and not horizon_m > 0:
        raise InputError(f"horizon_m must be positive, got {horizon_m}")
    T_base_cam = _one_pose(T_base_cam, "pose of the camera in the base frame")
    start = None
    if T_world_start is not None:
        start = _one_pose(T_world_start, "pose of the camera at the start")
    start_base = None if start is None else start @ invert_poses(T_base_cam)
    way, used = base_poses(positions, quaternions, heading, T_world_start_base=start_base)
    skipped = 0.0
    if start_base is not None:
        way, skipped = _join(start_base, way, lever_m, join_distance_m)
    knots = _knots(way, lever_m)
    end = float(knots[-1]) if horizon_m is None else min(float(knots[-1]), horizon_m)
    if end < SHORTEST_M:
        raise InputError(
            f"the goal path leads nowhere: its {len(np.asarray(positions))} poses are all where the robot "
            f"{'starts' if start is None else 'is'}; send a path that goes or turns somewhere"
        )
    at = np.linspace(0.0, end, num_frames)
    bases = interpolate_poses(way, knots, at)
    T_world_cam = bases @ T_base_cam
    if start is not None:
        T_world_cam[0] = start  # to the last digit: this camera has an image
    length, turned = _travelled(way, knots, end)
    return GoalCameras(T_world_cam, length, turned, used, skipped)


def base_poses(
    positions: ArrayLike,
    quaternions: ArrayLike,
    heading: Heading = "auto",
    *,
    T_world_start_base: Array | None = None,
) -> tuple[Array, Literal["given", "path"]]:
    """Poses of a path, checked, with orientations that mean something.

    Args:
        positions: ``[N, 3]`` metres.
        quaternions: ``[N, 4]``, ``x, y, z, w``.
        heading: see :func:`goal_cameras`.
        T_world_start_base: ``[4, 4]`` where the base is before the path; tells a path of one place its direction.

    Returns:
        ``T_world_base`` ``[N, 4, 4]``, and where its orientations are from.

    Raises:
        InputError: for an empty path, wrong shapes, values that are not finite, and zero quaternions among others that
            count.
    """
    if heading not in ("auto", "given", "path"):
        raise InputError(f"the heading of a goal path is auto, given or path, got {heading!r}")
    places = _checked_rows(positions, 3, "positions")
    q = _checked_rows(quaternions, 4, "quaternions")
    if len(q) != len(places):
        raise InputError(f"the goal path has {len(places)} positions and {len(q)} quaternions; give one for each")
    length = np.linalg.norm(q, axis=1)
    zero = length < _ALIKE
    silent = bool((np.abs(q[:, :3]) <= _ALIKE * np.maximum(length, 1)[:, None]).all())
    if heading == "path" or (heading == "auto" and silent):
        yaw = _headings(places)
        if yaw is None and T_world_start_base is not None:
            yaw = _headings(np.concatenate([T_world_start_base[None, :3, 3], places]))
        if yaw is not None:
            yaw = yaw[-len(places) :]
            half = yaw / 2
            nought = np.zeros_like(half)
            q = np.stack([nought, nought, np.sin(half), np.cos(half)], axis=1)
            return poses_from(quaternion_to_matrix(q), places), "path"
        if T_world_start_base is not None:  # on the spot: as the robot stands
            R = np.repeat(T_world_start_base[None, :3, :3], len(places), axis=0)
            return poses_from(R, places), "path"
    if zero.any():
        raise InputError(
            f"the quaternion of pose {int(np.argmax(zero))} of the goal path is zero, which is no orientation; set all "
            f"orientations, or all to zero to look along the path"
        )
    return poses_from(quaternion_to_matrix(q), places), "given"


def _checked_rows(values: ArrayLike, columns: int, name: str) -> Array:
    try:
        rows = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} of the goal path must be numbers of shape [N, {columns}]: {error}") from error
    if rows.size == 0:
        raise InputError("the goal path is empty; send at least one pose")
    if rows.ndim != 2 or rows.shape[1] != columns:
        raise InputError(f"{name} of the goal path must have shape [N, {columns}], got {list(rows.shape)}")
    usable = (np.abs(rows) <= _LARGEST).all(axis=1)  # False for NaN
    if not usable.all():
        bad = int(np.argmin(usable))
        raise InputError(
            f"{name} of the goal path contain NaN, infinite values or some over {_LARGEST:g}, first in pose {bad}: "
            f"{rows[bad].tolist()}; leave such poses out"
        )
    return rows


def _one_pose(T: ArrayLike, name: str) -> Array:
    shape = np.shape(T)
    if shape != (4, 4):
        raise InputError(f"the {name} must have shape [4, 4], got {list(shape)}")
    pose: Array = checked_poses(np.asarray(T)[None], name)[0]
    return pose


def _headings(places: Array) -> Array | None:
    """Directions ``[N]`` of a path on the ground, radians from x towards y; None where it goes nowhere.

    At an inner pose the mean of where it comes from and where it goes; poses that do not move on have the direction
    of those before them, and the first ones that of the first that does.
    """
    steps = np.diff(places[:, :2], axis=0)
    length = np.linalg.norm(steps, axis=1)
    goes = length > SHORTEST_M
    if not goes.any():
        return None
    # Each step without length takes the direction of the last one that has some, or of the first.
    last = np.maximum.accumulate(np.where(goes, np.arange(len(steps)), -1))
    last[last < 0] = int(np.argmax(goes))
    unit = steps[last] / length[last, None]
    incoming = np.concatenate([unit[:1], unit])
    outgoing = np.concatenate([unit, unit[-1:]])
    direction = incoming + outgoing
    # Where it turns back on itself the two cancel: then it looks where it goes next.
    direction = np.where(np.linalg.norm(direction, axis=1, keepdims=True) > 1e-6, direction, outgoing)
    yaw: Array = np.arctan2(direction[:, 1], direction[:, 0])
    return yaw


def _join(start: Array, way: Array, lever: float, tolerance: float) -> tuple[Array, float]:
    """The way from the start on, and how much of its beginning is left out.

    The first time that the way passes within the tolerance, at its closest there: a loop that comes by again later is
    driven as a whole.
    """
    knots = _knots(way, lever)
    fine = np.unique(np.concatenate([knots, np.linspace(0.0, knots[-1], 2 + int(min(20 * knots[-1], 10_000)))]))
    poses = interpolate_poses(way, knots, fine)
    distance = np.linalg.norm(poses[:, :3, 3] - start[:3, 3], axis=1)
    distance = distance + lever * rotation_angles(start[:3, :3].T @ poses[:, :3, :3])
    near = distance <= tolerance
    if not near.any():
        return np.concatenate([start[None], way]), 0.0
    first = int(np.argmax(near))
    # Up to the next time that it is away again, or the end.
    away = np.flatnonzero(~near[first:])
    until = first + (int(away[0]) if len(away) else len(near) - first)
    closest = first + int(np.argmin(distance[first:until]))
    rest = way[knots > fine[closest]]
    if closest == len(fine) - 1:
        rest = way[-1:]  # the goal itself, however near
    return np.concatenate([start[None], rest]), float(fine[closest])


def _steps(way: Array) -> tuple[Array, Array]:
    """Metres and radians between neighbours of ``[N, 4, 4]``, each ``[N - 1]``."""
    metres: Array = np.linalg.norm(np.diff(way[:, :3, 3], axis=0), axis=1)
    return metres, rotation_angles(way[:-1, :3, :3].transpose(0, 2, 1) @ way[1:, :3, :3])


def _knots(way: Array, lever: float) -> Array:
    metres, radians = _steps(way)
    return np.concatenate([[0.0], np.cumsum(metres + lever * radians)])


def _travelled(way: Array, knots: Array, end: float) -> tuple[float, float]:
    """Metres and radians of a way up to a knot value."""
    metres, radians = _steps(way)
    span = np.diff(knots)
    share = np.clip((end - knots[:-1]) / np.where(span > 0, span, 1.0), 0.0, 1.0)
    return float(share @ metres), float(share @ radians)
