"""Which points of views others confirm: what several of those that look there see at another depth is no surface.

A window's depth agrees with itself; where it is wrong, its walls lie beside those of other windows. So each view is
compared with views that are near it in space and not in time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gen3r_core.errors import InputError
from gen3r_core.geometry.pixels import points_of_pixels
from gen3r_core.geometry.poses import Array, invert_poses
from gen3r_core.io.atomic import atomic_path
from gen3r_core.mapping.fusion import PlacedView
from gen3r_core.mapping.loops import seen_in
from gen3r_core.offline.fusing import read_view
from gen3r_core.progress import JobMonitor

__all__ = ["ConfirmOptions", "confirm_views", "confirmed", "witnesses"]

_NO_COLORS = np.zeros((0, 0, 3), dtype=np.uint8)
_IN_MEMORY = 64


@dataclass(frozen=True)
class ConfirmOptions:
    """Whom to ask, and what to believe.

    Attributes:
        others: views that each one is compared with, at most.
        apart: how far their numbers differ at least: views of one window agree with each other.
        facing: least cosine between the directions that they look in.
        tolerance: relative difference of depths up to which it is one surface.
        agreeing: views that must see a point at its depth; all that have it in view, where those are fewer.

    Raises:
        InputError: numbers make no sense.
    """

    others: int = 8
    apart: int = 6
    facing: float = 0.3
    tolerance: float = 0.04
    agreeing: int = 2

    def __post_init__(self) -> None:
        if min(self.others, self.apart, self.agreeing) < 1 or not self.tolerance > 0:
            raise InputError(f"confirming needs other views, and a tolerance, got {self}")


def witnesses(poses: Array, number: int, typical: float, options: ConfirmOptions | None = None) -> list[int]:
    """Views to compare one with: near it, looking its way, and spread over those.

    Args:
        poses: ``[N, 4, 4]`` camera to world.
        number: of the view.
        typical: median depth of the views, world units.
        options: whom to ask.
    """
    options = options or ConfirmOptions()
    away = np.linalg.norm(poses[:, :3, 3] - poses[number, :3, 3], axis=1)
    facing = poses[:, :3, 2] @ poses[number, :3, 2]
    score = away / max(typical, 1e-9) + 2 * (1 - facing)
    allowed = (np.abs(np.arange(len(poses)) - number) >= options.apart) & (facing >= options.facing)
    order = np.argsort(np.where(allowed, score, np.inf), kind="stable")[: min(4 * options.others, int(allowed.sum()))]
    return [int(one) for one in order[:: max(1, len(order) // options.others)][: options.others]]


def confirm_views(
    views: Path,
    masks: Path,
    count: int,
    poses: Array,
    typical: float,
    monitor: JobMonitor,
    options: ConfirmOptions | None = None,
) -> float:
    """Find out which pixels of views others confirm, and keep that beside them.

    Args:
        views: folder of :func:`~gen3r_core.offline.fusing.save_view`'s files, by number.
        masks: folder that gets a file for each.
        count: of the views.
        poses: ``[count, 4, 4]`` camera to world.
        typical: median depth, world units.
        monitor: told of stage "confirm", in views.
        options: what is believed.

    Returns:
        The share of the pixels with depth that was confirmed.

    Raises:
        InputError: a view is damaged.
        OutputError: a mask cannot be written.
        CancelledError: the monitor's callback asked for it.
    """
    options = options or ConfirmOptions()
    recent: OrderedDict[int, PlacedView] = OrderedDict()

    def view(number: int) -> PlacedView:
        if number not in recent:
            recent[number] = read_view(views / f"{number:06d}.npz", _NO_COLORS)
            while len(recent) > _IN_MEMORY:
                recent.popitem(last=False)
        recent.move_to_end(number)
        return recent[number]

    masks.mkdir(exist_ok=True)
    kept = total = 0
    monitor.report("confirm", 0, count)
    for number in range(count):
        own = view(number)
        others = [view(one) for one in witnesses(poses, number, typical, options)]
        good = _agreed(own, others, options)
        kept, total = kept + int(good.sum()), total + int((own.depth > 0).sum())
        with atomic_path(masks / f"{number:06d}.npy") as partial, partial.open("wb") as file:
            np.save(file, np.packbits(good))
        monitor.report("confirm", number + 1, count)
    return kept / max(total, 1)


def confirmed(view: PlacedView, masks: Path, number: int) -> PlacedView:
    """A view with depth only where others confirm it.

    Raises:
        InputError: its mask is damaged.
    """
    path = masks / f"{number:06d}.npy"
    try:
        good = np.unpackbits(np.load(path), count=view.depth.size).reshape(view.depth.shape)
    except (OSError, ValueError, EOFError, TypeError) as error:
        raise InputError(f"{path}: what views confirmed in the run before is damaged: {error}; remove it") from error
    return view._replace(depth=np.where(good, view.depth, np.float32(0)))


def _agreed(view: PlacedView, others: Sequence[PlacedView], options: ConfirmOptions) -> NDArray[np.bool_]:
    rows, columns = np.nonzero(view.depth)
    z, K, T = view.depth[rows, columns].astype(np.float64), view.intrinsics, view.T_world_cam
    local = points_of_pixels(columns, rows, z, K)
    points = local @ T[:3, :3].T + T[:3, 3]
    looked, agreed = np.zeros(len(points), dtype=np.int64), np.zeros(len(points), dtype=np.int64)
    for other in others:
        inside, same = seen_in(
            other.depth, other.intrinsics, invert_poses(other.T_world_cam), points, options.tolerance
        )
        looked += inside
        agreed += same
    good = np.zeros(view.depth.shape, dtype=bool)
    good[rows, columns] = agreed >= np.minimum(looked, options.agreeing)
    return good
