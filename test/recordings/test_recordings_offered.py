"""What publishers of recorded topics offered: from every kind of bag, as rosbags' own reader has it, damaged or not."""

import sqlite3

import pytest
from bag_writer import START, STORES, Messages, base_pose
from hypothesis import given
from hypothesis import strategies as st
from mcap.writer import Writer as McapWriter
from rosbags.highlevel import AnyReader
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as Writer2

from gen3r_core.recordings.offered import LATCHED_IN_ROS1, Offered, offered
from gen3r_core.recordings.opening import open_recording

KIND = "geometry_msgs/msg/PoseStamped"


def profile(durability="transient_local", depth=1, history="keep_last", reliability="reliable"):
    never = QosTime(0, 0)
    return Qos(QosHistory[history.upper()], depth, QosReliability[reliability.upper()],
               QosDurability[durability.upper()], never, never, QosLiveliness.AUTOMATIC, never, False)  # fmt: skip


def write(path, version, storage, topics):
    """A bag with a message on each topic; its publishers' profiles by topic."""
    store = STORES[2]
    data = store.serialize_cdr(Messages().pose_stamped(START, "map", base_pose(0)), KIND)
    with Writer2(path, version=version, storage_plugin=StoragePlugin[storage.upper()]) as writer:
        for name, profiles in topics.items():
            connection = writer.add_connection(name, KIND, typestore=store, offered_qos_profiles=profiles)
            writer.write(connection, START, data)
    return path


@pytest.mark.parametrize("version", [8, 9])
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_what_was_offered_is_known_of_both_kinds_and_versions(tmp_path, storage, version):
    topics = {
        "/map": [profile()],
        "/several": [profile(), profile("volatile", 7), profile(depth=3)],
        "/fast": [profile("volatile", 5, reliability="best_effort")],
        "/untold": [profile(depth=0, history="unknown"), profile()],
        "/everything": [profile(depth=0, history="keep_all")],
        "/silent": [],
    }
    path = write(tmp_path / "bag", version, storage, topics)
    with open_recording(path) as recording:
        found = {name: recording.offered(name) for name in topics}
    assert found == {
        "/map": Offered(latched=True, reliable=True, depth=1),
        "/several": Offered(latched=True, reliable=True, depth=4),
        "/fast": Offered(latched=False, reliable=False, depth=5),
        "/untold": Offered(latched=True, reliable=True, depth=0),
        "/everything": Offered(latched=True, reliable=True, depth=2**31 - 1),
        "/silent": None,
    }
    with AnyReader([path]) as reader:
        theirs = {one.topic: one.ext.offered_qos_profiles for one in reader.connections}
    assert theirs == topics


def test_several_files_offer_what_one_of_them_does(tmp_path):
    for number, profiles in enumerate(([profile("volatile", 9)], [profile(depth=2)], [])):
        written = write(tmp_path / f"part{number}", 9, "mcap", {"/map": profiles})
        (tmp_path / "bag").mkdir(exist_ok=True)
        (written / f"part{number}.mcap").rename(tmp_path / f"bag/part{number}.mcap")
    with open_recording(tmp_path / "bag") as recording:
        assert recording.offered("/map") == Offered(latched=True, reliable=True, depth=2)
        assert recording.offered("/none") is None


def test_publishers_of_ros_1_latch(tmp_path):
    messages = Messages(1)
    data = STORES[1].serialize_ros1(messages.pose_stamped(START, "map", base_pose(0)), KIND)
    with Writer1(tmp_path / "a.bag") as writer:
        for topic, latching, name in (("/map", 1, "/a"), ("/map", 1, "/b"), ("/goal", None, "/a"), ("/pose", 0, "/a")):
            connection = writer.add_connection(topic, KIND, typestore=STORES[1], latching=latching, callerid=name)
            writer.write(connection, START, data)
    with open_recording(tmp_path / "a.bag") as recording:
        assert recording.offered("/map") == Offered(latched=True, reliable=True, depth=2)
        assert recording.offered("/goal") is None
        assert recording.offered("/pose") is None


DAMAGED = ["", "][", "- {durability: transient_loc", "durability: 1", "[1, [2], null]", "\x00", "- &a [*a",
           "[" * 60_000, "- {a: 2001-99-99}", "- {depth: " + "9" * 5000 + "}", "[" + "{}, " * 20_000 + "]"]  # fmt: skip


@pytest.mark.parametrize("text", DAMAGED, ids=range(len(DAMAGED)))
def test_damaged_profiles_count_as_none(tmp_path, text):
    store = STORES[2]
    with (tmp_path / "a.mcap").open("wb") as file:
        writer = McapWriter(file)
        writer.start("ros2", "test")
        schema = writer.register_schema(KIND, "ros2msg", store.generate_msgdef(KIND)[0].encode())
        channel = writer.register_channel("/map", "cdr", schema, {"offered_qos_profiles": text})
        data = store.serialize_cdr(Messages().pose_stamped(START, "map", base_pose(0)), KIND)
        writer.add_message(channel, START, bytes(data), START)
        writer.finish()
    with open_recording(tmp_path / "a.mcap") as recording:
        assert recording.offered("/map") is None
        assert len(list(recording.items())) == 1
        assert not recording.losses.found


@pytest.mark.parametrize("change", ["SET offered_qos_profiles = x'2d20ff'", "SET offered_qos_profiles = 7",
                                    "SET offered_qos_profiles = NULL", "DROP COLUMN offered_qos_profiles"])  # fmt: skip
def test_sqlite_files_with_damaged_profiles_or_without_any_are_sound(tmp_path, change):
    path = write(tmp_path / "bag", 8, "sqlite3", {"/map": [profile()]})
    with sqlite3.connect(path / "bag.db3") as database:
        if change.startswith("SET"):
            definition = database.execute("SELECT sql FROM sqlite_master WHERE name = 'topics'").fetchone()[0]
            database.execute("ALTER TABLE topics RENAME TO before")
            database.execute(definition.replace("TEXT NOT NULL", "TEXT"))
            database.execute("INSERT INTO topics SELECT * FROM before")
            database.execute("DROP TABLE before")
        database.execute(f"{'UPDATE' if change.startswith('SET') else 'ALTER TABLE'} topics {change}")
    with open_recording(path) as recording:
        assert recording.offered("/map") is None
        assert len(list(recording.items())) == 1
        assert not recording.losses.found


def test_a_cut_sqlite_file_still_tells_what_was_offered(tmp_path):
    path = write(tmp_path / "bag", 9, "sqlite3", {"/map": [profile(depth=3)]}) / "bag.db3"
    path.write_bytes(path.read_bytes()[:-100])
    with open_recording(path) as recording:
        assert recording.losses.found
        assert recording.offered("/map") == Offered(latched=True, reliable=True, depth=3)


@pytest.mark.parametrize("depth", ["-3", ".nan", ".inf", "[]", "many", "1.5"])
def test_a_depth_that_is_none_is_not_told(depth):
    assert offered([f"[{{durability: 1, depth: {depth}}}]"]) == Offered(latched=True, reliable=False, depth=0)


@given(st.data())
def test_no_damage_makes_an_error(data):
    text = data.draw(st.sampled_from([LATCHED_IN_ROS1, "- depth: 1\n  durability: 1\n  history: 1\n"]))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(text)))
        text = text[:at] + data.draw(st.text(max_size=3)) + text[at + data.draw(st.integers(0, 5)) :]
    found = offered([text])
    assert found is None or found.depth >= 0
