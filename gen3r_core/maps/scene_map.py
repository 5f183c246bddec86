"""What an offline reconstruction hands to its writers and a viewer reads: keyframes, a cloud, perhaps a mesh.

Conventions are those of :mod:`gen3r_core.scene`: OpenCV camera axes, ``T_world_cam`` takes points from camera to
world. The world has z up where gravity is known; its unit is the metre where ``SceneMap.metric``, else the map's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen3r_core.errors import InputError

__all__ = ["MapCloud", "MapFrame", "MapMesh", "SceneMap"]

UNKNOWN_FRAME = -1
"""In :attr:`MapCloud.frame`: no frame is known to have seen the point."""


@dataclass(frozen=True, eq=False)
class MapFrame:
    """A keyframe, or a generated view.

    Attributes:
        image: ``[H, W, 3]`` uint8 RGB as the model saw it (rectified, cropped to the model's size).
        T_world_cam: ``[4, 4]`` float64, rigid, OpenCV axes, map units.
        intrinsics: ``[3, 3]`` float64 pixels of ``image``, zero skew; (0, 0) is the first pixel's corner.
        stamp_ns: nanoseconds since the epoch (or the recording's own beginning); None where frames have no time.
        camera: name of its camera or topic, "" where there is only one.
        generated: made by the model, not seen.
        depth: ``[H, W]`` float32 z-depth in map units, 0 where unknown; None where it is not kept.
    """

    image: NDArray[np.uint8]
    T_world_cam: NDArray[np.float64]
    intrinsics: NDArray[np.float64]
    stamp_ns: int | None = None
    camera: str = ""
    generated: bool = False
    depth: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        image = self.image
        if image.ndim != 3 or image.shape[2] != 3 or image.size == 0 or image.dtype != np.uint8:
            raise InputError(f"a map's frame has an image [H, W, 3] uint8, got {image.shape} {image.dtype}")
        if self.T_world_cam.shape != (4, 4) or self.intrinsics.shape != (3, 3):
            raise InputError(
                f"a map's frame has a pose [4, 4] and intrinsics [3, 3], got {self.T_world_cam.shape} and "
                f"{self.intrinsics.shape}"
            )
        if not (np.isfinite(self.T_world_cam).all() and np.isfinite(self.intrinsics).all()):
            raise InputError("the pose or the intrinsics of a map's frame contain NaN or infinite values")
        if not (self.intrinsics[0, 0] > 0 and self.intrinsics[1, 1] > 0):
            raise InputError("the focal lengths of a map's frame must be positive")
        if self.depth is not None and self.depth.shape != image.shape[:2]:
            raise InputError(f"the depth of a map's frame must be {image.shape[:2]}, got {self.depth.shape}")

    @property
    def size(self) -> tuple[int, int]:
        """``(height, width)`` in pixels."""
        return int(self.image.shape[0]), int(self.image.shape[1])


@dataclass(frozen=True, eq=False)
class MapCloud:
    """Points of a map.

    Attributes:
        points: ``[N, 3]`` float32, finite, world frame, map units.
        colors: ``[N, 3]`` uint8 RGB.
        confidence: ``[N]`` float32, not negative; larger is surer.
        generated: ``[N]`` bool, from generated frames alone.
        frame: ``[N]`` int32 index of the frame that saw the point first, -1 where that is not known.
    """

    points: NDArray[np.float32]
    colors: NDArray[np.uint8]
    confidence: NDArray[np.float32]
    generated: NDArray[np.bool_]
    frame: NDArray[np.int32]

    def __post_init__(self) -> None:
        count = len(self.points)
        wanted = {
            "points": ((count, 3), np.float32),
            "colors": ((count, 3), np.uint8),
            "confidence": ((count,), np.float32),
            "generated": ((count,), np.bool_),
            "frame": ((count,), np.int32),
        }
        for name, (shape, dtype) in wanted.items():
            values = getattr(self, name)
            if values.shape != shape or values.dtype != dtype:
                raise InputError(
                    f"the {name} of a map's cloud must be {list(shape)} {np.dtype(dtype)}, got {list(values.shape)} "
                    f"{values.dtype}"
                )
        if not np.isfinite(self.points).all():
            bad = ~np.isfinite(self.points).all(axis=1)
            raise InputError(f"{int(bad.sum())} of {count} points of a map's cloud are NaN or infinite")

    def __len__(self) -> int:
        return len(self.points)

    @classmethod
    def empty(cls) -> MapCloud:
        """A cloud without points."""
        return cls(
            np.zeros((0, 3), np.float32),
            np.zeros((0, 3), np.uint8),
            np.zeros(0, np.float32),
            np.zeros(0, np.bool_),
            np.zeros(0, np.int32),
        )

    def select(self, index: NDArray[np.bool_] | NDArray[np.int64]) -> MapCloud:
        """The points of a mask ``[N]`` or of indices ``[M]``, in their order."""
        return MapCloud(
            self.points[index], self.colors[index], self.confidence[index], self.generated[index], self.frame[index]
        )


@dataclass(frozen=True, eq=False)
class MapMesh:
    """A surface with coloured corners.

    Attributes:
        vertices: ``[V, 3]`` float32, world frame, map units.
        colors: ``[V, 3]`` uint8 RGB.
        triangles: ``[T, 3]`` int32 indices of vertices.
    """

    vertices: NDArray[np.float32]
    colors: NDArray[np.uint8]
    triangles: NDArray[np.int32]

    def __post_init__(self) -> None:
        count = len(self.vertices)
        for name, shape, dtype in (
            ("vertices", (count, 3), np.float32),
            ("colors", (count, 3), np.uint8),
            ("triangles", (len(self.triangles), 3), np.int32),
        ):
            values = getattr(self, name)
            if values.shape != shape or values.dtype != dtype:
                raise InputError(
                    f"the {name} of a map's mesh must be {list(shape)} {np.dtype(dtype)}, got {list(values.shape)} "
                    f"{values.dtype}"
                )
        if self.triangles.size and not (self.triangles.min() >= 0 and self.triangles.max() < count):
            raise InputError(f"a map's mesh has triangles with vertices that are not there; it has {count}")


@dataclass(frozen=True, eq=False)
class SceneMap:
    """A reconstruction.

    Attributes:
        frames: in the order of the recording; may be lazy (each access may read files), so go through it once and
            one by one. Empty where only a cloud is at hand.
        cloud: all points.
        metric: the unit is the metre and not the map's own.
        run: what ``run.json`` says, plain values for JSON (see ``docs/outputs.md``).
        mesh: None where none was asked for.
    """

    frames: Sequence[MapFrame]
    cloud: MapCloud
    metric: bool
    run: dict[str, Any] = field(default_factory=dict)
    mesh: MapMesh | None = None
