"""The simulator in a process of its own: what it publishes, and that it agrees with the world it is in."""

import math
import os
import signal
import time

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS is not installed")

import rclpy
from nav_msgs.msg import Odometry, Path
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header

from gen3r_core.errors import Gen3RError
from gen3r_core.worlds.render_process import CameraSettings
from gen3r_core.worlds.robot import first_blocked, start_of, tour
from gen3r_core.worlds.splits import world_seed
from gen3r_ros.conversions.cameras import camera_model
from gen3r_ros.conversions.clouds import cloud_points
from gen3r_ros.conversions.images import depth_array, rgb_array
from gen3r_ros.conversions.poses import path_message, pose_matrix, stamp_ns
from gen3r_ros.qos import CLOCK, LATCHED, RESULT, SENSOR
from gen3r_ros.simulator import START_NS, Simulator, main
from gen3r_ros.transforms import TransformError, listen_to_transforms

WORLD = 3
SMALL = {"world": WORLD, "image_width": 48, "image_height": 36, "samples": 1, "hfov": 1.3, "camera_height": 0.7}
S = 1_000_000_000


def arguments(**values):
    given = [f"{name}:={str(value).lower() if isinstance(value, bool) else value}" for name, value in values.items()]
    return ["--ros-args", *(word for one in given for word in ("-p", one))]


