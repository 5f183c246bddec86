"""What the launch files do, apart from launch itself: what becomes of their arguments.

It runs where `ros2 launch` does, which need not be the Python environment of the node: nothing but ROS is imported.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rclpy.exceptions import NameValidationException
from rclpy.validate_namespace import validate_namespace
from rclpy.validate_node_name import validate_node_name
from rclpy.validate_topic_name import validate_topic_name

from gen3r_core.errors import InputError
from gen3r_ros.launch_arguments import (
    BAG_ARGUMENTS,
    DEFAULT_PARAMETERS,
    NODE_ARGUMENTS,
    RESPAWN_DELAY_S,
    RVIZ_LAYOUT,
    SIMULATOR_ARGUMENTS,
    Argument,
)
from gen3r_ros.share import share_path
from gen3r_ros.transport import use_large_message_profile

Value = bool | int | float | str

CANNOT_START = 1
"""Exit code of processes that would end the same way if they were started again."""

PATIENCE_S = "15"
"""Seconds that a process has after Ctrl-C before launch ends it the hard way; goals that run end first."""

_OTHER_TRANSPORTS = ("compressedDepth", "ffmpeg", "theora", "zstd")
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


@dataclass(frozen=True)
class Start:
    """How a process is started.

    Attributes:
        name: of the node.
        namespace: of the node; empty: that of where it is included.
        parameters: by name.
        files: of parameters; :attr:`parameters` come before what they say.
        remappings: from and to.
        prefix: words before the program, quoted as a shell wants them; may be empty.
        respawn: whether it is started again when it dies.
        log_level: of its log.
    """

    name: str
    namespace: str
    parameters: dict[str, Value]
    files: tuple[str, ...]
    remappings: tuple[tuple[str, str], ...]
    prefix: str
    respawn: bool
    log_level: str

    def action(self, executable: str) -> dict[str, Any]:
        """Arguments of ``launch_ros.actions.Node``.

        Args:
            executable: of the ROS package gen3r.
        """
        return {
            "package": "gen3r",
            "executable": executable,
            "exec_name": executable,  # in launch's log; otherwise that of the interpreter, where there is a prefix
            "name": self.name,
            "namespace": self.namespace or None,
            "parameters": [*self.files, self.parameters],
            "remappings": list(self.remappings),
            "prefix": self.prefix or None,
            "respawn": self.respawn,
            "respawn_delay": RESPAWN_DELAY_S,
            "sigterm_timeout": PATIENCE_S,
            "ros_arguments": ["--log-level", self.log_level],
            "output": "screen",
        }


def node_start(given: Mapping[str, str]) -> Start:
    """How to start the node.

    Args:
        given: values of all :data:`NODE_ARGUMENTS`, by name.

    Raises:
        InputError: one of them cannot be; names it.
    """
    parameters = parameters_of(NODE_ARGUMENTS, given)
    topics = image_topics(given["image"], given["camera_info"], given["transport"])
    if topics.transport:
        parameters["image_transport"] = topics.transport
    depth, depth_transport = depth_topic(given["depth"])
    if depth:
        parameters["depth_transport"] = depth_transport
    own = {one.name: one for one in NODE_ARGUMENTS}
    namespaced = _value(own["namespaced_tf"], given["namespaced_tf"])
    transforms = (("/tf", "tf"), ("/tf_static", "tf_static")) if namespaced else ()
    return Start(
        name=_checked(validate_node_name, own["name"], given["name"]),
        namespace=_namespace(given["namespace"]),
        parameters=parameters,
        files=(str(_file(given["params_file"], "params_file") or share_path(DEFAULT_PARAMETERS)),),
        remappings=topics.remappings + depth + _map_topic(given["map_topic"]) + transforms,
        prefix=interpreter(given["venv"]),
        respawn=bool(_value(own["respawn"], given["respawn"])),
        log_level=given["log_level"],
    )


def rviz_action(given: Mapping[str, str]) -> dict[str, Any] | None:
    """Arguments of ``launch_ros.actions.Node`` that start RViz on the node's results; None where it is not wanted.

    Args:
        given: values of all :data:`NODE_ARGUMENTS`, by name.

    Raises:
        InputError: one of them cannot be; names it.
    """
    if not is_true(NODE_ARGUMENTS, "rviz", given["rviz"]):
        return None
    node = node_start(given)
    fixed = ["-f", given["fixed_frame"]] if given["fixed_frame"] else []
    sim_time = node.parameters.get("use_sim_time")
    others = [pair for pair in node.remappings if pair[0].startswith("/tf") or pair[0] == "map"]
    return {
        "package": "rviz2",
        "executable": "rviz2",
        "name": f"{node.name}_rviz",
        "namespace": node.namespace or None,  # the layout's topics are relative
        "arguments": ["-d", str(share_path(RVIZ_LAYOUT)), *fixed],
        "parameters": [] if sim_time is None else [{"use_sim_time": sim_time}],
        "remappings": [("image_raw", image_topics(given["image"], given["camera_info"]).image), *others],
        "output": "screen",
    }


def simulator_start(given: Mapping[str, str]) -> Start:
    """How to start the simulator; it is not started again, for a world that begins anew helps nobody.

    Args:
        given: values of all :data:`SIMULATOR_ARGUMENTS`, and of ``namespace``, ``venv`` and ``log_level``, by name.

    Raises:
        InputError: one of them cannot be; names it.
    """
    file = _file(given["sim_params_file"], "sim_params_file")
    return Start(
        name="gen3r_sim",
        namespace=_namespace(given["namespace"]),
        parameters=parameters_of(SIMULATOR_ARGUMENTS, given),
        files=() if file is None else (str(file),),
        remappings=(),
        prefix=interpreter(given["venv"]),
        respawn=False,
        log_level=given["log_level"],
    )


def player_start(given: Mapping[str, str]) -> Start:
    """How to start the player of a bag; it is not started again.

    Args:
        given: values of all :data:`BAG_ARGUMENTS`, and of ``venv`` and ``log_level``, by name.

    Raises:
        InputError: one of them cannot be; names it.
    """
    bag = Path(given["bag"]).expanduser()
    if not bag.exists():
        raise InputError(f"bag:={given['bag']}: there is no such file or folder")
    return Start(
        name="gen3r_play",
        namespace="",
        parameters={**parameters_of(BAG_ARGUMENTS, given), "bag": str(bag.absolute())},
        files=(),
        remappings=(),
        prefix=interpreter(given["venv"]),
        respawn=False,
        log_level=given["log_level"],
    )


def is_true(arguments: Sequence[Argument], name: str, text: str) -> bool:
    """What an argument says that is true or false.

    Args:
        arguments: of a launch file.
        name: of the argument.
        text: its value.

    Raises:
        InputError: it is neither.
    """
    return bool(_value(next(one for one in arguments if one.name == name), text))


@dataclass(frozen=True)
class ImageTopics:
    """Where a camera's messages come from.

    Attributes:
        image: base topic of the images, without the transport.
        camera_info: topic.
        transport: ``raw`` or ``compressed``; empty where nobody said.
    """

    image: str
    camera_info: str
    transport: str

    @property
    def remappings(self) -> tuple[tuple[str, str], ...]:
        """Of the node."""
        return (
            ("image_raw", self.image),
            ("image_raw/compressed", f"{self.image}/compressed"),
            ("camera_info", self.camera_info),
        )


def image_topics(image: str, camera_info: str = "", transport: str = "auto") -> ImageTopics:
    """The topics of a camera, as image_transport names them: its camera_info is beside the base topic of the images.

    Args:
        image: topic of the images; with a transport at its end, or not.
        camera_info: topic; empty derives it.
        transport: ``raw``, ``compressed``, or ``auto``, which goes by the topic's name.

    Raises:
        InputError: they are no topics, or contradict each other.
    """
    given = image
    parent, _, last = image.rpartition("/")
    if last in _OTHER_TRANSPORTS and parent:
        raise InputError(
            f"image:={given}: images of the transport {last} cannot be read; give {parent}, or republish it"
        )
    if last == "camera_info":
        raise InputError(f"image:={given}: this is the topic of the camera_info; give that of the images")
    if last == "compressed" and parent:
        if transport == "raw":
            raise InputError(f"image:={given} and transport:=raw contradict each other; leave transport out")
        image, transport = parent, "compressed"
    _checked(validate_topic_name, NODE_ARGUMENTS[0], image)
    if not camera_info:
        beside, slash, _ = image.rpartition("/")
        camera_info = f"{beside}{slash}camera_info"
    _checked(validate_topic_name, NODE_ARGUMENTS[1], camera_info)
    return ImageTopics(image, camera_info, "" if transport == "auto" else transport)


def depth_topic(depth: str) -> tuple[tuple[tuple[str, str], ...], str]:
    """Remappings of the topic of depth images, and its transport; both empty where there is none.

    Args:
        depth: topic; with a transport at its end, or not.

    Raises:
        InputError: it is no topic.
    """
    if not depth:
        return (), ""
    base, _, last = depth.rpartition("/")
    known = last in ("compressed", "compressedDepth") and base
    base, transport = (base, last) if known else (depth, "raw")
    _checked(validate_topic_name, next(one for one in NODE_ARGUMENTS if one.name == "depth"), base)
    end = f"/{transport}" if known else ""
    return ((f"depth/image_raw{end}", f"{base}{end}"),), transport


def _map_topic(topic: str) -> tuple[tuple[str, str], ...]:
    """The remapping of the map's topic; empty where it has its own name."""
    _checked(validate_topic_name, next(one for one in NODE_ARGUMENTS if one.name == "map_topic"), topic)
    return () if topic == "map" else (("map", topic),)


