"""The arguments of the launch files, and what is refused because it is none of them.

It runs where `ros2 launch` does, which need not be the Python environment of the node: nothing but ROS is imported.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from gen3r_core.errors import InputError

DEFAULT_PARAMETERS = "config/gen3r.yaml"
"""In the share folder."""

RVIZ_LAYOUT = "config/gen3r.rviz"
"""The same."""

RESPAWN_DELAY_S = 2.0
"""Before a node that was killed is started again."""

# What launch itself and its command line understand.
_OF_LAUNCH = ("emulate_tty", "launch-prefix", "launch-prefix-filter", "sigkill_timeout", "sigterm_timeout")


@dataclass(frozen=True)
class Argument:
    """One of a launch file.

    Attributes:
        name: as in ``name:=value``.
        text: what it does.
        default: None where it must be given; empty where nothing is passed on.
        choices: where not all will do.
        parameter: of the node, that it sets; empty: none.
        kind: of its value.
    """

    name: str
    text: str
    default: str | None = ""
    choices: tuple[str, ...] = ()
    parameter: str = ""
    kind: type[bool | int | float | str] = str


NODE_ARGUMENTS = (
    Argument("image", "topic of the camera's images, e.g. /camera/image_raw", None),
    Argument("camera_info", "topic of the camera_info; empty: camera_info beside the images'"),
    Argument("transport", "raw, or compressed: JPEG or PNG on IMAGE/compressed; auto: by the name of the image topic, "
             "else as params_file has it", "auto", ("auto", "raw", "compressed")),
    Argument("depth", "topic of depth images that are registered to the camera's, which tell the scale: "
             "/camera/aligned_depth_to_color/image_raw, or that with /compressedDepth; empty: as params_file has it"),
    Argument("namespace", "of the node and its topics, one for each robot: robot1"),
    Argument("name", "of the node", "gen3r"),
    Argument("params_file", f"parameters of the node; empty: {DEFAULT_PARAMETERS} of this package. What is given here "
             "as an argument comes before it"),
    Argument("checkpoint", "folder of the model; empty: as params_file has it, there gen3r-small",
             parameter="checkpoint"),
    Argument("device", "auto, cpu, cuda, cuda:1, ...; empty: as params_file has it", parameter="device"),
    Argument("fixed_frame", "TF frame of all results: odom, map, robot1/odom; empty: as params_file has it",
             parameter="fixed_frame"),
    Argument("base_frame", "TF frame of the robot, that goal paths are of; empty: as params_file has it",
             parameter="base_frame"),
    Argument("map_topic", "topic of the map; beside Nav2 or a SLAM, whose /map is a grid: gen3r/map", "map"),
    Argument("namespaced_tf", "true: transforms are on tf and tf_static of the namespace, not on /tf and /tf_static",
             "false", kind=bool),
    Argument("use_sim_time", "true: time is that of /clock; empty: as params_file has it, there the machine's",
             parameter="use_sim_time", kind=bool),
    Argument("autostart", "true: configure and activate; false: a lifecycle manager does", "true",
             parameter="autostart", kind=bool),
    Argument("respawn", f"true: start the node again, {RESPAWN_DELAY_S:g} s later, when it was killed", "true",
             kind=bool),
    Argument("rviz", f"true: RViz as well, with {RVIZ_LAYOUT} of this package", "false", kind=bool),
    Argument("venv", "folder of the Python environment in which gen3r's packages are; empty: the one that is active"),
    Argument("log_level", "of the node", "info", ("debug", "info", "warn", "error", "fatal")),
)  # fmt: skip
"""Of gen3r.launch.py."""

SIMULATOR_ARGUMENTS = (
    Argument("world", "number of the world; empty: as sim_params_file has it, else 0", parameter="world", kind=int),
    Argument("world_kind", "empty: as sim_params_file has it, else the world's own",
             choices=("", "room", "corridor", "rooms"), parameter="world_kind"),
    Argument("rate", "pictures a second; empty: as sim_params_file has it, else 2", parameter="rate", kind=float),
    Argument("tour", "true: drive round until a path comes on goal_path; false: stand still; empty: as sim_params_file "
             "has it, else true", parameter="tour", kind=bool),
    Argument("wait_for_subscriber", "true: the robot waits until the node listens", "true",
             parameter="wait_for_subscriber", kind=bool),
    Argument("use_sim_time", "true: time waits for the pictures, and runs are repeatable; false: the machine's time",
             "true", parameter="use_sim_time", kind=bool),
    Argument("sim_params_file", "parameters of gen3r_sim; empty: none"),
)  # fmt: skip
"""Of sim.launch.py, beside those of gen3r.launch.py that are not about the camera."""

BAG_ARGUMENTS = (
    Argument("bag", "to play: a folder, or a file (.mcap, .db3, or .bag of ROS 1)", None),
    Argument("topics", "that are played, with commas between; empty: all", parameter="topics"),
    Argument("rate", "recorded seconds in a real one", "1", parameter="rate", kind=float),
    Argument("start", "seconds of the recording that are left out; empty: none", parameter="start_s", kind=float),
    Argument("end", "seconds of the recording at which it ends; empty: at its end", parameter="end_s", kind=float),
    Argument("loop", "true: begin again at the end, for ever", "false", parameter="loop", kind=bool),
    Argument("wait_for_subscriber", "true: the recording waits until the node listens", "true",
             parameter="wait_for_subscriber", kind=bool),
    Argument("shutdown", "true: when the recording ends, the node does too; false: its results stay", "false",
             kind=bool),
)  # fmt: skip
"""Of bag.launch.py, beside those of gen3r.launch.py but use_sim_time, which is true."""

CAMERA_ARGUMENTS = ("image", "camera_info", "transport")
"""Those that sim.launch.py gives itself."""


def refuse_unknown(words: Sequence[str], command: Sequence[str], file: str, arguments: Sequence[str]) -> None:
    """Refuse what launch ignores: an argument with a slip in its name would do nothing, silently.

    Args:
        words: ``name:=value`` as given on the command line.
        command: the whole command line. Only where it names this launch file are the words meant for it; where another
            includes it, they are the other's, whatever that one is called.
        file: path of the launch file.
        arguments: names of those it takes.

    Raises:
        InputError: one of the words names no argument.
    """
    if not _names(command, file):
        return
    for word in words:
        name = word.partition(":=")[0]
        if name not in arguments and name not in _OF_LAUNCH:
            near = difflib.get_close_matches(name, arguments, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(arguments)}"
            raise InputError(f"{name} is no argument of {Path(file).name}; {hint}")


def _names(command: Sequence[str], file: str) -> bool:
    """Whether a command line is `ros2 launch gen3r FILE`, or `ros2 launch` of the path of this very file."""
    for before, word in pairwise(command):
        if (before, word) == ("gen3r", Path(file).name):
            return True
        # Without a folder it is a path only where no package is before it.
        is_path = os.sep in word or before == "launch" or before.startswith("-")
        if is_path and os.path.realpath(word) == os.path.realpath(file):
            return True
    return False
