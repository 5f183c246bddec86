"""What the predicted views should show, rendered beside the model."""

from __future__ import annotations

import math
from typing import Self

import numpy as np
from numpy.typing import NDArray

from gen3r_core.reconstruction.goal_path import goal_cameras
from gen3r_core.worlds.camera import Picture
from gen3r_core.worlds.render_process import CameraSettings, RenderProcess

Array = NDArray[np.float64]


def requested_cameras(path: Array, T_base_cam: Array, T_world_start: Array, views: int) -> Array:
    """The cameras ``[F, 4, 4]`` of a goal path, as the node is to understand it.

    Args:
        path: ``[M, 3]`` x, y and heading of the base.
        T_base_cam: ``[4, 4]``.
        T_world_start: ``[4, 4]`` of the newest keyframe's camera, where the views begin.
        views: how many.
    """
    half = path[:, 2] / 2
    nought = np.zeros(len(path))
    positions = np.column_stack([path[:, :2], nought])
    quaternions = np.column_stack([nought, nought, np.sin(half), np.cos(half)])
    found = goal_cameras(positions, quaternions, T_base_cam, views, T_world_start=T_world_start, heading="given")
    return found.T_world_cam


def square_field_of_view(intrinsics: Array, size: tuple[int, int]) -> float:
    """Radians that the square cut out of the middle of pictures sees.

    Args:
        intrinsics: ``[3, 3]`` of the pictures, square pixels.
        size: ``(height, width)`` of the pictures.
    """
    return 2 * math.atan(min(size) / 2 / float(intrinsics[0, 0]))


class TrueViews:
    """Renders in a process of its own; leave the block to end it.

    Args:
        settings: of the camera.
        poses: ``[F, 4, 4]`` cameras, which are asked for at once.

    Attributes:
        pictures: that are there, in the order of the cameras.
    """

    def __init__(self, settings: CameraSettings, poses: Array) -> None:
        self._process = RenderProcess(settings)
        self._wanted = len(poses)
        self.pictures: list[Picture] = []
        for pose in poses:
            self._process.ask_picture(pose)

    def complete(self) -> bool:
        """Take what is there; whether that is all.

        Raises:
            Gen3RError: the process has ended.
        """
        while (answer := self._process.answer()) is not None:
            if isinstance(answer, Picture):
                self.pictures.append(answer)
        return len(self.pictures) == self._wanted

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.close()