def parameters_of(arguments: Sequence[Argument], given: Mapping[str, str]) -> dict[str, Value]:
    """Parameters that arguments set; those that are empty set none.

    Args:
        arguments: of a launch file.
        given: their values, by name.

    Raises:
        InputError: a value is not of its argument's kind.
    """
    return {
        one.parameter: _value(one, given[one.name]) for one in arguments if one.parameter and given[one.name].strip()
    }


def interpreter(venv: str) -> str:
    """What to write before a program so that it runs in a Python environment.

    Args:
        venv: its folder; empty: nothing is written.

    Raises:
        InputError: there is no such environment.
    """
    if not venv:
        return ""
    python = Path(venv).expanduser() / "bin/python3"
    if not os.access(python, os.X_OK):
        raise InputError(
            f"venv:={venv}: there is no {python}; give the folder that `python3 -m venv --system-site-packages` made"
        )
    return shlex.quote(str(python.absolute()))  # the links of an environment are what makes it one


def profile_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables that a process needs for large messages, and does not have.

    Args:
        environ: of the process so far.

    Raises:
        InputError: the profile is not installed.
    """
    whole = dict(environ)
    use_large_message_profile(whole)
    return {name: value for name, value in whole.items() if environ.get(name) != value}


def _value(argument: Argument, text: str) -> Value:
    if argument.kind is bool:
        small = text.strip().lower()
        if small not in _TRUE + _FALSE:
            raise InputError(f"{argument.name}:={text} ({argument.text}): it is true or false")
        return small in _TRUE
    try:
        return argument.kind(text)
    except ValueError:
        kind = "a whole number" if argument.kind is int else "a number"
        raise InputError(f"{argument.name}:={text} ({argument.text}): it is {kind}") from None


def _file(text: str, argument: str) -> Path | None:
    if not text:
        return None
    path = Path(text).expanduser()
    if not path.is_file():
        raise InputError(f"{argument}:={text}: there is no such file")
    return path.absolute()


def _namespace(text: str) -> str:
    if text:  # a relative one is below that of where the launch file is included
        own = next(one for one in NODE_ARGUMENTS if one.name == "namespace")
        _checked(validate_namespace, own, text if text.startswith("/") else f"/{text}")
    return text


def _checked(valid: Callable[[str], bool], argument: Argument, text: str) -> str:
    try:
        valid(text)
    except (NameValidationException, ValueError) as error:
        why = str(error).splitlines()[0].rstrip(":")
        raise InputError(f"{argument.name}:={text} ({argument.text}): {why}") from error
    return text
