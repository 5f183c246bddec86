"""A video file as a recording of one camera that nothing else is known of."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from fractions import Fraction
from pathlib import Path

import av

from gen3r_core.errors import InputError
from gen3r_core.recordings.losses import SECOND, Loss, Losses
from gen3r_core.recordings.pictures import Still, VideoPicture
from gen3r_core.recordings.recording import Item, Recording, Stream

_IN_FLIGHT = 64


class VideoRecording(Recording):
    """A video.

    A damaged packet is told of, and pictures go on with the next one that needs no other.

    Args:
        path: of any container and codec that FFmpeg knows.

    Raises:
        InputError: it cannot be opened, or holds no video.
    """

    format = "video"
    name = "video"

    def __init__(self, path: Path) -> None:
        self.path, self.losses = path, Losses()
        size = path.stat().st_size
        if size == 0:
            raise InputError(f"{path}: the video file is empty; copy it again")
        with self._opened() as container:
            stream = container.streams.video[0]
            self._rate = float(stream.average_rate or stream.guessed_rate or 25)
            self._unit = stream.time_base or Fraction(1, 1000)
            count: int | None = stream.frames or None
            entries = [(entry.pos, entry.size) for entry in stream.index_entries]
            seconds = self._duration(container)
        whole = [at + length <= size for at, length in entries]
        if not all(whole):
            lost = whole.count(False)
            text = f"the file was cut: {lost} of {len(whole)} frames are missing"
            self.losses.add(path.name, 0, Loss(text, messages=lost, seconds=lost / self._rate))
            count = len(whole) - lost
            seconds = count / self._rate
        elif count is None and seconds:
            count = round(seconds * self._rate)
        self.start_ns = 0
        self.end_ns = max(0, round((seconds - 1 / self._rate) * SECOND))
        self.streams = {self.name: Stream(self.name, "video", "image", count, self._rate)}

    def items(
        self, names: Collection[str] | None = None, start_ns: int | None = None, end_ns: int | None = None
    ) -> Iterator[Item]:
        """See :meth:`Recording.items`."""
        if names is not None and self.name not in names:
            return
        stream, number, last = self.streams[self.name], 0, -1
        for frame, rotation in self._frames(start_ns):
            stamp = round((number / self._rate if frame.pts is None else frame.pts * self._unit) * SECOND)
            number, last = number + 1, max(last, stamp)
            if start_ns is not None and stamp < start_ns:
                continue
            if end_ns is not None and stamp >= end_ns:
                return
            yield Item(stream, stamp, Still(stamp, self.name, VideoPicture(frame, rotation)))
        if not number:
            raise InputError(f"{self.path}: the video holds no frame that can be decoded; record or convert it again")
        short = (self.end_ns or 0) / SECOND - (last / SECOND + 1.5 / self._rate)
        if short > 0:
            text = f"the last frame is at {last / SECOND:.2f} s, {short:.2f} s are missing"
            self.losses.add(self.path.name, 1, Loss(text, seconds=short))

    def _frames(self, start_ns: int | None) -> Iterator[tuple[av.VideoFrame, int]]:
        with self._opened() as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            if start_ns:
                container.seek(round(start_ns / 1000))  # microseconds; to the key frame before
            rotation, broken = 0, False
            for packet in self._packets(container):
                if broken and not packet.is_keyframe and packet.size:
                    continue
                broken = False
                frames = []
                try:
                    if packet.is_corrupt:
                        raise av.InvalidDataError(0, "a packet is not whole")
                    frames = packet.decode()
                except av.FFmpegError as error:
                    self._tell(packet.pos, error)
                    frames, broken = _drained(stream.codec_context), True
                for frame in frames:
                    rotation = frame.rotation or rotation  # H.264 may note it on key frames only
                    if not frame.is_corrupt:
                        yield frame, rotation

    def _packets(self, container: av.container.InputContainer) -> Iterator[av.Packet[av.VideoStream]]:
        """All packets up to the end, or to where the container is damaged."""
        try:
            yield from container.demux(container.streams.video[0])
        except av.FFmpegError as error:
            self._tell(None, error)

    def _tell(self, at: int | None, error: av.FFmpegError) -> None:
        where = "" if at is None else f" at byte {at}"
        self.losses.add(self.path.name, -1 if at is None else at, Loss(f"damaged{where}: {error.strerror}"))

    def _opened(self) -> av.container.InputContainer:
        try:
            container = av.open(str(self.path))
        except (av.FFmpegError, ValueError) as error:
            raise InputError(
                f"{self.path}: this is no recording that can be read (bag, video, folder of images, transforms.json or "
                f"COLMAP), or its beginning or index is missing: {error}"
            ) from error
        if not container.streams.video:
            container.close()
            raise InputError(f"{self.path}: there is no video in this file")
        if _decoder(container) is None:
            container.close()
            raise InputError(f"{self.path}: this build of FFmpeg cannot decode its video, or its header is damaged")
        return container

    @staticmethod
    def _duration(container: av.container.InputContainer) -> float:
        stream = container.streams.video[0]
        if stream.duration and stream.time_base:
            return float(stream.duration * stream.time_base)
        return container.duration / 1e6 if container.duration else 0.0


def _decoder(container: av.container.InputContainer) -> av.VideoCodecContext | None:
    """What decodes its video; PyAV has none where it does not know the codec, whatever its types say."""
    return container.streams.video[0].codec_context


def _drained(decoder: av.VideoCodecContext) -> list[av.VideoFrame]:
    """What a decoder still holds, frames of threads that are at work among it; then it begins anew."""
    found: list[av.VideoFrame] = []
    for _ in range(_IN_FLIGHT):
        try:
            frames = decoder.decode(None)
        except av.EOFError:
            break
        except av.FFmpegError:
            continue
        found += frames
        if not frames:
            break
    decoder.flush_buffers()
    return found
