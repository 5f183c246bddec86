"""Bags of ROS 1 and ROS 2 as recordings: one file or several, compressed or not, with or without metadata."""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path, PurePath
from typing import Any

import zstandard

from gen3r_core.errors import InputError
from gen3r_core.io.atomic import output_error
from gen3r_core.io.images import natural_order
from gen3r_core.recordings.losses import SECOND, Loss, Losses
from gen3r_core.recordings.mcap_file import McapFile
from gen3r_core.recordings.mcap_records import MAGIC as MCAP
from gen3r_core.recordings.messages import KINDS, Kind, RawMessage
from gen3r_core.recordings.offered import Offered, offered
from gen3r_core.recordings.pictures import looks_like_depth
from gen3r_core.recordings.recording import Item, Recording, Stream, in_order
from gen3r_core.recordings.rosbag1_file import MAGIC as ROSBAG1
from gen3r_core.recordings.rosbag1_file import Rosbag1File
from gen3r_core.recordings.sqlite_file import MAGIC as SQLITE
from gen3r_core.recordings.sqlite_file import SqliteFile
from gen3r_core.recordings.storage import Storage, Stored

ZSTD = b"\x28\xb5\x2f\xfd"
SUFFIXES = (".mcap", ".db3", ".bag")
_LARGEST_MESSAGE = 1 << 30
_BLOCK = 1 << 20


def bag_files(folder: Path) -> list[Path]:
    """The files of a bag in a folder, in the order of their numbers; none if it is no bag."""
    names = [path for path in folder.iterdir() if path.name.removesuffix(".zstd").endswith(SUFFIXES)]
    return natural_order(path for path in names if path.is_file() and not path.name.startswith("."))


