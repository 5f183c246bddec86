"""The launch files: what their arguments become, and, where `ros2 launch` is installed, the files themselves."""

import ast
import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="ROS is not installed")

from bag_writer import START, Drive, S, write_drive
from gen3r.msg import Reconstruction
from managed_node import QUICK, Manager
from rclpy.parameter import Parameter
from sensor_msgs.msg import PointCloud2

from gen3r_core.errors import InputError
from gen3r_ros import launch_arguments, launching, parameters, player_parameters, simulator_parameters
from gen3r_ros.launch_arguments import (
    BAG_ARGUMENTS,
    CAMERA_ARGUMENTS,
    NODE_ARGUMENTS,
    SIMULATOR_ARGUMENTS,
)
from gen3r_ros.launching import (
    image_topics,
    interpreter,
    is_true,
    node_start,
    player_start,
    profile_variables,
    rviz_action,
    simulator_start,
)
from gen3r_ros.qos import LATCHED, RESULT

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "launch").glob("*.launch.py"))
NAMES = [one.name for one in NODE_ARGUMENTS]


def node_arguments(**given):
    defaults = {one.name: one.default for one in NODE_ARGUMENTS}
    return {**defaults, "image": "/camera/image_raw", **given}


def simulator_arguments(**given):
    defaults = {one.name: one.default for one in SIMULATOR_ARGUMENTS}
    return {**defaults, "namespace": "", "venv": "", "log_level": "info", **given}


def bag_arguments(bag, **given):
    defaults = {one.name: one.default for one in BAG_ARGUMENTS}
    return {**defaults, "venv": "", "log_level": "info", "bag": str(bag), **given}


# --- topics ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "info", "transport", "expected"),
    [
        ("/camera/image_raw", "", "auto", ("/camera/image_raw", "/camera/camera_info", "")),
        ("/camera/image_raw", "", "raw", ("/camera/image_raw", "/camera/camera_info", "raw")),
        ("image_raw", "", "auto", ("image_raw", "camera_info", "")),
        ("~/image", "", "auto", ("~/image", "~/camera_info", "")),
        ("/image", "", "compressed", ("/image", "/camera_info", "compressed")),
        ("/camera/color/image_rect", "/info", "auto", ("/camera/color/image_rect", "/info", "")),
        ("/camera/image_raw/compressed", "", "auto", ("/camera/image_raw", "/camera/camera_info", "compressed")),
        ("/camera/image_raw/compressed", "", "compressed", ("/camera/image_raw", "/camera/camera_info", "compressed")),
        ("compressed", "", "auto", ("compressed", "camera_info", "")),
    ],
)
def test_topics_are_those_of_image_transport(image, info, transport, expected):
    topics = image_topics(image, info, transport)
    assert (topics.image, topics.camera_info, topics.transport) == expected
    assert dict(topics.remappings) == {
        "image_raw": expected[0],
        "image_raw/compressed": f"{expected[0]}/compressed",
        "camera_info": expected[1],
    }


@pytest.mark.parametrize(
    ("image", "info", "transport", "words"),
    [
        ("/camera/image_raw/theora", "", "auto", r"the transport theora cannot be read; give /camera/image_raw"),
        ("/camera/camera_info", "", "auto", "this is the topic of the camera_info"),
        ("/camera/image_raw/compressed", "", "raw", "transport:=raw contradict each other"),
        ("/camera/image-raw", "", "auto", r"^image:=/camera/image-raw \(topic of .*: Invalid topic name: .*[^:]$"),
        ("/camera/", "", "auto", r"^image:=/camera/ .*must not end with"),
        ("", "", "auto", "^image:= .*empty"),
        ("/image", "a b", "auto", "^camera_info:=a b "),
    ],
)
def test_what_cannot_be_the_image_topic_is_refused(image, info, transport, words):
    with pytest.raises(InputError, match=words):
        image_topics(image, info, transport)


# --- arguments -------------------------------------------------------------------------------------------


def test_one_argument_is_required():
    assert [one.name for one in NODE_ARGUMENTS if one.default is None] == ["image"]
    assert [one.name for one in SIMULATOR_ARGUMENTS if one.default is None] == []
    assert [one.name for one in BAG_ARGUMENTS if one.default is None] == ["bag"]


