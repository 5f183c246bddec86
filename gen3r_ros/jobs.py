"""What the node is connected to while it is active, and what it has the worker do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gen3r_ros.camera_image import ImageKeyframe
from gen3r_ros.cameras import RobotCameras
from gen3r_ros.goals import Goal
from gen3r_ros.outputs import Outputs
from gen3r_ros.transforms import Transforms


@dataclass(frozen=True, eq=False)
class Sources:
    """Where data come from and go to while the node is active."""

    camera: RobotCameras
    transforms: Transforms
    outputs: Outputs


@dataclass(eq=False)
class Job:
    """A job of the worker.

    Attributes:
        window: keyframes that it is about, oldest first.
        goal: of whom; None for the continuous reconstruction.
        T_world_views: ``[F, 4, 4]`` cameras that were asked for; None for a reconstruction.
        known_scale: metres per model unit that it was asked with; 0 where not known.
        profile: of a prediction: how it is made.
    """

    window: tuple[ImageKeyframe, ...]
    goal: Goal | None = None
    T_world_views: Any = None
    known_scale: float = 0.0
    profile: str = ""