class Ears:
    """Everything that came, by topic; what comes fast is kept."""

    def __init__(self, node):
        self.heard, self._subscriptions = {}, []
        for kind, topic, qos in (
            (Image, "image_raw", SENSOR),
            (CameraInfo, "camera_info", SENSOR),
            (Image, "depth/image_raw", SENSOR),
            (Odometry, "odom", RESULT),
            (Clock, "/clock", CLOCK),
            (PointCloud2, "ground_truth/points", LATCHED),
        ):
            messages = self.heard[topic] = []
            self._subscriptions.append(node.create_subscription(kind, topic, messages.append, qos))
        self._node, self.tf = node, listen_to_transforms(node, 100.0)

    def close(self):
        """What was heard stays."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self.tf.close()

    def __getitem__(self, topic):
        return self.heard[topic]

    def knows(self, *frames):
        try:
            return self.tf.lookup(*frames)
        except TransformError:
            return None

    def pictures(self):
        """By stamp: those of which everything came."""
        by_stamp = [
            {stamp_ns(m.header.stamp): m for m in self[topic]}
            for topic in ("image_raw", "camera_info", "depth/image_raw")
        ]
        stamps = sorted(set.intersection(*(set(one) for one in by_stamp)))
        return {stamp: tuple(one[stamp] for one in by_stamp) for stamp in stamps}


@pytest.fixture(scope="module")
def camera():
    return CameraSettings(world_seed("test", WORLD), None, (36, 48), 1.3, 1).camera()


def test_simulated_time(client, start, tmp_path, camera):
    """One run, as a node sees it; then a second one, which is the same."""
    settings = {**SMALL, "use_sim_time": True, "rate": 4.0, "tf_rate": 20.0, "pace": 10.0, "wait_for_subscriber": True}
    runs = []
    for _ in range(2):
        process = start("run_simulator.py", *arguments(**settings, cache_folder=tmp_path / "cache"))
        ears = Ears(client.node)
        client.until(lambda ears=ears: len(ears.pictures()) >= 6 and ears["ground_truth/points"], timeout=40)
        process.stop()
        ears.close()
        runs.append(ears)
    ears, again = runs

    pictures, repeated = ears.pictures(), again.pictures()
    first, *_ = pictures
    assert first == START_NS
    assert {(stamp - first) % (S // 4) for stamp in pictures} == {0}
    for stamp in sorted(pictures)[:4]:
        image, info, depth = pictures[stamp]
        assert {m.header.frame_id for m in (image, info, depth)} == {"camera_optical_frame"}
        assert (image.width, image.height, image.encoding, depth.encoding) == (48, 36, "rgb8", "32FC1")
        np.testing.assert_allclose(camera_model(info).intrinsics, camera.intrinsics, atol=1e-12)
        # The picture is what a camera sees from where TF says it was.
        T = ears.tf.lookup("map", "camera_optical_frame", stamp).T_target_source
        assert T[2, 3] == pytest.approx(0.7)
        truth = camera.picture(T)
        assert np.abs(rgb_array(image).astype(int) - truth.colors).mean() < 0.5
        np.testing.assert_allclose(depth_array(depth), truth.depth, atol=0.02)
        assert repeated[stamp][0].data == image.data, "another run of one seed is the same"

    odometry = ears["odom"]
    assert {(m.header.frame_id, m.child_frame_id) for m in odometry} == {("odom", "base_link")}
    for m in odometry[::5]:
        T = ears.tf.lookup("odom", "base_link", stamp_ns(m.header.stamp)).T_target_source
        np.testing.assert_allclose(pose_matrix(m.pose.pose), T, atol=1e-9)
        assert 0 <= m.twist.twist.linear.x <= 0.3
    x, y, yaw = start_of(tour(camera.world))
    T_map_odom = ears.tf.lookup("map", "odom").T_target_source
    np.testing.assert_allclose(T_map_odom[:2, 3], [x, y], atol=1e-9)
    assert math.atan2(T_map_odom[1, 0], T_map_odom[0, 0]) == pytest.approx(yaw)
    clocks = [stamp_ns(m.clock) for m in ears["/clock"]]
    assert clocks == sorted(clocks)

    (cloud,) = ears["ground_truth/points"]
    assert cloud.header.frame_id == "map"
    points = cloud_points(cloud)
    assert len(points.xyz) > 10_000
    assert np.quantile(camera.distance(points.xyz[::50]), 0.99) < 0.02


def test_a_goal_path_is_followed_to_its_end(client, start, camera):
    """To a place on the tour, looking back; in the odom frame. A path through a wall is not."""
    process = start(
        "run_simulator.py",
        *arguments(**SMALL, use_sim_time=True, rate=0.2, tf_rate=20.0, pace=50.0, tour=False, speed=1.0),
    )
    process.wait_for("world 3 of split test")
    ears = Ears(client.node)
    publisher = client.node.create_publisher(Path, "goal_path", RESULT)
    client.until(lambda: publisher.get_subscription_count() and ears["odom"] and ears.knows("map", "odom"))

    publisher.publish(path_message([_floor(-3.0, -3.0, 0.0)], Header(frame_id="map")))
    process.wait_for("goal_path is not followed: it runs into something near (-3.00, -3.00) in map")
    for path, words in (
        (Path(header=Header(frame_id="map")), "it has no pose"),
        (path_message([np.eye(4)], Header(frame_id="moon")), "its frame is 'moon'; map and odom can be used"),
        (path_message([np.eye(4)], Header()), "the poses of a path are in one frame"),
    ):
        publisher.publish(path)
        process.wait_for(f"goal_path is not followed: {words}")

    way = tour(camera.world)[:20]
    assert first_blocked(camera.world, way) is None
    T_map_odom = ears.tf.lookup("map", "odom").T_target_source
    goal = [np.linalg.inv(T_map_odom) @ _floor(x, y, 2.0) for x, y in way]
    publisher.publish(path_message(goal, Header(frame_id="odom")))
    process.wait_for("arrived at", timeout=30)
    last = len(ears["odom"])
    client.until(lambda: len(ears["odom"]) > last + 5)
    T = T_map_odom @ pose_matrix(ears["odom"][-1].pose.pose)
    assert np.linalg.norm(T[:2, 3] - way[-1]) < 0.02
    assert math.atan2(T[1, 0], T[0, 0]) == pytest.approx(2.0, abs=0.02)


def _floor(x, y, yaw):
    return np.array(
        [[math.cos(yaw), -math.sin(yaw), 0, x], [math.sin(yaw), math.cos(yaw), 0, y], [0, 0, 1, 0], [0, 0, 0, 1.0]]
    )


@pytest.mark.slow
def test_real_time(client, start, camera):
    """Pictures have the stamp and pose of when they were asked for; nothing is on /clock. The tour ends."""
    process = start("run_simulator.py", *arguments(**SMALL, rate=20.0, tour_length=0.3, wait_for_subscriber=True))
    process.wait_for("of real time")
    before = client.node.get_clock().now().nanoseconds
    ears = Ears(client.node)
    client.until(lambda: len(ears.pictures()) >= 4, timeout=40)
    process.wait_for("arrived at", timeout=20)
    after = client.node.get_clock().now().nanoseconds
    assert ears["/clock"] == []
    compared = 0
    for stamp, (image, _, depth) in ears.pictures().items():
        assert before < stamp < after
        if compared < 3:
            compared += 1
            T = ears.tf.lookup("map", "camera_optical_frame", stamp).T_target_source
            np.testing.assert_allclose(depth_array(depth), camera.picture(T).depth, atol=0.02)
            assert image.header == depth.header
    assert compared == 3


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"rate": 0.0},
            "the parameter rate (pictures a second, of simulated or real time) takes a float from 0.01 to 120",
        ),
        ({"world": "text"}, "the parameter world (number of the world in its split) takes a int"),
        ({"split": "moon"}, "cannot be 'moon'"),
        ({"cache_folder": "/proc/none"}, "cannot write /proc/none"),
    ],
)
def test_what_makes_no_sense_ends_it_with_the_reason(graph, monkeypatch, capfd, values, words):
    """In this process; the last reason comes from the process that renders."""
    monkeypatch.setenv("FASTRTPS_DEFAULT_PROFILES_FILE", "")  # main sets it
    assert main(["gen3r_sim", *arguments(**{**SMALL, "use_sim_time": True, **values})]) == 1
    assert words in capfd.readouterr().err


@pytest.fixture
def simulate(client):
    """A simulator in this process: ``simulate(world=3, ...)``."""
    made = []

    def start(**values):
        overrides = [Parameter(name, value=value) for name, value in {**SMALL, **values}.items()]
        node = rclpy.create_node("simulated", context=client.context, parameter_overrides=overrides)
        client._executor.add_node(node)
        made.append((node, Simulator(node)))
        return made[-1][1]

    yield start
    for node, simulator in made:
        simulator.close()
        client._executor.remove_node(node)
        node.destroy_node()


def wait(client, seconds):
    end = time.monotonic() + seconds
    client.until(lambda: time.monotonic() > end)


def test_simulated_time_stands_still_until_the_picture_is_there(client, simulate):
    simulator = simulate(use_sim_time=True)
    stamps = []
    client.node.create_subscription(Image, "image_raw", lambda m: stamps.append(stamp_ns(m.header.stamp)), SENSOR)
    client.until(lambda: stamps, timeout=60)
    os.kill(simulator._renderer.pid, signal.SIGSTOP)
    wait(client, 1.0)  # an answer may have been on its way
    stood = simulator._now
    assert simulator._exposed == stood
    wait(client, 0.7)
    assert simulator._now == stood
    assert max(stamps) < stood
    os.kill(simulator._renderer.pid, signal.SIGCONT)
    client.until(lambda: stamps[-1] >= stood and simulator._now > stood, timeout=60)
    assert stood in stamps


def test_it_says_when_the_process_that_renders_has_died(client, simulate):
    os.kill(simulate(use_sim_time=True)._renderer.pid, signal.SIGKILL)
    with pytest.raises(Gen3RError, match=r"the process for rendering has ended \(exit code -9\)"):
        client.until(lambda: False, timeout=10)


def test_a_machines_clock_that_is_set_back_is_followed(client, simulate):
    simulator = simulate()
    client.until(lambda: simulator._robot.driven > 0)
    simulator._now += 3600 * S
    client.until(lambda: simulator._now < client.node.get_clock().now().nanoseconds)
    driven = simulator._robot.driven
    client.until(lambda: simulator._robot.driven > driven)


def test_the_way_to_a_path_goes_around_things(simulate):
    """From every part of a building to a path in another: not through the walls between them."""
    simulator = simulate(world_kind="rooms", use_sim_time=True)
    world, way = simulator._world, tour(simulator._world)
    around = 0
    for place in np.linspace(0, len(way) - 4, 8).round().astype(int):
        goal = path_message([_floor(*way[place], 0.5), _floor(*way[place + 3], 1.0)], Header(frame_id="map"))
        found, end_yaw = simulator._checked_way(goal)
        assert first_blocked(world, found) is None
        assert end_yaw == pytest.approx(1.0)
        np.testing.assert_allclose(found[[0, -1]], [[simulator._robot.x, simulator._robot.y], way[place + 3]])
        around += len(found) > 4
    assert around
    idle = simulate(use_sim_time=True, follow_goal_path=False, tour=False)
    idle._take_path(path_message([_floor(*tour(idle._world)[9], 0.0)], Header(frame_id="map")))
    assert not idle._robot.busy
