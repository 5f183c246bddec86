"""The node on a camera's images, up and running.

    ros2 launch gen3r gen3r.launch.py image:=/camera/image_raw

`--show-args` lists the arguments; gen3r_ros/launching.py says what becomes of them.
"""

import os
import sys

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction, SetEnvironmentVariable, Shutdown
from launch.events.process import ProcessExited
from launch_ros.actions import Node

from gen3r_ros.launch_arguments import NODE_ARGUMENTS, refuse_unknown
from gen3r_ros.launching import CANNOT_START, node_start, profile_variables, rviz_action


def generate_launch_description() -> LaunchDescription:
    """The arguments, and the node."""
    declared = [
        DeclareLaunchArgument(one.name, default_value=one.default, description=one.text, choices=one.choices or None)
        for one in NODE_ARGUMENTS
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The node, in an environment in which large images arrive."""
    given = {one.name: context.launch_configurations[one.name] for one in NODE_ARGUMENTS}
    refuse_unknown(context.argv, sys.argv, __file__, list(given))
    # Before the node, and for processes that are started later, a camera's driver perhaps: it needs them as well.
    variables = [SetEnvironmentVariable(name, value) for name, value in profile_variables(os.environ).items()]
    rviz = rviz_action(given)
    viewers = [] if rviz is None else [Node(**rviz)]
    return [*variables, Node(**node_start(given).action("gen3r_node"), on_exit=ended), *viewers]


def ended(event: ProcessExited, context: LaunchContext) -> list[LaunchDescriptionEntity] | None:
    """Killed, the node is started again; what cannot start would only fail again and again."""
    if event.returncode != CANNOT_START or context.is_shutdown:
        return None
    hint = "where Python does not find a module, venv:=FOLDER names the environment that has it"
    return [LogInfo(msg=f"gen3r_node cannot start, for the reason above; {hint}"), Shutdown()]
