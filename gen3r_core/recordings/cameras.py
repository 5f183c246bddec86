"""Which streams belong to a camera: found by the names that ROS gives them, or asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gen3r_core.errors import InputError
from gen3r_core.messages.cameras import CameraModel
from gen3r_core.messages.problems import MessageError
from gen3r_core.recordings.messages import RawMessage
from gen3r_core.recordings.pictures import Still
from gen3r_core.recordings.recording import Recording, Stream

ALL = "all"
_TRANSPORTS = ("/compressed", "/compressedDepth")
_TRIES = 5


@dataclass(frozen=True)
class Camera:
    """Streams of a camera.

    Attributes:
        name: of its images without the transport, such as ``/camera/image_raw``.
        image: stream of its images.
        info: stream of its camera_info; None where there is none.
        depth: stream of depth images that go with them; None where there is none.
        frame_id: of its images; empty where they name none.
        model: intrinsics; None where they are not known.
    """

    name: str
    image: str
    info: str | None = None
    depth: str | None = None
    frame_id: str = ""
    model: CameraModel | None = None


def find_cameras(recording: Recording, wanted: Sequence[str] = (), depth: str | None = None) -> list[Camera]:
    """The cameras to read.

    Args:
        recording: open.
        wanted: streams of images, with or without their transport, or their namespaces; "all" for every one. None
            need be named where there is one camera.
        depth: stream of depth images for the (only) camera; where there is just one of each it need not be named.

    Raises:
        InputError: no images, several cameras and none named, or a name that fits none; says what there is.
    """
    groups: dict[str, list[Stream]] = {}
    for stream in recording.of_kind("image"):
        groups.setdefault(base_name(stream.name), []).append(stream)
    if not groups:
        raise InputError(f"{recording.path}: it holds no images; its streams are\n{recording.table()}")
    if not wanted and len(groups) > 1:
        names = " or ".join(f"--camera {name}" for name in groups)
        raise InputError(
            f"{recording.path}: there are {len(groups)} cameras; name one or more ({names}), or --camera all. Its "
            f"streams are\n{recording.table()}"
        )
    chosen: dict[str, Stream] = {}
    for name in wanted or (ALL,):
        fitting = [(base, one) for base, streams in groups.items() if (one := _fitting(base, streams, name))]
        if not fitting:
            raise InputError(f"{recording.path}: no camera is called {name!r}; its streams are\n{recording.table()}")
        if len(fitting) > 1 and name != ALL:
            names = ", ".join(base for base, _ in fitting)
            raise InputError(f"{recording.path}: {name!r} may be any of {names}; give one of these names")
        chosen.update(fitting)
    depths = _depths(recording, chosen, depth)
    return [_camera(recording, base, stream, depths.get(base)) for base, stream in chosen.items()]


def base_name(topic: str) -> str:
    """The name without its transport."""
    for ending in _TRANSPORTS:
        topic = topic.removesuffix(ending)
    return topic


def _fitting(base: str, streams: list[Stream], name: str) -> Stream | None:
    """The stream of a camera that a name asks for; of raw and compressed images the raw ones, which lost nothing."""
    exact = next((stream for stream in streams if stream.name == name), None)
    if exact is None and name not in (ALL, base, base.rpartition("/")[0]):
        return None
    return exact or min(streams, key=lambda stream: (stream.name != base, stream.name))


def _depths(recording: Recording, chosen: dict[str, Stream], wanted: str | None) -> dict[str, str]:
    """Depth streams by camera."""
    if wanted is not None:
        stream = recording.stream(wanted)
        if stream.kind != "depth" or len(chosen) != 1:
            raise InputError(
                f"{recording.path}: {wanted} is of kind {stream.kind} and there are {len(chosen)} cameras; depth "
                f"images can be named for a single camera"
            )
        return dict.fromkeys(chosen, wanted)
    groups: dict[str, str] = {}
    for stream in recording.of_kind("depth"):
        base = base_name(stream.name)
        groups[base] = min(groups.get(base, stream.name), stream.name, key=len)
    return dict.fromkeys(chosen, next(iter(groups.values()))) if len(groups) == len(chosen) == 1 else {}


def _camera(recording: Recording, base: str, stream: Stream, depth: str | None) -> Camera:
    frame, model, info = "", None, None
    for item in _first(recording, stream.name):
        if isinstance(item, Still):
            return Camera(base, stream.name, None, depth, item.frame_id, item.camera)
        try:
            frame = item.header()[1].lstrip("/")
        except MessageError:
            continue
        break
    infos = [one.name for one in recording.of_kind("camera_info")]
    beside = base.rpartition("/")[0] + "/camera_info"
    for name in [beside] if beside in infos else infos:
        for item in _first(recording, name):
            if isinstance(item, Still):
                continue
            try:
                about = item.header()[1].lstrip("/")
                if name != beside and (not frame or about != frame):  # elsewhere, but of the same frame
                    continue
                rectified = base.rpartition("/")[2].startswith("image_rect")
                model, info, frame = item.camera(rectified=rectified), name, frame or about
            except MessageError:
                continue
            break
        if model is not None:
            break
    return Camera(base, stream.name, info, depth, frame, model)


def _first(recording: Recording, name: str) -> list[RawMessage | Still]:
    found = []
    for item in recording.items([name]):
        found.append(item.content)
        if len(found) == _TRIES:
            break
    return found
