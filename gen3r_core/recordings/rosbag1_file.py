"""One rosbag1 file (format 2.0), sound or cut.

A record is the length of its header, the header (fields ``name=value``), the length of its data, and these. Chunks
follow each other from the beginning, each with an index of its messages after it, so that the index at the end of the
file is not needed: a bag that was not closed is read like any other.
"""

from __future__ import annotations

import bz2
import os
import struct
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import lz4.frame

from gen3r_core.errors import InputError
from gen3r_core.recordings.losses import SECOND, Loss, Losses
from gen3r_core.recordings.offered import LATCHED_IN_ROS1
from gen3r_core.recordings.storage import Stored, Topic, ros2_type

MAGIC = b"#ROSBAG V2.0\n"
_MESSAGE, _HEADER, _INDEX, _CHUNK, _CONNECTION = 2, 3, 4, 5, 7
_LARGEST_HEADER = 1 << 20
_LARGEST_CHUNK = 1 << 30
_BLOCK = 1 << 20
_CHUNK_MARK = b"\x04\x00\x00\x00op=\x05"


class _Damaged(Exception):  # noqa: N818 - what it says of a record
    pass


@dataclass(eq=False)
class _Chunk:
    """Where a chunk's data lie, and what its index says of it."""

    at: int
    length: int
    size: int
    compression: str
    whole: bool = True
    counts: Counter[int] = field(default_factory=Counter)
    start_ns: int = 1 << 63
    end_ns: int = 0


