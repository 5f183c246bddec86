"""The player's parameters: each declared once, with description, unit, range, default; none changes later."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rclpy.node import Node

from gen3r_core.errors import InputError
from gen3r_ros.declared import Declared, declare_parameter

PARAMETERS = {
    "bag": Declared("", "bag to play: a folder, or a file (.mcap, .db3, or .bag of ROS 1), compressed or not"),
    "topics": Declared("", "that are played, with commas between; empty: all but /clock, /rosout, /parameter_events"),
    "rate": Declared(1.0, "recorded seconds in a real one", 0.01, 100.0),
    "start_s": Declared(0.0, "seconds of the recording that are left out; what is on /tf_static and latched topics "
                        "then is sent all the same", 0.0, 1e9),
    "end_s": Declared(0.0, "seconds of the recording at which it ends; 0: at its end", 0.0, 1e9),
    "loop": Declared(False, "begin again at the end, for ever"),
    "clock_rate": Declared(100.0, "times on /clock in a recorded second", 1.0, 1000.0),
    "wait_for_subscriber": Declared(False, "begin when somebody subscribes to one of the recorded image topics"),
}  # fmt: skip
"""By name."""


@dataclass(frozen=True)
class PlayerParameters:
    """Their values; attributes are called as in :data:`PARAMETERS`."""

    bag: str
    topics: str
    rate: float
    start_s: float
    end_s: float
    loop: bool
    clock_rate: float
    wait_for_subscriber: bool

    def __post_init__(self) -> None:
        if not self.bag:
            raise InputError("no bag is named; give one: --ros-args -p bag:=FOLDER_OR_FILE")

    @property
    def path(self) -> Path:
        """Of the bag."""
        return Path(self.bag).expanduser()

    @property
    def names(self) -> list[str] | None:
        """Topics that are wanted; None for all that are of use."""
        return [name.strip() for name in self.topics.split(",") if name.strip()] or None


def declare(node: Node) -> PlayerParameters:
    """Declare all parameters on a node and read what was given.

    Raises:
        InputError: no bag is named, or a value has the wrong type or is out of its range; names the parameter.
    """
    values: dict[str, Any] = {
        name: declare_parameter(node, name, one, read_only=True) for name, one in PARAMETERS.items()
    }
    return PlayerParameters(**values)
