"""What goes out of a prediction, without a model: all of its views, and where their cameras are."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS is not installed")

from gen3r.msg import NovelView
from made_predictions import along_x, made_prediction
from sensor_msgs.msg import CameraInfo, Image

from gen3r_ros.conversions.poses import stamp_message, transform_message
from gen3r_ros.outputs import Outputs
from gen3r_ros.qos import VIEWS
from gen3r_ros.transforms import TransformError, listen_to_transforms, transform_sender

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


def test_the_queue_of_views_holds_predictions_of_the_published_size(client, outputs):
    depths = {one.topic_name: one.qos_profile.depth for one in client.node.publishers}
    assert {depths[f"/{topic}"] for topic in TOPICS} == {VIEWS.depth}
    assert VIEWS.depth >= 4 * 49


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


# --- frames ----------------------------------------------------------------------------------------------

SECOND = 10**9


class Listener:
    """To TF, as another node does."""

    def __init__(self, client):
        self.tf = listen_to_transforms(client.node)

    def x(self, target, source, stamp_ns=None):
        """Metres; None where TF does not know."""
        try:
            return self.tf.lookup(target, source, stamp_ns).T_target_source[0, 3]
        except TransformError:
            return None


@pytest.fixture
def listener(client):
    made = Listener(client)
    yield made
    made.tf.close()


def test_views_have_frames_however_long_the_prediction_took(client, outputs, listener):
    """The map's frame moves on meanwhile, and its listeners forget what was ten seconds ago."""
    sender, began = transform_sender(client.node), 1000 * SECOND
    for later in range(31):
        stamp = stamp_message(began + later * SECOND)
        sender.send([transform_message("map", "odom", np.eye(4), stamp)])
    client.until(lambda: listener.x("map", "odom", began + 30 * SECOND) is not None)
    outputs.views(*made_prediction(along_x(3), began))
    client.until(lambda: listener.x("map", "gen3r/view_2") == 2)
    assert listener.x("map", "gen3r/view_1", began + 25 * SECOND) == 1
    assert listener.x("odom", "gen3r/view_1", began) == 1, "at the stamp of its image"
    assert listener.x("map", "gen3r/view_1", began) is None, "the map is not known so far back"
    sender.close()


def test_frames_are_those_of_the_newest_prediction(client, outputs, listener):
    """Also where the robot stands still, and both begin at one keyframe."""
    outputs.views(*made_prediction(along_x(5), SECOND))
    client.until(lambda: listener.x("odom", "gen3r/view_4") == 4)
    outputs.views(*made_prediction(along_x(3, start=10.0), SECOND, number=2))
    client.until(lambda: listener.x("odom", "gen3r/view_2") == 12)
    late = Listener(client)
    client.until(lambda: late.x("odom", "gen3r/view_0") == 10)
    late.tf.close()


def test_views_without_scale_have_no_frames(client, outputs, listener):
    revision, result = made_prediction(along_x(3), SECOND)
    nowhere = dataclasses.replace(revision, placement=dataclasses.replace(revision.placement, metric=False))
    outputs.views(nowhere, result)
    outputs.views(*made_prediction(along_x(2), SECOND))
    client.until(lambda: listener.x("odom", "gen3r/view_1") == 1)
    assert listener.x("odom", "gen3r/view_2") is None
