"""The simulator's parameters: each declared once, with description, unit, range, default; none changes later."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rclpy.node import Node

from gen3r_core.errors import InputError
from gen3r_core.worlds.floorplan import WORLD_KINDS, WorldKind
from gen3r_core.worlds.render_process import CameraSettings
from gen3r_core.worlds.splits import SPLITS, WORLDS_PER_SPLIT, Split, world_seed
from gen3r_ros.declared import Declared, declare_parameter

PARAMETERS = {
    "split": Declared("test", f"which worlds: {', '.join(SPLITS)}", values=SPLITS),
    "world": Declared(0, "number of the world in its split", 0, WORLDS_PER_SPLIT - 1),
    "world_kind": Declared("", f"{', '.join(WORLD_KINDS)}; empty draws it", values=("", *WORLD_KINDS)),
    "tour_seed": Declared(0, "another one is another tour", 0, 2**31 - 1),
    "image_width": Declared(320, "pixels", 16, 4096),
    "image_height": Declared(240, "pixels", 16, 4096),
    "hfov": Declared(math.radians(75), "horizontal field of view, radians", 0.2, 2.5),
    "camera_height": Declared(0.6, "of the camera over the floor, metres", 0.3, 1.5),
    "rate": Declared(2.0, "pictures a second, of simulated or real time", 0.01, 120.0),
    "tf_rate": Declared(50.0, "transforms and odometry a second; with use_sim_time a multiple of rate", 1.0, 1000.0),
    "speed": Declared(0.3, "highest speed of the robot, metres a second", 0.01, 5.0),
    "turn_rate": Declared(0.8, "highest rate of turning, radians a second", 0.05, 10.0),
    "tour": Declared(True, "drive round through all rooms until a goal path comes"),
    "tour_length": Declared(0.0, "metres after which the tour ends; 0: never", 0.0, 1e6),
    "follow_goal_path": Declared(True, "drive along paths that come on goal_path"),
    "wait_for_subscriber": Declared(False, "begin when somebody subscribes to image_raw"),
    "pace": Declared(1.0, "with use_sim_time: simulated seconds in a real one, at most", 0.01, 1000.0),
    "samples": Declared(2, "n x n rays a pixel: 1 is twice as fast and has jagged edges", 1, 4),
    "render_threads": Declared(1, "processor cores for rendering", 1, 256),
    "cache_folder": Declared("", "keeps pictures for the next run, 1 GB at most; empty: none"),
}
"""By name."""


@dataclass(frozen=True)
class SimulatorParameters:
    """Their values; attributes are called as in :data:`PARAMETERS`."""

    split: Split
    world: int
    world_kind: str
    tour_seed: int
    image_width: int
    image_height: int
    hfov: float
    camera_height: float
    rate: float
    tf_rate: float
    speed: float
    turn_rate: float
    tour: bool
    tour_length: float
    follow_goal_path: bool
    wait_for_subscriber: bool
    pace: float
    samples: int
    render_threads: int
    cache_folder: str

    @property
    def seed(self) -> int:
        """Of the world."""
        return world_seed(self.split, self.world)

    @property
    def kind(self) -> WorldKind | None:
        """Of the world; None draws it."""
        return next((kind for kind in WORLD_KINDS if kind == self.world_kind), None)

    @property
    def size(self) -> tuple[int, int]:
        """``(height, width)`` of the pictures, pixels."""
        return self.image_height, self.image_width

    @property
    def steps_per_picture(self) -> int:
        """Steps of simulated time from one picture to the next."""
        return max(1, round(self.tf_rate / self.rate))

    @property
    def tf_rate_of_steps(self) -> float:
        """Steps a simulated second: ``tf_rate`` made a multiple of ``rate``."""
        return self.rate * self.steps_per_picture

    def camera(self) -> CameraSettings:
        """What the process that renders has to know."""
        folder = Path(self.cache_folder).expanduser() if self.cache_folder else None
        return CameraSettings(self.seed, self.kind, self.size, self.hfov, self.samples, folder)


def declare(node: Node) -> SimulatorParameters:
    """Declare all parameters on a node and read what was given.

    Raises:
        InputError: a value has the wrong type or is out of its range; names the parameter.
    """
    values: dict[str, Any] = {}
    for name, one in PARAMETERS.items():
        value = declare_parameter(node, name, one, read_only=True)
        if one.values and value not in one.values:
            raise InputError(f"the parameter {name} ({one.text}) cannot be {value!r}")
        values[name] = value
    return SimulatorParameters(**values)
