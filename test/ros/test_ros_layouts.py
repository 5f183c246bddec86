"""The layouts for RViz and Foxglove, and what they draw: topics that the node has, of their types."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy", reason="ROS is not installed")

from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from std_msgs.msg import Header
from visualization_msgs.msg import Marker

from gen3r_core.errors import InputError
from gen3r_core.messages.cameras import CameraModel
from gen3r_ros.conversions.frusta import frusta_message, frustum_lines, no_frusta
from gen3r_ros.node import Gen3RNode
from gen3r_ros.outputs import Outputs
from gen3r_ros.parameters import PARAMETERS
from gen3r_ros.qos import VIEWS

ROOT = Path(__file__).resolve().parents[2]
RVIZ = yaml.safe_load((ROOT / "config/gen3r.rviz").read_text())["Visualization Manager"]
FOXGLOVE = json.loads((ROOT / "config/gen3r.foxglove.json").read_text())
TYPES = {
    "rviz_default_plugins/PointCloud2": "sensor_msgs/msg/PointCloud2",
    "rviz_default_plugins/Path": "nav_msgs/msg/Path",
    "rviz_default_plugins/MarkerArray": "visualization_msgs/msg/MarkerArray",
    "rviz_default_plugins/Image": "sensor_msgs/msg/Image",
}
CAMERA = {"/image_raw": "sensor_msgs/msg/Image", "/camera_info": "sensor_msgs/msg/CameraInfo"}
"""What the node listens to while it is active."""

DRAWN = {"sensor_msgs/msg/PointCloud2", "nav_msgs/msg/Path", "visualization_msgs/msg/MarkerArray",
         "sensor_msgs/msg/CameraInfo"}  # fmt: skip
"""Types that Foxglove's 3D panel draws, of those that the node has."""


@pytest.fixture
def ends(graph, client, tmp_path):
    """The topics of the node, with their type: those of :class:`Outputs`, of goals and of diagnostics.

    In a namespace of its own, which is left out of the names: a busy machine can leave the node of an earlier test in
    this one's graph, and of two nodes of one name only the first is looked at.
    """
    space = f"/{tmp_path.name}"
    node = Gen3RNode("gen3r", context=client.context, namespace=space)
    outputs = Outputs(node, "odom", "gen3r")
    own = lambda what: dict(what(node.get_name(), node.get_namespace()))  # noqa: E731
    client.until(lambda: f"{space}/points" in own(client.node.get_publisher_names_and_types_by_node))
    found = own(client.node.get_publisher_names_and_types_by_node)
    found.update(own(client.node.get_subscriber_names_and_types_by_node))
    qos = {
        topic.removeprefix(space): info.qos_profile
        for topic in found
        for info in client.node.get_publishers_info_by_topic(topic)
    }
    outputs.close()
    node.close()
    node.destroy_node()
    return {**{name.removeprefix(space): types[0] for name, types in found.items()}, **CAMERA}, qos


def displays():
    return [one for one in RVIZ["Displays"] if "Topic" in one]


def test_rviz_shows_topics_that_the_node_has(ends):
    types, profiles = ends
    for one in displays():
        topic = one["Topic"]
        assert not topic["Value"].startswith("/"), "it has to work in a namespace"
        name = f"/{topic['Value']}"
        assert types.get(name) == TYPES[one["Class"]], name
        own = profiles.get(name)
        if own is None:  # the node listens, too: whoever publishes decides, and volatile goes with all
            assert topic["Durability Policy"] == "Volatile"
            continue
        assert topic["Reliability Policy"] == "Best Effort" or own.reliability == ReliabilityPolicy.RELIABLE
        if name.startswith("/novel_view"):
            assert topic["Depth"] >= VIEWS.depth, name
        latched = own.durability == DurabilityPolicy.TRANSIENT_LOCAL
        assert (topic["Durability Policy"] == "Transient Local") == latched, name
    shown = {one["Topic"]["Value"] for one in displays() if one["Enabled"]}
    assert {"points/observed", "points/generated", "frusta", "keyframe_path", "goal_path", "novel_view/image"} <= shown
    assert RVIZ["Global Options"]["Fixed Frame"] == PARAMETERS["fixed_frame"].default


def test_foxglove_shows_topics_that_the_node_has(ends):
    types, _ = ends
    panels = FOXGLOVE["configById"]
    for name in panels["3D!gen3r"]["topics"]:
        assert types.get(name) in DRAWN, name
    shown = {name for name, own in panels["3D!gen3r"]["topics"].items() if own["visible"]}
    assert shown == {"/points/observed", "/points/generated", "/frusta", "/keyframe_path", "/goal_path"}
    images = [own["imageMode"] for name, own in panels.items() if name.startswith("Image!")]
    assert {one["imageTopic"] for one in images} == {"/novel_view/image", "/novel_view/depth", "/image_raw"}
    for one in images:
        assert types[one["imageTopic"]] == "sensor_msgs/msg/Image"
        assert types[one["calibrationTopic"]] == "sensor_msgs/msg/CameraInfo"
    assert types[panels["DiagnosticSummary!gen3r"]["topicToRender"]] == "diagnostic_msgs/msg/DiagnosticArray"
    assert types[panels["RawMessages!reconstruction"]["topicPath"]] == "gen3r/msg/Reconstruction"
    assert panels["3D!gen3r"]["followTf"] == PARAMETERS["fixed_frame"].default


def test_every_panel_has_its_place():
    def leaves(part):
        return [part] if isinstance(part, str) else leaves(part["first"]) + leaves(part["second"])

    assert sorted(leaves(FOXGLOVE["layout"])) == sorted(FOXGLOVE["configById"])


# --- frusta ----------------------------------------------------------------------------------------------

MODEL = CameraModel(np.array([[100.0, 0, 60], [0, 100.0, 45], [0, 0, 1]]), (90, 120))


def test_lines_go_through_the_corners_of_the_image():
    T = np.eye(4)
    T[:3, 3] = 1, 2, 3
    lines = frustum_lines(T, MODEL, 0.5)
    assert lines.shape == (10, 2, 3)
    np.testing.assert_allclose(lines[:4, 0], np.tile([1, 2, 3], (4, 1)))
    corners = (lines[:4, 1] - [1, 2, 3]) / 0.5
    pixels = corners @ MODEL.intrinsics.T
    np.testing.assert_allclose(pixels[:, :2] / pixels[:, 2:], [[0, 0], [120, 0], [120, 90], [0, 90]], atol=1e-9)
    assert lines[-1, 0, 1] < lines[0, 1, 1], "up is where v is small"


def test_cameras_are_one_marker_that_replaces_the_last():
    header = Header(frame_id="odom")
    message = frusta_message(np.stack([np.eye(4)] * 3), [MODEL] * 3, header, "keyframes", (0.0, 0.5, 1.0))
    (marker,) = message.markers
    assert (marker.ns, marker.id, marker.action, marker.header.frame_id) == ("keyframes", 0, Marker.ADD, "odom")
    assert len(marker.points) == 60
    assert (marker.color.g, marker.color.a, marker.pose.orientation.w) == (0.5, 1.0, 1.0)
    assert marker.scale.x > 0
    (none,) = frusta_message(np.empty((0, 4, 4)), [], header, "keyframes", (0.0, 0.5, 1.0)).markers
    assert none.action == Marker.DELETE
    assert no_frusta(header).markers[0].action == Marker.DELETEALL
    with pytest.raises(InputError, match="3 poses and 1 cameras"):
        frusta_message(np.stack([np.eye(4)] * 3), [MODEL], header, "keyframes", (0.0, 0.5, 1.0))
