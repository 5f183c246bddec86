"""Frames of a map, read from the work folder when they are looked at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import overload

import numpy as np

from gen3r_core.io.images import read_image
from gen3r_core.mapping.fusion import PlacedView
from gen3r_core.maps.scene_map import MapFrame
from gen3r_core.offline.fusing import read_view
from gen3r_core.offline.keyframes import Keyframes

__all__ = ["MapFrames"]

_PIXEL_CENTRE = 0.5


class MapFrames(Sequence[MapFrame]):
    """Keyframes, then generated views.

    Args:
        work: folder with the views.
        keyframes: that were placed.
        generated: how many views were generated.
        depth: also give depth.
    """

    def __init__(self, work: Path, keyframes: Keyframes, generated: int, *, depth: bool) -> None:
        self._work, self._keyframes, self._generated, self._depth = work, keyframes, generated, depth
        self._several = len(keyframes.cameras) > 1

    def __len__(self) -> int:
        return len(self._keyframes) + self._generated

    @overload
    def __getitem__(self, number: int) -> MapFrame: ...
    @overload
    def __getitem__(self, number: slice) -> list[MapFrame]: ...
    def __getitem__(self, number: int | slice) -> MapFrame | list[MapFrame]:
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(len(self)))]
        number = range(len(self))[number]
        count = len(self._keyframes)
        if number >= count:
            path = self._work / "generated" / f"{number - count:06d}.npz"
            return self._frame(read_view(path, read_image(path.with_suffix(".png"))), None, "", generated=True)
        one = self._keyframes.table[number]
        view = read_view(self._work / "views" / f"{number:06d}.npz", self._keyframes.image(number))
        stamp = one.stamp_ns if self._keyframes.facts["timed"] else None
        return self._frame(view, stamp, one.camera if self._several else "", generated=False)

    def _frame(self, view: PlacedView, stamp: int | None, camera: str, *, generated: bool) -> MapFrame:
        K = np.array(view.intrinsics, dtype=np.float64)
        K[:2, 2] += _PIXEL_CENTRE
        depth = view.depth if self._depth else None
        return MapFrame(view.colors, np.array(view.T_world_cam), K, stamp, camera, generated, depth)
