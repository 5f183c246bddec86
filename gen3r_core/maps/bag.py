"""A map as a bag: an mcap file that Foxglove opens, with the ``metadata.yaml`` that ``ros2 bag play`` asks for.

Topics and frames stand in ``docs/outputs.md``. Messages are in the order of time.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mcap.writer import CompressionType, Writer
from ruamel.yaml import YAML

from gen3r_core.geometry.poses import Array
from gen3r_core.maps import ros_messages as ros
from gen3r_core.maps.facts import GENERATED, FrameFacts, camera_names, poses_of
from gen3r_core.maps.scene_map import MapCloud
from gen3r_core.maps.stamps import SECOND, complete_stamps

__all__ = ["BAG", "write_bag"]

BAG = "map_bag"
"""Folder of the bag."""
WORLD = "map"
"""Frame that clouds and poses are in."""

_FILE = f"{BAG}_0.mcap"
_VERSION = 8
"""Of metadata.yaml: Humble reads it as Jazzy and Kilted do; 9 has another form of QoS that Humble cannot read."""
_CHUNK_BYTES = 1 << 20
_RELIABLE, _KEEP_LAST, _AUTOMATIC = 1, 1, 1
_TRANSIENT_LOCAL, _VOLATILE = 1, 2
_FOREVER = {"sec": 9223372036, "nsec": 854775807}
_LATCHED = frozenset({"/map/observed", "/map/generated", "/path", "/tf_static"})


def write_bag(
    folder: Path,
    frames: Sequence[FrameFacts],
    cloud: MapCloud,
    image: Callable[[int], bytes],
    *,
    metric: bool,
    step: Callable[[], None] = lambda: None,
) -> None:
    """Writes the bag.

    Args:
        folder: of the bag; made. Must not hold one.
        frames: in order; images only of those that have a file.
        cloud: in the world's frame.
        image: the JPEG file of a frame, by index.
        metric: what the file's metadata says of the unit.
        step: called after each frame.

    Raises:
        OSError: a file cannot be written.
    """
    folder.mkdir()
    stamps = complete_stamps([frame.stamp_ns for frame in frames])
    begin = min(stamps, default=SECOND)
    names = camera_names(frame.camera for frame in frames)
    with (folder / _FILE).open("wb") as file:
        bag = _Bag(file)
        _write_lasting(bag, frames, cloud, stamps, names, begin)
        for index in sorted(range(len(frames)), key=lambda place: stamps[place]):
            frame, stamp = frames[index], stamps[index]
            base, link = _names(frame, names)
            bag.write("/tf", stamp, ros.transforms(stamp, (WORLD, f"{base}_link", link)))
            if frame.image is not None:
                optical = f"{base}_optical_frame"
                bag.write(f"/{base}/camera_info", stamp, ros.camera_info(frame.intrinsics, frame.size, stamp, optical))
                picture = ros.compressed_image(image(index), stamp, optical)
                bag.write(f"/{base}/image_rect/compressed", stamp, picture)
            step()
        metadata = bag.finish(metric=metric)
    with (folder / "metadata.yaml").open("w", encoding="utf-8") as file_of_metadata:
        file_of_metadata.write(metadata)


def _write_lasting(
    bag: _Bag, frames: Sequence[FrameFacts], cloud: MapCloud, stamps: list[int], names: dict[str, str], begin: int
) -> None:
    """What there is from the beginning on: mounts, clouds, and the whole way."""
    bases = dict.fromkeys(_names(frame, names)[0] for frame in frames)
    mounts = [(f"{base}_link", f"{base}_optical_frame", ros.OPTICAL_FROM_BODY) for base in bases]
    if mounts:
        bag.write("/tf_static", begin, ros.transforms(begin, *mounts))
    for name, kept in (("/map/observed", ~cloud.generated), ("/map/generated", cloud.generated)):
        if kept.any():
            bag.write(name, begin, ros.cloud(cloud.select(kept), begin, WORLD))
    seen = [index for index, frame in enumerate(frames) if not frame.generated]
    if seen:
        links = poses_of(frames)[seen] @ np.linalg.inv(ros.OPTICAL_FROM_BODY)
        bag.write("/path", begin, ros.path(begin, WORLD, links, [stamps[index] for index in seen]))


def _names(frame: FrameFacts, names: dict[str, str]) -> tuple[str, Array]:
    """Base of topics and frames, and ``T_world_body``. Generated views are not where the camera was at their times."""
    base = names[frame.camera] + (GENERATED if frame.generated else "")
    return base, frame.T_world_cam @ np.linalg.inv(ros.OPTICAL_FROM_BODY)


class _Bag:
    """An mcap file that is written."""

    def __init__(self, file: io.BufferedWriter) -> None:
        self._writer = Writer(file, chunk_size=_CHUNK_BYTES, compression=CompressionType.ZSTD)
        self._writer.start(profile="ros2", library="gen3r")
        self._schemas: dict[str, int] = {}
        self._channels: dict[str, tuple[int, str]] = {}
        self._counts: Counter[str] = Counter()
        self._begin, self._end = 1 << 63, 0

    def write(self, topic: str, stamp: int, message: Any) -> None:
        kind = message.__msgtype__
        if topic not in self._channels:
            self._channels[topic] = (self._open(topic, kind), kind)
        data = bytes(ros.store().serialize_cdr(message, kind))
        self._writer.add_message(self._channels[topic][0], stamp, data, stamp, self._counts[topic])
        self._counts[topic] += 1
        self._begin, self._end = min(self._begin, stamp), max(self._end, stamp)

    def finish(self, *, metric: bool) -> str:
        """Ends the file; returns what ``metadata.yaml`` says."""
        information = self._information()
        self._writer.add_metadata("rosbag2", {"serialized_metadata": _yaml(information), "ROS_DISTRO": "gen3r"})
        self._writer.add_metadata("gen3r", {"unit": "metre" if metric else "the map's own"})
        self._writer.finish()  # type: ignore[no-untyped-call]
        return _yaml({"rosbag2_bagfile_information": information})

    def _open(self, topic: str, kind: str) -> int:
        if kind not in self._schemas:
            text = ros.store().generate_msgdef(kind, ros_version=2)[0].encode()
            self._schemas[kind] = self._writer.register_schema(kind, "ros2msg", text)
        more = {"offered_qos_profiles": _qos(topic), "topic_type_hash": ros.store().hash_rihs01(kind)}
        return self._writer.register_channel(topic, "cdr", self._schemas[kind], more)

    def _information(self) -> dict[str, Any]:
        total = sum(self._counts.values())
        start = {"nanoseconds_since_epoch": self._begin if total else 0}
        duration = {"nanoseconds": max(0, self._end - self._begin) if total else 0}
        topics = [
            {
                "topic_metadata": {
                    "name": topic,
                    "type": kind,
                    "serialization_format": "cdr",
                    "offered_qos_profiles": _qos(topic),
                    "type_description_hash": ros.store().hash_rihs01(kind),
                },
                "message_count": self._counts[topic],
            }
            for topic, (_, kind) in self._channels.items()
        ]
        return {
            "version": _VERSION,
            "storage_identifier": "mcap",
            "duration": duration,
            "starting_time": start,
            "message_count": total,
            "topics_with_message_count": topics,
            "compression_format": "",
            "compression_mode": "",
            "relative_file_paths": [_FILE],
            "files": [{"path": _FILE, "starting_time": start, "duration": duration, "message_count": total}],
            "custom_data": None,
            "ros_distro": "gen3r",
        }


def _qos(topic: str) -> str:
    """What a player shall offer, in the form that metadata of version 8 has it: a list, as text."""
    latched = topic in _LATCHED
    return _yaml(
        [
            {
                "history": _KEEP_LAST,
                "depth": 1 if latched else 10,
                "reliability": _RELIABLE,
                "durability": _TRANSIENT_LOCAL if latched else _VOLATILE,
                "deadline": _FOREVER,
                "lifespan": _FOREVER,
                "liveliness": _AUTOMATIC,
                "liveliness_lease_duration": _FOREVER,
                "avoid_ros_namespace_conventions": False,
            }
        ]
    ).strip()


def _yaml(value: Any) -> str:
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.representer.ignore_aliases = lambda *_: True
    text = io.StringIO()
    yaml.dump(value, text)
    return text.getvalue()
