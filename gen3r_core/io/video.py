"""Reading and writing videos with PyAV."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from gen3r_core.errors import InputError, OutputError
from gen3r_core.io.atomic import atomic_path, output_error

if TYPE_CHECKING:
    import av
    from av.container import InputContainer
    from av.video.stream import VideoStream

ENCODERS = ("libx264", "mpeg4")
"""Encoders by preference: some builds of PyAV come without x264."""


@dataclass(frozen=True)
class VideoInfo:
    """What a video file says of itself.

    Attributes:
        image_size: ``(height, width)`` in pixels as stored, before any rotation.
        fps: frames per second, None where the file does not say.
        num_frames: frames promised by the file, None where it does not say.
    """

    image_size: tuple[int, int]
    fps: float | None
    num_frames: int | None


def video_info(path: Path) -> VideoInfo:
    """Reads a video's header, no frames.

    Raises:
        InputError: naming the file, if it cannot be opened, holds no video, or is truncated.
    """
    with _opened(path) as (_, stream):
        rate = stream.average_rate
        size = (stream.codec_context.height, stream.codec_context.width)
        return VideoInfo(size, float(rate) if rate else None, stream.frames or None)


def iterate_video(path: Path, every: int = 1) -> Generator[NDArray[np.uint8], None, None]:
    """Decodes a video frame by frame; one frame is in memory at a time.

    The rotation that phones note in the file is applied.

    Args:
        path: any container and codec that FFmpeg knows.
        every: step: 1 for all frames, 2 for frames 0, 2, 4 ...

    Yields:
        ``[H, W, 3]`` uint8 RGB frames in the order of display.

    Raises:
        InputError: naming the file (and the frame), if it is missing, empty, no video,
            damaged or truncated, or if ``every`` is not positive.
    """
    if every < 1:
        raise InputError(f"every {every}th frame of a video cannot be taken; the step must be 1 or more")
    decoded, seconds, rotation = 0, 0.0, 0
    with _opened(path) as (container, stream):
        stream.thread_type = "AUTO"
        try:
            for packet in container.demux(stream):
                if packet.is_corrupt:
                    raise InputError(
                        f"{path}: the video is truncated or damaged after frame {decoded}; copy it again, "
                        f"or repair it with: ffmpeg -i {path.name} -c copy repaired{path.suffix}"
                    )
                for frame in packet.decode():
                    rotation = frame.rotation or rotation  # H.264 may note it on key frames only
                    if decoded % every == 0:
                        yield frame_to_rgb(frame, rotation)
                    decoded, seconds = decoded + 1, frame.time or seconds
        except _ffmpeg_error() as error:
            raise InputError(
                f"{path}: the video is damaged after frame {decoded}: {error.strerror}; copy it again"
            ) from error
        promised = _promised_seconds(container, stream)
    if decoded and seconds < promised:
        raise InputError(
            f"{path}: the video is truncated: its last frame is at {seconds:.2f} s, its header promises one after "
            f"{promised:.2f} s; copy it again"
        )
    if decoded == 0:
        raise InputError(f"{path}: the video holds no frame that can be decoded; record or convert it again")


def read_video(path: Path, max_frames: int | None = None, every: int = 1) -> NDArray[np.uint8]:
    """Decodes a video into memory.

    Args:
        path: any container and codec that FFmpeg knows.
        max_frames: stop after this many frames (counted after ``every``); None for all.
        every: step: 1 for all frames, 2 for frames 0, 2, 4 ...

    Returns:
        ``[N, H, W, 3]`` uint8 RGB, N at least 1.

    Raises:
        InputError: as :func:`iterate_video`, if ``max_frames`` is not positive, or if the
            picture size changes within the video.
    """
    if max_frames is not None and max_frames < 1:
        raise InputError(f"{path}: at least one frame must be read, max_frames is {max_frames}")
    frames: list[NDArray[np.uint8]] = []
    with contextlib.closing(iterate_video(path, every)) as iterator:
        for frame in iterator:
            if frames and frame.shape != frames[0].shape:
                raise InputError(
                    f"{path}: the picture size (height, width) changes from {frames[0].shape[:2]} to "
                    f"{frame.shape[:2]} at frame {len(frames) * every}; cut the video there"
                )
            frames.append(frame)
            if len(frames) == max_frames:
                break
    return np.stack(frames)


def write_video(path: Path, frames: Iterable[NDArray[np.uint8]], fps: float, *, crf: int = 18) -> None:
    """Writes an MP4 video (H.264, 4:2:0, BT.709, playable everywhere), whole or not at all.

    Without x264 in PyAV's build the codec is MPEG-4 part 2. Widths and heights that are odd, which
    4:2:0 cannot store, grow by one pixel that repeats the last column or row.

    Args:
        path: file to write, usually ``.mp4``; its folder must exist.
        frames: ``[F, H, W, 3]`` uint8 RGB, or anything that yields ``[H, W, 3]`` frames.
        fps: frames per second.
        crf: x264's quality, 0 (lossless) to 51; 18 is visually lossless.

    Raises:
        InputError: if there is no frame, one has another shape or dtype, or fps or crf make no sense.
        OutputError: if the file cannot be written.
    """
    import av

    if not (math.isfinite(fps) and 0 < fps <= 1000):
        raise InputError(f"{path}: a video has more than 0 and at most 1000 frames per second, got {fps}")
    if not 0 <= crf <= 51:
        raise InputError(f"{path}: the video quality (crf) lies between 0 and 51, got {crf}")
    encoder = _first_available(ENCODERS)
    with atomic_path(path) as partial:
        try:
            with av.open(str(partial), "w") as container:
                stream: VideoStream | None = None
                size: tuple[int, ...] = ()
                for index, picture in enumerate(frames):
                    if stream is None:
                        _check_frame(path, index, picture, size)
                        size = picture.shape
                        stream = _add_stream(container, encoder, size, fps, crf)
                    _check_frame(path, index, picture, size)
                    container.mux(stream.encode(_to_yuv(picture, index)))
                if stream is None:
                    raise InputError(f"{path}: a video needs at least one frame, got none")
                container.mux(stream.encode(None))
        except av.FFmpegError as error:
            raise output_error(path, OSError(error.errno, error.strerror)) from error
        except ValueError as error:
            raise OutputError(f"cannot write {path}: {error}; use a name that ends in .mp4") from error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    import av

    if not path.is_file():
        raise InputError(f"{path}: there is no such video file; check the path")
    size = path.stat().st_size
    if size == 0:
        raise InputError(f"{path}: the video file is empty; copy it again")
    try:
        container = av.open(str(path))
    except av.PermissionError as error:
        raise InputError(f"{path}: this video file may not be read; check its permissions") from error
    except (av.FFmpegError, ValueError) as error:
        raise InputError(f"{path}: this is not a video, or its beginning or index is missing: {error}") from error
    with container:
        if not container.streams.video:
            raise InputError(f"{path}: there is no video stream in this file")
        stream = container.streams.video[0]
        # MP4 lists where each packet lies, so that a cut file is known at once. (The number of frames it
        # promises is no measure: edit lists leave frames out on purpose.)
        ends = [entry.pos + entry.size for entry in stream.index_entries]
        if ends and max(ends) > size:
            whole = sum(end <= size for end in ends)
            raise InputError(f"{path}: the video is truncated: {whole} of {len(ends)} frames are there; copy it again")
        yield container, stream


def _promised_seconds(container: InputContainer, stream: VideoStream) -> float:
    """When the last frame of a Matroska file comes at the earliest; 0 where it cannot be told.

    Matroska's reader ends quietly in the middle of a file. Its header gives the whole length, which is that
    of the pictures only where there is no sound.
    """
    rate = stream.average_rate
    if "matroska" not in container.format.name or len(container.streams) != 1 or not container.duration or not rate:
        return 0.0
    return container.duration / 1e6 - 2.5 / float(rate)


def _ffmpeg_error() -> type[av.FFmpegError]:
    import av

    return av.FFmpegError


def frame_to_rgb(frame: av.VideoFrame, rotation: int) -> NDArray[np.uint8]:
    """RGB of a decoded frame.

    Args:
        frame: as decoded.
        rotation: degrees counterclockwise that it is turned by, to the nearest quarter turn.

    Returns:
        ``[H, W, 3]`` uint8.
    """
    picture = frame.reformat(format="rgb24", interpolation=_accurate()).to_ndarray()
    quarters = round(rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(picture, quarters), dtype=np.uint8)


def _accurate() -> int:
    """FFmpeg's exact conversion between YUV and RGB: 52 dB there and back on a smooth picture.

    Its default loses 1 to 1.5 of 255 of brightness and reaches 41 dB. Versions of PyAV that do not
    know these two flags keep the default: one of them alone is worse than none.
    """
    from av.video.reformatter import Interpolation

    flags = [getattr(Interpolation, name, None) for name in ("ACCURATE_RND", "FULL_CHR_H_INT")]
    return Interpolation.BILINEAR | (0 if None in flags else sum(flag for flag in flags if flag))


def _first_available(names: tuple[str, ...]) -> str:
    import av

    for name in names:
        with contextlib.suppress(av.codec.codec.UnknownCodecError):
            av.Codec(name, "w")
            return name
    raise OutputError(f"this build of PyAV has none of the video encoders {', '.join(names)}; install av from PyPI")


def _add_stream(
    container: av.container.OutputContainer, encoder: str, size: tuple[int, ...], fps: float, crf: int
) -> VideoStream:
    from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

    # MPEG-4 has no crf; its fixed quantiser of 2 to 31, in FFmpeg's units of 118, comes closest.
    quality = (
        {"crf": str(crf)} if encoder == "libx264" else {"flags": "+qscale", "global_quality": str(118 * (2 + crf // 9))}
    )
    rate = Fraction(fps).limit_denominator(10_000)
    stream = cast("VideoStream", container.add_stream(encoder, rate=rate, options=quality))
    stream.height, stream.width = (side + side % 2 for side in size[:2])
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
    context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
    return stream


def _to_yuv(picture: NDArray[np.uint8], index: int) -> av.VideoFrame:
    import av
    from av.video.reformatter import ColorRange, Colorspace

    height, width = picture.shape[:2]
    padded = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(padded), format="rgb24")
    frame = frame.reformat(
        format="yuv420p",
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
        interpolation=_accurate(),
    )
    frame.pts = index
    return frame


def _check_frame(path: Path, index: int, picture: NDArray[np.uint8], size: tuple[int, ...]) -> None:
    good = picture.ndim == 3 and picture.shape[2] == 3 and picture.size > 0 and picture.dtype == np.uint8
    if not good:
        raise InputError(
            f"{path}: video frames must be [H, W, 3] uint8, frame {index} is {picture.shape} {picture.dtype}"
        )
    if size and picture.shape != size:
        raise InputError(
            f"{path}: video frames must have one size, frame {index} has {picture.shape[:2]}, the first {size[:2]}"
        )
