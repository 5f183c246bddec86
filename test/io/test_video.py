import av
import numpy as np
import pytest

from gen3r_core.errors import InputError, OutputError
from gen3r_core.io import video
from gen3r_core.io.video import iterate_video, read_video, video_info, write_video


def clip(frames=9, height=64, width=96):
    v, u = np.mgrid[:height, :width]
    pictures = [
        np.stack([127 + 120 * np.sin(u / 19 + t / 3), 127 + 120 * np.cos(v / 23), 255 * u / width], axis=-1)
        for t in range(frames)
    ]
    return np.stack(pictures).astype(np.uint8)


def psnr(a, b):
    return 10 * np.log10(255**2 / np.square(a.astype(float) - b).mean())


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "sample.mp4"
    write_video(path, clip(), 12)
    return path


@pytest.mark.parametrize("encoders", [video.ENCODERS, ("no_such_encoder", "mpeg4")])
def test_round_trip(tmp_path, monkeypatch, encoders):
    monkeypatch.setattr(video, "ENCODERS", encoders)
    write_video(tmp_path / "a.mp4", clip(), 12.5)
    info = video_info(tmp_path / "a.mp4")
    assert (info.image_size, info.fps, info.num_frames) == ((64, 96), 12.5, 9)
    frames = read_video(tmp_path / "a.mp4")
    assert (frames.shape, frames.dtype) == ((9, 64, 96, 3), np.uint8)
    assert all(psnr(frame, true) > 38 for frame, true in zip(frames, clip(), strict=True))
    brightness = (frames.astype(float) - clip()).mean(axis=(0, 1, 2)) @ [0.2126, 0.7152, 0.0722]
    assert abs(brightness) < 0.3
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_the_file_is_h264_in_bt709(sample):
    with av.open(str(sample)) as container:
        frame = next(container.decode(video=0))
        assert container.streams.video[0].codec_context.codec.name == "h264"
    assert (frame.format.name, int(frame.colorspace)) == ("yuv420p", 1)


def test_odd_sizes_repeat_the_last_row_and_column(tmp_path):
    odd = clip(3, 63, 95)
    write_video(tmp_path / "a.mp4", odd, 12)
    frames = read_video(tmp_path / "a.mp4")
    assert frames.shape == (3, 64, 96, 3)
    assert psnr(frames, np.pad(odd, ((0, 0), (0, 1), (0, 1), (0, 0)), mode="edge")) > 38


def test_frames_from_a_generator(tmp_path):
    write_video(tmp_path / "a.mp4", iter(clip(4)), 30)
    assert len(read_video(tmp_path / "a.mp4")) == 4


def test_steps_and_limits(sample):
    everything = read_video(sample)
    np.testing.assert_array_equal(read_video(sample, every=3), everything[::3])
    np.testing.assert_array_equal(read_video(sample, max_frames=2, every=2), everything[:4:2])
    assert len(read_video(sample, max_frames=100)) == 9
    streamed = iterate_video(sample)
    np.testing.assert_array_equal(next(streamed), everything[0])
    streamed.close()


def test_noted_rotation_is_applied(sample, tmp_path):
    path = tmp_path / "turned.mp4"
    with av.open(str(sample)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        turn = av.BitStreamFilterContext("h264_metadata=display_orientation=insert:rotate=90", source.streams.video[0])
        for packet in source.demux(video=0):
            for turned in turn.filter(packet if packet.dts is not None else None):
                turned.stream = stream
                target.mux(turned)
    # The filter's angle is counterclockwise, as numpy's.
    np.testing.assert_array_equal(read_video(path), np.rot90(read_video(sample), 1, axes=(1, 2)))


def test_a_file_without_video(tmp_path):
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    with pytest.raises(InputError, match=r"sound\.wav: there is no video stream"):
        read_video(path)


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "the video file is empty"), (b"hello, world" * 9, "this is not a video")]
)
def test_what_is_no_video(tmp_path, content, message):
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.mp4: {message}"):
        read_video(tmp_path / "a.mp4")


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"a\.mp4: there is no such video file"):
        video_info(tmp_path / "a.mp4")


