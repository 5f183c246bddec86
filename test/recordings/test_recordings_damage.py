"""Damage: what lies before it is read, what is lost is told, and nothing is made up."""

import contextlib
import random
from pathlib import Path

import pytest
from bag_writer import Drive, Messages, drive_messages, write_chunked, write_drive
from hypothesis import given, settings
from hypothesis import strategies as st

from gen3r_core.errors import InputError
from gen3r_core.recordings.losses import Loss, Losses
from gen3r_core.recordings.opening import open_recording
from gen3r_core.recordings.selection import KeyframeSelection
from gen3r_core.recordings.shots import ShotReader
from gen3r_core.recordings.sqlite_pages import carve

KINDS = ["none", "zstd", "lz4", "unchunked", "rosbags", "sqlite", "ros1", "ros1 bz2"]


def read(path):
    with open_recording(path) as recording:
        found = [(item.stream.name, item.received_ns, item.content.data) for item in recording.items()]
        return found, recording.losses


@pytest.fixture(scope="module")
def bags(tmp_path_factory):
    """One file of each kind, and what is in it."""
    folder = tmp_path_factory.mktemp("bags")
    found = drive_messages(Drive(), Messages())
    files = {
        name: write_chunked(folder / f"{name}.mcap", found, 4000, compression=name) for name in ("none", "zstd", "lz4")
    }
    files["unchunked"] = write_chunked(folder / "unchunked.mcap", found, compression="none", use_chunking=False)
    files["rosbags"] = next(write_drive(folder / "rosbags").glob("*.mcap"))
    files["sqlite"] = next(write_drive(folder / "sqlite", storage="sqlite3").glob("*.db3"))
    files["ros1"] = write_drive(folder / "one.bag", storage="rosbag1")
    files["ros1 bz2"] = write_drive(folder / "two.bag", storage="rosbag1", compression="bz2")
    return {name: (path.read_bytes(), path.suffix, read(path)[0]) for name, path in files.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_cut_at_twenty_places(tmp_path, bags, kind):
    data, suffix, whole = bags[kind]
    counts = []
    for part in range(1, 21):
        path = tmp_path / f"cut{suffix}"
        path.write_bytes(data[: len(data) * part // 21])
        try:
            found, losses = read(path)
        except InputError:  # not even its beginning is there
            counts.append(0)
            continue
        assert losses.anything
        assert losses.sentences()
        assert set(found) <= set(whole)
        counts.append(len(found))
    assert counts == sorted(counts)
    if kind in ("none", "unchunked", "rosbags", "ros1"):  # a message is lost at most with its cut
        for part, count in enumerate(counts, 1):
            there = (len(data) * part / 21 - 5000) / len(data)  # a rosbag1 begins with 4 KB of nothing
            assert count >= there * len(whole) * 0.85 - 1
    if kind in ("zstd", "lz4"):
        assert counts[10] >= 0.3 * len(whole)
    if kind == "sqlite":
        assert counts[15] >= 0.4 * len(whole)


@pytest.mark.parametrize("kind", KINDS)
def test_flipped_bytes(tmp_path, bags, kind):
    """No more than the flipped chunks are lost, and where checksums are nothing is changed."""
    data, suffix, whole = bags[kind]
    rng = random.Random(1)
    lost = 0
    for _ in range(60):
        flipped = bytearray(data)
        for _ in range(rng.choice([1, 3])):
            flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path = tmp_path / f"flipped{suffix}"
        path.write_bytes(flipped)
        try:
            found, losses = read(path)
        except InputError:
            assert kind in ("sqlite", "ros1", "ros1 bz2")
            continue
        missing = len(whole) - len(found)
        if missing > 0 and kind in ("none", "zstd", "lz4", "rosbags", "ros1 bz2"):
            assert losses.anything
        if kind in ("none", "zstd", "lz4"):
            assert set(found) <= set(whole)
            assert missing <= 3 * 12
            assert losses.messages <= missing
        lost += missing
    assert lost < 60 * len(whole) * (0.9 if kind == "ros1 bz2" else 0.3)


def test_a_damaged_chunk_is_left_out_and_counted(tmp_path, bags):
    data, _, whole = bags["zstd"]
    path = tmp_path / "a.mcap"
    at = data.index(b"\x04\x00\x00\x00zstd", len(data) // 3) + 60
    path.write_bytes(data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :])
    found, losses = read(path)
    assert 0 < losses.messages == len(whole) - len(found)
    assert losses.bytes > 0
    (sentence,) = losses.sentences()
    assert f"{losses.messages} messages" in sentence
    with open_recording(path) as recording:
        for _ in range(2):  # what is read twice is told once
            assert len(list(recording.items())) == len(found)
        assert recording.losses.messages == losses.messages


def test_a_damaged_length_is_stepped_over(tmp_path, bags):
    """Without the index at the end: the next chunk is found by its looks."""
    data, _, whole = bags["none"]
    data = data[: len(data) - 200]
    chunks = [at for at in range(len(data)) if data[at] == 6 and data[at + 5 : at + 9] == b"\0" * 4]
    at = next(place for place in chunks if place > len(data) // 3)
    path = tmp_path / "a.mcap"
    path.write_bytes(data[: at + 1] + b"\xff" * 8 + data[at + 9 :])
    found, losses = read(path)
    assert len(found) > len(whole) - 14
    assert losses.bytes > 0


def test_the_index_alone_is_damaged(tmp_path, bags):
    data, _, whole = bags["zstd"]
    at = data.rindex(b"/camera/camera_info")
    path = tmp_path / "a.mcap"
    path.write_bytes(data[:at] + b"X" + data[at + 1 :])
    found, losses = read(path)
    assert found == whole
    assert not losses.anything
    assert "index at the end is damaged" in losses.sentences()[0]


def test_metadata_tell_how_much_is_missing(tmp_path):
    path = write_drive(tmp_path / "bag")
    file = next(path.glob("*.mcap"))
    whole = len(read(path)[0])
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    found, losses = read(path)
    assert losses.messages == whole - len(found) > 0
    assert 0.7 < losses.seconds < 1.3
    assert f"{len(found)} of {whole} messages are there" in " ".join(losses.sentences())


def test_a_compressed_file_that_was_cut(tmp_path):
    path = write_drive(tmp_path / "bag", Drive(seconds=20), "mcap", "file")
    file = next(path.glob("*.zstd"))
    whole = len(read(path)[0])
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    found, losses = read(path)
    assert 0.3 * whole < len(found) < whole
    assert losses.anything


def test_a_compressed_message_that_is_damaged(tmp_path):
    path = write_drive(tmp_path / "bag", None, "sqlite3", "message")
    file = next(path.glob("*.db3"))
    data = bytearray(file.read_bytes())
    place = data.index(b"\x28\xb5\x2f\xfd", len(data) // 2)
    data[place + 4 : place + 12] = b"\xff" * 8
    file.write_bytes(data)
    whole = 82
    found, losses = read(path)
    assert len(found) == whole - losses.messages == whole - 1


@settings(max_examples=150)
@given(st.binary(max_size=3000), st.sampled_from(["mcap", "db3", "bag"]))
def test_any_bytes(tmp_path_factory, data, suffix):
    path = tmp_path_factory.mktemp("any") / f"a.{suffix}"
    begin = {"mcap": b"\x89MCAP0\r\n", "db3": b"SQLite format 3\0\x10\0", "bag": b"#ROSBAG V2.0\n"}[suffix]
    path.write_bytes(begin + data)
    with contextlib.suppress(InputError):
        read(path)


@settings(max_examples=80)
@given(st.data())
def test_pieces_of_bags_in_any_order(tmp_path_factory, bags, data):
    """Sound records in the wrong places."""
    kind = data.draw(st.sampled_from(KINDS))
    content, suffix, _ = bags[kind]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), min_size=1, max_size=5)))
    pieces = [content[a:b] for a, b in zip([0, *cuts], [*cuts, len(content)], strict=True)]
    path = tmp_path_factory.mktemp("pieces") / f"a{suffix}"
    path.write_bytes(content[:16] + b"".join(data.draw(st.permutations(pieces))))
    with contextlib.suppress(InputError):
        read(path)


@pytest.mark.parametrize("kind", KINDS)
def test_damage_up_to_the_pictures(tmp_path, bags, kind):
    """Whatever is damaged: nothing but the library's own errors, from opening to decoding."""
    data, suffix, _ = bags[kind]
    rng = random.Random(5)
    used = 0
    for number in range(40):
        damaged = bytearray(data)
        for _ in range(rng.choice([1, 10, 100])):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path = tmp_path / f"damaged{suffix}"
        path.write_bytes(damaged[: rng.randrange(len(damaged))] if number % 4 == 0 else damaged)
        with contextlib.suppress(InputError), open_recording(path) as recording:
            for shot in KeyframeSelection(ShotReader(recording)):
                used += 1
                with contextlib.suppress(InputError):
                    shot.picture.rgb()
    assert used > 10


def test_rows_of_a_sound_file_are_carved_as_sqlite_reads_them(tmp_path, bags):
    data, _, whole = bags["sqlite"]
    path = tmp_path / "a.db3"
    path.write_bytes(data)
    with path.open("rb") as file:
        rows = [columns for _, columns in carve(file) if len(columns) == 4 and isinstance(columns[3], bytes)]
    assert sorted((stamp, content) for _, _, stamp, content in rows) == sorted((b, c) for _, b, c in whole)


def test_losses_are_summed_up():
    losses = Losses()
    assert not losses.anything
    losses.add("a", 0, Loss("nothing bad", harmless=True))
    assert not losses.anything
    for number in range(12):
        losses.add("b", number, Loss("bad", bytes=2, messages=1, seconds=0.5))
    losses.add("b", 0, Loss("bad", bytes=2, messages=1, seconds=0.5))
    assert (losses.bytes, losses.messages, losses.seconds, losses.anything) == (24, 12, 6.0, True)
    assert losses.sentences(3) == ["a: nothing bad", "b: bad", "b: bad", "... and 10 more places"]
    assert Path(losses.sentences()[0]).name
