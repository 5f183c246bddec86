"""The player of bags: what was recorded comes over the graph as it was, in time, and the node can use it."""

import time

import pytest

pytest.importorskip("rclpy", reason="ROS is not installed")

import rclpy
from bag_writer import (
    START,
    STORES,
    Drive,
    Messages,
    S,
    base_pose,
    drive_messages,
    picture,
    write_drive,
    write_messages,
)
from gen3r.msg import Reconstruction
from managed_node import parameter_arguments
from nav_msgs.msg import Odometry
from PIL import Image as Pillow
from rosbags.rosbag1 import Writer as Writer1
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from tf2_msgs.msg import TFMessage

from gen3r_ros.conversions.cameras import camera_model
from gen3r_ros.conversions.images import rgb_array
from gen3r_ros.conversions.poses import pose_matrix, stamp_ns
from gen3r_ros.player import Player, main, message_class
from gen3r_ros.qos import CLOCK, LATCHED, RESULT, SENSOR

IMAGES, INFOS = "/camera/image_raw", "/camera/camera_info"


def words(bag, **values):
    given = {"bag": bag, **values}
    return ["--ros-args", *(word for name, value in given.items() for word in ("-p", f"{name}:={told(value)}"))]


def told(value):
    return str(value).lower() if isinstance(value, bool) else value


@pytest.fixture
def raw(tmp_path):
    """A bag of raw images, TF and odometry, one second long."""
    drive = Drive(seconds=1.0, topic=IMAGES, encoding="rgb8")
    messages = Messages()
    found = drive_messages(drive, messages)
    for number in range(10):
        stamp = START + number * S // 10
        found.append(("/odom", stamp, messages.odometry(stamp, "odom", "base_link", base_pose(number / 10))))
    return write_messages(tmp_path / "raw", sorted(found, key=lambda one: one[1]))


class Ears:
    """What came, by topic, with the time on /clock."""

    def __init__(self, client, **kinds):
        self.node, self.heard, self.clock = client.node, {}, []
        self.node.create_subscription(Clock, "/clock", lambda m: self.clock.append(stamp_ns(m.clock)), CLOCK)
        for topic, (kind, qos) in {f"/{name.replace('__', '/')}": one for name, one in kinds.items()}.items():
            messages = self.heard[topic] = []
            self.node.create_subscription(kind, topic, messages.append, qos)

    def __getitem__(self, topic):
        return self.heard[topic]


def test_messages_come_as_they_were_recorded_and_in_time(start, client, raw):
    ears = Ears(
        client,
        camera__image_raw=(Image, SENSOR),
        camera__camera_info=(CameraInfo, SENSOR),
        tf=(TFMessage, RESULT),
        tf_static=(TFMessage, LATCHED),
        odom=(Odometry, RESULT),
    )
    process = start("run_player.py", *words(raw, wait_for_subscriber=True, rate=2.0))
    client.until(lambda: len(ears[IMAGES]) == 10 and len(ears["/tf"]) == 21)
    client.until(lambda: process._process.poll() == 0)
    assert [stamp_ns(m.header.stamp) for m in ears[IMAGES]] == [START + round((n + 0.5) / 10 * S) for n in range(10)]
    assert (rgb_array(ears[IMAGES][3]) == picture(3)).all()
    assert ears[IMAGES][0].header.frame_id == "camera_optical_frame"
    assert camera_model(ears[INFOS][0]).size == (48, 64)
    assert len(ears["/tf_static"]) == 1
    assert pose_matrix(ears["/odom"][5].pose.pose)[0, 3] == pytest.approx(base_pose(0.5)[0, 3])
    clock = ears.clock
    assert clock[0] == START
    assert clock == sorted(clock)
    assert START + 0.95 * S <= clock[-1] <= START + 1.1 * S
    assert len(clock) > 50


def test_a_part_of_it_has_the_fixed_transforms_of_all(start, client, tmp_path):
    messages = Messages()
    found = drive_messages(Drive(seconds=2.0, tf_hz=0, tf=False), messages)
    found += [("/tf_static", START + n, messages.tf(START, ("base_link", child, base_pose(0))))
              for n, child in enumerate(("camera", "imu"))]  # fmt: skip
    bag = write_messages(tmp_path / "bag", sorted(found, key=lambda one: one[1]))
    ears = Ears(client, camera__image_raw__compressed=(CompressedImage, SENSOR), tf_static=(TFMessage, LATCHED))
    process = start("run_player.py", *words(bag, wait_for_subscriber=True, start_s=1.0, end_s=1.5))
    client.until(lambda: len(ears["/camera/image_raw/compressed"]) == 5)
    assert "5 on /camera/camera_info, 5 on /camera/image_raw/compressed" in process.wait_for("played: ")
    client.until(lambda: process._process.poll() == 0)
    assert stamp_ns(ears["/camera/image_raw/compressed"][0].header.stamp) == START + round(1.05 * S)
    assert sorted(t.child_frame_id for t in ears["/tf_static"][-1].transforms) == ["camera", "imu"]


def test_a_bag_of_ros_1_is_played_too_again_and_again(start, client, tmp_path):
    drive = Drive(seconds=0.5, topic=IMAGES, encoding="mono8", tf=False)
    drive.pictures = [picture(n)[..., 0] for n in range(5)]
    bag = write_drive(tmp_path / "old.bag", drive, storage="rosbag1")
    ears = Ears(client, camera__image_raw=(Image, SENSOR), camera__camera_info=(CameraInfo, SENSOR))
    process = start("run_player.py", *words(bag, wait_for_subscriber=True, loop=True, topics=f"{IMAGES}, {INFOS}"))
    client.until(lambda: len(ears[IMAGES]) > 7)
    process.wait_for("the recording begins again")
    assert stamp_ns(ears[IMAGES][5].header.stamp) == stamp_ns(ears[IMAGES][0].header.stamp)
    assert bytes(ears[IMAGES][1].data) == picture(1)[..., 0].tobytes()
    assert camera_model(ears[INFOS][0]).intrinsics[0, 2] == 32
    client.until(lambda: ears.clock != sorted(ears.clock))


