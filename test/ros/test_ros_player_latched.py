"""Topics that were latched when they were recorded are so when they are played, and no others."""

import sqlite3

import pytest

pytest.importorskip("rclpy", reason="ROS is not installed")

from bag_writer import START, STORES, S
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin, Writer
from std_msgs.msg import String

from gen3r_core.recordings.offered import Offered
from gen3r_ros.qos import LATCHED, RESULT, kept_from_before, recorded_profile

KIND = "std_msgs/msg/String"
MAP, CHAT = "/map", "/chat"
SECONDS = 10


def text(store, words):
    return store.types[KIND](data=words)


def write(path, maps, storage="mcap", durability="transient_local", depth=1):
    """Words on /map at given seconds, and 20 a second on /chat, which nobody offered to late listeners."""
    store, never = STORES[2], QosTime(0, 0)
    offered = Qos(QosHistory.KEEP_LAST, depth, QosReliability.RELIABLE, QosDurability[durability.upper()],
                  never, never, QosLiveliness.AUTOMATIC, never, False)  # fmt: skip
    with Writer(path, version=9, storage_plugin=StoragePlugin[storage.upper()]) as writer:
        latched = writer.add_connection(MAP, KIND, typestore=store, offered_qos_profiles=[offered])
        chat = writer.add_connection(CHAT, KIND, typestore=store)
        said = [(START + n * S // 20, chat, str(n)) for n in range(SECONDS * 20)]
        said += [(START + round(at * S), latched, words) for at, words in maps]
        for stamp, connection, words in sorted(said, key=lambda one: one[0]):
            writer.write(connection, stamp, store.serialize_cdr(text(store, words), KIND))
    return path


def played(start, bag, **values):
    words = [word for name, value in {"bag": bag, **values}.items() for word in ("-p", f"{name}:={value}")]
    return start("run_player.py", "--ros-args", *words)


def listen(client, topic, qos):
    heard = []
    client.node.create_subscription(String, topic, lambda message: heard.append(message.data), qos)
    return heard


def late(client, *topics, qos=LATCHED):
    """What comes to those who subscribe now, when the recording is under way."""
    chat = listen(client, CHAT, RESULT)
    client.until(lambda: len(chat) > 10)
    found = [listen(client, topic, qos) for topic in topics]
    chat.clear()
    client.until(lambda: len(chat) > 10)
    return found


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_late_listeners_get_what_was_latched(start, client, tmp_path, storage):
    played(start, write(tmp_path / "bag", [(0, "old"), (0.01, "map")], storage))
    assert late(client, MAP) == [["map"]]


def test_topics_of_ros_1_are_latched_too(start, client, tmp_path):
    with Writer1(tmp_path / "old.bag") as writer:
        store = STORES[1]
        latched, chat = (writer.add_connection(topic, KIND, typestore=store, latching=latching)
                         for topic, latching in ((MAP, 1), (CHAT, 0)))  # fmt: skip
        writer.write(latched, START, store.serialize_ros1(text(store, "map"), KIND))
        for number in range(SECONDS * 20):
            writer.write(chat, START + number * S // 20, store.serialize_ros1(text(store, str(number)), KIND))
    played(start, tmp_path / "old.bag")
    assert late(client, MAP) == [["map"]]


def test_other_topics_have_nothing_for_late_listeners(start, client, tmp_path):
    """And their publishers are those they have always been."""
    played(start, write(tmp_path / "bag", [(0, "map"), (3.5, "another")], durability="volatile"))
    early = listen(client, MAP, RESULT)
    assert late(client, MAP) == [[]]
    infos = [one for topic in (MAP, CHAT) for one in client.node.get_publishers_info_by_topic(topic)]
    assert {(one.qos_profile.durability, one.qos_profile.reliability) for one in infos} == {
        (DurabilityPolicy.VOLATILE, ReliabilityPolicy.RELIABLE)
    }
    client.until(lambda: early[-1:] == ["another"])


def test_damaged_profiles_are_as_none(start, client, tmp_path):
    bag = write(tmp_path / "bag", [(0, "map"), (1, "another")], "sqlite3")
    with sqlite3.connect(bag / "bag.db3") as database:
        database.execute("UPDATE topics SET offered_qos_profiles = '- {durability: [transient' WHERE name = ?", (MAP,))
        database.execute("UPDATE topics SET offered_qos_profiles = x'ff00' WHERE name = ?", (CHAT,))
    process = played(start, bag, rate=4.0)
    heard = listen(client, MAP, RESULT)
    assert late(client, MAP) == [[]]
    assert f"{SECONDS * 20} on {CHAT}, 2 on {MAP}" in process.wait_for("played: ")
    assert heard[-1] == "another"
    assert process.wait() == 0


def test_what_held_when_a_part_begins_is_sent_at_each_beginning(start, client, tmp_path):
    bag = write(tmp_path / "bag", [(0, "first"), (1, "before"), (2.5, "within")])
    process = played(start, bag, start_s=2.0, end_s=3.0, loop="true")
    heard = listen(client, MAP, LATCHED)
    client.until(lambda: heard.count("within") == 3)
    process.wait_for("the recording begins again")
    assert heard[-5:] == ["within", "before", "within", "before", "within"]
    assert "first" not in heard


def test_as_many_hold_as_were_kept(start, client, tmp_path):
    played(start, write(tmp_path / "bag", [(0.1 * n, str(n)) for n in range(8)], depth=3), start_s=1.0)
    deep = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    assert late(client, MAP, qos=deep) == [["5", "6", "7"]]


@pytest.mark.parametrize(
    ("offered", "durability", "depth", "kept"),
    [
        (None, "VOLATILE", 10, 0),
        (Offered(latched=False, reliable=True, depth=500), "VOLATILE", 10, 0),
        (Offered(latched=True, reliable=False, depth=1), "TRANSIENT_LOCAL", 1, 1),
        (Offered(latched=True, reliable=True, depth=0), "TRANSIENT_LOCAL", 10, 1),
        (Offered(latched=True, reliable=True, depth=2**31 - 1), "TRANSIENT_LOCAL", 100, 100),
    ],
)
def test_profiles_are_bounded_and_reliable(offered, durability, depth, kept):
    found = recorded_profile(offered)
    assert (found.durability.name, found.reliability.name, found.depth) == (durability, "RELIABLE", depth)
    assert kept_from_before(offered) == kept
