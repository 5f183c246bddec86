"""The node on a recording: a bag is played, with its time.

    ros2 launch gen3r bag.launch.py bag:=FOLDER image:=/camera/image_raw

Takes the arguments of gen3r.launch.py but use_sim_time, and some of the player (`--show-args`). The player waits until
the node listens. When the recording ends, the node stays, with what it made of it, unless shutdown:=true.
"""

import os
import sys
from pathlib import Path

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import (
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    LogInfo,
    OpaqueFunction,
    SetEnvironmentVariable,
    Shutdown,
)
from launch.events.process import ProcessExited
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from gen3r_ros.launch_arguments import BAG_ARGUMENTS, NODE_ARGUMENTS, refuse_unknown
from gen3r_ros.launching import is_true, player_start, profile_variables

IMAGE = [one for one in NODE_ARGUMENTS if one.default is None]


def generate_launch_description() -> LaunchDescription:
    """The arguments, the node and the player."""
    declared = [
        DeclareLaunchArgument(one.name, default_value=one.default, description=one.text, choices=one.choices or None)
        for one in (*BAG_ARGUMENTS, *IMAGE)
    ]
    node = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(Path(__file__).with_name("gen3r.launch.py"))),
        # What a file requires has to be given where it is included.
        launch_arguments=[("use_sim_time", "true"), *((one.name, LaunchConfiguration(one.name)) for one in IMAGE)],
    )
    # The node declares the arguments that both take, and comes first.
    return LaunchDescription([*declared, OpaqueFunction(function=check), node, OpaqueFunction(function=start)])


def check(context: LaunchContext) -> None:
    """That the command line has no arguments that are none."""
    names = [one.name for one in (*BAG_ARGUMENTS, *NODE_ARGUMENTS) if one.name != "use_sim_time"]
    refuse_unknown(context.argv, sys.argv, __file__, names)


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The player."""
    given = {
        name: context.launch_configurations[name]
        for name in [*(one.name for one in BAG_ARGUMENTS), "venv", "log_level"]
    }
    variables = [SetEnvironmentVariable(name, value) for name, value in profile_variables(os.environ).items()]
    shutdown = is_true(BAG_ARGUMENTS, "shutdown", given["shutdown"])

    def ended(event: ProcessExited, context: LaunchContext) -> list[LaunchDescriptionEntity] | None:
        if event.returncode or shutdown:  # a bag that cannot be played leaves nothing to wait for
            return None if context.is_shutdown else [Shutdown()]
        return [LogInfo(msg="the recording has ended; the node stays, until Ctrl-C")]

    return [*variables, Node(**player_start(given).action("gen3r_play"), on_exit=ended)]
