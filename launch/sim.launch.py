"""A robot with a camera in a procedural world, and the node on it.

    ros2 launch gen3r sim.launch.py

Takes the arguments of gen3r.launch.py but those about the camera, and some of the simulator (`--show-args`). With
`namespace:=robot1` all of it is in that namespace, TF and simulated time included, so that there can be several.
"""

import os
import sys
from pathlib import Path

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import (
    DeclareLaunchArgument,
    GroupAction,
    IncludeLaunchDescription,
    OpaqueFunction,
    SetEnvironmentVariable,
    Shutdown,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import Node, SetRemap

from gen3r_ros.launch_arguments import CAMERA_ARGUMENTS, NODE_ARGUMENTS, SIMULATOR_ARGUMENTS, refuse_unknown
from gen3r_ros.launching import profile_variables, simulator_start

OWN_TIME_AND_FRAMES = ("/clock", "/tf", "/tf_static")


def generate_launch_description() -> LaunchDescription:
    """The arguments, the node and the simulator."""
    declared = [
        DeclareLaunchArgument(one.name, default_value=one.default, description=one.text, choices=one.choices or None)
        for one in SIMULATOR_ARGUMENTS
    ]
    camera = {"image": "image_raw", "camera_info": "camera_info", "transport": "raw"}
    node = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(Path(__file__).with_name("gen3r.launch.py"))),
        launch_arguments=list(camera.items()),
    )
    remaps = [SetRemap(src=topic, dst=topic.removeprefix("/")) for topic in OWN_TIME_AND_FRAMES]
    simulator = OpaqueFunction(function=start)
    # The node declares the arguments that both take, and comes first.
    return LaunchDescription([*declared, OpaqueFunction(function=check), GroupAction([*remaps, node, simulator])])


def check(context: LaunchContext) -> None:
    """That the command line has no arguments that are none."""
    names = [one.name for one in (*SIMULATOR_ARGUMENTS, *NODE_ARGUMENTS) if one.name not in CAMERA_ARGUMENTS]
    refuse_unknown(context.argv, sys.argv, __file__, names)


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The simulator; when it ends, all ends."""
    names = [one.name for one in SIMULATOR_ARGUMENTS] + ["namespace", "venv", "log_level"]
    given = {name: context.launch_configurations[name] for name in names}
    variables = [SetEnvironmentVariable(name, value) for name, value in profile_variables(os.environ).items()]
    return [*variables, Node(**simulator_start(given).action("gen3r_sim"), on_exit=Shutdown())]
