"""A bounded map of coloured points that grows while a robot drives: one mean point for each voxel.

Voxels are sorted by a 63-bit key of their cell, values lie in the order in which voxels appeared; so a new
cloud costs a sort of its own points and a merge of keys, and never moves the map's values. Observed and
generated points are kept apart, and what was observed replaces what was generated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gen3r_core.errors import InputError
from gen3r_core.reconstruction.cloud import PointCloud
from gen3r_core.reconstruction.packing import bytes_of_colors

__all__ = ["Cells", "Inserted", "MapPoints", "VoxelLayer", "VoxelMap", "cells_of"]

_Ints = NDArray[np.int64]
_Floats = NDArray[np.float32]

_BITS = 21
_REACH = 1 << (_BITS - 1)
"""Cells on either side of the origin along each axis: 20 km of 2 cm."""

_KEEP = 0.9
"""Share of the bound that an eviction leaves, so that not every insertion has to evict."""

_LARGEST_WEIGHT = 200.0
_HALF_LIFE = 20.0


class Inserted(NamedTuple):
    """What became of a cloud.

    Attributes:
        added: voxels that are new.
        updated: voxels that were there.
        refused: points that are not finite, too far away, or without confidence.
        evicted: voxels that had to leave, of any age.
    """

    added: int
    updated: int
    refused: int
    evicted: int


class MapPoints(NamedTuple):
    """The map's points, in order of their voxels.

    Attributes:
        points: ``[N, 3]`` float64, frame and unit of what was inserted.
        colors: ``[N, 3]`` uint8 RGB.
        confidence: ``[N]`` float32, mean of the points that fell into the voxel.
        generated: ``[N]`` bool.
    """

    points: NDArray[np.float64]
    colors: NDArray[np.uint8]
    confidence: NDArray[np.float32]
    generated: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Cells:
    """A cloud by the cells of the grid that its points lie in.

    Attributes:
        keys: ``[K]`` int64, sorted: 21 bits each for x, y, z, counted from the far corner of the grid.
        sums: ``[8, K]`` float64 over the points of each cell: weight, number, and times weight: position within the
            cell (0 to 1 along x, y, z), red, green, blue (0 to 255).
    """

    keys: _Ints
    sums: NDArray[np.float64]


_COLUMNS = 8


class VoxelLayer:
    """Points of one kind.

    Position and colour of a voxel are means weighted by confidence. Weights stop growing at a bound, so that a
    voxel still follows what is seen now (B. Curless and M. Levoy's running mean, SIGGRAPH 1996, with the cap that
    real-time fusion puts on it).

    Args:
        voxel_size: edge of a voxel.
        max_points: bound on the number of voxels. When it is passed, the least are given up until nine tenths are
            left: those whose ``confidence * 2^(-age / half_life)`` is smallest, age in insertions since a voxel
            was last seen. Not the weight: a place seen for long would keep new ones out of a full map.
        half_life: in insertions.

    Raises:
        InputError: if a number makes no sense.
    """

    def __init__(self, voxel_size: float, max_points: int, half_life: float = _HALF_LIFE) -> None:
        if not (math.isfinite(voxel_size) and voxel_size > 0):
            raise InputError(f"the voxel size must be positive, got {voxel_size}")
        if max_points < 1:
            raise InputError(f"a map needs room for at least 1 point, got max_points {max_points}")
        if not half_life > 0:
            raise InputError(f"the half-life of points must be positive, got {half_life}")
        self.voxel_size, self.max_points, self.half_life = voxel_size, max_points, half_life
        self.clear()

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def keys(self) -> _Ints:
        """``[N]`` sorted keys of its voxels, see :class:`Cells`."""
        return self._keys

    def clear(self) -> None:
        """Forgets everything."""
        self._keys: _Ints = np.empty(0, dtype=np.int64)  # sorted
        self._slots: _Ints = np.empty(0, dtype=np.int64)  # where each key's values are
        self._means: _Floats = np.empty((_COLUMNS, 0), dtype=np.float32)  # weight, count, then means; by slot
        self._seen: _Ints = np.empty(0, dtype=np.int64)  # insertion that a slot was last part of
        self._turn = 0

    def insert(self, cells: Cells, refused: int = 0) -> Inserted:
        """Adds a cloud that :func:`cells_of` has sorted, passing on how many of its points were refused."""
        self._turn += 1
        place = np.searchsorted(self._keys, cells.keys)
        there = np.zeros(len(cells.keys), dtype=bool)
        if len(self._keys):
            there = self._keys[np.minimum(place, len(self._keys) - 1)] == cells.keys
        updated, fresh = int(there.sum()), ~there
        self._update(self._slots[place[there]], cells.sums[:, there])
        added = len(there) - updated
        if added:
            self._append(cells.keys[fresh], place[fresh], cells.sums[:, fresh])
        return Inserted(added, updated, refused, self._evict())

    def remove(self, keys: _Ints) -> int:
        """Gives up voxels of these sorted keys, as far as they are there; how many that were."""
        if not len(self._keys) or not len(keys):
            return 0
        place = np.minimum(np.searchsorted(keys, self._keys), len(keys) - 1)
        gone = keys[place] == self._keys
        count = int(gone.sum())
        if count:
            self._keep(~gone)
        return count

    def points(self, generated: bool, min_confidence: float = 0.0) -> MapPoints:
        """All points of at least a mean confidence, in order of their keys.

        Args:
            generated: what to mark them as.
            min_confidence: see :class:`MapPoints`.
        """
        means = self._means[:, self._slots]
        confidence = means[0] / means[1]
        keys = self._keys
        if min_confidence > 0:
            kept = confidence >= min_confidence
            means, confidence, keys = means[:, kept], confidence[kept], keys[kept]
        cells = np.stack([(keys >> shift & (2 * _REACH - 1)) - _REACH for shift in (2 * _BITS, _BITS, 0)], axis=1)
        points = (cells + means[2:5].T.astype(np.float64)) * self.voxel_size
        colors = np.rint(means[5:].T).astype(np.uint8)
        return MapPoints(points, colors, confidence, np.full(len(keys), generated))

    def _update(self, slots: _Ints, sums: NDArray[np.float64]) -> None:
        old = self._means[:, slots].astype(np.float64)
        weight = old[0] + sums[0]
        means = np.empty_like(old)
        means[2:] = (old[2:] * old[0] + sums[2:]) / weight
        shrink = np.minimum(1.0, _LARGEST_WEIGHT / weight)  # of both, so that their ratio stays the confidence
        means[0], means[1] = weight * shrink, (old[1] + sums[1]) * shrink
        self._means[:, slots] = means
        self._seen[slots] = self._turn

    def _append(self, keys: _Ints, place: _Ints, sums: NDArray[np.float64]) -> None:
        count = len(self._keys)
        slots = np.arange(count, count + len(keys))
        if count + len(keys) > self._means.shape[1]:
            room = max(2 * self._means.shape[1], count + len(keys))
            means, seen = np.empty((_COLUMNS, room), dtype=np.float32), np.empty(room, dtype=np.int64)
            means[:, :count], seen[:count] = self._means[:, :count], self._seen[:count]
            self._means, self._seen = means, seen
        shrink = np.minimum(1.0, _LARGEST_WEIGHT / sums[0])
        self._means[:2, slots[0] : slots[-1] + 1] = sums[:2] * shrink
        self._means[2:, slots[0] : slots[-1] + 1] = sums[2:] / sums[0]
        self._seen[slots] = self._turn
        # Both lists of keys are sorted: where the new ones go is known, the old ones fill the rest.
        at = place + np.arange(len(keys))
        old = np.ones(count + len(keys), dtype=bool)
        old[at] = False
        for name, fresh in (("_keys", keys), ("_slots", slots)):
            merged = np.empty(len(old), dtype=np.int64)
            merged[at], merged[old] = fresh, getattr(self, name)
            setattr(self, name, merged)

    def _evict(self) -> int:
        """Back to :data:`_KEEP` of the bound, if it was passed; how many voxels left."""
        count = len(self._keys)
        if count <= self.max_points:
            return 0
        left = max(1, int(self.max_points * _KEEP))
        confidence = self._means[0, :count] / self._means[1, :count]
        score = (np.log2(confidence) + self._seen[:count] / self.half_life)[self._slots]
        limit = np.partition(score, count - left)[count - left]
        kept = score > limit
        # Of those at the limit itself, the first by key: the same on every machine.
        alike = np.flatnonzero(score == limit)
        kept[alike[: left - int(kept.sum())]] = True
        self._keep(kept)
        return count - left

    def _keep(self, kept: NDArray[np.bool_]) -> None:
        """Keeps some voxels, by place in the sorted keys, and frees the room of the others."""
        slots = self._slots[kept]
        self._keys, self._slots = self._keys[kept], np.arange(len(slots))
        self._means, self._seen = self._means[:, slots], self._seen[slots]


class VoxelMap:
    """An accumulated map with an observed and a generated layer.

    Not safe for several threads at once.

    Args:
        voxel_size: edge of a voxel, in the unit of the points (metres in a robot's world).
        max_points: bound on the observed points.
        max_generated: bound on the generated ones; None for a quarter of ``max_points``.
        half_life: see :class:`VoxelLayer`.

    Raises:
        InputError: if a number makes no sense.
    """

    def __init__(
        self,
        voxel_size: float = 0.02,
        max_points: int = 2_000_000,
        max_generated: int | None = None,
        half_life: float = _HALF_LIFE,
    ) -> None:
        self.observed = VoxelLayer(voxel_size, max_points, half_life)
        self.generated = VoxelLayer(
            voxel_size, max(1, max_points // 4) if max_generated is None else max_generated, half_life
        )

    def __len__(self) -> int:
        return len(self.observed) + len(self.generated)

    def clear(self) -> None:
        """Forgets everything: the world frame has jumped, or a new scene begins."""
        self.observed.clear()
        self.generated.clear()

    def insert(
        self,
        points: NDArray[np.floating[Any]],
        colors: NDArray[Any],
        confidence: NDArray[np.floating[Any]] | None = None,
        *,
        generated: bool = False,
    ) -> Inserted:
        """Adds a cloud.

        Observed points remove generated ones from their voxels; generated points do not enter voxels that were
        observed.

        Args:
            points: ``[N, 3]`` float in the map's fixed frame and unit. Those that are not finite are left out.
            colors: ``[N, 3]`` uint8 RGB, or float RGB in [0, 1].
            confidence: ``[N]`` float weights; those that are not positive and finite leave their points out. None
                weighs all alike, with 1.
            generated: to which layer they belong.

        Returns:
            What became of them.

        Raises:
            InputError: if shapes or kinds do not fit.
        """
        cells, refused = cells_of(points, colors, confidence, self.observed.voxel_size)
        if generated:
            known = self.observed.keys
            if len(known) and len(cells.keys):
                place = np.minimum(np.searchsorted(known, cells.keys), len(known) - 1)
                unseen = known[place] != cells.keys
                cells = Cells(cells.keys[unseen], cells.sums[:, unseen])
            return self.generated.insert(cells, refused)
        replaced = self.generated.remove(cells.keys)
        inserted = self.observed.insert(cells, refused)
        return inserted._replace(evicted=inserted.evicted + replaced)

    def points(self, *, include_generated: bool = False, min_confidence: float = 0.0) -> MapPoints:
        """The map's points: observed ones, then generated ones if asked for.

        Args:
            include_generated: both layers.
            min_confidence: leave out points whose mean confidence is less.
        """
        observed = self.observed.points(False, min_confidence)
        if not include_generated:
            return observed
        generated = self.generated.points(True, min_confidence)
        return MapPoints(
            np.concatenate([observed.points, generated.points]),
            np.concatenate([observed.colors, generated.colors]),
            np.concatenate([observed.confidence, generated.confidence]),
            np.concatenate([observed.generated, generated.generated]),
        )

    def cloud(self, *, include_generated: bool = False, min_confidence: float = 0.0) -> PointCloud:
        """The same as a cloud for :func:`gen3r_core.io.ply.write_ply`."""
        found = self.points(include_generated=include_generated, min_confidence=min_confidence)
        return PointCloud(found.points, found.colors / 255)


def cells_of(
    points: NDArray[np.floating[Any]],
    colors: NDArray[Any],
    confidence: NDArray[np.floating[Any]] | None,
    voxel_size: float,
) -> tuple[Cells, int]:
    """Sorts a cloud into the cells of a grid; arguments as :meth:`VoxelMap.insert` has them.

    Returns:
        The cells, and how many points were left out.

    Raises:
        InputError: if shapes or kinds do not fit.
    """
    if points.ndim != 2 or points.shape[1] != 3 or points.dtype.kind != "f":
        raise InputError(f"points must be floats of shape [N, 3], got {points.dtype} {list(points.shape)}")
    if colors.shape != points.shape:
        raise InputError(f"colours must have shape {list(points.shape)} as the points have, got {list(colors.shape)}")
    if confidence is not None and (confidence.shape != points.shape[:1] or confidence.dtype.kind != "f"):
        raise InputError(
            f"confidences must be floats of shape [{len(points)}] as there are so many points, got {confidence.dtype} "
            f"{list(confidence.shape)}"
        )
    rgb = bytes_of_colors(colors)
    # float64: in float32 a point 100 km away would not know its voxel.
    scaled = [points[:, axis].astype(np.float64) / voxel_size for axis in range(3)]
    usable = np.ones(len(points), dtype=bool)
    for column in scaled:
        usable &= (column >= -_REACH) & (column < _REACH)  # False for NaN
    if confidence is not None:
        usable &= np.isfinite(confidence) & (confidence > 0)
    weights = np.ones(len(points)) if confidence is None else confidence.astype(np.float64)
    if not usable.all():
        scaled = [column[usable] for column in scaled]
        rgb, weights = rgb[usable], weights[usable]
    corners = [np.floor(column) for column in scaled]
    cell = [corner.astype(np.int64) + _REACH for corner in corners]
    keys = cell[0] << 2 * _BITS | cell[1] << _BITS | cell[2]
    # Sums run in the order of the points, whatever the sort does with equal keys: the same on every machine.
    cells, cell_of = np.unique(keys, return_inverse=True)
    offsets = [column - corner for column, corner in zip(scaled, corners, strict=True)]
    sums = np.empty((_COLUMNS, len(cells)))
    for row, column in enumerate([weights, np.ones(len(keys)), *(part * weights for part in (*offsets, *rgb.T))]):
        sums[row] = np.bincount(cell_of, weights=column, minlength=len(cells))
    return Cells(cells, sums), len(points) - len(keys)
