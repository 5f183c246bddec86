"""Damaged recordings end to end: never a traceback, the right exit code, and everything before the damage used."""

import random
import shutil

import av
import pytest
from bag_writer import Drive, Messages, drive_messages, encoded, picture, write_chunked, write_drive
from offline_recordings import reconstruct, run_of

from gen3r_core.maps.folder import read_map

SHORT = ("--poses", "none", "--longest", "28", "--change", "0.01")


@pytest.fixture(scope="module")
def chunked(tmp_path_factory):
    """An mcap in chunks, as rosbag2 writes them, of 10 images."""
    found = drive_messages(Drive(seconds=1.0, tf=False, tf_hz=0), Messages())
    return write_chunked(tmp_path_factory.mktemp("chunked") / "drive.mcap", found, 4000)


def outcome(recording, folder, capsys):
    """Exit code, keyframes, and what was lost; whatever comes, there is no traceback and no half result."""
    code = reconstruct(recording, folder, *SHORT)
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err + printed.out
    if code == 1:
        assert "gen3r: error: " in printed.err
        assert not (folder / "run.json").exists()
        return code, 0, {}
    run = run_of(folder)
    assert run["exit_code"] == code
    assert bool(run["lost"]) == (code == 3)
    assert code == 0 or run["losses"]
    return code, run["keyframes"], run["lost"]


def cut(source, target, share):
    data = source.read_bytes()
    target.write_bytes(data[: int(share * len(data))])
    return target


def flipped(source, target, seed):
    data, rng = bytearray(source.read_bytes()), random.Random(seed)
    for _ in range(3):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    target.write_bytes(data)
    return target


@pytest.mark.parametrize("place", [0.02, 0.3, 0.6, 0.97])
def test_an_mcap_that_was_cut(chunked, tmp_path, capsys, place):
    code, keyframes, _ = outcome(cut(chunked, tmp_path / "cut.mcap", place), tmp_path / "out", capsys)
    assert code == (1 if place < 0.05 else 3)
    # A chunk holds an image or two, and what precedes the cut is used; the end of the file is its index.
    assert keyframes >= int(10 * min(place, 0.9)) - 2 if code == 3 else keyframes == 0


@pytest.mark.slow
@pytest.mark.parametrize("place", range(1, 21))
def test_an_mcap_cut_at_twenty_places(chunked, tmp_path, capsys, place):
    code, keyframes, _ = outcome(cut(chunked, tmp_path / "cut.mcap", place / 21), tmp_path / "out", capsys)
    assert code == 3 or (code == 1 and place <= 4)  # within the first compressed block there is nothing to be had
    assert keyframes >= int(10 * min(place / 21, 0.9)) - 2


@pytest.mark.parametrize("seed", range(2))
def test_an_mcap_with_flipped_bytes(chunked, tmp_path, capsys, seed):
    code, keyframes, _ = outcome(flipped(chunked, tmp_path / "bad.mcap", seed), tmp_path / "out", capsys)
    assert code in (0, 3)
    assert keyframes >= 3


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 22))
def test_an_mcap_with_flipped_bytes_at_random(chunked, tmp_path, capsys, seed):
    code, keyframes, _ = outcome(flipped(chunked, tmp_path / "bad.mcap", seed), tmp_path / "out", capsys)
    assert code in (0, 3) or keyframes == 0


def test_a_bag_without_metadata_is_clean(tmp_path, capsys):
    bag = write_drive(tmp_path / "drive", Drive(seconds=0.4, tf=False, tf_hz=0))
    (bag / "metadata.yaml").unlink()
    assert outcome(bag, tmp_path / "out", capsys)[:2] == (0, 4)


def test_empty_recordings_fail_in_words(tmp_path, capsys):
    bag = write_drive(tmp_path / "drive", Drive(seconds=0.0, tf_hz=0))
    assert outcome(bag, tmp_path / "out", capsys)[0] == 1
    for name in ("a.mcap", "a.db3", "a.bag", "a.mp4"):
        (tmp_path / name).write_bytes(b"")
        assert outcome(tmp_path / name, tmp_path / f"out_{name}", capsys)[0] == 1
    (tmp_path / "images").mkdir()
    assert outcome(tmp_path / "images", tmp_path / "out_images", capsys)[0] == 1


def test_a_sqlite_bag_that_was_cut(tmp_path, capsys):
    bag = write_drive(tmp_path / "drive", Drive(seconds=1.0, tf=False, tf_hz=0), storage="sqlite3")
    file = next(bag.glob("*.db3"))
    cut(file, file, 0.85)
    code, keyframes, _ = outcome(bag, tmp_path / "out", capsys)
    assert code == 3
    assert keyframes >= 3


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """40 pictures, a key frame every 8, the index in front."""
    folder = tmp_path_factory.mktemp("video")
    with av.open(str(folder / "a.mp4"), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", 10)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 128, 96, "yuv420p", 8
        for number in range(40):
            frame = av.VideoFrame.from_ndarray(picture(number, (96, 128)), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return folder / "a.mp4"


def test_a_video_that_was_cut(video, tmp_path, capsys):
    whole = outcome(video, tmp_path / "whole", capsys)
    assert whole[0] == 0
    code, keyframes, lost = outcome(cut(video, tmp_path / "cut.mp4", 0.7), tmp_path / "out", capsys)
    assert code == 3
    assert 0.5 * whole[1] <= keyframes < whole[1]
    assert lost["seconds"] == pytest.approx(1.2, abs=0.5)


def test_a_video_with_a_broken_tail(video, tmp_path, capsys):
    data, rng = bytearray(video.read_bytes()), random.Random(0)
    for place in range(int(0.75 * len(data)), len(data)):
        data[place] = rng.randrange(256)
    (tmp_path / "broken.mp4").write_bytes(data)
    code, keyframes, _ = outcome(tmp_path / "broken.mp4", tmp_path / "out", capsys)
    assert code == 3
    assert keyframes >= 10


def test_images_of_which_some_are_broken(tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(6):
        data = encoded(picture(3 * number))
        (folder / f"{number:04d}.jpg").write_bytes(data[: len(data) // 3] if number in (2, 5) else data)
    code, keyframes, lost = outcome(folder, tmp_path / "out", capsys)
    assert (code, keyframes) == (3, 4)
    assert lost == {"broken images": 2}
    assert [frame.stamp_ns for frame in read_map(tmp_path / "out").frames] == [None] * 4
    shutil.rmtree(tmp_path / "out")
    for number in range(6):
        (folder / f"{number:04d}.jpg").write_bytes(b"no picture")
    assert outcome(folder, tmp_path / "none", capsys)[0] == 1


def test_broken_images_in_a_bag(tmp_path, capsys):
    bag = write_drive(tmp_path / "drive", Drive(seconds=0.6, tf=False, tf_hz=0, broken=(1, 4)))
    assert outcome(bag, tmp_path / "out", capsys) == (3, 4, {"broken images": 2})
