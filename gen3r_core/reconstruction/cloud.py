"""Coloured point clouds: from point maps to a cloud without strays, thinned on a voxel grid.

The filters do what the export published with Gen3R does (arXiv 2601.04090, public code), but for
its global random generator.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from gen3r_core.errors import Gen3RError, InputError

if TYPE_CHECKING:
    from torch import Tensor  # a robot's node writes clouds without loading PyTorch

OUTLIER_NEIGHBOURS = 25
OUTLIER_RATIO = 1.25
VOXEL_SIZE = 0.005
VOXEL_SIZE_WITHOUT_FAR = 0.003
NEAREST_PERCENT = 80.0
"""What remains, by z, when the farthest points are removed."""

_NEAR_SAMPLES = 2000
_NEAR_NEIGHBOURS = 10
_NEAR_RADIUS = 4.0
_LARGEST_GRID = 2**31 - 1


@dataclass(frozen=True)
class PointCloud:
    """Points with colours.

    Attributes:
        points: ``[N, 3]`` float64 or float32, finite; frame and unit are the owner's matter.
        colors: ``[N, 3]`` RGB in [0, 1], same dtype kind.
    """

    points: NDArray[np.floating[Any]]
    colors: NDArray[np.floating[Any]]

    def __post_init__(self) -> None:
        if self.points.ndim != 2 or self.points.shape[1] != 3 or self.colors.shape != self.points.shape:
            raise InputError(
                f"a point cloud has points [N, 3] and colours [N, 3], got {self.points.shape} and {self.colors.shape}"
            )
        if self.points.dtype.kind != "f" or self.colors.dtype.kind != "f":
            raise InputError(
                f"a point cloud has floating point numbers, got {self.points.dtype} and {self.colors.dtype}; "
                f"divide 8-bit colours by 255"
            )
        finite = np.isfinite(self.points).all(axis=1) & np.isfinite(self.colors).all(axis=1)
        if not finite.all():
            raise InputError(
                f"{int((~finite).sum())} of {len(finite)} points are NaN or infinite, the first is point "
                f"{int(np.argmin(finite))}; leave them out with a mask"
            )
        if self.colors.size and not (self.colors.min() >= 0 and self.colors.max() <= 1):
            raise InputError(
                f"colours of a point cloud lie between 0 and 1, got {self.colors.min():.4g} to {self.colors.max():.4g}"
            )

    def __len__(self) -> int:
        return int(self.points.shape[0])

    @classmethod
    def from_maps(cls, points: Tensor, colors: Tensor, mask: Tensor | None = None) -> Self:
        """Gathers the pixels of point maps.

        Args:
            points: ``[..., 3]`` float.
            colors: ``[..., 3]`` float RGB, clipped to [0, 1].
            mask: ``[...]`` bool or uint8, the pixels to take; None for all.

        Raises:
            InputError: if shapes do not fit, or a point that is taken is not finite.
        """
        if points.ndim == 0 or points.shape[-1] != 3 or colors.shape != points.shape:
            raise InputError(
                f"points and colours must have one shape [..., 3], got {tuple(points.shape)} and {tuple(colors.shape)}"
            )
        if mask is not None and mask.shape != points.shape[:-1]:
            raise InputError(
                f"the mask must have shape {tuple(points.shape[:-1])} as the points have, got {tuple(mask.shape)}"
            )
        chosen = (points, colors) if mask is None else (points[mask.bool()], colors[mask.bool()])
        flat_points, flat_colors = (values.detach().reshape(-1, 3).float().cpu().numpy() for values in chosen)
        return cls(flat_points.astype(np.float64), flat_colors.clip(0, 1).astype(np.float64))

    def select(self, index: NDArray[np.bool_] | NDArray[np.int64]) -> PointCloud:
        """The points of a mask ``[N]`` or of indices ``[M]``, in their order."""
        return PointCloud(self.points[index], self.colors[index])


def export_cloud(
    cloud: PointCloud, *, remove_far: bool = False, generator: np.random.Generator | None = None
) -> PointCloud:
    """What the published script saves: strays removed, thinned to one point per voxel.

    Args:
        cloud: points in scene units, z away from the first camera.
        remove_far: first remove the farthest 20 % by z, and use voxels of 0.003 instead of 0.005.
        generator: see :func:`filter_cloud`.

    Returns:
        The smaller cloud, float64.

    Raises:
        InputError: if the cloud is empty.
        Gen3RError: if Open3D cannot be loaded.
    """
    if len(cloud) == 0:
        raise InputError("there is no point to export: every pixel was masked out; check the depth mask")
    kept = filter_cloud(remove_farthest(cloud) if remove_far else cloud, generator=generator)
    return voxel_down_sample(kept, VOXEL_SIZE_WITHOUT_FAR if remove_far else VOXEL_SIZE, origin="corner")


def remove_farthest(cloud: PointCloud, keep_percent: float = NEAREST_PERCENT) -> PointCloud:
    """Keeps the points whose z is at most the given percentile (float32, as the published script has it)."""
    if len(cloud) == 0:
        return cloud
    z = cloud.points[:, 2].astype(np.float32)
    return cloud.select(z <= np.percentile(z, keep_percent))


def filter_cloud(
    cloud: PointCloud,
    *,
    neighbours: int = OUTLIER_NEIGHBOURS,
    ratio: float = OUTLIER_RATIO,
    near_percent: float = 0.0,
    generator: np.random.Generator | None = None,
) -> PointCloud:
    """Removes strays: points farther from their neighbours than most.

    A point stays if the mean distance to its nearest ``neighbours`` points (itself included) is
    below ``mean + ratio * standard deviation`` of that quantity. Then, of the nearest
    ``near_percent`` of points by z, those with at most 10 points (itself included) within four
    times the median nearest-neighbour distance go as well. The published script has 0 there,
    with which this second step does nothing.

    Args:
        cloud: N points. Fewer than 3 are returned as they are, as they have no statistics.
        neighbours: how many nearest points.
        ratio: in standard deviations.
        near_percent: 0 to 100.
        generator: draws the up to 2000 points whose median distance is measured; seed 0 if None.

    Returns:
        The points that stay, those of the near group first.

    Raises:
        InputError: if a number makes no sense.
        Gen3RError: if Open3D cannot be loaded.
    """
    if neighbours < 1 or not ratio > 0 or not 0 <= near_percent <= 100:
        raise InputError(
            f"the stray filter needs at least 1 neighbour, a positive ratio and 0 to 100 percent, got {neighbours}, "
            f"{ratio} and {near_percent}"
        )
    if len(cloud) < 3:
        return cloud
    _, kept = _to_open3d(cloud).remove_statistical_outlier(nb_neighbors=neighbours, std_ratio=ratio)
    inliers = cloud.select(np.asarray(kept, dtype=np.int64))
    if len(inliers) == 0:  # all points at one place: no distance is below the mean
        return cloud
    z = inliers.points[:, 2]
    near = z <= np.percentile(z, near_percent)
    near_cloud, far_cloud = inliers.select(near), inliers.select(~near)
    if len(near_cloud) >= 2 and near_cloud.points[:, 2].min() < near_cloud.points[:, 2].max():
        near_cloud = _remove_lonely(near_cloud, generator or np.random.default_rng(0))
    return PointCloud(
        np.concatenate([near_cloud.points, far_cloud.points]), np.concatenate([near_cloud.colors, far_cloud.colors])
    )


def voxel_down_sample(
    cloud: PointCloud, voxel_size: float, *, origin: Literal["centre", "corner"] = "centre"
) -> PointCloud:
    """Averages points and colours within each cell of a cubic grid.

    Args:
        cloud: N points.
        voxel_size: edge of a cell in the points' unit.
        origin: where the grid begins: half a cell below the smallest coordinates ("centre", as
            Open3D's ``voxel_down_sample``), or at them ("corner", as its tracing variant, which the
            published export uses).

    Returns:
        One point for each cell that has any, float64, cells in order of x, y, z.

    Raises:
        InputError: if the size is not positive, or so small that the grid has over 2^31 cells a side.
    """
    if not (np.isfinite(voxel_size) and voxel_size > 0):
        raise InputError(f"the voxel size must be positive, got {voxel_size}")
    if len(cloud) == 0:
        return cloud
    points = cloud.points.astype(np.float64)
    start = points.min(axis=0) - (voxel_size / 2 if origin == "centre" else 0.0)
    cells = np.floor((points - start) / voxel_size)
    if cells.max() >= _LARGEST_GRID:
        extent = np.ptp(points, axis=0).max()
        raise InputError(
            f"the voxel size {voxel_size} is too small for a cloud that extends over {extent:.4g}; remove far points "
            f"or use larger voxels"
        )
    group = _cell_groups(cells.astype(np.int64))
    count = np.bincount(group)
    columns = [*points.T, *cloud.colors.T.astype(np.float64)]
    means = np.stack([np.bincount(group, weights=column) / count for column in columns], axis=1)
    return PointCloud(means[:, :3], means[:, 3:].clip(0, 1))


def _cell_groups(cells: NDArray[np.int64]) -> NDArray[np.int64]:
    """Numbers the distinct rows of ``[N, 3]`` non-negative cells in order of x, y, z; ``[N]``."""
    sides = [int(side) + 1 for side in cells.max(axis=0)]
    if sides[0] * sides[1] * sides[2] < 2**63:
        key = (cells[:, 0] * sides[1] + cells[:, 1]) * sides[2] + cells[:, 2]
        group: NDArray[np.int64] = np.unique(key, return_inverse=True)[1]
        return group
    group = cells[:, 0]  # axis by axis: at most N groups times 2^31 cells
    for axis in (1, 2):
        group = np.unique(group, return_inverse=True)[1]
        group = np.unique(group * sides[axis] + cells[:, axis], return_inverse=True)[1]
    return group


def import_open3d() -> ModuleType:
    """Open3D, imported only where it is needed, as that takes a second or more.

    Raises:
        Gen3RError: naming what to install, if it cannot be loaded.
    """
    try:
        import open3d
    except (ImportError, OSError) as error:
        raise Gen3RError(
            f"Open3D, which filters and reads point clouds, cannot be loaded: {error}. Where a shared library is "
            f"missing, install the Debian packages libusb-1.0-0, libgl1 and libgomp1; where the module is missing, "
            f"run: pip install open3d"
        ) from error
    module: ModuleType = open3d
    return module


def _remove_lonely(cloud: PointCloud, generator: np.random.Generator) -> PointCloud:
    from scipy.spatial import cKDTree

    sample = generator.choice(len(cloud), min(_NEAR_SAMPLES, len(cloud)), replace=False)
    distances = cKDTree(cloud.points).query(cloud.points[sample], k=2)[0][:, 1]
    radius = _NEAR_RADIUS * float(np.median(distances))
    if radius <= 0:
        return cloud
    _, kept = _to_open3d(cloud).remove_radius_outlier(nb_points=_NEAR_NEIGHBOURS, radius=radius)
    return cloud.select(np.asarray(kept, dtype=np.int64))


def _to_open3d(cloud: PointCloud) -> Any:
    o3d = import_open3d()
    converted = o3d.geometry.PointCloud()
    converted.points = o3d.utility.Vector3dVector(cloud.points.astype(np.float64))
    return converted