@pytest.mark.parametrize(
    ("arguments", "declared"),
    [
        (NODE_ARGUMENTS, parameters.PARAMETERS),
        (SIMULATOR_ARGUMENTS, simulator_parameters.PARAMETERS),
        (BAG_ARGUMENTS, player_parameters.PARAMETERS),
    ],
)
def test_arguments_agree_with_the_parameters_that_they_set(arguments, declared):
    for one in arguments:
        assert one.text
        assert one.default in {None, "", *one.choices} or not one.choices
        if not one.parameter or one.parameter == "use_sim_time":  # each node has that
            continue
        own = declared[one.parameter]
        assert type(own.default) is one.kind, one.name
        if own.values:
            assert set(one.choices) <= {"", *own.values}, one.name
            assert set(own.values) <= {"", *one.choices}, one.name
    texts = {one.parameter: one.text for one in SIMULATOR_ARGUMENTS}
    for name in ("world", "rate", "tour"):
        default = simulator_parameters.PARAMETERS[name].default
        assert f"has it, else {str(default).lower() if isinstance(default, bool) else f'{default:g}'}" in texts[name]


def test_the_transports_are_those_of_the_node():
    argument = next(one for one in NODE_ARGUMENTS if one.name == "transport")
    assert set(argument.choices) == {"auto", *parameters.PARAMETERS["image_transport"].values}


def test_without_more_than_the_image_topic_the_parameter_file_decides():
    start = node_start(node_arguments())
    assert start.parameters == {"autostart": True}
    assert start.files == (str(ROOT / "config/gen3r.yaml"),)
    assert (start.name, start.namespace, start.prefix, start.respawn) == ("gen3r", "", "", True)
    action = start.action("gen3r_node")
    assert (action["package"], action["executable"], action["namespace"]) == ("gen3r", "gen3r_node", None)
    assert action["parameters"] == [str(ROOT / "config/gen3r.yaml"), {"autostart": True}]
    assert ("camera_info", "/camera/camera_info") in action["remappings"]
    assert action["ros_arguments"] == ["--log-level", "info"]


def test_what_is_given_becomes_parameters_of_their_types(tmp_path):
    file = tmp_path / "mine.yaml"
    file.touch()
    start = node_start(
        node_arguments(
            image="/camera/image_raw/compressed",
            namespace="robot1",
            name="seer",
            checkpoint="0042",
            device="cpu",
            fixed_frame="robot1/odom",
            base_frame="robot1/base_link",
            namespaced_tf="TRUE",
            use_sim_time="True",
            autostart="no",
            respawn="0",
            params_file=str(file),
            log_level="warn",
        )
    )
    assert start.parameters == {
        "checkpoint": "0042",
        "device": "cpu",
        "fixed_frame": "robot1/odom",
        "base_frame": "robot1/base_link",
        "use_sim_time": True,
        "autostart": False,
        "image_transport": "compressed",
    }
    assert (start.files, start.namespace, start.name) == ((str(file),), "robot1", "seer")
    assert {("/tf", "tf"), ("/tf_static", "tf_static")} <= set(start.remappings)
    assert not start.respawn
    assert start.log_level == "warn"


def test_the_simulator_has_its_own(tmp_path):
    file = tmp_path / "sim.yaml"
    file.touch()
    start = simulator_start(
        simulator_arguments(world="7", world_kind="room", rate="2", tour="false", sim_params_file=str(file))
    )
    assert start.parameters == {
        "world": 7,
        "world_kind": "room",
        "rate": 2.0,
        "tour": False,
        "wait_for_subscriber": True,
        "use_sim_time": True,
    }
    assert type(start.parameters["rate"]) is float
    assert (start.files, start.respawn) == ((str(file),), False)
    assert simulator_start(simulator_arguments()).files == ()


def test_the_player_has_its_own(tmp_path):
    start = player_start(bag_arguments(tmp_path, rate="2", start="1.5", loop="yes", topics="/a, /b"))
    assert start.parameters == {
        "bag": str(tmp_path),
        "topics": "/a, /b",
        "rate": 2.0,
        "start_s": 1.5,
        "loop": True,
        "wait_for_subscriber": True,
    }
    assert (start.name, start.namespace, start.respawn) == ("gen3r_play", "", False)
    with pytest.raises(InputError, match=r"^bag:=/nowhere/bag: there is no such file or folder$"):
        player_start(bag_arguments("/nowhere/bag"))
    assert is_true(BAG_ARGUMENTS, "shutdown", "on")
    assert not is_true(BAG_ARGUMENTS, "shutdown", "false")


