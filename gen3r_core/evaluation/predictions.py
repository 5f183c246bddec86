"""What a model says about a clip, and how long it took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from gen3r_core.decoding import plausible_encoding
from gen3r_core.geometry.cameras import decode_pose_encoding
from gen3r_core.geometry.rigid import homogeneous, invert_rigid
from gen3r_core.geometry.unprojection import unproject_depth
from gen3r_core.models.vggt import VGGTPrediction
from gen3r_core.scene import Scene

__all__ = ["Geometry", "Prediction", "Stopwatch", "geometries"]


@dataclass(frozen=True)
class Geometry:
    """Depth, points and cameras of F frames, float32, in one unit and world frame of their own.

    Attributes:
        depth: ``[F, H, W]``.
        points: ``[F, H, W, 3]`` world.
        T_cam_world: ``[F, 4, 4]``.
    """

    depth: Tensor
    points: Tensor
    T_cam_world: Tensor

    @property
    def T_world_cam(self) -> Tensor:  # noqa: N802 - transforms are named by direction
        """``[F, 4, 4]``."""
        return invert_rigid(self.T_cam_world)

    @classmethod
    def of_scene(cls, scene: Scene) -> Geometry:
        """What the pipeline has decoded."""
        return cls(scene.depth, scene.points, scene.T_cam_world)


@dataclass(frozen=True)
class Prediction:
    """What is compared with the truth; None is what a task does not predict.

    Attributes:
        colors: ``[F, 3, H, W]`` RGB in [0, 1].
        geometry: of the task.
        vggt: of VGGT alone, on all true frames.
        seconds: wall time of the task for this clip (of a batch, its share).
        vggt_seconds: the same for VGGT alone.
        prompt: what a generation was asked for.
    """

    colors: Tensor | None
    geometry: Geometry | None
    vggt: Geometry | None
    seconds: float
    vggt_seconds: float | None = None
    prompt: str | None = None


def geometries(prediction: VGGTPrediction, size: tuple[int, int]) -> list[Geometry]:
    """Every clip of a prediction, as the pipeline assembles scenes: depth unprojected with the predicted cameras.

    Args:
        prediction: of B clips of F frames.
        size: ``(height, width)`` of the frames.
    """
    poses, intrinsics = decode_pose_encoding(plausible_encoding(prediction.pose_encoding), size)
    flat = unproject_depth(prediction.depth.flatten(0, 1), poses.flatten(0, 1), intrinsics.flatten(0, 1))
    points: Tensor = flat.unflatten(0, prediction.depth.shape[:2])
    every = zip(prediction.depth.float(), points, homogeneous(poses).float(), strict=True)
    return [Geometry(*parts) for parts in every]


class Stopwatch:
    """Adds up wall time; a GPU finishes its work before the clock is read.

    Args:
        device: where the work is done.

    Attributes:
        seconds: so far.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Time a block; several add up."""
        self._wait()
        start = time.perf_counter()
        yield
        self._wait()
        self.seconds += time.perf_counter() - start

    def _wait(self) -> None:
        if self._device.type == "cuda":  # pragma: gpu-only
            torch.cuda.synchronize(self._device)