class BagRecording(Recording):
    """A bag.

    Args:
        path: a file, or the folder of a rosbag2 (or of several bags of ROS 1 that follow each other).

    Raises:
        InputError: nothing of it can be read.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.losses = path, Losses()
        self._stack = contextlib.ExitStack()
        try:
            metadata = _metadata(path, self.losses) if path.is_dir() else {}
            files = self._listed(metadata) if metadata else bag_files(path) if path.is_dir() else [path]
            self._files = self._opened(files)
            self._summarise(metadata)
        except BaseException:
            self._stack.close()
            raise

    def close(self) -> None:
        """Close files, and remove those that were decompressed."""
        self._stack.close()

    def items(
        self, names: Collection[str] | None = None, start_ns: int | None = None, end_ns: int | None = None
    ) -> Iterator[Item]:
        """See :meth:`Recording.items`."""
        for received, stored in in_order(
            (one.received_ns, len(one.data), one) for one in self._stored(names, start_ns, end_ns)
        ):
            stream = self.streams.get(stored.topic)
            if stream is not None:  # a damaged chunk may name others
                yield Item(stream, received, RawMessage(stored.type, stored.data, stored.codec))

    def offered(self, name: str) -> Offered | None:
        """What the publishers of a topic offered; None where the recording does not say it.

        Where several files do, it is what that one says in which most was kept for late subscribers.
        """
        found = [offered(topic.offered for topic in file.topics if topic.name == name) for file in self._files]
        return max(filter(None, found), key=lambda one: (one.latched, one.depth), default=None)

    def _stored(self, names: Collection[str] | None, start_ns: int | None, end_ns: int | None) -> Iterator[Stored]:
        for file in self._files:
            for stored in file.messages(names, start_ns, end_ns):
                if not stored.data.startswith(ZSTD):
                    yield stored
                    continue
                try:
                    data = zstandard.ZstdDecompressor().decompress(stored.data, max_output_size=_LARGEST_MESSAGE)
                except (zstandard.ZstdError, MemoryError) as error:
                    text = f"a message of {stored.topic} cannot be decompressed: {error}"
                    self.losses.add(file.path.name, stored.received_ns, Loss(text, len(stored.data), 1))
                    continue
                yield stored._replace(data=data)

    def _listed(self, metadata: dict[str, Any]) -> list[Path]:
        """The files that the metadata name, as far as they are there."""
        about = {
            PurePath(str(one.get("path"))).name: one for one in metadata.get("files") or [] if isinstance(one, dict)
        }
        found = []
        for name in metadata["relative_file_paths"]:
            path = self.path / PurePath(str(name)).name
            if path.is_file():
                found.append(path)
                continue
            count = about.get(path.name.removesuffix(".zstd"), about.get(path.name, {})).get("message_count", 0)
            self.losses.add(path.name, 0, Loss("the file is missing", messages=int(count)))
        return found or bag_files(self.path)

    def _opened(self, paths: list[Path]) -> list[Storage]:
        if not paths:
            raise InputError(f"{self.path}: no file of a bag is in this folder ({', '.join(SUFFIXES)})")
        opened: list[Storage] = []
        errors = []
        for path in paths:
            try:
                file = self._open_file(path)
            except InputError as error:
                errors.append(error)
                if len(paths) > 1:
                    size = path.stat().st_size if path.is_file() else 0
                    self.losses.add(path.name, 0, Loss(f"the file cannot be read: {error}", bytes=size))
                continue
            self._stack.callback(file.close)
            opened.append(file)
        if not opened:
            raise errors[0]
        opened.sort(key=lambda file: file.start_ns or 0)
        return opened

    def _open_file(self, path: Path) -> Storage:
        try:
            with path.open("rb") as file:
                begin = file.read(16)
            if not begin:
                raise InputError(f"{path}: the file is empty; copy it again")
            if begin.startswith(ZSTD):
                path = self._decompressed(path)
                with path.open("rb") as file:
                    begin = file.read(16)
            if begin.startswith(SQLITE) or (path.suffix == ".db3" and not begin.startswith(MCAP)):
                return SqliteFile(path, self.losses)
            if begin.startswith(ROSBAG1):
                return Rosbag1File(path, self.losses)
            return Rosbag1File(path, self.losses) if path.suffix == ".bag" else McapFile(path, self.losses)
        except OSError as error:
            raise InputError(f"{path}: this file cannot be read: {error.strerror or error}") from error

    def _decompressed(self, path: Path) -> Path:
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="gen3r-")))
        target = folder / path.name.removesuffix(".zstd")
        with path.open("rb") as source:
            unpacked = zstandard.ZstdDecompressor().stream_reader(source, read_across_frames=True)
            try:
                out = target.open("wb")
            except OSError as error:
                raise output_error(target, error) from error
            with out:
                while True:
                    try:
                        block = unpacked.read(_BLOCK)
                    except zstandard.ZstdError as error:
                        text = f"the compressed file is damaged after {source.tell()} bytes: {error}"
                        self.losses.add(path.name, 0, Loss(text, path.stat().st_size - source.tell()))
                        break
                    if not block:
                        break
                    try:
                        out.write(block)
                    except OSError as error:
                        raise output_error(target, error) from error
        return target

    def _summarise(self, metadata: dict[str, Any]) -> None:
        counts: Counter[str] = Counter()
        types: dict[str, str] = {}
        unknown = set()
        for file in self._files:
            for topic in file.topics:
                types.setdefault(topic.name, topic.type)
                counts[topic.name] += topic.count or 0
                if topic.count is None:
                    unknown.add(topic.name)
        self.start_ns = min((file.start_ns for file in self._files if file.start_ns is not None), default=None)
        self.end_ns = max((file.end_ns for file in self._files if file.end_ns is not None), default=None)
        kinds = {name: self._kind(name, kind, counts[name]) for name, kind in types.items()}
        seconds = self.seconds
        self.streams = {}
        for name, kind in types.items():
            count = None if name in unknown else counts[name]
            hz = (count - 1) / seconds if count is not None and count > 1 and seconds > 0 else None
            self.streams[name] = Stream(name, kind, kinds[name], count, hz)
        formats = {type(file).__name__: file for file in self._files}
        words = {"McapFile": "rosbag2 (mcap)", "SqliteFile": "rosbag2 (sqlite3)", "Rosbag1File": "rosbag1"}
        self.format = ", ".join(words[name] for name in sorted(formats))
        self._compare(metadata, sum(counts.values()), bool(unknown))

    def _kind(self, name: str, kind: str, count: int) -> Kind:
        known: Kind = KINDS.get(kind, "other")
        if known == "tf" and name.endswith("tf_static"):
            return "tf_static"
        if known == "image" and count:
            # Only a message tells. The first may be damaged, the next few hardly.
            for file in self._files:
                for number, one in enumerate(file.messages([name])):
                    raw = one.data
                    if raw.startswith(ZSTD):
                        with contextlib.suppress(zstandard.ZstdError, MemoryError):
                            raw = zstandard.ZstdDecompressor().decompress(raw, max_output_size=_LARGEST_MESSAGE)
                    if looks_like_depth(RawMessage(kind, raw, one.codec)):
                        return "depth"
                    if number == 2:
                        return "image"
        return known

    def _compare(self, metadata: dict[str, Any], found: int, unknown: bool) -> None:
        """What the metadata promise, and what is there."""
        with contextlib.suppress(KeyError, TypeError, ValueError):
            promised = int(metadata["message_count"])
            start = int(metadata["starting_time"]["nanoseconds_since_epoch"])
            end = start + int(metadata["duration"]["nanoseconds"])
            missing = promised - found - self.losses.messages
            if missing > 0 and not unknown and self.losses.anything:
                seconds = max(0.0, (end - (self.end_ns or start)) / SECOND)
                text = f"{found} of {promised} messages are there, {seconds:.2f} s are missing at the end"
                self.losses.add("metadata.yaml", 0, Loss(text, messages=missing, seconds=seconds))
            elif missing > 0 and not unknown:
                text = f"it promises {promised} messages, the files hold {found}"
                self.losses.add("metadata.yaml", 0, Loss(text, messages=missing))


def _metadata(folder: Path, losses: Losses) -> dict[str, Any]:
    """What metadata.yaml says; nothing where it is missing or damaged."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    path = folder / "metadata.yaml"
    if not path.is_file():
        if any(not name.name.removesuffix(".zstd").endswith(".bag") for name in bag_files(folder)):
            losses.add(path.name, 0, Loss("it is missing; the files are read without it", harmless=True))
        return {}
    try:
        content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))["rosbag2_bagfile_information"]
        content["relative_file_paths"] = [str(name) for name in content["relative_file_paths"]]
    except (OSError, ValueError, KeyError, TypeError, YAMLError, RecursionError) as error:
        losses.add(path.name, 0, Loss(f"it is damaged, the files are read without it: {error}", harmless=True))
        return {}
    return dict(content)
