"""Videos that do not begin at 0, seeking where it leads too far, and texts, which FFmpeg takes for videos."""

from __future__ import annotations

import av
import numpy as np
import pytest

from gen3r_core.errors import InputError
from gen3r_core.io.video import write_video
from gen3r_core.recordings.losses import SECOND
from gen3r_core.recordings.opening import open_recording

RATE, COUNT, KEYS = 10, 60, 20
"""Frames a second, frames, and frames from one key frame to the next."""


def level(number: int) -> int:
    """Grey value by which a frame is known again."""
    return 20 + 3 * number


def written(path, offset: float):
    """A video of grey pictures whose first one is at this time in seconds."""
    with av.open(str(path), "w", options={"avoid_negative_ts": "disabled"}) as container:
        stream = container.add_stream("mpeg4", rate=RATE, options={"flags": "+qscale", "global_quality": "236"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.gop_size = KEYS
        for number in range(COUNT):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), level(number), np.uint8), format="rgb24")
            frame.pts = number + round(offset * RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def read(path, start=None, end=None):
    """Stamps in seconds, and numbers of the frames."""
    bounds = [None if value is None else round(value * SECOND) for value in (start, end)]
    with open_recording(path) as recording:
        items = list(recording.items(None, *bounds))
        assert not recording.losses.found
        numbers = [round((float(item.content.picture.rgb().mean()) - level(0)) / 3) for item in items]
        return [item.received_ns / SECOND for item in items], numbers


@pytest.fixture(scope="module", params=["mp4", "mkv", "ts"])
def container(request):
    return request.param


@pytest.mark.parametrize("offset", [0.0, 10.0])
def test_stamps_count_from_the_first_frame(tmp_path, container, offset):
    path = written(tmp_path / f"a.{container}", offset)
    with open_recording(path) as recording:
        assert recording.seconds == pytest.approx((COUNT - 1) / RATE, abs=0.02)
        assert recording.streams["video"].count in (COUNT, None)
    stamps, numbers = read(path)
    np.testing.assert_allclose(stamps, np.arange(COUNT) / RATE, atol=1e-6)
    assert numbers == list(range(COUNT))


@pytest.mark.parametrize("offset", [0.0, 10.0])
@pytest.mark.parametrize(("start", "end"), [(None, 1.25), (0.55, 1.25), (2.35, 4.75), (3.95, None), (5.85, None)])
def test_a_part_is_the_same_wherever_the_video_begins(tmp_path, container, offset, start, end):
    path = written(tmp_path / f"a.{container}", offset)
    wanted = [n for n in range(COUNT) if (start is None or n / RATE >= start) and (end is None or n / RATE < end)]
    stamps, numbers = read(path, start, end)
    assert numbers == wanted
    np.testing.assert_allclose(stamps, np.array(wanted) / RATE, atol=1e-6)


def test_one_key_frame_for_all(tmp_path, monkeypatch):
    path = tmp_path / "a.ts"
    monkeypatch.setitem(globals(), "KEYS", 600)
    written(path, 0.0)
    assert read(path, 4.05)[1] == list(range(41, COUNT))


def test_a_seek_that_ends_too_late_is_made_again_from_further_back(tmp_path, monkeypatch):
    path = tmp_path / "a.mp4"
    write_video(path, (np.full((48, 64, 3), level(n), np.uint8) for n in range(COUNT)), RATE)
    from gen3r_core.recordings.video import VideoRecording

    real, asked = VideoRecording._decoded, []

    def late(self, wanted):
        asked.append(wanted)
        frames = real(self, wanted)
        for frame, rotation in frames:
            if wanted is None or self._stamp(frame) > 4.5 * SECOND:
                yield frame, rotation

    monkeypatch.setattr(VideoRecording, "_decoded", late)
    assert read(path, 4.05)[1] == list(range(41, COUNT))
    assert len(asked) == 3
    assert asked[-1] is None


def test_a_text_is_no_video(tmp_path):
    (tmp_path / "notes.txt").write_text("there is a bench in the garden\n" * 1000)
    with pytest.raises(InputError, match="this is a text"):
        open_recording(tmp_path / "notes.txt")