@pytest.mark.parametrize(
    ("make", "given", "words"),
    [
        (node_start, {"autostart": "maybe"}, r"^autostart:=maybe \(true: configure .*: it is true or false$"),
        (node_start, {"namespace": "a-b"}, r"^namespace:=/a-b \("),
        (node_start, {"name": "9lives"}, r"^name:=9lives \("),
        (node_start, {"params_file": "/nowhere/a.yaml"}, "^params_file:=/nowhere/a.yaml: there is no such file$"),
        (node_start, {"venv": "/nowhere"}, "^venv:=/nowhere: there is no /nowhere/bin/python3; give the folder"),
        (simulator_start, {"world": "1.5"}, r"^world:=1.5 \(number .*: it is a whole number$"),
        (simulator_start, {"rate": "fast"}, r"^rate:=fast \(pictures .*: it is a number$"),
        (simulator_start, {"sim_params_file": "/nowhere/b.yaml"}, "^sim_params_file:=/nowhere/b.yaml: there is no"),
    ],
)
def test_a_wrong_value_is_named(make, given, words):
    whole = node_arguments(**given) if make is node_start else simulator_arguments(**given)
    with pytest.raises(InputError, match=words):
        make(whole)


def test_rviz_shows_the_results_of_the_node_that_is_started():
    assert rviz_action(node_arguments()) is None
    plain = rviz_action(node_arguments(rviz="true"))
    assert (plain["package"], plain["name"], plain["namespace"], plain["parameters"]) == (
        "rviz2",
        "gen3r_rviz",
        None,
        [],
    )
    assert plain["arguments"] == ["-d", str(ROOT / "config/gen3r.rviz")]
    assert plain["remappings"] == [("image_raw", "/camera/image_raw")]
    other = rviz_action(
        node_arguments(
            rviz="true",
            namespace="robot1",
            namespaced_tf="true",
            use_sim_time="true",
            fixed_frame="map",
            image="rgb/image_raw/compressed",
        )
    )
    assert (other["namespace"], other["parameters"]) == ("robot1", [{"use_sim_time": True}])
    assert other["arguments"][2:] == ["-f", "map"]
    assert ("/tf", "tf") in other["remappings"]
    assert ("image_raw", "rgb/image_raw") in other["remappings"]


def test_the_map_may_have_another_topic_beside_nav2():
    assert "map" not in dict(node_start(node_arguments()).remappings)
    given = node_arguments(map_topic="gen3r/map", rviz="true")
    assert ("map", "gen3r/map") in node_start(given).remappings
    assert ("map", "gen3r/map") in rviz_action(given)["remappings"]
    assert "map_topic" not in CAMERA_ARGUMENTS, "sim.launch.py hands it on, and bag.launch.py does all"
    with pytest.raises(InputError, match=r"^map_topic:=a-b \(topic of the map; "):
        node_start(node_arguments(map_topic="a-b"))


def test_a_python_environment_is_run_by_its_own_name(tmp_path):
    folder = tmp_path / "my venv"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/python3").symlink_to(shutil.which("python3"))
    assert interpreter(str(folder)) == f"'{folder}/bin/python3'", "not what the link leads to"
    assert interpreter("") == ""


@pytest.mark.parametrize(
    ("distribution", "missing"),
    [("kilted", {"FASTDDS"}), ("jazzy", {"FASTRTPS"}), ("", {"FASTDDS", "FASTRTPS"})],
)
def test_only_missing_variables_are_set(distribution, missing):
    profile = str(ROOT / "config/fastdds.xml")
    expected = {f"{name}_DEFAULT_PROFILES_FILE": profile for name in missing}
    assert profile_variables({"ROS_DISTRO": distribution, "A": "b"}) == expected
    assert profile_variables({"ROS_DISTRO": distribution, **expected}) == {}


