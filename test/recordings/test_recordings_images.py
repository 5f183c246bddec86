"""Videos, folders of images, transforms.json and COLMAP projects, sound and broken."""

import json
import shutil

import numpy as np
import pytest
from bag_writer import picture
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

from gen3r_core.errors import InputError
from gen3r_core.io.images import write_image
from gen3r_core.io.video import write_video
from gen3r_core.recordings.image_folder import time_in_name
from gen3r_core.recordings.opening import open_recording
from gen3r_core.recordings.selection import KeyframeSelection
from gen3r_core.recordings.shots import ShotOptions, ShotReader

COUNT = 40


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "a.mp4"
    write_video(path, (picture(n, (96, 128)) for n in range(COUNT)), 10)
    return path


def shots_of(path, **options):
    with open_recording(path) as recording:
        return list(ShotReader(recording, ShotOptions(**options))), recording.losses


def remuxed(source, target, **options):
    """The same packets in another container, with its index in front."""
    import av

    with av.open(str(source)) as read, av.open(str(target), "w", options=options) as written:
        stream = written.add_stream_from_template(read.streams.video[0])
        for packet in read.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                written.mux(packet)
    return target


def test_a_video(video):
    with open_recording(video) as recording:
        assert (recording.format, recording.seconds) == ("video", pytest.approx(3.9))
        assert recording.streams["video"].count == COUNT
        shots = list(ShotReader(recording))
        assert not recording.losses.found
        assert list(recording.items(["other"])) == []
    assert [shot.stamp_ns for shot in shots] == [n * 100_000_000 for n in range(COUNT)]
    assert (shots[0].model, shots[0].T_world_cam) == (None, None)
    assert shots[5].picture.size() == (96, 128)
    assert np.abs(shots[5].picture.rgb().astype(int) - picture(5, (96, 128))).mean() < 8


