"""Placed windows as one cloud and as a mesh, window by window: only one of them is in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from gen3r_core.errors import InputError
from gen3r_core.geometry.pixels import points_of_pixels
from gen3r_core.geometry.poses import Array, invert_poses
from gen3r_core.mapping.loops import seen_in
from gen3r_core.mapping.windows import Window, WindowStore
from gen3r_core.progress import JobMonitor
from gen3r_core.reconstruction.voxel_map import VoxelMap

__all__ = ["FusionOptions", "PlacedView", "PlacedWindows", "fuse_mesh", "fuse_voxels", "placed_views"]

_NEIGHBOURS = (-3, -1, 1, 3)
_BLOCK = 8
_FIRST_BLOCKS = 10_000
"""To begin with: more are made when they are needed."""


@dataclass(frozen=True)
class FusionOptions:
    """Which pixels become points.

    Attributes:
        quantile: share of a window's pixels, the least sure ones, that are left out.
        edge: departure of inverse depth from a line through its neighbours, over itself, from which there is an edge:
            points there lie on nothing.
        tolerance: relative difference of depths up to which a neighbouring frame sees the same surface. What a
            neighbour has in view but none sees is left out.
        max_depth: in median depths of the window; what is farther is left out.

    Raises:
        InputError: numbers make no sense.
    """

    quantile: float = 0.2
    edge: float = 0.06
    tolerance: float = 0.06
    max_depth: float = 5.0

    def __post_init__(self) -> None:
        if not 0 <= self.quantile < 1 or not (self.edge > 0 and self.tolerance > 0 and self.max_depth > 0):
            raise InputError(f"fusion needs a quantile in [0, 1) and positive limits, got {self}")


class PlacedWindows(Protocol):
    """What is used of a :class:`~gen3r_core.mapping.sequence.Placement`."""

    @property
    def scales(self) -> Array:
        """``[W]`` world units per unit of a window."""

    @property
    def T_world_cam(self) -> Array:  # noqa: N802 - transforms are named by direction
        """``[N, 4, 4]`` of frames."""

    @property
    def owner(self) -> NDArray[np.int64]:
        """``[N]`` the window whose depth of a frame is used."""


class PlacedView(NamedTuple):
    """A frame in the world.

    Attributes:
        frame: its number.
        T_world_cam: ``[4, 4]``.
        intrinsics: ``[3, 3]`` pixels, the first one's centre at (0, 0).
        depth: ``[H, W]`` float32 z-depth in the world's unit; 0 where it is not to be trusted.
        confidence: ``[H, W]`` float32 weights: sureness over squared distance, as far things are placed worse.
        colors: ``[H, W, 3]`` uint8 RGB.
    """

    frame: int
    T_world_cam: Array
    intrinsics: Array
    depth: NDArray[np.float32]
    confidence: NDArray[np.float32]
    colors: NDArray[np.uint8]

    def points(self) -> tuple[Array, NDArray[np.uint8], NDArray[np.float32]]:
        """World points ``[M, 3]``, colours and weights of the trusted pixels."""
        v, u = np.nonzero(self.depth)
        z, K, T = self.depth[v, u].astype(np.float64), self.intrinsics, self.T_world_cam
        local = points_of_pixels(u, v, z, K)
        return local @ T[:3, :3].T + T[:3, 3], self.colors[v, u], self.confidence[v, u]


def placed_views(
    store: WindowStore,
    names: Sequence[str],
    placement: PlacedWindows,
    options: FusionOptions | None = None,
    *,
    monitor: JobMonitor | None = None,
) -> Iterator[PlacedView]:
    """Each frame once, from the window that it is farthest inside of.

    Args:
        store: has the windows.
        names: of the windows, in order.
        placement: of the same windows.
        options: which pixels.
        monitor: told of stage "fusion", in windows.

    Raises:
        InputError: a window is missing.
        CancelledError: the monitor's callback asked for it.
    """
    options, monitor = options or FusionOptions(), monitor or JobMonitor()
    monitor.report("fusion", 0, len(names))
    for number, name in enumerate(names):
        window = store.get(name)
        own = [place for place, frame in enumerate(window.frames) if placement.owner[frame] == number]
        scale = float(placement.scales[number])
        poses = placement.T_world_cam[window.frames]
        trusted = _trusted(window, own, poses, scale, options)
        typical = _median_depth(window)
        for place in own:
            depth = np.where(trusted[place], window.depth[place].astype(np.float32), 0)
            far = np.maximum(depth / typical, 0.3)
            yield PlacedView(
                int(window.frames[place]),
                poses[place],
                window.intrinsics[place],
                (depth * scale).astype(np.float32),
                (window.confidence[place] / np.square(far)).astype(np.float32),
                window.colors[place],
            )
        monitor.report("fusion", number + 1, len(names))


def fuse_voxels(views: Iterator[PlacedView], voxel_map: VoxelMap) -> int:
    """Put views into a voxel map, weighted by confidence; how many points went in."""
    total = 0
    for view in views:
        points, colors, confidence = view.points()
        total += len(points) - voxel_map.insert(points, colors, confidence).refused
    return total


def fuse_mesh(views: Iterator[PlacedView], voxel: float, *, truncation: float | None = None, min_views: int = 1) -> Any:
    """A mesh of the surfaces that views agree on (B. Curless and M. Levoy, SIGGRAPH 1996).

    Blocks of voxels exist only near surfaces; each view is forgotten when it has been added.

    Args:
        views: from :func:`placed_views`.
        voxel: edge of a voxel in the world's unit.
        truncation: how far from a surface it counts, world units; None for four voxels.
        min_views: views that a place of the surface must have.

    Returns:
        An ``open3d.geometry.TriangleMesh`` with colours and normals; empty if nothing is trusted.

    Raises:
        InputError: the voxel's size is not positive.
    """
    if not (math.isfinite(voxel) and voxel > 0):
        raise InputError(f"the voxel size must be positive, got {voxel}")
    import open3d

    o3d: Any = open3d
    one = o3d.core.float32
    grid = o3d.t.geometry.VoxelBlockGrid(
        ("tsdf", "weight", "color"), (one, one, one), ((1), (1), (3)), voxel, _BLOCK, _FIRST_BLOCKS
    )
    multiple = 4.0 if truncation is None else truncation / voxel
    empty = True
    for view in views:
        farthest = float(view.depth.max())
        if farthest <= 0:
            continue
        empty = False
        K = o3d.core.Tensor(np.ascontiguousarray(view.intrinsics, dtype=np.float64))
        T = o3d.core.Tensor(np.ascontiguousarray(invert_poses(view.T_world_cam)))
        depth = o3d.t.geometry.Image(np.ascontiguousarray(view.depth))
        color = o3d.t.geometry.Image(np.ascontiguousarray(view.colors, dtype=np.float32) / 255)
        blocks = grid.compute_unique_block_coordinates(depth, K, T, 1.0, 2 * farthest, multiple)
        grid.integrate(blocks, depth, color, K, K, T, 1.0, 2 * farthest, multiple)
    if empty:
        return o3d.geometry.TriangleMesh()
    mesh = grid.extract_triangle_mesh(weight_threshold=min_views - 0.5).to_legacy()
    mesh.compute_vertex_normals()
    return mesh


def _trusted(
    window: Window, own: list[int], poses: Array, scale: float, options: FusionOptions
) -> dict[int, NDArray[np.bool_]]:
    """Pixels of a window's own frames that are to become points."""
    sure = window.confidence[window.depth > 0]
    least = float(np.quantile(sure.astype(np.float32), options.quantile)) if len(sure) else 0.0
    far = options.max_depth * _median_depth(window)
    found = {}
    for place in own:
        depth = window.depth[place].astype(np.float32)
        good = (depth > 0) & (depth < far) & (window.confidence[place] >= least) & ~_edges(depth, options.edge)
        rows, columns = np.nonzero(good)
        local = window.camera_points(place)[rows, columns] * scale
        points = local @ poses[place, :3, :3].T + poses[place, :3, 3]
        looked, agreed = np.zeros(len(points), dtype=bool), np.zeros(len(points), dtype=bool)
        for shift in _NEIGHBOURS:
            other = place + shift
            if not 0 <= other < len(window):
                continue
            inside, same = seen_in(
                window.depth[other], window.intrinsics[other], invert_poses(poses[other]), points, options.tolerance,
                scale=scale,
            )  # fmt: skip
            looked |= inside
            agreed |= same
        good[rows, columns] = agreed | ~looked
        found[place] = good
    return found


def _median_depth(window: Window) -> float:
    known = window.depth[window.depth > 0]
    return float(np.median(known.astype(np.float32))) if len(known) else 1.0


def _edges(depth: NDArray[np.float32], limit: float) -> NDArray[np.bool_]:
    """Pixels beside which the depth jumps.

    Inverse depth is linear over the picture of a plane, however slanted: its second difference tells edges and floors
    apart at every resolution.
    """
    inverse = 1 / np.where(depth > 0, depth, np.inf)
    found = np.zeros(depth.shape, dtype=bool)
    for axis in (0, 1):
        lines = np.moveaxis(inverse, axis, 0)
        bend = np.abs(lines[:-2] - 2 * lines[1:-1] + lines[2:])
        np.moveaxis(found, axis, 0)[1:-1] |= bend > limit * lines[1:-1]
    return found
