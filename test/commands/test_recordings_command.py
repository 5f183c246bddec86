"""`gen3r recordings`: tables, JSON, keyframes, and exit codes 0, 3 and 1."""

import json

import pytest
from bag_writer import Drive, write_drive
from command_line import gen3r

from gen3r_core.io.images import list_images


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    return write_drive(tmp_path_factory.mktemp("command") / "bag", Drive(seconds=4))


@pytest.fixture
def broken(tmp_path):
    path = write_drive(tmp_path / "bag", Drive(seconds=4))
    file = next(path.glob("*.mcap"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return path


def test_info(bag):
    done = gen3r("recordings", "info", str(bag))
    assert done.code == 0
    assert f"{bag}: rosbag2 (mcap), 4.0 s" in done.out
    assert "/camera/image_raw/compressed" in done.out
    assert "damaged" not in done.out
    assert gen3r("recordings", "info", str(bag), "--quick").out == done.out


def test_info_as_json(bag, broken):
    found = json.loads(gen3r("recordings", "info", str(bag), "--json").out)
    assert found["seconds"] == pytest.approx(4.0, abs=1e-3)
    assert {stream["name"]: stream["count"] for stream in found["streams"]}["/camera/camera_info"] == 40
    assert not found["damage"]["anything"]
    done = gen3r("recordings", "info", str(broken), "--json")
    assert done.code == 3
    assert json.loads(done.out)["damage"]["messages"] > 50


def test_info_of_damage(broken):
    done = gen3r("recordings", "info", str(broken))
    assert done.code == 3
    assert "messages known to be missing" in done.out
    assert "bag.mcap: the end of the file is missing" in done.out
    assert "Traceback" not in done.out + done.err


def test_nothing_can_be_read(tmp_path):
    (tmp_path / "a.mcap").write_bytes(b"")
    for part in ("info", "keyframes"):
        done = gen3r("recordings", part, str(tmp_path / "a.mcap"))
        assert done.code == 1
        assert "the file is empty" in done.err


def test_keyframes(bag, tmp_path):
    done = gen3r("recordings", "keyframes", str(bag), "--output_dir", str(tmp_path / "out"))
    assert done.code == 0
    count = int(done.out.split()[0])
    assert 6 <= count <= 8
    assert f"{count} keyframes of 40 images, {count} with a pose in odom" in done.out
    assert "  moved: " in done.out
    images = list_images(tmp_path / "out")
    assert len(images) == count
    assert images[0].name == "camera_image_raw_000000.png"


def test_keyframes_of_a_part(bag):
    done = gen3r("recordings", "keyframes", str(bag), "--start", "1", "--end", "2", "--every", "2", "--poses", "none")
    assert done.code == 0
    assert "of 5 images, 0 with a pose (poses are not wanted)" in done.out


def test_keyframes_of_damage(broken, tmp_path):
    assert gen3r("recordings", "keyframes", str(broken)).code == 3
    path = write_drive(tmp_path / "images", Drive(broken=(3, 4), tf=False, tf_hz=0))
    done = gen3r("recordings", "keyframes", str(path))
    assert done.code == 3
    assert "the first broken image is image 3 of /camera/image_raw" in done.err


def test_an_empty_bag(tmp_path):
    from bag_writer import write_messages

    path = write_messages(tmp_path / "bag", [])
    assert "bag: rosbag2 (mcap), empty" in gen3r("recordings", "info", str(path)).out
    done = gen3r("recordings", "keyframes", str(path))
    assert done.code == 1
    assert "it holds no images" in done.err
