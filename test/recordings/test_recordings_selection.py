"""Keyframes out of recordings: by pose, by picture; broken images; how much is decoded; real ones."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from bag_writer import Drive, S, encoded, picture, write_drive

from gen3r_core.recordings import pictures
from gen3r_core.recordings.opening import open_recording
from gen3r_core.recordings.selection import KeyframeSelection
from gen3r_core.recordings.shots import ShotReader

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not (DATA / "garden.mp4").exists(), reason="the garden is not here")


def chosen(path):
    with open_recording(path) as recording:
        selection = KeyframeSelection(ShotReader(recording))
        return [(shot.number, shot.T_world_cam) for shot in selection], selection


def test_by_pose(tmp_path):
    """0.5 m/s for 10 s: a keyframe each 0.25 m, and nothing else is decoded."""
    found, selection = chosen(write_drive(tmp_path / "bag", Drive(seconds=10)))
    assert 18 <= len(found) <= 20
    steps = np.linalg.norm(np.diff([pose[:3, 3] for _, pose in found], axis=0), axis=1)
    assert steps.min() > 0.24
    assert selection.counts["keyframes"] == len(found)
    assert sum(selection.counts.values()) - len(found) == 100


def test_by_picture(tmp_path):
    found, selection = chosen(write_drive(tmp_path / "bag", Drive(seconds=6, tf=False, tf_hz=0)))
    assert selection.counts["changed"] == len(found) - 1 > 3
    assert all(pose is None for _, pose in found)


def test_a_camera_that_stands_still_gives_one(tmp_path):
    found, selection = chosen(write_drive(tmp_path / "bag", Drive(seconds=12, speed=0.0)))
    assert [number for number, _ in found] == [0]
    assert selection.counts["due"] == 2


def test_broken_images_are_left_out(tmp_path):
    drive = Drive(seconds=6, tf=False, tf_hz=0, broken=tuple(range(10, 20)))
    found, selection = chosen(write_drive(tmp_path / "bag", drive))
    assert selection.counts["broken"] == 10
    assert not {number for number, _ in found} & set(drive.broken)
    assert "image 10 of /camera/image_raw" in selection.broken


def test_only_what_may_be_chosen_is_decoded(tmp_path, monkeypatch):
    decoded = []
    original = pictures.compressed_thumbnail
    monkeypatch.setattr(pictures, "compressed_thumbnail", lambda *args: decoded.append(1) or original(*args))
    monkeypatch.setattr(pictures, "compressed_rgb", lambda *_: pytest.fail("decoded as a whole"))
    found, _ = chosen(write_drive(tmp_path / "bag", Drive(seconds=10, hz=30)))
    assert len(decoded) == len(found) < 25


def test_memory_does_not_grow_with_the_recording(tmp_path):
    """Twice as long, the same memory: images of 230 KB at 10 Hz, with poses."""
    data = [np.random.default_rng(n).integers(0, 255, (240, 320, 3), np.uint8) for n in range(3)]
    peaks = []
    for seconds in (6, 18):
        drive = Drive(seconds=seconds, topic="/camera/image_raw", encoding="rgb8", pictures=data, size=(240, 320))
        path = write_drive(tmp_path / f"bag{seconds}", drive, "sqlite3")
        chosen(path)
        tracemalloc.start()
        chosen(path)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.25 * peaks[0]
    assert peaks[1] < 20e6


def test_faster_than_it_was_recorded(tmp_path):
    """640x480 at 30 Hz, without poses: 8 times as fast is asked for; here it is some 40 times."""
    import time

    noise = np.random.default_rng(0).integers(0, 40, (480, 640, 3), np.uint8)
    data = [encoded(picture(n, (480, 640)) // 2 + noise, quality=85) for n in range(10)]
    path = write_drive(tmp_path / "bag", Drive(seconds=10, hz=30, tf=False, tf_hz=0, size=(480, 640), pictures=data))
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        chosen(path)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 10 / 8


@needs_data
def test_the_garden_as_a_bag_and_as_a_video():
    """They decode differently; the keyframes are the same."""
    bag, _ = chosen(DATA / "garden_bag")
    video, _ = chosen(DATA / "garden.mp4")
    assert [number for number, _ in bag] == [number for number, _ in video]
    assert len(bag) >= 3


@needs_data
def test_pictures_of_the_garden():
    with open_recording(DATA / "garden_bag") as bag, open_recording(DATA / "garden.mp4") as video:
        assert bag.streams["/camera/image_raw/compressed"].count == video.streams["video"].count == 49
        assert bag.seconds == pytest.approx(video.seconds, abs=0.01) == pytest.approx(4.0)
        for one, other in zip(ShotReader(bag), ShotReader(video), strict=True):
            assert one.picture.size() == other.picture.size() == (560, 560)
            assert (other.stamp_ns - (one.stamp_ns - bag.start_ns)) / S == pytest.approx(0, abs=1e-3)
            if one.number % 16 == 0:
                assert np.abs(one.picture.rgb().astype(int) - other.picture.rgb()).mean() < 6
