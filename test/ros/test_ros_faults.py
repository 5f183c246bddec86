"""The simulator's faults, one after the other at run time: what the node makes of each, and what it says of it.

The simulator and the node run in processes of their own, in real time, and go on throughout.
"""

import re
import time

import pytest

pytest.importorskip("rclpy", reason="ROS is not installed")

from diagnostic_msgs.msg import DiagnosticStatus
from gen3r.msg import ErrorCode, Reconstruction
from managed_node import Manager
from node_client import ENDLESS, Robot
from ros_graph import GraphProcess

from gen3r_ros.qos import LATCHED
from gen3r_ros.simulator_faults import FAULTS

SIMULATOR = {"world": 3, "image_width": 48, "image_height": 36, "samples": 1, "rate": 10.0, "speed": 0.5}
NODE = {"input_wait_s": 0.4, "keyframe_max_interval_s": 1.0, "keyframe_translation_m": 0.05, "autostart": True}


class Processes:
    """The simulator and the node."""

    def __init__(self, graph, folder, here):
        from managed_node import parameter_arguments

        words = ["--ros-args", *(w for n, v in SIMULATOR.items() for w in ("-p", f"{n}:={v}"))]
        self.simulator = GraphProcess(
            here / "run_simulator.py", *words, environment=graph, output=folder / "simulator.txt"
        )
        words = parameter_arguments(map_folder=folder, **NODE)
        self.node = GraphProcess(here / "gen3r_process.py", *words, environment=graph, output=folder / "node.txt")

    def stop(self):
        ends = [self.node.stop(), self.simulator.stop()]
        print(self.node.output.read_text(), self.simulator.output.read_text())
        return ends


@pytest.fixture(scope="module")
def processes(graph, tmp_path_factory, request):
    made = Processes(graph, tmp_path_factory.mktemp("faults"), request.path.parent)
    yield made
    assert made.stop() == [0, 0]


class Faulty(Robot):
    """A client that also breaks things."""

    def __init__(self, client, processes):
        super().__init__(client, processes)
        self.simulator = Manager(client, "gen3r_sim")
        self.fine = ""

    def fault(self, **values):
        for name, value in values.items():
            assert self.simulator.set(f"fault_{name}", value) == (True, "")

    def input(self, condition=lambda values: True, timeout=20.0):
        """Message and values of the input's diagnostics, once the values meet a condition."""
        status, values = self.diagnosis("input", lambda s: condition({v.key: v.value for v in s.values}), timeout)
        return status, values

    def grows(self, key, by=3):
        """Wait until a counter has grown."""
        before = int(self.input()[1].get(key, 0))
        return self.input(lambda values: int(values.get(key, 0)) >= before + by)


@pytest.fixture
def robot(shared_client, processes):
    made = Faulty(shared_client, processes)
    made.diagnosis("results", lambda status: status.message == "publishing", 60)
    yield made
    made.fault(**{name.removeprefix("fault_"): one.default for name, one in FAULTS.items()})
    made.close()


def test_of_lost_images_the_others_are_used(robot):
    robot.fault(drop=0.8)
    _, before = robot.input()
    status, after = robot.grows("camera infos", 20)
    infos, images = (int(after[key]) - int(before[key]) for key in ("camera infos", "images"))
    assert infos >= 20
    assert images < infos / 2
    assert 0 < float(after["images per second"]) < float(after["camera infos per second"])
    assert status.level == DiagnosticStatus.OK
    robot.fault(drop=0.0, drop_infos=1.0)  # then the newest info counts, after the wait
    robot.grows("images", 8)
    waiting = "images that wait for camera_info, depth or TF"
    robot.input(lambda values: int(values[waiting]) > 1)


def test_late_images_find_their_transforms(robot):
    robot.fault(delay_s=1.0)
    behind = "seconds that stamps are behind the clock"
    _, values = robot.input(lambda values: 0.95 < float(values[behind]) < 2)
    before = values["without pose"]
    _, values = robot.grows("images", 5)
    assert values["without pose"] == before


def test_images_wait_for_late_transforms_but_not_for_ever(robot):
    _, values = robot.input()
    before = values["without pose"]
    robot.fault(tf_delay_s=0.2)
    _, values = robot.grows("images", 8)
    assert values["without pose"] == before
    robot.fault(tf_delay_s=5.0)
    status, values = robot.grows("without pose")
    assert status.level == DiagnosticStatus.WARN
    assert re.match(r"no transform from camera_optical_frame to odom at \d+\.\d+: ", status.message)
    robot.fault(tf_delay_s=0.0)
    robot.diagnosis("input", lambda status: status.message == "")


