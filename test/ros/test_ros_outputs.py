"""What goes out of a prediction, without a model: all of its views."""

import pytest

pytest.importorskip("rclpy", reason="ROS is not installed")

from gen3r.msg import NovelView
from sensor_msgs.msg import CameraInfo, Image

from gen3r_ros.outputs import Outputs
from gen3r_ros.parameters import PARAMETERS
from gen3r_ros.qos import VIEWS

TOPICS = {"novel_view": NovelView, "novel_view/image": Image, "novel_view/depth": Image,
          "novel_view/camera_info": CameraInfo}  # fmt: skip
UDP = """<?xml version="1.0" encoding="UTF-8" ?>
<profiles xmlns="http://www.eprosima.com">
  <transport_descriptors>
    <transport_descriptor><transport_id>udp</transport_id><type>UDPv4</type></transport_descriptor>
  </transport_descriptors>
  <participant profile_name="udp" is_default_profile="true">
    <rtps>
      <userTransports><transport_id>udp</transport_id></userTransports>
      <useBuiltinTransports>false</useBuiltinTransports>
    </rtps>
  </participant>
</profiles>
"""
"""As between two machines: shared memory is left out."""


@pytest.fixture
def outputs(client):
    made = Outputs(client.node, "odom", "gen3r")
    yield made
    made.close()


# --- views -----------------------------------------------------------------------------------------------


def test_the_queue_of_views_holds_the_largest_prediction(client, outputs):
    depths = {one.topic_name: one.qos_profile.depth for one in client.node.publishers}
    assert {depths[f"/{topic}"] for topic in TOPICS} == {VIEWS.depth}
    assert VIEWS.depth >= PARAMETERS["num_frames"].high


def test_all_views_of_a_burst_arrive_over_a_network(client, start, tmp_path):
    profile = tmp_path / "udp.xml"
    profile.write_text(UDP)
    got = {topic: [] for topic in TOPICS}
    for topic, kind in TOPICS.items():
        client.node.create_subscription(kind, topic, got[topic].append, VIEWS)
    variables = {f"{name}_DEFAULT_PROFILES_FILE": str(profile) for name in ("FASTDDS", "FASTRTPS")}
    source = start("views_source.py", 49, 160, 3, **variables)
    source.wait_for("published 3")
    client.until(lambda: all(len(views) == 3 * 49 for views in got.values()))
    assert [(view.revision, view.index) for view in got["novel_view"]] == [(n, i) for n in range(3) for i in range(49)]