def test_a_part_of_a_video(video):
    shots, _ = shots_of(video, start_s=1.0, end_s=2.0, every=2)
    assert [shot.stamp_ns // 100_000_000 for shot in shots] == [10, 12, 14, 16, 18]


@pytest.mark.parametrize("share", [0.5, 0.7, 0.9])
@pytest.mark.parametrize("container", ["mp4", "mkv", "ts"])
def test_a_video_with_a_broken_tail(tmp_path, video, container, share):
    options = {"movflags": "faststart"} if container == "mp4" else {}
    path = remuxed(video, tmp_path / f"a.{container}", **options)
    whole = len(shots_of(path)[0])
    assert whole == COUNT
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    shots, losses = shots_of(path)
    assert (share - 0.4) * COUNT < len(shots) < COUNT  # the first picture is the largest
    if container != "ts":  # which says nowhere how long it is
        assert losses.anything
    assert [shot.number for shot in shots] == list(range(len(shots)))
    with open_recording(path) as recording:
        assert sum(KeyframeSelection(ShotReader(recording)).counts.values()) == 0  # nothing happens before it is asked


@pytest.mark.parametrize("container", ["mp4", "mkv", "ts"])
def test_a_video_with_a_hole(tmp_path, video, container):
    """What is before it is there, and that something is missing is told."""
    path = remuxed(video, tmp_path / f"a.{container}", **({"movflags": "faststart"} if container == "mp4" else {}))
    whole, _ = shots_of(path)
    data = bytearray(path.read_bytes())
    begin = int(len(data) * 0.7)
    data[begin : begin + 600] = b"\xff" * 600
    path.write_bytes(data)
    shots, losses = shots_of(path)
    assert 10 < len(shots) < COUNT
    assert losses.anything
    for shot, other in zip(shots[:10], whole, strict=False):
        assert shot.stamp_ns == other.stamp_ns
        np.testing.assert_array_equal(shot.picture.rgb(), other.picture.rgb())


def test_a_video_without_its_index(tmp_path, video):
    path = tmp_path / "a.mp4"
    path.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    with pytest.raises(InputError, match="beginning or index is missing"):
        open_recording(path)


def test_a_video_of_an_unknown_codec(tmp_path, video):
    path = tmp_path / "a.mp4"
    path.write_bytes(video.read_bytes().replace(b"avc1", b"zzzz").replace(b"mp4v", b"zzzz"))
    with pytest.raises(InputError, match="cannot decode its video"):
        open_recording(path)


def test_sound_alone_is_no_video(tmp_path):
    import av

    path = tmp_path / "a.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(InputError, match="no video"):
        open_recording(path)


# --- folders -------------------------------------------------------------------------------------------------


def folder_of(path, names):
    path.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        (path / name).parent.mkdir(exist_ok=True)
        if name.endswith("png"):
            write_image(path / name, picture(3 * number, (96, 128)))
        else:
            Pillow.fromarray(picture(3 * number, (96, 128))).save(path / name, quality=90)
    return path


def test_a_folder_without_times(tmp_path):
    path = folder_of(tmp_path / "in", [f"frame_{n}.png" for n in range(12)])
    with open_recording(path) as recording:
        assert not recording.timed
        assert recording.streams["images"].hz is None
        shots = list(ShotReader(recording))
        assert [shot.picture.path.name for shot in shots] == [f"frame_{n}.png" for n in range(12)]
        assert len(list(KeyframeSelection(ShotReader(recording)))) == 12
    assert shots[2].picture.size() == (96, 128)
    np.testing.assert_array_equal(shots[2].picture.rgb(), picture(6, (96, 128)))


def test_a_folder_with_times(tmp_path):
    path = folder_of(tmp_path / "in", [f"1403636579{n}63555584.png" for n in range(1, 6)])
    with open_recording(path) as recording:
        assert recording.timed
        assert recording.start_ns == 1403636579163555584
        assert recording.seconds == pytest.approx(0.4)
        assert len(list(recording.items(None, recording.start_ns + 1, recording.end_ns))) == 3


@pytest.mark.parametrize(
    ("name", "nanoseconds"),
    [
        ("1305031102.175304", 1305031102175304000),
        ("1305031102_5", 1305031102500000000),
        ("1305031102", 1305031102000000000),
        ("cam0-1305031102175", 1305031102175000000),
        ("1305031102175304", 1305031102175304000),
        ("1403636579763555584", 1403636579763555584),
        ("frame_000123", None),
        ("20240131", None),
        ("9999999999", None),
        ("1305031102175.5", None),
        ("", None),
    ],
)
def test_times_in_names(name, nanoseconds):
    assert time_in_name(name) == nanoseconds


@given(st.text(max_size=40))
def test_any_name(name):
    found = time_in_name(name)
    assert found is None or found > 946_684_800 * 10**9


def test_images_of_which_some_are_broken(tmp_path):
    path = folder_of(tmp_path / "in", [f"{n}.jpg" for n in range(8)])
    whole = (path / "3.jpg").read_bytes()
    (path / "3.jpg").write_bytes(whole[: len(whole) // 2])
    (path / "4.jpg").write_bytes(b"")
    (path / "5.jpg").write_bytes(b"this is no image")
    with open_recording(path) as recording:
        selection = KeyframeSelection(ShotReader(recording))
        assert [shot.number for shot in selection] == [0, 1, 2, 6, 7]
        assert selection.counts["broken"] == 3
        assert "3.jpg" in selection.broken
        bad = [shot for shot in ShotReader(recording) if shot.number in (4, 5)]
        for shot in bad:
            for method in (shot.picture.size, shot.picture.rgb, shot.picture.thumbnail):
                with pytest.raises(InputError, match=shot.picture.path.name):
                    method()


def test_an_image_that_was_taken_upright(tmp_path):
    path = folder_of(tmp_path / "in", ["a.jpg", "b.jpg"])
    exif = Pillow.Exif()
    exif[0x0112] = 6
    Pillow.fromarray(picture(0, (96, 128))).save(path / "a.jpg", exif=exif)
    shots, _ = shots_of(path)
    assert shots[0].picture.size() == shots[0].picture.rgb().shape[:2] == (128, 96)
    assert shots[0].picture.thumbnail().shape[0] > shots[0].picture.thumbnail().shape[1]


def test_sixteen_bits(tmp_path):
    (tmp_path / "in").mkdir()
    grey = (picture(1, (96, 128))[..., 0].astype(np.uint16)) * 257
    Pillow.fromarray(grey).save(tmp_path / "in" / "a.png")
    shots, _ = shots_of(tmp_path / "in")
    assert np.ptp(shots[0].picture.thumbnail()) > 50


# --- poses ---------------------------------------------------------------------------------------------------


def poses(count):
    T = np.repeat(np.eye(4)[None], count, axis=0)
    T[:, 0, 3] = np.arange(count)
    return T


def test_transforms(tmp_path):
    folder = folder_of(tmp_path / "images", [f"{n}.png" for n in range(4)]).parent
    flip = np.diag([1.0, -1, -1, 1])
    frames = [
        {"file_path": f"images/{n}" + (".png" if n else ""), "transform_matrix": (T @ flip).tolist()}
        for n, T in enumerate(poses(4))
    ]
    frames.append({"file_path": "images/missing.png", "transform_matrix": np.eye(4).tolist()})
    (folder / "transforms.json").write_text(json.dumps({"fl_x": 100.0, "w": 128, "h": 96, "frames": frames}))
    for path in (folder, folder / "transforms.json"):
        shots, losses = shots_of(path)
        assert len(shots) == 4
        for shot, T in zip(shots, poses(4), strict=True):
            np.testing.assert_allclose(shot.T_world_cam, T, atol=1e-12)
            np.testing.assert_allclose(shot.model.intrinsics, [[100, 0, 64], [0, 100, 48], [0, 0, 1]])
        assert losses.messages == 1
        assert "missing.png: the file is missing" in losses.sentences()
    shutil.rmtree(folder / "images")
    with pytest.raises(InputError, match="none of its 5 images is there"):
        open_recording(folder)


def colmap(folder, cameras=1, names=tuple(f"{n}.png" for n in range(4)), sizes=("128 96",)):
    """Images 1 apart in x, of cameras in turn; ``sizes`` are what the model says of the cameras', in turn."""
    (folder / "images").mkdir(parents=True)
    folder_of(folder / "images", names)
    model = folder / "sparse" / "0"
    model.mkdir(parents=True)
    lines = [f"{n + 1} OPENCV {sizes[n % len(sizes)]} {100 + n} 101 64 48 0.1 0.2 0.01 0.02" for n in range(cameras)]
    (model / "cameras.txt").write_text("# comment\n" + "\n".join(lines) + "\n")
    images = [f"{n + 1} 1 0 0 0 {-n} 0 0 {n % cameras + 1} {names[n]}\n1 2 -1\n" for n in (2, 0, 1, 3)]
    (model / "images.txt").write_text("# comment\n" + "".join(images))
    return folder


def test_colmap(tmp_path):
    shots, losses = shots_of(colmap(tmp_path / "in"))
    assert [shot.picture.path.name for shot in shots] == ["0.png", "1.png", "2.png", "3.png"]
    np.testing.assert_allclose([shot.T_world_cam for shot in shots], poses(4), atol=1e-12)
    assert shots[0].model.distortion == (0.1, 0.2, 0.01, 0.02)
    assert not losses.found
    shots, _ = shots_of(tmp_path / "in" / "sparse" / "0")
    assert len(shots) == 4


def noted(path, orientation):
    """Lets an image say how its camera was held, without touching its pixels; gives the file's pixels."""
    pixels = np.asarray(Pillow.open(path))
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    Pillow.fromarray(pixels).save(path, exif=exif)
    return pixels


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_images_that_have_a_camera_are_as_they_are_stored(tmp_path, orientation):
    """Poses and intrinsics are of these pixels: COLMAP does not turn images."""
    path = colmap(tmp_path / "in")
    stored = [noted(path / "images" / f"{n}.png", orientation) for n in range(4)]
    small = [shot.picture.thumbnail() for shot in shots_of(colmap(tmp_path / "plain"))[0]]
    for shot, pixels, thumbnail in zip(shots_of(path)[0], stored, small, strict=True):
        assert shot.picture.size() == shot.model.size == (96, 128)
        np.testing.assert_array_equal(shot.picture.rgb(), pixels)
        np.testing.assert_array_equal(shot.picture.thumbnail(), thumbnail)
    turned = shots_of(path / "images")[0][0].picture
    assert turned.size() == turned.rgb().shape[:2] == ((96, 128) if orientation == 3 else (128, 96))
    assert not np.array_equal(turned.rgb(), stored[0])


def test_images_that_were_turned_for_their_camera(tmp_path):
    """Who made the model turned them first: its sizes tell."""
    path = colmap(tmp_path / "in", sizes=("96 128",))
    stored = noted(path / "images" / "0.png", 6)
    shot = shots_of(path)[0][0]
    assert shot.picture.size() == shot.model.size == (128, 96)
    np.testing.assert_array_equal(shot.picture.rgb(), np.rot90(stored, -1))
    assert shot.picture.thumbnail().shape[0] > shot.picture.thumbnail().shape[1]


@pytest.mark.parametrize("cameras", [2, 4])
def test_colmap_s_cameras_of_one_folder_and_size_are_one(tmp_path, cameras):
    """COLMAP makes one for each image unless it is told otherwise."""
    shots, _ = shots_of(colmap(tmp_path / "in", cameras))
    assert [shot.camera for shot in shots] == ["images"] * 4
    np.testing.assert_allclose([shot.T_world_cam for shot in shots], poses(4), atol=1e-12)
    assert [shot.model.intrinsics[0, 0] for shot in shots] == [100 + n % cameras for n in range(4)]


def test_colmap_with_cameras_in_folders(tmp_path):
    names = ("cam0/0.png", "cam1/1.png", "cam0/2.png", "cam1/3.png")
    path = colmap(tmp_path / "in", 2, names)
    with pytest.raises(InputError, match=r"there are 2 cameras; name one or more .--camera cam0 or --camera cam1"):
        shots_of(path)
    shots, _ = shots_of(path, cameras=("cam1",))
    assert [shot.T_world_cam[0, 3] for shot in shots] == [1, 3]
    shots, _ = shots_of(path, cameras=("all",))
    assert [shot.camera for shot in shots] == ["cam0", "cam0", "cam1", "cam1"]
    shots, _ = shots_of(colmap(tmp_path / "one", 1, names))
    assert [shot.camera for shot in shots] == ["images"] * 4


def test_colmap_with_images_of_two_sizes(tmp_path):
    shots, _ = shots_of(colmap(tmp_path / "in", 4, sizes=("128 96", "96 128")), cameras=("all",))
    assert [shot.camera for shot in shots] == ["images_128x96", "images_96x128"] * 2


def test_images_beside_other_things(tmp_path):
    folder_of(tmp_path / "in" / "images", ["1.png"])
    assert len(shots_of(tmp_path / "in")[0]) == 1