# --- files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_launch_file_compiles_and_uses_what_there_is(file):
    tree = ast.parse(file.read_text(), str(file))
    compile(tree, str(file), "exec")
    for module in (launching, launch_arguments):
        imported = [name.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
                    and node.module == module.__name__ for name in node.names]  # fmt: skip
        assert imported
        assert [name for name in imported if not hasattr(module, name)] == []
    assert "generate_launch_description" in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]


def test_the_default_parameter_file_is_what_is_declared(graph):
    from rclpy import Context, create_node

    from gen3r_ros.parameter_file import parameter_file

    file = ROOT / "config/gen3r.yaml"
    assert file.read_text() == parameter_file(), "python -m gen3r_ros.parameter_file > config/gen3r.yaml"
    context = Context()
    context.init(["--ros-args", "--params-file", str(file)])
    try:
        everything = create_node("seer", context=context, automatically_declare_parameters_from_overrides=True)
        held = {own.name: own.value for own in everything.get_parameters_by_prefix("").values()}
        held.pop("use_sim_time"), held.pop("start_type_description_service", None)
        assert held == {name: one.default for name, one in parameters.PARAMETERS.items()}
        everything.destroy_node()
        checked = create_node("gen3r", namespace="robot1", context=context)
        parameters.declare(checked)  # types, ranges and values
        assert {type(p.value) for p in checked.get_parameters(["seed", "window"])} == {int}
        assert checked.get_parameter("guidance").type_ == Parameter.Type.DOUBLE
        checked.destroy_node()
    finally:
        context.shutdown()


# --- ros2 launch -----------------------------------------------------------------------------------------

needs_launch = pytest.mark.skipif(
    shutil.which("ros2") is None or importlib.util.find_spec("launch_ros") is None,
    reason="ros2 launch is not installed (there is no wheel of it): docs/ros.md tells how to run this",
)