@pytest.mark.parametrize(
    ("kind", "reason", "words"),
    [
        ("zero", "no stamp", "images on /image_raw have the stamp 0"),
        ("twice", "stamp twice", "two of images on /image_raw have the stamp"),
        ("back", "stamp went back", "stamps of images on /image_raw went back from"),
        ("future", "stamp in the future", "stamps of images on /image_raw are 3"),
    ],
)
def test_wrong_stamps_are_counted_and_dropped(robot, kind, reason, words):
    scenes = robot.listen(Reconstruction, "reconstruction", LATCHED)
    robot.client.until(lambda: scenes)
    robot.fault(stamps=kind)
    _, values = robot.grows(f"dropped: {reason}")
    assert words in values["last problem"]
    assert values["restarts of time"] == "0"
    if kind == "future":  # for so long that nothing is published
        status, _ = robot.diagnosis("results", lambda status: "no image could be used for" in status.message)
        assert re.search(r"stamps and clock disagree, those of /image_raw are 3\d{3}\.\d s ahead of this node's: "
                         r"use_sim_time is false here, and the machines' clocks differ", status.message)  # fmt: skip
        assert status.level == DiagnosticStatus.WARN
    robot.fault(stamps="none")
    robot.input(lambda values: float(values["seconds since the last that was used"]) < 0.3)
    assert scenes[-1].scene_id == scenes[0].scene_id


@pytest.mark.parametrize(
    ("fault", "kind", "reason"),
    [
        ("images", "step", "step"),
        ("images", "encoding", "encoding"),
        ("images", "truncated", "step"),
        ("images", "empty", "size"),
        ("images", "size", "size"),
        ("infos", "zero", "intrinsics"),
        ("infos", "nan", "intrinsics"),
    ],
)
def test_bad_messages_are_counted_and_dropped(robot, fault, kind, reason):
    robot.fault(**{fault: kind})
    _, values = robot.grows(f"dropped: {reason}")
    assert values["last problem"]


def test_a_camera_that_stops_is_named_and_may_return(robot):
    scenes = robot.listen(Reconstruction, "reconstruction", LATCHED)
    robot.fault(camera_off=True)
    begin = time.monotonic()
    status, _ = robot.diagnosis("results", lambda status: status.message.startswith("no image for"))
    assert 4 < time.monotonic() - begin < 8
    words = r"no image for \d s on /image_raw, though somebody publishes it: the camera has stopped"
    assert re.match(words, status.message)
    assert status.level == DiagnosticStatus.WARN
    robot.client.until(lambda: scenes)
    before = (scenes[-1].scene_id, scenes[-1].revision)
    robot.fault(camera_off=False)
    robot.diagnosis("results", lambda status: status.message == "publishing")
    robot.client.until(lambda: scenes[-1].revision > before[1])
    assert scenes[-1].scene_id == before[0]


def test_stamps_of_another_clock_are_another_scene(robot):
    """As those of a recording that began again, or of a simulation where use_sim_time was forgotten."""
    scenes = robot.listen(Reconstruction, "reconstruction", LATCHED)
    robot.client.until(lambda: scenes)
    first = scenes[-1].scene_id
    goal = robot.send(robot.goal(steps=ENDLESS))
    robot.denoising()
    robot.fault(stamps="other_clock")
    result = robot.end(goal)[1]
    assert result.code == ErrorCode.NO_IMAGES
    assert "went back by" in result.message
    status, values = robot.input(lambda values: values["restarts of time"] != "0")
    assert re.match(r"stamps of images on /image_raw went back by \d+", values["last restart of time"])
    status, _ = robot.diagnosis("input", lambda status: "disagree" in status.message)
    assert "no transform from camera_optical_frame to odom at" in status.message
    assert "use_sim_time is false here; for a recording or a simulation it has to be true" in status.message
    robot.client.until(lambda: scenes[-1].scene_id != first and not scenes[-1].metric)
    robot.fault(stamps="none")
    robot.client.until(lambda: scenes[-1].metric)


def test_faults_that_are_none_are_refused(robot):
    done, reason = robot.simulator.set("fault_stamps", "some")
    assert not done
    assert reason.startswith("the parameter fault_stamps cannot be 'some'; it is one of none, zero")
    assert not robot.simulator.set("fault_drop", 2.0)[0]