class Rosbag1File:
    """An open file.

    Args:
        path: the file.
        losses: where damage is told of.

    Attributes:
        start_ns: when the first message was recorded, integer nanoseconds; None if there is none.
        end_ns: when the last one was.

    Raises:
        InputError: it cannot be read, or is no rosbag1.
    """

    def __init__(self, path: Path, losses: Losses) -> None:
        self.path, self._losses = path, losses
        self._file = path.open("rb")
        try:
            self._size = os.fstat(self._file.fileno()).st_size
            if self._file.read(len(MAGIC)) != MAGIC:
                raise InputError(f"{path}: this is no bag of ROS 1, or one older than format 2.0; copy it again")
            self._connections: dict[int, tuple[str, str]] = {}
            self._latched: set[int] = set()
            self._chunks: list[_Chunk] = []
            self._walk()
            for chunk in self._chunks:
                if not chunk.counts or not set(chunk.counts) <= set(self._connections):
                    self._count(chunk)
        except BaseException:
            self._file.close()
            raise
        read = [chunk for chunk in self._chunks if chunk.counts]
        self.start_ns = min((chunk.start_ns for chunk in read), default=None)
        self.end_ns = max((chunk.end_ns for chunk in read), default=None)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def topics(self) -> list[Topic]:
        """What there is."""
        counts: Counter[int] = sum((chunk.counts for chunk in self._chunks), Counter())
        return [
            Topic(name, kind, counts[number], LATCHED_IN_ROS1 if number in self._latched else "")
            for number, (name, kind) in sorted(self._connections.items())
        ]

    def messages(
        self, names: Collection[str] | None = None, start_ns: int | None = None, end_ns: int | None = None
    ) -> Iterator[Stored]:
        """Messages as they lie in the file, in order within each chunk; see :class:`Storage`."""
        wanted = {number: one for number, one in self._connections.items() if names is None or one[0] in names}
        for chunk in self._chunks:
            outside = (start_ns is not None and chunk.end_ns < start_ns) or (
                end_ns is not None and chunk.start_ns >= end_ns
            )
            if outside or not any(chunk.counts[number] for number in wanted):
                continue
            data = self._read(chunk)
            found = [one for one in self._heads(chunk, data) if one[3] in wanted]
            for stamp, at, length, number in sorted(found):
                if (start_ns is None or stamp >= start_ns) and (end_ns is None or stamp < end_ns):
                    yield Stored(*wanted[number], stamp, data[at : at + length], "ros1")

    def _walk(self) -> None:
        at, closed = len(MAGIC), False
        while at < self._size:
            try:
                fields, data_at, length = self._record(at)
                kind = _op(fields)
                closed = closed or (kind == _HEADER and _number(fields, "index_pos", 8) > 0)
                self._take(kind, fields, data_at, length)
                at = data_at + length
            except _Damaged as error:
                at = self._step_over(at, str(error))
        if not closed:
            text = "the recorder did not close the bag; it is read without its index"
            self._tell(self._size, Loss(text, harmless=True))

    def _take(self, kind: int, fields: dict[str, bytes], at: int, length: int) -> None:
        if kind == _CHUNK:
            compression = fields.get("compression", b"").decode("ascii", "replace")
            size = _number(fields, "size", 4)
            if compression not in ("none", "bz2", "lz4") or size > _LARGEST_CHUNK:
                raise _Damaged(f"a chunk with the compression {compression!r} and {size} bytes")
            self._chunks.append(_Chunk(at, length, size, compression))
        elif kind == _CONNECTION:
            self._connect(fields, self._bytes(at, length))
        elif kind == _INDEX and self._chunks:
            entries = list(struct.iter_unpack("<III", self._bytes(at, length - length % 12)))
            stamps = [seconds * SECOND + rest for seconds, rest, _ in entries]
            chunk = self._chunks[-1]
            chunk.counts[_number(fields, "conn", 4)] += len(stamps)
            chunk.start_ns, chunk.end_ns = min([chunk.start_ns, *stamps]), max([chunk.end_ns, *stamps])

    def _connect(self, fields: dict[str, bytes], data: bytes) -> None:
        about = _fields(data)
        topic = fields.get("topic", about.get("topic", b"")).decode("utf-8", "replace")
        kind = about.get("type", b"").decode("utf-8", "replace")
        number = _number(fields, "conn", 4)
        self._connections[number] = (topic, ros2_type(kind))
        if about.get("latching") == b"1":
            self._latched.add(number)

    def _record(self, at: int) -> tuple[dict[str, bytes], int, int]:
        """Header, place and length of the data of the record at a place."""
        begin = self._bytes(at, 4)
        header = int.from_bytes(begin, "little")
        if len(begin) < 4 or header > _LARGEST_HEADER or at + 8 + header > self._size:
            raise _Damaged("a record is not whole")
        fields = _fields(self._bytes(at + 4, header))
        length = int.from_bytes(self._bytes(at + 4 + header, 4), "little")
        data_at = at + 8 + header
        if data_at + length > self._size:
            if _op(fields) == _CHUNK:  # cut in the middle: what is there can be used
                self._take(_CHUNK, fields, data_at, self._size - data_at)
                self._chunks[-1].whole = False
            raise _Damaged("the last record is not whole")
        return fields, data_at, length

    def _step_over(self, at: int, text: str) -> int:
        """Where the next chunk begins after damage."""
        place = at + 1
        while place < self._size:
            block = self._bytes(place, _BLOCK + 256)
            found = block.find(_CHUNK_MARK)
            while found >= 0:
                # The field may be any of the header's: its length is one of the four bytes before some place.
                for begin in range(max(0, found - 64), found - 3):
                    if self._is_chunk(place + begin):
                        lost = place + begin - at
                        self._tell(at, Loss(f"{text}; {lost} bytes at {at} are damaged", bytes=lost))
                        return place + begin
                found = block.find(_CHUNK_MARK, found + 1)
            place += _BLOCK
        whole = not (self._chunks and not self._chunks[-1].whole)
        lost = self._size - at if whole else 0
        self._tell(at, Loss(f"{text}: {self._size - at} bytes at {at}", bytes=lost))
        return self._size

    def _is_chunk(self, at: int) -> bool:
        header = int.from_bytes(self._bytes(at, 4), "little")
        if not 20 <= header <= 128:
            return False
        try:
            fields = _fields(self._bytes(at + 4, header))
            return _op(fields) == _CHUNK and {"compression", "size"} <= set(fields)
        except _Damaged:
            return False

    def _count(self, chunk: _Chunk) -> None:
        """What its index would have said."""
        heads = list(self._heads(chunk, self._read(chunk)))
        chunk.counts = Counter(number for _, _, _, number in heads)
        if heads:
            chunk.start_ns, chunk.end_ns = min(heads)[0], max(heads)[0]

    def _read(self, chunk: _Chunk) -> bytes:
        data = self._bytes(chunk.at, chunk.length)
        try:
            if chunk.compression == "bz2":
                found = bz2.BZ2Decompressor().decompress(data, chunk.size + 1)
            elif chunk.compression == "lz4":
                found = lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=chunk.size + 1)
            else:
                found = data
            if chunk.whole and len(found) != chunk.size:
                raise ValueError(f"{len(found)} bytes instead of {chunk.size}")
        except (OSError, RuntimeError, EOFError, ValueError, MemoryError) as error:
            lost = sum(chunk.counts.values())
            text = f"a chunk of {len(data)} bytes at {chunk.at} with {lost} messages cannot be read: {error}"
            self._tell(chunk.at, Loss(text, len(data), lost))
            return b""
        return found

    def _heads(self, chunk: _Chunk, data: bytes) -> Iterator[tuple[int, int, int, int]]:
        """Time, place and length of the data, and connection of each message."""
        at, read = 0, 0
        try:
            while at < len(data):
                header = int.from_bytes(data[at : at + 4], "little")
                if at + 8 + header > len(data):
                    raise _Damaged("a record is not whole")
                fields = _fields(data[at + 4 : at + 4 + header])
                begin = at + 8 + header
                length = int.from_bytes(data[begin - 4 : begin], "little")
                if begin + length > len(data):
                    raise _Damaged("a record is not whole")
                kind = _op(fields)
                if kind == _CONNECTION:
                    self._connect(fields, data[begin : begin + length])
                elif kind == _MESSAGE:
                    number, stamp = _number(fields, "conn", 4), _number(fields, "time", 8)
                    if number not in self._connections:
                        raise _Damaged(f"a message of connection {number}, which nothing describes")
                    yield (stamp & 0xFFFFFFFF) * SECOND + (stamp >> 32), begin, length, number
                    read += 1
                at = begin + length
        except _Damaged as error:
            text = f"{error}: of the chunk at {chunk.at}, {read} messages were read"
            self._tell(chunk.at, Loss(text, bytes=len(data) - at))

    def _bytes(self, at: int, length: int) -> bytes:
        self._file.seek(at)
        return self._file.read(length)

    def _tell(self, offset: int, loss: Loss) -> None:
        self._losses.add(self.path.name, offset, loss)


def _fields(header: bytes) -> dict[str, bytes]:
    fields, at = {}, 0
    while at < len(header):
        length = int.from_bytes(header[at : at + 4], "little")
        name, equals, value = header[at + 4 : at + 4 + length].partition(b"=")
        if at + 4 + length > len(header) or not equals:
            raise _Damaged("the header of a record is damaged")
        fields[name.decode("ascii", "replace")] = value
        at += 4 + length
    return fields


def _number(fields: dict[str, bytes], name: str, size: int) -> int:
    value = fields.get(name, b"")
    if len(value) != size:
        raise _Damaged(f"the header of a record has no {name}")
    return int.from_bytes(value, "little")


def _op(fields: dict[str, bytes]) -> int:
    return _number(fields, "op", 1)
