"""A map's bag, read by the `mcap` library, by `rosbags`, and by our own readers of recordings."""

import io
from collections import Counter

import numpy as np
import pytest
from made_maps import START, box_map
from mcap.reader import make_reader
from PIL import Image
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_typestore
from ruamel.yaml import YAML

from gen3r_core.geometry.poses import poses_from, quaternion_to_matrix
from gen3r_core.maps import ros_messages
from gen3r_core.maps.bag import write_bag
from gen3r_core.maps.folder import write_map
from gen3r_core.maps.scene_map import MapCloud
from gen3r_core.recordings.opening import open_recording
from gen3r_core.recordings.shots import ShotOptions, ShotReader

# REP-103: the optical frame's axes in those of its body.
OPTICAL = poses_from(np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]), np.zeros(3))
S = 1_000_000_000


@pytest.fixture(scope="module")
def made():
    return box_map(6, generated=(5,), cameras=("/front/image_raw", "/rear/image_raw"))


@pytest.fixture(scope="module")
def bag(tmp_path_factory, made):
    folder = tmp_path_factory.mktemp("maps") / "map"
    write_map(made, folder, report=False)
    return folder / "map_bag"


@pytest.fixture(scope="module", params=[Stores.ROS2_HUMBLE, Stores.ROS2_JAZZY])
def messages(request, bag):
    """(topic, time, message) as rosbags reads them with the definitions of a distribution."""
    store = get_typestore(request.param)
    with Reader(bag) as reader:
        return [
            (connection.topic, time, store.deserialize_cdr(data, connection.msgtype))
            for connection, time, data in reader.messages()
        ]


def of(messages, topic):
    return [message for name, _, message in messages if name == topic]


def nanoseconds(header):
    return header.stamp.sec * S + header.stamp.nanosec


def matrix(position, q):
    return poses_from(
        quaternion_to_matrix(np.array([q.x, q.y, q.z, q.w])), np.array([position.x, position.y, position.z])
    )


def points_of(message):
    kinds = {5: "<i4", 7: "<f4"}
    fields = {field.name: (kinds[field.datatype], field.offset) for field in message.fields}
    records = np.frombuffer(message.data, np.dtype({
        "names": list(fields), "formats": [kind for kind, _ in fields.values()],
        "offsets": [offset for _, offset in fields.values()], "itemsize": message.point_step,
    }))  # fmt: skip
    assert len(records) == message.width * message.height
    assert message.row_step == message.point_step * message.width
    return records


def test_topics_and_types(bag, messages):
    assert Counter(name for name, _, _ in messages) == {
        "/tf_static": 1, "/map/observed": 1, "/map/generated": 1, "/path": 1, "/tf": 6,
        "/front/camera_info": 3, "/front/image_rect/compressed": 3,
        "/rear/camera_info": 2, "/rear/image_rect/compressed": 2,
        "/rear_generated/camera_info": 1, "/rear_generated/image_rect/compressed": 1,
    }  # fmt: skip
    with Reader(bag) as reader:
        types = {connection.topic: connection.msgtype for connection in reader.connections}
        durability = {name: one.ext.offered_qos_profiles[0].durability.name
                      for name, one in ((one.topic, one) for one in reader.connections)}  # fmt: skip
        assert (reader.start_time, reader.duration) == (START, S + 1)
    assert types["/map/observed"] == "sensor_msgs/msg/PointCloud2"
    assert types["/tf"] == types["/tf_static"] == "tf2_msgs/msg/TFMessage"
    assert types["/path"] == "nav_msgs/msg/Path"
    assert types["/front/camera_info"] == "sensor_msgs/msg/CameraInfo"
    latched = {name for name, kind in durability.items() if kind == "TRANSIENT_LOCAL"}
    assert latched == {"/tf_static", "/map/observed", "/map/generated", "/path"}
    times = [time for _, time, _ in messages]
    assert times == sorted(times)


def test_clouds(messages, made):
    for topic, kept in (("/map/observed", ~made.cloud.generated), ("/map/generated", made.cloud.generated)):
        (message,) = of(messages, topic)
        assert (message.header.frame_id, nanoseconds(message.header)) == ("map", START)
        records, wanted = points_of(message), made.cloud.select(kept)
        np.testing.assert_array_equal(np.stack([records[name] for name in "xyz"], axis=1), wanted.points)
        packed = np.ascontiguousarray(records["rgb"]).view(np.uint32)
        rgb = np.stack([packed >> 16 & 255, packed >> 8 & 255, packed & 255], axis=1)
        np.testing.assert_array_equal(rgb, wanted.colors)
        np.testing.assert_array_equal(records["confidence"], wanted.confidence)
        np.testing.assert_array_equal(records["frame"], wanted.frame)


