"""What the demonstration hears from the graph, as plain arrays: kept while it runs, measured and shown afterwards."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Keyframe:
    """One keyframe of the node's newest word about it.

    Attributes:
        stamp_ns: of its image.
        pose: ``[4, 4]`` camera to map, metres, as the node published it.
    """

    stamp_ns: int
    pose: Array


@dataclass(frozen=True, eq=False)
class View:
    """One predicted view.

    Attributes:
        colors: ``[H, W, 3]`` uint8.
        depth: ``[H, W]`` float32 metres (model units where not metric), NaN where not known.
        pose: ``[4, 4]`` camera to map, as published.
        observed: whether it was given as an image.
        metric: whether lengths are in metres.
    """

    colors: NDArray[np.uint8]
    depth: NDArray[np.float32]
    pose: Array
    observed: bool
    metric: bool


@dataclass(eq=False)
class Recording:
    """All that came.

    Attributes:
        images: ``[H, W, 3]`` uint8 of the camera, by stamp.
        true_depths: ``[H, W]`` float32 metres of the simulator, NaN where nothing is, by stamp.
        base_poses: ``[4, 4]`` base to map, by stamp.
        mount: ``[4, 4]`` camera to base.
        intrinsics: ``[3, 3]`` of the camera, pixels of its images with corners at whole numbers; None before it came.
        keyframes: by stamp.
        revisions: number, metric or not, metres per unit, residual (metres) and points of each reconstruction.
        clouds: the newest points/observed: ``[N, 3]`` metres in the map and ``[N, 3]`` uint8.
        generated: the newest points/generated, the same.
        views: of the prediction, in order.
        requested: ``[F, 4, 4]`` cameras of the views that were asked for.
        path: ``[M, 3]`` x, y and heading of the goal path.
        model: name of the weights.
        feedback: stages of the action's feedback, in order.
        action_seconds: from acceptance to result.
        prompt: of the prediction.
        frames: TF frames that the node published.
    """

    images: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    true_depths: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    base_poses: dict[int, Array] = field(default_factory=dict)
    mount: Array = field(default_factory=lambda: np.eye(4))
    intrinsics: Array | None = None
    keyframes: dict[int, Keyframe] = field(default_factory=dict)
    revisions: list[dict[str, Any]] = field(default_factory=list)
    clouds: tuple[NDArray[np.float32], NDArray[np.uint8]] | None = None
    generated: tuple[NDArray[np.float32], NDArray[np.uint8]] | None = None
    views: list[View] = field(default_factory=list)
    requested: Array = field(default_factory=lambda: np.empty((0, 4, 4)))
    path: Array = field(default_factory=lambda: np.empty((0, 3)))
    model: str = ""
    feedback: list[str] = field(default_factory=list)
    action_seconds: float = 0.0
    prompt: str = ""
    frames: set[str] = field(default_factory=set)

    def camera_pose(self, stamp_ns: int) -> Array | None:
        """``[4, 4]`` true camera to map when an image was taken; None where TF did not tell."""
        base = self.base_poses.get(stamp_ns)
        return None if base is None else np.asarray(base @ self.mount, dtype=np.float64)
