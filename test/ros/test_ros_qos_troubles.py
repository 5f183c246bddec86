"""Quality of service that does not go together, and other ways in which nothing comes: named, in this process."""

import threading

import pytest

pytest.importorskip("rclpy", reason="ROS is not installed")

from camera_messages import Frames, K, header, parameters_of
from nav_msgs.msg import OccupancyGrid
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image, PointCloud2

from gen3r_core.errors import InputError
from gen3r_ros.camera_input import CameraInput
from gen3r_ros.camera_settings import all_cameras
from gen3r_ros.cameras import RobotCameras
from gen3r_ros.conversions.cameras import CameraModel, camera_info
from gen3r_ros.endpoints import Endpoints
from gen3r_ros.parameters import declare, read
from gen3r_ros.qos import LATCHED, RESULT, SENSOR
from gen3r_ros.silence import input_trouble
from gen3r_ros.transforms import TopicSender, TopicTransforms

CLASH = (
    "/map is nav_msgs/msg/OccupancyGrid of /map_server, and sensor_msgs/msg/PointCloud2 here; who listens can have one "
    "of them only: remap ours, -r map:=gen3r/map (map_topic:=gen3r/map of the launch files), or the other's"
)


def test_what_does_not_go_together_is_named(client):
    name = "qos_overrides./image_raw.subscription.reliability"
    client.node._parameter_overrides[name] = Parameter(name, value="reliable")
    camera = CameraInput(client.node, Frames(), declare(client.node), lambda _taken: None)
    publisher = client.node.create_publisher(Image, "image_raw", SENSOR)
    client.until(lambda: "QoS" in input_trouble(camera), 2)
    assert input_trouble(camera) == (
        "no image came yet on /image_raw: QoS incompatible with /test_client on /image_raw: its RELIABILITY does not "
        "go with ours (reliable); change it there, or set qos_overrides./image_raw.subscription.reliability here"
    )
    assert SENSOR.reliability is ReliabilityPolicy.BEST_EFFORT  # others' stays as it is
    client.node.destroy_publisher(publisher)
    client.until(lambda: "nobody publishes it" in input_trouble(camera))
    assert camera.ends.troubles() == []
    camera.close()
    again = CameraInput(client.node, Frames(), read(client.node), lambda _taken: None)  # the parameters are there
    again.close()


def test_listeners_that_want_more_are_named(client):
    ends = Endpoints(client.node)
    publisher = ends.advertise(PointCloud2, "points", RESULT)
    assert ends.troubles() == []
    listener = client.node.create_subscription(PointCloud2, "points", print, LATCHED)
    client.until(ends.troubles, 2)
    (words,) = ends.troubles()
    assert words.startswith("QoS incompatible with /test_client on /points: its DURABILITY does not go with ours")
    assert words.endswith("or set qos_overrides./points.publisher.durability here")
    client.node.destroy_subscription(listener)
    client.until(lambda: not ends.troubles())
    client.node.destroy_publisher(publisher)


def test_overrides_that_make_no_sense_are_refused(client):
    name = "qos_overrides./points.publisher.reliability"
    client.node._parameter_overrides[name] = Parameter(name, value="magic")
    with pytest.raises(InputError, match=r"qos_overrides./points make no sense: .*magic"):
        Endpoints(client.node).advertise(PointCloud2, "points", QoSProfile(depth=1))


def test_a_topic_of_another_type_in_this_process_is_named_and_no_override_is_blamed(client):
    grid = client.node.create_publisher(OccupancyGrid, "map", LATCHED)
    ends = Endpoints(client.node)
    with pytest.raises(InputError) as caught:
        ends.advertise(PointCloud2, "map", LATCHED)
    assert str(caught.value) == CLASH.replace("/map_server", "/test_client")
    with pytest.raises(
        InputError, match=r"^/map is nav_msgs/msg/OccupancyGrid of /test_client, and sensor_msgs/msg/Im"
    ):
        ends.subscribe(Image, "map", print, SENSOR)
    client.node.destroy_publisher(grid)


def test_what_else_goes_wrong_is_told_as_it_is(client, monkeypatch):
    def fail(*_arguments, **_more):
        raise RuntimeError("no memory")

    monkeypatch.setattr(client.node, "create_publisher", fail)
    with pytest.raises(InputError, match=r"^/points \(sensor_msgs/msg/PointCloud2\) cannot be had: no memory$"):
        Endpoints(client.node).advertise(PointCloud2, "points", RESULT)


def test_another_node_that_publishes_another_map_is_named(client, start):
    ends = Endpoints(client.node)
    ends.advertise(PointCloud2, "map", LATCHED)
    assert ends.troubles() == []
    server = start("map_server.py")
    client.until(lambda: any("/map_server" in words for words in ends.troubles()))
    assert ends.troubles() == [CLASH]
    assert server.stop() == 0
    client.until(lambda: not ends.troubles())
    ends.close()


def test_cameras_that_cannot_listen_leave_nothing_behind(client):
    name = "qos_overrides./b/camera_info.subscription.reliability"
    values = parameters_of(client.node, cameras="a,b", image_transport="compressed", **{name: "magic"})
    threads, subscriptions = threading.active_count(), len(list(client.node.subscriptions))
    with pytest.raises(InputError, match=r"qos_overrides\./b/camera_info make no sense"):
        RobotCameras(client.node, Frames(), values, all_cameras(client.node, values), lambda: None, print)
    assert (threading.active_count(), len(list(client.node.subscriptions))) == (threads, subscriptions)


def test_large_images_that_do_not_arrive(client):
    camera = CameraInput(client.node, Frames(), declare(client.node), lambda _taken: None)
    publisher = client.node.create_publisher(Image, "image_raw", SENSOR)
    client.until(lambda: camera.publishers)
    camera._take_info(camera_info(CameraModel(K, (480, 640)), header()))
    assert "matched: are the messages (about 0.9 MB each, by camera_info) larger than the transport takes?" in (
        input_trouble(camera)
    )
    client.node.destroy_publisher(publisher)
    camera.close()


def test_the_nodes_own_group_does_not_grow(client):
    """It remembers all that was ever in it: a node that is brought up and down a thousand times must not use it."""
    before = len(client.node.default_callback_group.entities)
    for _ in range(3):
        ends = Endpoints(client.node)
        ends.advertise(PointCloud2, "points", RESULT)
        ends.subscribe(Image, "image_raw", print, SENSOR)
        ends.close()
        sender = TopicSender(client.node)
        sender.close()
        transforms = TopicTransforms(client.node)
        transforms.close()
    assert len(client.node.default_callback_group.entities) == before
