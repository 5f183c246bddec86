"""Depth that fits known camera poses: a network's depth maps, brought to metres by what neighbouring images show.

Where a robot knows where its camera was, the images themselves tell how far things are: a pixel moved by the right
depth lands on what it shows (plane sweeping, R. Collins, CVPR 1996). A network's depth is right in its forms, but has
a unit of its own and is off by some percent from place to place. So it is multiplied by a smooth field: one factor
for all views, then for each view, then for the cells of finer and finer grids, each the factor with which
neighbouring images agree best. Where images show nothing that could be found again, the field follows its
surroundings. In the end depth maps are compared with each other, and that tells whether the poses can be believed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from gen3r_core.errors import InputError
from gen3r_core.geometry.rigid import compose, invert_rigid

__all__ = ["AnchorOptions", "Anchored", "agreeing_views", "anchor_depth"]

_GREY = (0.299, 0.587, 0.114)
_PATCH = 7
_NOISE = 0.02
"""Of grey values in [0, 1]: a patch with a much smaller standard deviation shows nothing that could be found again."""
_UNSEEN = 0.5
"""Cost of a pixel that another image does not show: that of patches that have nothing to do with each other."""
_FACING = 0.7
"""Least cosine between the directions that neighbours look in."""
_SHARE = 0.25
"""Side of the images in the search for the scale, relative to that in the last one."""
_TRIES, _STEPS, _ROUNDS = 80, 15, 12
_NEARLY = 0.3
"""Natural logarithm of a factor that is clearly another one."""
_NEAREST = 1e-3


@dataclass(frozen=True)
class AnchorOptions:
    """How factors are searched for, and when they are believed.

    Attributes:
        smallest: metres per model unit, at least.
        largest: the same, at most.
        longest: pixels of the longer side of the images that are compared; larger ones are scaled down.
        neighbours: images that each one is compared with, at most.
        min_baseline: metres between neighbours over the median depth, at least.
        best_baseline: the same, where neighbours tell most.
        grids: rows and columns of the fields, coarse to fine, and how far each goes from the one before (natural
            logarithm).
        stiffness: cost of unlike factors of neighbouring cells, by the square of the logarithms' difference.
        min_gain: how much less the scale's patches must differ (0 alike, 1 opposite) than those of other scales.
        tolerance: relative difference of depths that still are the same place.
        min_agreeing: share of pixels whose place two other views see as well, at least (of two or three views: one).

    Raises:
        InputError: numbers make no sense.
    """

    smallest: float = 0.2
    largest: float = 20.0
    longest: int = 224
    neighbours: int = 3
    min_baseline: float = 0.02
    best_baseline: float = 0.15
    grids: tuple[tuple[int, int, float], ...] = ((1, 1, 0.4), (4, 5, 0.25), (8, 10, 0.15), (14, 18, 0.1))
    stiffness: float = 1.0
    min_gain: float = 0.008
    tolerance: float = 0.025
    min_agreeing: float = 0.15

    def __post_init__(self) -> None:
        if not 0 < self.smallest < self.largest < math.inf or self.longest < 4 * _PATCH or self.neighbours < 1:
            raise InputError(
                f"anchoring needs a range of scales, images of {4 * _PATCH} pixels and a neighbour, got "
                f"{self.smallest} to {self.largest}, {self.longest} and {self.neighbours}"
            )

    @property
    def steps(self) -> int:
        """That progress is told of."""
        return 2 + len(self.grids)


@dataclass(frozen=True, eq=False)
class Anchored:
    """What known poses make of depth maps.

    Attributes:
        reason: one sentence why it cannot be done, or not be believed; empty if it can. Otherwise use nothing else.
        depth: ``[N, H, W]`` float32 metres.
        metres_per_unit: median factor over all pixels.
        agreeing: ``[N, H, W]`` int32, in how many other views the pixel's place has the same depth.
        needed: how many of them a pixel should have to be believed: 2, or 1 of two or three views.
    """

    reason: str
    depth: Tensor
    metres_per_unit: float
    agreeing: Tensor
    needed: int


class _Views:
    """Images of known cameras at one size, ready to be compared."""

    def __init__(self, grey: Tensor, depth: Tensor, intrinsics: Tensor, T_world_cam: Tensor) -> None:
        self.grey, self.depth, self._K = grey, depth, intrinsics.to(depth)
        self.count, self.height, self.width = depth.shape
        v, u = torch.meshgrid(torch.arange(self.height), torch.arange(self.width), indexing="ij")
        pixels = torch.stack([u + 0.5, v + 0.5, torch.ones_like(u)], dim=-1).to(depth)
        self._rays = torch.einsum("nij,hwj->nhwi", torch.linalg.inv(self._K), pixels)
        # Relative poses in float64, so that a map's far corner is as good as its origin.
        world = T_world_cam.double()
        self._T = compose(invert_rigid(world)[None], world[:, None]).to(depth)  # [from, to]
        self._mean = _smooth(grey)
        self._variance = (_smooth(grey**2) - self._mean**2).clamp(min=0)
        self.weight = self._variance / (self._variance + _NOISE**2)

    def into(self, index: int, other: int, depth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Where the pixels of a view are in another one.

        Args:
            index: of the view.
            other: of the other.
            depth: ``[L, H, W]`` of the view, metres.

        Returns:
            ``[L, H, W, 2]`` in [-1, 1] as grid_sample has it, ``[L, H, W]`` z-depth there, and whether it is seen.
        """
        T = self._T[index, other]
        turned = self._rays[index] @ (self._K[other] @ T[:3, :3]).T
        x, y, z = ((turned[..., axis] * depth + shift) for axis, shift in enumerate(self._K[other] @ T[:3, 3]))
        safe = z.clamp(min=_NEAREST)
        place = torch.stack([2 * x / (safe * self.width) - 1, 2 * y / (safe * self.height) - 1], dim=-1)
        return place, z, (place.abs() < 1).all(dim=-1) & (z > _NEAREST)

    def costs(self, index: int, others: NDArray[np.int64], depth: Tensor) -> Tensor:
        """How unlike patches of a view are to what its neighbours show at their place.

        One minus the normalised cross-correlation, halved, so that exposure does not matter; the mean over the better
        half of the neighbours, as the others may not see the place; times the weight of the pixel.

        Args:
            index: of the view.
            others: its neighbours, at least one.
            depth: ``[L, H, W]`` metres, L hypotheses.

        Returns:
            ``[L, H, W]``.
        """
        found = []
        for other in others.tolist():
            place, _, seen = self.into(index, other, depth)
            source = self.grey[other].expand(len(depth), 1, -1, -1)
            warped = F.grid_sample(source, place, align_corners=False, padding_mode="border")[:, 0]
            mean = _smooth(warped)
            variance = (_smooth(warped**2) - mean**2).clamp(min=0)
            common = _smooth(warped * self.grey[index]) - mean * self._mean[index]
            alike = common / ((variance + _NOISE**2) * (self._variance[index] + _NOISE**2)).sqrt()
            found.append(torch.where(seen, (1 - alike) / 2, _UNSEEN))
        better = torch.stack(found).sort(dim=0).values[: (len(found) + 1) // 2]
        return better.mean(dim=0) * self.weight[index]


def anchor_depth(
    images: Tensor,
    depth: Tensor,
    intrinsics: Tensor,
    T_world_cam: Tensor,
    options: AnchorOptions | None = None,
    report: Callable[[int, int], None] | None = None,
) -> Anchored:
    """Depth maps in metres that agree with known camera poses and with each other.

    Args:
        images: ``[N, 3, H, W]`` float RGB in [0, 1].
        depth: ``[N, H, W]`` float z-depth of a network, any unit, one for all views.
        intrinsics: ``[N, 3, 3]`` pixels of ``(H, W)`` with centres at +0.5, zero skew.
        T_world_cam: ``[N, 4, 4]`` float64 camera to world, metres, OpenCV axes. An error of a centimetre between
            neighbours already makes depths some percent wrong.
        options: how.
        report: told steps done and all steps; may raise to stop.

    Returns:
        The depth, or the reason why there is none: too little motion, nothing to recognise, or poses that do not
        fit the images.

    Raises:
        InputError: shapes do not fit, or numbers are not finite.
    """
    options = options or AnchorOptions()
    _check(images, depth, intrinsics, T_world_cam)
    depth, poses = depth.float(), T_world_cam.detach().double().cpu().numpy()
    if len(depth) < 2:
        return _nothing(depth, "there is only one view")
    count = len(depth)
    tell = report or (lambda _done, _all: None)
    steps = options.steps
    small, middle, large = (_scaled(images, depth, intrinsics, T_world_cam, options.longest * share)
                            for share in (_SHARE, 0.5, 1.0))  # fmt: skip
    tell(0, steps)
    scale, gain = _one_factor(small, _any_neighbours(poses, options), options)
    if gain < options.min_gain:
        return _nothing(depth, "the images do not tell how far things are: too little motion, or too little to see")
    typical = (large.depth * scale).flatten(1).median(dim=1).values.cpu().numpy()
    others = _neighbours(poses, typical, options)
    logs = torch.full((count, large.height, large.width), math.log(scale), device=depth.device)
    for number, (rows, columns, reach) in enumerate(options.grids):
        tell(1 + number, steps)
        logs = logs + _field(middle if number < 2 else large, others, logs, (rows, columns, reach), options.stiffness)
    tell(steps - 1, steps)
    if logs.shape[1:] != depth.shape[1:]:
        logs = F.interpolate(logs[:, None], size=depth.shape[1:], mode="bilinear", align_corners=False)[:, 0]
    metres = depth * logs.exp()
    grey = torch.zeros_like(metres)
    agreeing = agreeing_views(metres, intrinsics, T_world_cam, options.tolerance, views=_Views(
        grey, metres, intrinsics, T_world_cam))  # fmt: skip
    needed = 1 if count < 4 else 2
    share = float((agreeing >= needed).float().mean())
    tell(steps, steps)
    if share < options.min_agreeing:
        return _nothing(depth, f"camera poses and images do not go together: only {100 * share:.0f} % of the pixels "
                               f"have the same place in several views")  # fmt: skip
    return Anchored("", metres, float(logs.median().exp()), agreeing, needed)


def agreeing_views(
    depth: Tensor, intrinsics: Tensor, T_world_cam: Tensor, tolerance: float, *, views: _Views | None = None
) -> Tensor:
    """In how many other views the place of each pixel has the same depth.

    Args:
        depth: ``[N, H, W]`` metres.
        intrinsics: ``[N, 3, 3]``, see :func:`anchor_depth`.
        T_world_cam: ``[N, 4, 4]``, the same.
        tolerance: relative difference of depths.
        views: of these arguments, where they were made already.

    Returns:
        ``[N, H, W]`` int32.
    """
    views = views or _Views(torch.zeros_like(depth), depth, intrinsics, T_world_cam)
    found = torch.zeros(depth.shape, dtype=torch.int32, device=depth.device)
    for index in range(len(depth)):
        for other in range(len(depth)):
            if other == index:
                continue
            place, z, seen = views.into(index, other, depth[index][None])
            there = F.grid_sample(depth[other][None, None], place, align_corners=False, padding_mode="border")[0, 0]
            same = (there - z[0]).abs() < tolerance * z[0]
            found[index] += (same & seen[0]).int()
    return found


def _check(images: Tensor, depth: Tensor, intrinsics: Tensor, T_world_cam: Tensor) -> None:
    if depth.ndim != 3 or images.shape != (len(depth), 3, *depth.shape[1:]):
        raise InputError(
            f"images must be [N, 3, H, W] as depth is [N, H, W], got {list(images.shape)} and {list(depth.shape)}"
        )
    for name, value, side in (("intrinsics", intrinsics, 3), ("camera poses", T_world_cam, 4)):
        if value.shape != (len(depth), side, side) or not bool(torch.isfinite(value).all()):
            raise InputError(f"{name} must be {len(depth)} finite matrices {side} x {side}, got {list(value.shape)}")


def _nothing(depth: Tensor, reason: str) -> Anchored:
    return Anchored(reason, depth, math.nan, torch.zeros(depth.shape, dtype=torch.int32, device=depth.device), 0)


def _smooth(x: Tensor) -> Tensor:
    """Means over patches of ``[L, H, W]``."""
    return F.avg_pool2d(x[:, None], _PATCH, stride=1, padding=_PATCH // 2, count_include_pad=False)[:, 0]


def _scaled(images: Tensor, depth: Tensor, intrinsics: Tensor, T_world_cam: Tensor, longest: float) -> _Views:
    height, width = depth.shape[1:]
    share = min(1.0, longest / max(height, width))
    size = (max(_PATCH, round(height * share)), max(_PATCH, round(width * share)))
    grey = (images.float() * images.new_tensor(_GREY, dtype=torch.float32)[:, None, None]).sum(dim=1, keepdim=True)
    grey = F.interpolate(grey, size=size, mode="area")[:, 0]
    depth = F.interpolate(depth[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    K = intrinsics.double().clone()
    K[:, 0] *= size[1] / width
    K[:, 1] *= size[0] / height
    return _Views(grey, depth, K, T_world_cam)


def _any_neighbours(poses: NDArray[np.float64], options: AnchorOptions) -> list[NDArray[np.int64]]:
    """While depths are not known: those far away that look the same way."""
    apart, facing = _apart(poses)
    return _chosen(np.minimum(apart, 1.0) + 2 * facing, (apart > _NEAREST) & (facing > _FACING), options)


def _neighbours(
    poses: NDArray[np.float64], depth: NDArray[np.floating], options: AnchorOptions
) -> list[NDArray[np.int64]]:
    """Those from which things look different, but not too much."""
    apart, facing = _apart(poses)
    ratio = apart / depth[:, None]
    off = np.abs(np.log(np.maximum(ratio, _NEAREST) / options.best_baseline))
    return _chosen(3 * facing - off, (ratio > options.min_baseline) & (facing > _FACING), options)


def _apart(poses: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """``[N, N]`` metres between cameras, and cosines between the directions they look in."""
    centres, forward = poses[:, :3, 3], poses[:, :3, 2]
    return np.linalg.norm(centres[:, None] - centres[None], axis=2), forward @ forward.T


def _chosen(score: NDArray[np.float64], allowed: NDArray[np.bool_], options: AnchorOptions) -> list[NDArray[np.int64]]:
    """The best of those allowed, for each row."""
    order = np.argsort(np.where(allowed, -score, np.inf), axis=1, kind="stable")
    return [row[: min(options.neighbours, int(usable.sum()))] for row, usable in zip(order, allowed, strict=True)]


def _one_factor(views: _Views, others: list[NDArray[np.int64]], options: AnchorOptions) -> tuple[float, float]:
    """The factor for all views, and how much better it is than clearly different ones."""
    tries = torch.linspace(math.log(options.smallest), math.log(options.largest), _TRIES, device=views.depth.device)
    total, weight = torch.zeros_like(tries), 1e-9
    for index, near in enumerate(others):
        if len(near):
            total += views.costs(index, near, views.depth[index] * tries.exp()[:, None, None]).sum(dim=(1, 2))
            weight += float(views.weight[index].sum())
    cost = total / weight
    best = int(cost.argmin())
    different = (tries - tries[best]).abs() > _NEARLY
    return float(tries[best].exp()), float(cost[different].min() - cost[best])


def _field(
    views: _Views,
    others: list[NDArray[np.int64]],
    logs: Tensor,
    grid: tuple[int, int, float],
    stiffness: float,
) -> Tensor:
    """What to add to the logarithms ``[N, H, W]`` of the factors; the same shape."""
    rows, columns, reach = grid
    size = (views.height, views.width)
    now = F.interpolate(logs[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    steps = torch.linspace(-reach, reach, _STEPS, device=logs.device)
    fields = logs.new_zeros(len(logs), 1, rows, columns)
    for index, near in enumerate(others):
        if not len(near):
            continue
        tries = views.depth[index] * (now[index] + steps[:, None, None]).exp()
        cost = F.adaptive_avg_pool2d(views.costs(index, near, tries)[:, None], (rows, columns))[:, 0]
        fields[index, 0] = _smooth_choice(cost, steps, stiffness if rows * columns > 1 else 0.0)
    if rows * columns == 1:
        return fields[:, 0].expand_as(logs)
    return F.interpolate(fields, size=logs.shape[1:], mode="bicubic", align_corners=False)[:, 0]


def _smooth_choice(cost: Tensor, steps: Tensor, stiffness: float) -> Tensor:
    """For each cell the step that costs least, unlikeness to the mean of its four neighbours included.

    Args:
        cost: ``[L, rows, columns]``.
        steps: ``[L]``, evenly spaced.
        stiffness: see :class:`AnchorOptions`.

    Returns:
        ``[rows, columns]``, finer than the steps by a parabola through three of them.
    """
    field = torch.full_like(cost[0], float(steps[int(cost.mean(dim=(1, 2)).argmin())]))
    step = float(steps[1] - steps[0])
    for _ in range(_ROUNDS if stiffness else 1):
        padded = F.pad(field[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
        around = (padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]) / 4
        whole = cost + stiffness * (steps[:, None, None] - around) ** 2
        best = whole.argmin(dim=0).clamp(1, len(steps) - 2)
        low, middle, high = (whole.gather(0, (best + shift)[None])[0] for shift in (-1, 0, 1))
        bend = (low - 2 * middle + high).clamp(min=1e-9)
        field = steps[best] + step * ((low - high) / (2 * bend)).clamp(-1, 1)
    return field
