"""Bags of every kind give the messages that were written, as rosbags' own reader does."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
from bag_writer import START, Drive, Messages, S, drive_messages, write_chunked, write_drive, write_messages
from hypothesis import given
from hypothesis import strategies as st
from rosbags.highlevel import AnyReader
from ruamel.yaml import YAML

from gen3r_core.errors import InputError
from gen3r_core.recordings.opening import open_recording
from gen3r_core.recordings.recording import in_order

KINDS = [
    ("mcap", None), ("mcap", "file"), ("mcap", "message"), ("mcap", "storage"),
    ("sqlite3", None), ("sqlite3", "file"), ("sqlite3", "message"),
    ("rosbag1", None), ("rosbag1", "bz2"), ("rosbag1", "lz4"),
]  # fmt: skip


def read(path, *args):
    with open_recording(path) as recording:
        return [(item.stream.name, item.received_ns, item.content.data) for item in recording.items(*args)]


def oracle(path):
    with AnyReader([path]) as reader:
        return sorted((connection.topic, stamp, bytes(data)) for connection, stamp, data in reader.messages())


@pytest.mark.parametrize(("storage", "compression"), KINDS)
def test_every_kind(tmp_path, storage, compression):
    path = write_drive(tmp_path / ("a.bag" if storage == "rosbag1" else "bag"), Drive(depth=True), storage, compression)
    with open_recording(path) as recording:
        found = [(item.stream.name, item.received_ns, item.content.data) for item in recording.items()]
        assert recording.format.startswith("rosbag1" if storage == "rosbag1" else f"rosbag2 ({storage}")
        assert not recording.losses.found
        counts = Counter(name for name, _, _ in found)
        assert {name: stream.count for name, stream in recording.streams.items()} == dict(counts)
        assert {stream.kind for stream in recording.streams.values()} == {
            "image", "depth", "camera_info", "tf", "tf_static",
        }  # fmt: skip
        assert recording.streams["/camera/image_raw/compressed"].hz == pytest.approx(9.5, abs=0.1)
        assert (recording.start_ns, recording.end_ns) == (START, START + 2 * S + 1000)
    assert sorted(found) == oracle(path)
    assert [stamp for _, stamp, _ in found] == sorted(stamp for _, stamp, _ in found)


@pytest.mark.parametrize("compression", ["none", "zstd", "lz4"])
@pytest.mark.parametrize("chunked", [True, False])
def test_mcap_as_others_write_it(tmp_path, compression, chunked):
    wanted = drive_messages(Drive(), Messages())
    path = write_chunked(tmp_path / "a.mcap", wanted, compression=compression, use_chunking=chunked)
    assert sorted(read(path)) == oracle(path)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3", "rosbag1"])
def test_a_part_and_some_streams(tmp_path, storage):
    path = write_drive(tmp_path / ("a.bag" if storage == "rosbag1" else "bag"), None, storage)
    whole = read(path)
    first, last = START + S // 2, START + S
    some = read(path, ["/tf", "/camera/camera_info"], first, last)
    assert some == [one for one in whole if one[0] in ("/tf", "/camera/camera_info") and first <= one[1] < last]
    assert some
    assert read(path, ["/nothing"]) == []


def split(tmp_path, storage="mcap"):
    """Two bags of one drive in one folder, with the metadata of a bag that was split."""
    found = drive_messages(Drive(), Messages())
    middle = found[len(found) // 2][1]
    folder = tmp_path / "split"
    folder.mkdir()
    suffix = "mcap" if storage == "mcap" else "db3"
    names = []
    for number in (0, 1):
        part = [one for one in found if (one[1] >= middle) == bool(number)]
        made = write_messages(tmp_path / f"part_{number}", part, storage)
        names.append(f"split_{number}.{suffix}")
        shutil.copy(next(made.glob(f"*.{suffix}")), folder / names[-1])
        count = len(part)
    content = YAML(typ="safe").load(tmp_path / "part_0" / "metadata.yaml")
    about = content["rosbag2_bagfile_information"]
    about["relative_file_paths"] = names
    about["files"] = [
        {"path": names[0], "message_count": len(found) - count},
        {"path": names[1], "message_count": count},
    ]
    about["message_count"] = len(found)
    (folder / "metadata.yaml").write_text(json.dumps(content))  # which is YAML too
    return folder, len(found), count


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("metadata", [True, False])
def test_split_bags(tmp_path, storage, metadata):
    folder, count, _ = split(tmp_path, storage)
    if not metadata:
        (folder / "metadata.yaml").unlink()
    with open_recording(folder) as recording:
        stamps = [item.received_ns for item in recording.items()]
        assert len(stamps) == count
        assert stamps == sorted(stamps)
        assert sum(stream.count for stream in recording.streams.values()) == count
        assert not recording.losses.anything
        assert bool(recording.losses.found) != metadata


def test_a_file_of_a_split_bag_is_missing(tmp_path):
    folder, count, second = split(tmp_path)
    (folder / "split_1.mcap").unlink()
    with open_recording(folder) as recording:
        assert len(list(recording.items())) == count - second
        assert recording.losses.messages == second
        assert "split_1.mcap: the file is missing" in recording.losses.sentences()


def test_a_file_of_a_split_bag_is_unreadable(tmp_path):
    folder, count, second = split(tmp_path)
    (folder / "split_1.mcap").write_bytes(b"")
    with open_recording(folder) as recording:
        assert len(list(recording.items())) == count - second
        assert recording.losses.anything
        assert recording.losses.messages == second


@pytest.mark.parametrize("content", ["", "rosbag2_bagfile_information: 3\n", "a: [", "\x00\xff", "- 1\n"])
def test_metadata_that_make_no_sense(tmp_path, content):
    path = write_drive(tmp_path / "bag")
    (path / "metadata.yaml").write_text(content, encoding="latin-1")
    with open_recording(path) as recording:
        assert len(list(recording.items())) == len(oracle(next(path.glob("*.mcap"))))
        assert not recording.losses.anything
        assert "metadata.yaml: it is damaged" in recording.losses.sentences()[0]


def test_a_bag_with_nothing_in_it(tmp_path):
    for storage in ("mcap", "sqlite3", "rosbag1"):
        path = write_messages(tmp_path / (f"{storage}.bag" if storage == "rosbag1" else storage), [], storage)
        with open_recording(path) as recording:
            assert list(recording.items()) == []
            assert (recording.start_ns, recording.seconds, recording.streams) == (None, 0.0, {})
            assert recording.interval(None, None) == (None, None)


@pytest.mark.parametrize("name", ["a.mcap", "a.db3", "a.bag", "a.mp4"])
@pytest.mark.parametrize("content", [b"", b"nonsense" * 50])
def test_files_that_are_nothing(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=name):
        open_recording(tmp_path / name)


def test_paths_that_are_nothing(tmp_path):
    with pytest.raises(InputError, match="there is no such recording"):
        open_recording(tmp_path / "missing")
    with pytest.raises(InputError, match="no recording is in this folder"):
        open_recording(tmp_path)
    (tmp_path / "one.png").write_bytes(b"x")
    with pytest.raises(InputError, match="a single image"):
        open_recording(tmp_path / "one.png")


def test_part_of_a_recording(tmp_path):
    with open_recording(write_drive(tmp_path / "bag")) as recording:
        assert recording.interval(None, None) == (None, None)
        assert recording.interval(0.5, 1.5) == (START + S // 2, START + 3 * S // 2)
        for start, end, text in [(-1, None, "start"), (2, 1, "after the start"), (50, None, "nothing begins")]:
            with pytest.raises(InputError, match=text):
                recording.interval(start, end)
        with pytest.raises(InputError, match="there is no stream '/x'"):
            recording.stream("/x")


@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 1 << 20)), max_size=60))
def test_order_of_what_comes_nearly_in_order(steps):
    """Whatever is not more than half a second late comes out sorted; nothing is lost."""
    stamps = [number * 10_000_000 - late * 100_000 for number, (late, _) in enumerate(steps)]
    found = list(in_order((stamp, 10, number) for number, stamp in enumerate(stamps)))
    assert [stamp for stamp, _ in found] == sorted(stamps)
    assert sorted(thing for _, thing in found) == list(range(len(steps)))
    held = list(
        in_order(
            (stamp, size * 100, number) for number, (stamp, (_, size)) in enumerate(zip(stamps, steps, strict=True))
        )
    )
    assert sorted(thing for _, thing in held) == list(range(len(steps)))


def test_time_that_is_set_back_does_not_mix_with_what_was():
    stamps = [*range(0, 10 * S, S // 4), *range(0, 5 * S, S // 4)]
    assert [stamp for stamp, _ in in_order((stamp, 1, None) for stamp in stamps)] == stamps


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    path = write_drive(tmp_path / "bag", None, "mcap", "file")
    with open_recording(path):
        assert list((tmp_path / "temporary").rglob("*.mcap"))
    assert list((tmp_path / "temporary").iterdir()) == []
    Path(next(path.glob("*.zstd"))).write_bytes(b"\x28\xb5\x2f\xfd broken")
    with pytest.raises(InputError):
        open_recording(path)
    assert list((tmp_path / "temporary").iterdir()) == []