@pytest.fixture
def launched(graph, tmp_path):
    """Runs `ros2 launch gen3r ...`; what still runs in the end is killed."""
    running = []

    def launch(*words):
        output = tmp_path / f"launch-{len(running)}.txt"
        with output.open("wb") as file:
            process = subprocess.Popen(
                [shutil.which("ros2"), "launch", "gen3r", *map(str, words)],
                cwd=tmp_path, env=graph, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        running.append((process, output))
        return process, output

    yield launch
    for process, output in running:
        print(output.read_text())
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def children(process):
    """Process ids by program."""
    found = {}
    for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        with contextlib.suppress(OSError):
            for word in Path(f"/proc/{pid}/cmdline").read_text().split("\0"):
                if Path(word).name in {"gen3r_node", "gen3r_sim"}:
                    found[Path(word).name] = int(pid)
    return found


def parameter_yaml(path, **values):
    lines = [
        f"    {name}: {str(value).lower() if isinstance(value, bool) else value}" for name, value in values.items()
    ]
    path.write_text("\n".join(["/**:", "  ros__parameters:", *lines, ""]))
    return path


@needs_launch
def test_the_simulated_robot_comes_up_comes_back_and_ends(launched, client, tmp_path):
    quick = parameter_yaml(tmp_path / "quick.yaml", **{**QUICK, "checkpoint": "/overridden/by/the/argument"})
    small = parameter_yaml(tmp_path / "small.yaml", image_width=64, image_height=48, samples=1)
    process, output = launched("sim.launch.py", "namespace:=robot1", "checkpoint:=random:tiny",
                               f"params_file:={quick}", f"sim_params_file:={small}", "world:=3")  # fmt: skip
    clouds = []
    client.node.create_subscription(PointCloud2, "/robot1/points", clouds.append, RESULT)

    def alive(condition):
        assert process.poll() is None, output.read_text()
        return condition()

    client.until(lambda: alive(lambda: clouds), 60)
    manager = Manager(client, "/robot1/gen3r")
    assert manager.state == "active"
    topics = {name for name, _ in client.node.get_topic_names_and_types()}
    assert {"/robot1/image_raw", "/robot1/tf", "/robot1/clock"} <= topics
    assert client.node.count_publishers("/clock") == client.node.count_publishers("/tf") == 0
    first = children(process)["gen3r_node"]
    variables = Path(f"/proc/{first}/environ").read_text().split("\0")
    assert [one for one in variables if one.startswith("FASTDDS_DEFAULT_PROFILES_FILE=/")]
    os.kill(first, signal.SIGKILL)
    client.until(lambda: alive(lambda: children(process).get("gen3r_node", first) != first), 20)
    clouds.clear()
    client.until(lambda: alive(lambda: clouds), 60)
    last = children(process)
    assert set(last) == {"gen3r_node", "gen3r_sim"}
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C in a terminal
    assert process.wait(30) == 0
    assert output.read_text().count("process has finished cleanly") == 2
    assert [pid for pid in last.values() if Path(f"/proc/{pid}").exists()] == []


@needs_launch
def test_a_recording_is_played_into_the_node(launched, client, tmp_path):
    bag = write_drive(tmp_path / "bag", Drive(seconds=3.0, hz=5.0, tf_hz=50.0))
    quick = parameter_yaml(tmp_path / "quick.yaml", **QUICK)
    process, output = launched("bag.launch.py", f"bag:={bag}", "image:=/camera/image_raw/compressed",
                               f"params_file:={quick}", "shutdown:=true", "rate:=0.5")  # fmt: skip
    scenes = []
    client.node.create_subscription(Reconstruction, "/reconstruction", scenes.append, LATCHED)
    client.until(lambda: scenes or process.poll() is not None, 60)
    assert scenes, output.read_text()
    assert scenes[0].header.stamp.sec == START // S  # when it was recorded
    client.until(lambda: process.poll() is not None, 30)
    assert process.returncode == 0
    assert output.read_text().count("process has finished cleanly") == 2
    assert "played: " in output.read_text()


@needs_launch
def test_a_bag_that_cannot_be_played_ends_all(launched, tmp_path):
    (tmp_path / "bag").mkdir()
    process, output = launched("bag.launch.py", f"bag:={tmp_path / 'bag'}", "image:=/image", "autostart:=false")
    process.wait(60)
    assert "[gen3r_play]: " in output.read_text()


@needs_launch
def test_a_node_that_cannot_start_is_not_tried_again(launched, tmp_path):
    wrong = parameter_yaml(tmp_path / "wrong.yaml", window=0)
    process, output = launched("gen3r.launch.py", "image:=/camera/image_raw", f"params_file:={wrong}")
    process.wait(60)
    text = output.read_text()
    assert text.count("process started with pid") == 1
    assert "the parameter window (keyframes in a reconstruction, at most) takes a int from 1 to 200" in text
    assert "gen3r_node cannot start, for the reason above" in text


@needs_launch
def test_the_command_line_of_ros2_launch(launched):
    cases = {
        ("gen3r.launch.py",): "missing required argument 'image' (description: 'topic of the camera's images",
        ("gen3r.launch.py", "image:=/a", "checkpont:=b"): "did you mean checkpoint?",
        ("gen3r.launch.py", "image:=/a", "transport:=pigeon"): "Valid options are: ('auto', 'raw', 'compressed')",
        ("sim.launch.py", "image:=/a"): "image is no argument of sim.launch.py",
        ("bag.launch.py", "image:=/a"): "missing required argument 'bag'",
        ("bag.launch.py", "bag:=/nowhere", "image:=/a"): "bag:=/nowhere: there is no such file or folder",
        ("bag.launch.py", "bag:=/", "image:=/a", "use_sim_time:=true"): "use_sim_time is no argument of bag.launch.py",
    }
    for words, expected in cases.items():
        process, output = launched(*words)
        assert process.wait(30) == 1
        assert expected in output.read_text()
        assert "process started" not in output.read_text()
    for file, shown in (
        ("gen3r.launch.py", NODE_ARGUMENTS),
        ("sim.launch.py", (*SIMULATOR_ARGUMENTS, *NODE_ARGUMENTS)),
        ("bag.launch.py", (*BAG_ARGUMENTS, *NODE_ARGUMENTS)),
    ):
        process, output = launched(file, "--show-args")
        assert process.wait(30) == 0
        listed = re.findall(r"^    '(\w+)':$", output.read_text(), re.MULTILINE)
        hidden = CAMERA_ARGUMENTS if file == "sim.launch.py" else ()
        assert {one.name for one in shown} - set(hidden) <= set(listed)
