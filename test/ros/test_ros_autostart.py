"""Nodes that bring themselves up, and several robots in one graph: each in a process of its own."""

import time
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="ROS is not installed")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from gen3r.msg import Reconstruction
from managed_node import Manager, parameter_arguments
from ros_graph import GraphProcess
from tf2_msgs.msg import TFMessage

from gen3r_ros.qos import LATCHED, RESULT

HERE = Path(__file__).resolve().parent
CHECKPOINTS = {"robot1": "random:tiny", "robot2": "/nowhere/weights", "robot3": "random:enormous"}
"""What each begins with: a model, none, and one that only the inference process finds out about."""


def own(namespace):
    return ["-r", f"__ns:=/{namespace}", "-r", "/tf:=tf", "-r", "/tf_static:=tf_static"]


class Robots:
    """Three nodes, of which the first has a camera, and what they say."""

    def __init__(self, graph, client, folder):
        self.client, self.diagnostics = client, {}
        self.managers = {name: Manager(client, f"/{name}/gen3r") for name in CHECKPOINTS}
        self.scenes, self.frames = {name: [] for name in CHECKPOINTS}, {name: [] for name in CHECKPOINTS}
        client.node.create_subscription(DiagnosticArray, "/diagnostics", self._take, 10)
        for name in CHECKPOINTS:
            client.node.create_subscription(
                Reconstruction, f"/{name}/reconstruction", self.scenes[name].append, LATCHED
            )
            client.node.create_subscription(TFMessage, f"/{name}/tf", self.frames[name].append, RESULT)
        commands = {
            name: ["gen3r_process.py", *parameter_arguments(checkpoint=checkpoint, autostart=True), *own(name)]
            for name, checkpoint in CHECKPOINTS.items()
        }
        # Nobody would activate it once more: it waits for the model as long as that takes.
        commands["robot1"] += ["-p", "activation_timeout_s:=0.1"]
        commands["camera"] = ["camera_source.py", "10", "--ros-args", *own("robot1")]
        self.processes = {
            name: GraphProcess(HERE / script, *words, environment=graph, output=folder / f"{name}.txt")
            for name, (script, *words) in commands.items()
        }

    def _take(self, message):
        self.diagnostics.update({one.name: one for one in message.status})

    def error(self, name):
        """What /diagnostics says is wrong with a node's worker."""
        status = self.diagnostics.get(f"{name}/gen3r: worker")
        return "" if status is None or status.level != DiagnosticStatus.ERROR else status.message

    def images(self, name):
        """How many a node took, as it says; None while it does not listen."""
        status = self.diagnostics.get(f"{name}/gen3r: input")
        values = {} if status is None else {value.key: value.value for value in status.values}
        return int(values["images"]) if "images" in values else None

    def log(self, name):
        return self.processes[name].output.read_text()


@pytest.fixture(scope="module")
def robots(graph, shared_client, tmp_path_factory):
    made = Robots(graph, shared_client, tmp_path_factory.mktemp("robots"))
    yield made
    ends = {name: process.stop() for name, process in made.processes.items()}
    print(*(process.output.read_text() for process in made.processes.values()), sep="\n")
    assert set(ends.values()) == {0}, ends


def test_a_node_brings_itself_up(robots):
    robots.client.until(lambda: robots.scenes["robot1"], 60)
    assert robots.managers["robot1"].state == "active"
    assert not robots.error("robot1")


@pytest.mark.slow
def test_what_fails_is_not_tried_again_and_waits_for_somebody(robots):
    robots.client.until(lambda: "/nowhere/weights does not exist" in robots.error("robot2"))
    robots.client.until(lambda: "model size 'enormous' is unknown" in robots.error("robot3"), 40)
    until = time.monotonic() + 1
    robots.client.until(lambda: time.monotonic() > until)
    assert robots.managers["robot2"].state == "unconfigured"
    assert robots.managers["robot3"].state == "inactive"
    assert robots.log("robot2").count("configuration failed") == 1
    assert robots.log("robot3").count("activation failed") == 1
    second = robots.managers["robot2"]
    assert second.set("checkpoint", "random:tiny") == (True, "")
    assert second.do("configure")
    assert second.do("activate")
    assert second.state == "active"
    robots.client.until(lambda: not robots.error("robot2"))
    assert robots.managers["robot3"].do("cleanup")


def test_robots_do_not_hear_each_other(robots):
    if robots.managers["robot2"].state != "active":
        test_what_fails_is_not_tried_again_and_waits_for_somebody(robots)

    def keyframes(name):
        frames = [t for message in robots.frames[name] for t in message.transforms]
        return {(t.header.frame_id, t.child_frame_id) for t in frames if "keyframe_" in t.child_frame_id}

    seen = robots.images("robot1") or 0
    robots.client.until(lambda: (robots.images("robot1") or 0) > seen + 5 and robots.images("robot2") is not None)
    robots.client.until(lambda: keyframes("robot1"), 40)
    assert {(parent, child.split("keyframe_")[0]) for parent, child in keyframes("robot1")} == {
        ("odom", "robot1/gen3r/")
    }
    assert robots.images("robot2") == 0
    assert (robots.scenes["robot2"], robots.frames["robot2"]) == ([], [])
