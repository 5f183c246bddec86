"""A video file as a recording of one camera that nothing else is known of."""

from __future__ import annotations

import math
from collections.abc import Collection, Generator, Iterator
from fractions import Fraction
from pathlib import Path

import av

from gen3r_core.errors import InputError
from gen3r_core.recordings.losses import SECOND, Loss, Losses
from gen3r_core.recordings.pictures import Still, VideoPicture
from gen3r_core.recordings.recording import Item, Recording, Stream

_IN_FLIGHT = 64
_FURTHER_BACK = (0, 2, 20, 120)
"""Seconds before the wanted time that are sought, one after the other, until a picture at or before it is found."""


class VideoRecording(Recording):
    """A video.

    A damaged packet is told of, and pictures go on with the next one that needs no other. Stamps count from the
    stream's beginning, whatever time the file gives to it.

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
            self._begin = (stream.start_time or 0) * self._unit
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
            stamp = self._stamp(frame)
            stamp = round(number / self._rate * SECOND) if stamp is None else stamp
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

    def _stamp(self, frame: av.VideoFrame) -> int | None:
        """Nanoseconds since the stream's beginning; None where the file does not say."""
        return None if frame.pts is None else round((frame.pts * self._unit - self._begin) * SECOND)

    def _frames(self, start_ns: int | None) -> Iterator[tuple[av.VideoFrame, int]]:
        """Pictures from a key frame at or before a time; from the beginning where seeking does not lead there.

        MPEG-TS has no index: a seek ends anywhere, and what is decoded first may come after the wanted time.
        """
        for back in _FURTHER_BACK if start_ns else ():
            wanted = Fraction(start_ns or 0, SECOND) - back
            if wanted <= 0:
                break
            frames = self._decoded(wanted)
            first = next(frames, None)
            stamp = None if first is None else self._stamp(first[0])
            if first is not None and stamp is not None and stamp <= (start_ns or 0):
                yield first
                yield from frames
                return
            frames.close()
        yield from self._decoded(None)

    def _decoded(self, wanted: Fraction | None) -> Generator[tuple[av.VideoFrame, int], None, None]:
        """Pictures and their rotations from where a seek to a time in seconds ends; None begins at the beginning."""
        with self._opened() as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            if wanted is not None:
                try:
                    container.seek(math.floor((wanted + self._begin) / self._unit), stream=stream)
                except av.FFmpegError:
                    return
            rotation, broken = 0, wanted is not None  # where a seek ends, a key frame is waited for
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
        if container.format.name == "tty":  # which FFmpeg plays as on an old terminal, and nobody means
            container.close()
            raise InputError(f"{self.path}: this is a text; give a bag, a video, or a folder of images")
        if not container.streams.video:
            container.close()
            raise InputError(f"{self.path}: there is no video in this file")
        if _decoder(container) is None:
            container.close()
            raise InputError(f"{self.path}: this build of FFmpeg cannot decode its video, or its header is damaged")
        return container

    def _duration(self, container: av.container.InputContainer) -> float:
        """Seconds; Matroska's are counted from 0 and not from its first picture."""
        stream = container.streams.video[0]
        if stream.duration and stream.time_base:
            return float(stream.duration * stream.time_base)
        seconds = container.duration / 1e6 if container.duration else 0.0
        before = float(self._begin) if "matroska" in container.format.name else 0.0
        return seconds - before if seconds > before else seconds


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