def test_truncated_without_index(sample, tmp_path):
    (tmp_path / "a.mp4").write_bytes(sample.read_bytes()[: sample.stat().st_size // 2])
    with pytest.raises(InputError, match="its beginning or index is missing"):
        read_video(tmp_path / "a.mp4")


def remuxed(sample, path, **options):
    with av.open(str(sample)) as source, av.open(str(path), "w", options=options) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    return path


def test_truncated_with_index_at_the_front(sample, tmp_path):
    path = remuxed(sample, tmp_path / "a.mp4", movflags="faststart")
    assert len(read_video(path)) == 9
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match=r"truncated: [1-8] of 9 frames are there"):
        read_video(path)


def test_damaged_in_the_middle(sample, tmp_path):
    data = bytearray(remuxed(sample, tmp_path / "a.mp4", movflags="faststart").read_bytes())
    start = data.index(b"mdat") + 4
    data[start:-1] = bytes(len(data) - 1 - start)
    (tmp_path / "b.mp4").write_bytes(data)
    with pytest.raises(InputError, match=r"b\.mp4: the video (is damaged after frame 0|holds no frame)"):
        read_video(tmp_path / "b.mp4")


def test_a_packet_cut_off_in_a_file_without_index(sample, tmp_path):
    path = remuxed(sample, tmp_path / "a.mkv")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(InputError, match=r"a\.mkv: the video is (truncated|damaged)"):
        read_video(path)


def test_picture_size_that_changes(sample, tmp_path):
    small = tmp_path / "small.mp4"
    write_video(small, clip(3, 32, 48), 12)
    joined = b"".join(remuxed(part, tmp_path / "part.h264").read_bytes() for part in (sample, small))
    (tmp_path / "joined.h264").write_bytes(joined)
    with pytest.raises(InputError, match=r"changes from \(64, 96\) to \(32, 48\) at frame 9"):
        read_video(tmp_path / "joined.h264")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda path: read_video(path, max_frames=0), "max_frames is 0"),
        (lambda path: read_video(path, every=0), "every 0th frame"),
    ],
)
def test_wrong_numbers(sample, call, message):
    with pytest.raises(InputError, match=message):
        call(sample)


@pytest.mark.parametrize(
    ("frames", "fps", "crf", "message"),
    [
        (clip(2), 0, 18, "at most 1000 frames per second, got 0"),
        (clip(2), float("nan"), 18, "got nan"),
        (clip(2), 12, 99, "between 0 and 51, got 99"),
        ([], 12, 18, "at least one frame, got none"),
        (clip(2).astype(float), 12, 18, r"frame 0 is \(64, 96, 3\) float64"),
        (clip(2)[..., :2], 12, 18, r"frame 0 is \(64, 96, 2\) uint8"),
        ([clip(1)[0], clip(1)[0, :32]], 12, 18, r"frame 1 has \(32, 96\), the first \(64, 96\)"),
    ],
)
def test_wrong_frames_leave_no_file(tmp_path, frames, fps, crf, message):
    with pytest.raises(InputError, match=message):
        write_video(tmp_path / "a.mp4", frames, fps, crf=crf)
    assert list(tmp_path.iterdir()) == []


def test_unwritable_places(tmp_path, monkeypatch):
    with pytest.raises(OutputError, match=r"missing/a\.mp4: No such file"):
        write_video(tmp_path / "missing" / "a.mp4", clip(2), 12)
    with pytest.raises(OutputError, match=r"a\.unknown: .*ends in \.mp4"):
        write_video(tmp_path / "a.unknown", clip(2), 12)
    monkeypatch.setattr(video, "ENCODERS", ("no_such_encoder",))
    with pytest.raises(OutputError, match="none of the video encoders no_such_encoder"):
        write_video(tmp_path / "a.mp4", clip(2), 12)
    assert list(tmp_path.iterdir()) == []


def test_full_device_is_an_output_error(tmp_path, monkeypatch):
    def full(*_args, **_kwargs):
        raise av.error.OSError(28, "No space left on device", "a.mp4")

    monkeypatch.setattr(av, "open", full)
    with pytest.raises(OutputError, match="No space left on device"):
        write_video(tmp_path / "a.mp4", clip(2), 12)
    assert list(tmp_path.iterdir()) == []