@pytest.fixture
def play(graph, monkeypatch, capfd):
    """Plays in this process; exit code and log."""
    for name, value in graph.items():
        monkeypatch.setenv(name, value)

    def play(**values):
        code = main(["gen3r_play", *words(**values)])
        return code, capfd.readouterr().err

    return play


def test_what_cannot_be_sent_is_told_of_once_and_the_rest_goes_on(play, tmp_path):
    messages = Messages(1)
    with Writer1(tmp_path / "old.bag") as writer:
        info, pose, odd = (
            writer.add_connection(topic, kind, typestore=STORES[1], **more)
            for topic, kind, more in (
                (INFOS, "sensor_msgs/msg/CameraInfo", {}),
                ("/goal", "geometry_msgs/msg/PoseStamped", {}),
                ("/odd", "odd_msgs/msg/Odd", {"msgdef": "int32 a", "md5sum": "0" * 32}),
            )
        )
        for number in range(3):
            writer.write(info, START + number, b"damaged")
            writer.write(odd, START + number, b"1234")
            stamped = messages.pose_stamped(START, "map", base_pose(0))
            writer.write(pose, START + number, STORES[1].serialize_ros1(stamped, "geometry_msgs/msg/PoseStamped"))
    code, log = play(bag=tmp_path / "old.bag")
    assert code == 0
    assert log.count(f"a message of {INFOS} cannot be sent") == 1
    assert "/odd is not played: there are no messages of the type odd_msgs/msg/Odd" in log
    assert "played: 3 on /goal\n" in log


def test_a_machine_that_is_too_slow_plays_more_slowly(client, graph, raw, monkeypatch):
    """Nothing is lost, and nothing comes in a burst."""
    node = rclpy.create_node("slow", context=client.context, cli_args=words(raw, rate=4.0))
    client._executor.add_node(node)
    own = Player(node)
    sent = own._send

    def slowly(item):
        time.sleep(0.03)
        sent(item)

    monkeypatch.setattr(own, "_send", slowly)
    begin = time.monotonic()
    client.until(lambda: own.done)
    assert time.monotonic() - begin > 52 * 0.03 > 1.0
    assert sum(own.played.values()) == 52
    own.close()
    client._executor.remove_node(node)
    node.destroy_node()


@pytest.mark.parametrize(
    ("values", "words_"),
    [
        ({"bag": "''"}, "no bag is named"),
        ({"bag": "/nowhere/bag"}, "/nowhere/bag"),
        ({"rate": 0.0}, "the parameter rate"),
        ({"start_s": 50.0}, "it lasts 1.0 s; nothing begins at 50.0 s"),
        ({"topics": "/odo"}, "there is no stream '/odo'"),
    ],
)
def test_what_makes_no_sense_ends_it_with_the_reason(play, raw, values, words_):
    code, log = play(**{"bag": raw, **values})
    assert code == 1
    assert words_ in log


def test_what_is_no_bag_is_refused(play, tmp_path):
    (tmp_path / "pictures").mkdir()
    Pillow.fromarray(picture(0)).save(tmp_path / "pictures/0.png")
    code, log = play(bag=tmp_path / "pictures")
    assert code == 1
    assert "this is no bag" in log


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("sensor_msgs/msg/Image", Image),
        ("tf/msg/tfMessage", TFMessage),
        ("odd_msgs/msg/Odd", None),
        ("sensor_msgs/msg/Odd", None),
        ("sensor_msgs/msg", None),
        ("sensor_msgs/srv/SetCameraInfo", None),
        ("", None),
    ],
)
def test_types_are_those_of_this_environment(kind, found):
    assert message_class(kind) is found


@pytest.mark.slow
def test_the_node_reconstructs_a_recording_by_its_time(start, client, tmp_path):
    """Recorded years ago; the node goes by /clock, finds the poses in TF, and is told in metres."""
    bag = write_drive(tmp_path / "bag", Drive(seconds=3.0, hz=5.0, tf_hz=50.0, speed=0.6))
    scenes = []
    client.node.create_subscription(Reconstruction, "reconstruction", scenes.append, LATCHED)
    node = start("gen3r_process.py", *parameter_arguments(image_transport="compressed", autostart=True),
                 "-p", "use_sim_time:=true", "-r", "image_raw/compressed:=/camera/image_raw/compressed",
                 "-r", "camera_info:=/camera/camera_info")  # fmt: skip
    played = start("run_player.py", *words(bag, wait_for_subscriber=True, loop=True, end_s=2.5))
    client.until(lambda: scenes, 60)
    scene = scenes[-1]
    assert START < stamp_ns(scene.header.stamp) < START + 3 * S
    assert all(START < stamp_ns(keyframe.stamp) < START + 3 * S for keyframe in scene.keyframes)
    assert 0 <= scene.age.sec < 5
    assert scene.header.frame_id == "odom"
    assert "no transform" not in scene.not_metric_reason
    played.wait_for("the recording begins again")
    first = scene.scene_id
    client.until(lambda: scenes[-1].scene_id != first, 30)  # the node noticed
    assert "Traceback" not in node.output.read_text()
