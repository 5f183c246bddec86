"""How far a map is from the world that was recorded: its path, and its points.

Path errors are absolute trajectory errors (ATE): root mean square distances of positions after the best rigid motion,
or the best similarity (S. Umeyama, IEEE PAMI 1991). Points are moved by the same transform, and their distances to
the nearest true surface are exact, as worlds are made of solids.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen3r_core.errors import InputError
from gen3r_core.geometry.pixels import points_of_pixels
from gen3r_core.geometry.poses import Array
from gen3r_core.geometry.sim3 import Sim3
from gen3r_core.worlds.camera import WorldCamera
from gen3r_core.worlds.recorded import Truth
from gen3r_core.worlds.world import make_world

__all__ = ["MapErrors", "best_motion", "measure_map", "path_error"]

_FEWEST = 3
_MOST_POINTS = 100_000
_NEAR_M = 0.07
_LOOKS, _LOOK, _FAR_M = 60, (24, 32), 6.0
"""Views of the true world that a map should cover: how many, of how many pixels, and up to how far, metres."""


@dataclass(frozen=True)
class MapErrors:
    """Errors of one map.

    Attributes:
        frames: keyframes that were compared.
        length_m: metres of their true path.
        metric: whether the map says that it is in metres.
        ate_m: after a rigid motion; None if the map is not metric.
        ate_scaled_m: after a similarity, metres.
        scale: map units in a metre, by that similarity.
        odometry_ate_m: of the recorded odometry at the same frames, after a rigid motion.
        cloud_median_m: median distance of points to the true surfaces, after the rigid motion; None if not metric.
        cloud_scaled_median_m: after the similarity.
        cloud_within_7cm: share of points that are at most 7 cm off, after the rigid motion or, if not metric, the
            similarity.
        cloud_p90_m: distance that nine of ten points stay within, moved as for ``cloud_within_7cm``.
        seen_within_7cm: completeness: share of the surfaces that the cameras saw which have a point within 7 cm, moved
            the same.
        points: that were looked at.
    """

    frames: int
    length_m: float
    metric: bool
    ate_m: float | None
    ate_scaled_m: float
    scale: float
    odometry_ate_m: float
    cloud_median_m: float | None
    cloud_scaled_median_m: float | None
    cloud_within_7cm: float | None
    cloud_p90_m: float | None
    seen_within_7cm: float | None
    points: int

    def facts(self) -> dict[str, Any]:
        """Plain values for JSON, path errors also in percent of its length."""
        share = {
            name: None if value is None else round(100 * value / self.length_m, 3)
            for name, value in (("ate_percent", self.ate_m), ("ate_scaled_percent", self.ate_scaled_m),
                                ("odometry_ate_percent", self.odometry_ate_m))
        }  # fmt: skip
        return {**asdict(self), **share}


def best_motion(source: Array, target: Array, *, scaled: bool) -> Sim3:
    """What brings points ``[N, 3]`` nearest to their counterparts ``[N, 3]``; with the best scale, or none."""
    if len(source) < _FEWEST:
        raise InputError(f"paths are compared at {_FEWEST} places at least, there are {len(source)}")
    p, g = source - source.mean(axis=0), target - target.mean(axis=0)
    U, _, Vh = np.linalg.svd(g.T @ p)
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(U) * np.linalg.det(Vh))])
    R = (U * signs) @ Vh
    turned = p @ R.T
    size = float(np.square(turned).sum())
    scale = float((turned * g).sum()) / size if scaled and size > 0 else 1.0
    scale = max(scale, 1e-9)  # a path that runs the other way round fits best as a point
    return Sim3(scale, R, target.mean(axis=0) - scale * R @ source.mean(axis=0))


def path_error(source: Array, target: Array, motion: Sim3) -> float:
    """Root mean square distance of ``[N, 3]`` places from ``[N, 3]`` after a motion."""
    return float(np.sqrt(np.square(motion.apply(source) - target).sum(axis=1).mean()))


def measure_map(folder: Path, truth: Truth) -> MapErrors:
    """Compare a map with the truth.

    Args:
        folder: of the map.
        truth: of the recording that it was made from.

    Raises:
        InputError: the folder is no map, or its frames are not those of the recording.
    """
    from gen3r_core.maps.folder import read_map

    found = read_map(folder)
    number = {int(stamp): index for index, stamp in enumerate(truth.stamps_ns.tolist())}
    pairs = [(number[frame.stamp_ns], frame.T_world_cam[:3, 3]) for frame in found.frames
             if frame.stamp_ns in number and not frame.generated]  # fmt: skip
    if len(pairs) < _FEWEST:
        raise InputError(f"{folder}: only {len(pairs)} of its frames are at stamps of the recording; it is of another")
    rows = [row for row, _ in pairs]
    places = np.stack([place for _, place in pairs]).astype(np.float64)
    true, odometry = truth.T_world_cam[rows, :3, 3], truth.T_odom_cam[rows, :3, 3]
    length = float(np.linalg.norm(np.diff(true, axis=0), axis=1).sum())
    rigid, similar = (best_motion(places, true, scaled=scaled) for scaled in (False, True))
    points = found.cloud.points[~found.cloud.generated].astype(np.float64)
    points = points[:: max(1, -(-len(points) // _MOST_POINTS))]
    one = found.frames[0]
    wide = 2 * math.atan(one.image.shape[1] / (2 * float(one.intrinsics[0, 0])))
    camera = WorldCamera(make_world(truth.seed, truth.kind), _LOOK, wide)
    off = {name: camera.distance(motion.apply(points)) for name, motion in (("rigid", rigid), ("similar", similar))}
    best, motion = (off["rigid"], rigid) if found.metric else (off["similar"], similar)
    cloud = motion.apply(found.cloud.points[~found.cloud.generated].astype(np.float64))
    chosen = rows[:: max(1, -(-len(rows) // _LOOKS))]
    return MapErrors(
        frames=len(rows),
        length_m=length,
        metric=found.metric,
        ate_m=path_error(places, true, rigid) if found.metric else None,
        ate_scaled_m=path_error(places, true, similar),
        scale=1 / similar.scale,
        odometry_ate_m=path_error(odometry, true, best_motion(odometry, true, scaled=False)),
        cloud_median_m=_median(off["rigid"]) if found.metric else None,
        cloud_scaled_median_m=_median(off["similar"]),
        cloud_within_7cm=float((best <= _NEAR_M).mean()) if len(best) else None,
        cloud_p90_m=float(np.quantile(best, 0.9)) if len(best) else None,
        seen_within_7cm=_covered(camera, truth.T_world_cam[chosen], cloud),
        points=len(points),
    )


def _covered(camera: WorldCamera, poses: Array, cloud: Array) -> float | None:
    """Share of what cameras see that has a point of the cloud near it."""
    from scipy.spatial import cKDTree

    if not len(cloud):
        return None
    seen = []
    for T in poses:
        depth, K = camera.picture(T).depth.astype(np.float64), camera.intrinsics
        v, u = np.nonzero((depth > 0) & (depth < _FAR_M))
        z = depth[v, u]
        local = points_of_pixels(u + 0.5, v + 0.5, z, K)
        seen.append(local @ T[:3, :3].T + T[:3, 3])
    far, _ = cKDTree(cloud).query(np.concatenate(seen), distance_upper_bound=_NEAR_M)
    return float(np.isfinite(far).mean())


def _median(values: NDArray[np.float64]) -> float | None:
    return float(np.median(values)) if len(values) else None