def test_frames_path_and_images(messages, made):
    (static,) = of(messages, "/tf_static")
    mounts = {one.child_frame_id: one for one in static.transforms}
    assert sorted(mounts) == ["front_optical_frame", "rear_generated_optical_frame", "rear_optical_frame"]
    for name, one in mounts.items():
        assert one.header.frame_id == name.replace("_optical_frame", "_link")
        np.testing.assert_allclose(matrix(one.transform.translation, one.transform.rotation), OPTICAL, atol=1e-12)
    moved = [message.transforms[0] for message in of(messages, "/tf")]
    names = ["front_link", "rear_link", "front_link", "rear_link", "front_link", "rear_generated_link"]
    assert [one.child_frame_id for one in moved] == names
    for one, frame in zip(moved, made.frames, strict=True):
        assert (one.header.frame_id, nanoseconds(one.header)) == ("map", frame.stamp_ns)
        T = matrix(one.transform.translation, one.transform.rotation) @ OPTICAL
        np.testing.assert_allclose(T, frame.T_world_cam, atol=1e-12)
    (path,) = of(messages, "/path")
    assert [nanoseconds(one.header) for one in path.poses] == [frame.stamp_ns for frame in made.frames[:5]]
    for one, frame in zip(path.poses, made.frames, strict=False):
        T = matrix(one.pose.position, one.pose.orientation) @ OPTICAL
        np.testing.assert_allclose(T, frame.T_world_cam, atol=1e-12)
    (info,) = of(messages, "/rear_generated/camera_info")
    assert (info.width, info.height, info.header.frame_id) == (64, 48, "rear_generated_optical_frame")
    np.testing.assert_array_equal(info.k, [42, 0, 32, 0, 42, 23.5, 0, 0, 1])
    np.testing.assert_array_equal(info.p, [42, 0, 32, 0, 0, 42, 23.5, 0, 0, 0, 1, 0])
    images = of(messages, "/front/image_rect/compressed")
    for message, frame in zip(images, made.frames[:5:2], strict=True):
        assert (message.format, nanoseconds(message.header)) == ("jpeg", frame.stamp_ns)
        pixels = np.asarray(Image.open(io.BytesIO(message.data.tobytes())))
        assert np.abs(pixels.astype(int) - frame.image).mean() < 2


def test_the_mcap_library_reads_it(bag):
    path = bag / "map_bag_0.mcap"
    with path.open("rb") as file:
        reader = make_reader(file, validate_crcs=True)
        assert reader.get_header().profile == "ros2"
        summary = reader.get_summary()
        assert (summary.statistics.message_count, {one.compression for one in summary.chunk_indexes}) == (22, {"zstd"})
        assert len(list(reader.iter_messages())) == 22
        assert {schema.encoding for schema in summary.schemas.values()} == {"ros2msg"}
        assert {channel.message_encoding for channel in summary.channels.values()} == {"cdr"}
        records = {one.name: one.metadata for one in reader.iter_metadata()}
    assert records["gen3r"] == {"unit": "metre"}
    inside = YAML(typ="safe").load(records["rosbag2"]["serialized_metadata"])
    outside = YAML(typ="safe").load((bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert inside == outside
    assert (outside["version"], outside["storage_identifier"], outside["message_count"]) == (8, "mcap", 22)
    assert outside["relative_file_paths"] == ["map_bag_0.mcap"]
    profile = YAML(typ="safe").load(outside["topics_with_message_count"][0]["topic_metadata"]["offered_qos_profiles"])
    assert (profile[0]["durability"], profile[0]["reliability"], profile[0]["history"]) == (1, 1, 1)


def test_large_maps_have_several_chunks(tmp_path):
    rng = np.random.default_rng(0)
    many = 200_000
    cloud = MapCloud(
        rng.normal(size=(many, 3)).astype(np.float32), rng.integers(0, 256, (many, 3), dtype=np.uint8),
        np.ones(many, np.float32), rng.random(many) < 0.5, np.zeros(many, np.int32),
    )  # fmt: skip
    write_bag(tmp_path / "bag", [], cloud, lambda _: b"", metric=False)
    with (tmp_path / "bag" / "map_bag_0.mcap").open("rb") as file:
        reader = make_reader(file, validate_crcs=True)
        assert len(reader.get_summary().chunk_indexes) == 2
        assert [message.data[:4] for _, _, message in reader.iter_messages()] == [b"\0\1\0\0"] * 2
        assert {one.name: one.metadata for one in reader.iter_metadata()}["gen3r"] == {"unit": "the map's own"}


def test_an_empty_bag(tmp_path):
    write_bag(tmp_path / "bag", [], MapCloud.empty(), lambda _: b"", metric=True)
    with Reader(tmp_path / "bag") as reader:
        assert (reader.message_count, reader.connections) == (0, [])


def test_it_can_be_reconstructed_from_again(bag, made):
    with open_recording(bag) as recording:
        assert not recording.losses.found
        shots = list(ShotReader(recording, ShotOptions(cameras=("/front/image_rect",))))
        assert not recording.losses.found
    assert [shot.stamp_ns for shot in shots] == [frame.stamp_ns for frame in made.frames[:5:2]]
    for shot, frame in zip(shots, made.frames[:5:2], strict=True):
        np.testing.assert_allclose(shot.T_world_cam, frame.T_world_cam, atol=1e-9)
        np.testing.assert_allclose(shot.model.intrinsics, frame.intrinsics)
        assert shot.model.distortion == ()


def test_frames_without_time_are_a_tenth_of_a_second_apart(tmp_path):
    write_map(box_map(3, stamps=False, mesh=False), tmp_path / "map", report=False)
    with Reader(tmp_path / "map" / "map_bag") as reader:
        times = [time for connection, time, _ in reader.messages() if connection.topic == "/tf"]
        names = {connection.topic for connection in reader.connections}
    assert times == [S, S + S // 10, S + S // 5]
    assert "/camera/image_rect/compressed" in names
    assert "/map/generated" not in names


def test_definitions_are_those_of_the_distributions():
    """Hashes of Jazzy's definitions are what a player compares with its own."""
    store = get_typestore(Stores.ROS2_KILTED) if hasattr(Stores, "ROS2_KILTED") else get_typestore(Stores.LATEST)
    for kind in ("sensor_msgs/msg/PointCloud2", "tf2_msgs/msg/TFMessage", "nav_msgs/msg/Path",
                 "sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/CameraInfo"):  # fmt: skip
        assert ros_messages.store().hash_rihs01(kind) == store.hash_rihs01(kind)
