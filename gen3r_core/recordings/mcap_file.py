"""One mcap file, sound or damaged: what is in it, and its messages.

A file that was closed properly says at its end where its chunks lie. Where that is missing or damaged the records are
walked through, and damage is stepped over. Each chunk is read by itself and checked by its CRC.
"""

from __future__ import annotations

import os
import zlib
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import mcap.records as kinds
from mcap.opcode import Opcode

from gen3r_core.errors import InputError
from gen3r_core.recordings.losses import Loss, Losses
from gen3r_core.recordings.mcap_records import (
    HEAD,
    MAGIC,
    MESSAGE_HEAD,
    ChunkHead,
    Damaged,
    message_head,
    next_sound,
    parse,
    records_in,
    sound,
    uncompressed,
)
from gen3r_core.recordings.messages import Codec
from gen3r_core.recordings.storage import Stored, Topic, ros2_type

_FOOTER = 29
_QOS = "offered_qos_profiles"
_RUN = 1 << 22


@dataclass(eq=False)
class _Part:
    """Where messages lie.

    Attributes:
        begin: place of a chunk's record, or of the first of several messages.
        end: the place after it.
        after: the place after what belongs to it, such as the index of its messages.
        chunk: it is a chunk.
        start_ns: log time of the first message; 0 where it is not known.
        end_ns: of the last.
        counts: messages of each channel; None where it is not known.
        whole: all of it is there.
    """

    begin: int
    end: int
    chunk: bool
    after: int = 0
    start_ns: int = 0
    end_ns: int = 1 << 63
    counts: Counter[int] | None = None
    whole: bool = True


@dataclass(eq=False)
class _Contents:
    schemas: dict[int, str] = field(default_factory=dict)
    channels: dict[int, kinds.Channel] = field(default_factory=dict)
    spare: dict[int, tuple[kinds.Channel, str]] = field(default_factory=dict)
    parts: list[_Part] = field(default_factory=list)
    counts: Counter[int] | None = None
    start_ns: int | None = None
    end_ns: int | None = None

    def type_of(self, channel: kinds.Channel) -> str:
        name = self.schemas.get(channel.schema_id, "")
        return ros2_type(name) if channel.message_encoding == "ros1" else name

    def agrees(self) -> bool:
        """Whether the statistics say what the index of chunks says."""
        parts = self.parts
        if self.counts is None or not parts or not self.start_ns:
            return True
        if (self.start_ns, self.end_ns) != (min(part.start_ns for part in parts), max(part.end_ns for part in parts)):
            return False
        known = [part.counts for part in parts if part.counts is not None]
        return len(known) < len(parts) or sum(known, Counter()) == self.counts

    def knows(self, number: int) -> bool:
        """Whether a channel is described, if need be by an index that is damaged somewhere."""
        if number not in self.channels and number in self.spare:
            channel, schema = self.spare[number]
            self.channels[number] = channel
            self.schemas.setdefault(channel.schema_id, schema)
        return number in self.channels

    def take(self, record: object) -> None:
        if isinstance(record, kinds.Schema):
            self.schemas.setdefault(record.id, record.name)  # what is said first holds: the index is checked
        elif isinstance(record, kinds.Channel):
            self.channels.setdefault(record.id, record)


class McapFile:
    """An open file.

    Args:
        path: the file.
        losses: where damage is told of.

    Attributes:
        topics: what there is.
        start_ns: log time of the first message, integer nanoseconds; None if there is none.
        end_ns: of the last.

    Raises:
        InputError: it cannot be read, or nothing in it is mcap.
    """

    def __init__(self, path: Path, losses: Losses) -> None:
        self.path, self._losses = path, losses
        self._file = path.open("rb")
        try:
            self._size = os.fstat(self._file.fileno()).st_size
            self._contents = self._open()
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def topics(self) -> list[Topic]:
        """What there is."""
        counts, contents = self._contents.counts, self._contents
        return [
            Topic(
                one.topic, contents.type_of(one), None if counts is None else counts[number], one.metadata.get(_QOS, "")
            )
            for number, one in sorted(contents.channels.items())
        ]

    @property
    def start_ns(self) -> int | None:
        """Log time of the first message."""
        return self._contents.start_ns

    @property
    def end_ns(self) -> int | None:
        """Log time of the last message."""
        return self._contents.end_ns

    def messages(
        self, names: Collection[str] | None = None, start_ns: int | None = None, end_ns: int | None = None
    ) -> Iterator[Stored]:
        """Messages as they lie in the file, in order within each chunk; see :class:`Storage`."""
        contents = self._contents
        wanted = {
            number: (channel.topic, contents.type_of(channel), _codec(channel))
            for number, channel in contents.channels.items()
            if names is None or channel.topic in names
        }
        for part in contents.parts:
            outside = (start_ns is not None and part.end_ns < start_ns) or (
                end_ns is not None and part.start_ns >= end_ns
            )
            if outside or (part.counts is not None and not any(part.counts[channel] for channel in wanted)):
                continue
            data = self._read(part)
            for log_time, at, length, channel in sorted(self._heads(part, data)):
                if channel not in wanted or (start_ns is not None and log_time < start_ns):
                    continue
                if end_ns is not None and log_time >= end_ns:
                    break
                name, kind, codec = wanted[channel]
                yield Stored(name, kind, log_time, bytes(data[at + MESSAGE_HEAD : at + length]), codec)

    def _open(self) -> _Contents:
        self._file.seek(0)
        begin = self._file.read(len(MAGIC))
        if not begin:
            raise InputError(f"{self.path}: the file is empty; copy it again")
        contents = _Contents()
        closed = self._summary(contents)
        begins = len(MAGIC)
        indexed = sorted(contents.parts, key=lambda part: part.begin)
        contents.parts = []
        end = closed if closed is not None else self._size
        known = [part.begin for part in indexed]
        for part in [*indexed, None]:
            self._walk(contents, begins, end if part is None else part.begin, known)
            if part is not None:
                contents.parts.append(part)
                begins = part.after
        if begin != MAGIC:
            if not contents.parts:
                raise InputError(f"{self.path}: this is no mcap file: it begins with {begin!r}")
            self._tell(0, Loss("the first bytes are damaged", harmless=True))
        if closed is None or contents.counts is None:
            self._count(contents)
        return contents

    def _summary(self, contents: _Contents) -> int | None:
        """Takes in what the end of the file says; where the data end. None if it says nothing."""
        tail_at = self._size - _FOOTER - len(MAGIC)
        if tail_at < len(MAGIC):
            self._not_closed()
            return None
        self._file.seek(tail_at)
        tail = self._file.read(_FOOTER)
        if tail[:HEAD] != bytes([Opcode.FOOTER]) + (20).to_bytes(8, "little") or self._file.read() != MAGIC:
            self._not_closed()
            return None
        footer = parse(Opcode.FOOTER, tail[HEAD:])
        if not footer.summary_start:
            return tail_at
        if not len(MAGIC) < footer.summary_start <= tail_at:
            return self._index_damaged(tail_at)
        self._file.seek(footer.summary_start)
        summary = self._file.read(tail_at - footer.summary_start)
        if footer.summary_crc and zlib.crc32(tail[: HEAD + 16], zlib.crc32(summary)) != footer.summary_crc:
            return self._index_damaged(tail_at)
        found = _Contents()
        try:
            for opcode, at, length in records_in(summary):
                self._take_index(found, opcode, summary[at : at + length])
        except Damaged:
            return self._index_damaged(tail_at)
        if not found.agrees() or any(
            not len(MAGIC) <= part.begin < part.end <= footer.summary_start for part in found.parts
        ):
            return self._index_damaged(tail_at)
        contents.__dict__.update(found.__dict__)
        return int(footer.summary_start)

    def _take_index(self, contents: _Contents, opcode: int, content: bytes) -> None:
        if opcode in (Opcode.SCHEMA, Opcode.CHANNEL):
            contents.take(parse(opcode, content))
        elif opcode == Opcode.CHUNK_INDEX:
            index = parse(opcode, content)
            begin, end = index.chunk_start_offset, index.chunk_start_offset + index.chunk_length
            indexes = sorted((place, channel) for channel, place in index.message_index_offsets.items())
            places = [place for place, _ in indexes] + [end + index.message_index_length]
            # A message index has 15 bytes and 16 for each message.
            counts = Counter(
                {channel: (places[n + 1] - place - 15) // 16 for n, (place, channel) in enumerate(indexes)}
            )
            contents.parts.append(
                _Part(begin, end, chunk=True, after=places[-1], start_ns=index.message_start_time,
                      end_ns=index.message_end_time, counts=counts if indexes else None)
            )  # fmt: skip
        elif opcode == Opcode.STATISTICS:
            numbers = parse(opcode, content)
            contents.counts = Counter(numbers.channel_message_counts)
            if numbers.message_count:
                contents.start_ns, contents.end_ns = numbers.message_start_time, numbers.message_end_time

    def _not_closed(self) -> None:
        self._tell(self._size, Loss("the end of the file is missing: it was cut, or the recorder did not close it"))

    def _index_damaged(self, end: int) -> int:
        self._tell(self._size, Loss("the index at the end is damaged; the file is read without it", harmless=True))
        return end

    def _walk(self, contents: _Contents, begin: int, end: int, known: list[int]) -> None:
        """Goes from record to record."""
        at, run = begin, None
        index = _Contents()
        into = contents
        while at < end:
            found = sound(self._file, at, end)
            if found is None:
                run = None
                at = self._step_over(contents, at, end, known)
                continue
            opcode, length = found
            after = at + HEAD + length
            if opcode == Opcode.MESSAGE:
                if run is None or after - run.begin > _RUN:
                    run = _Part(at, after, chunk=False)
                    contents.parts.append(run)
                run.end = after
            elif opcode == Opcode.CHUNK:
                run = None
                self._file.seek(at + HEAD)
                head = ChunkHead(self._file.read(min(64, length)), length)
                contents.parts.append(_Part(at, after, chunk=True, start_ns=head.start_ns, end_ns=head.end_ns))
            elif opcode in (Opcode.SCHEMA, Opcode.CHANNEL, Opcode.MESSAGE_INDEX):
                self._file.seek(at + HEAD)
                self._take_small(into, parse(opcode, self._file.read(length)))
            elif opcode == Opcode.DATA_END:
                into = index
            at = after
        for number, channel in index.channels.items():
            contents.spare[number] = (channel, index.schemas.get(channel.schema_id, ""))

    @staticmethod
    def _take_small(contents: _Contents, record: object) -> None:
        contents.take(record)
        if isinstance(record, kinds.MessageIndex) and contents.parts and contents.parts[-1].chunk:
            part = contents.parts[-1]
            part.counts = (part.counts or Counter()) + Counter({record.channel_id: len(record.records)})

    def _step_over(self, contents: _Contents, at: int, end: int, known: list[int]) -> int:
        """Where to go on after damage."""
        place = next((chunk for chunk in known if chunk > at), None)
        if place is None:
            place = next_sound(self._file, at + 1, end, contents.channels)
        if place is not None:
            self._tell(at, Loss(f"{place - at} bytes at {at} are damaged", bytes=place - at))
            return place
        part = self._cut_chunk(at, end)
        if part is not None:
            contents.parts.append(part)
        elif end == self._size:
            self._tell(at, Loss(f"the last record is not whole: {end - at} bytes at {at}", bytes=end - at))
        elif end > at:
            self._tell(at, Loss(f"{end - at} bytes at {at} are damaged", bytes=end - at))
        return end

    def _cut_chunk(self, at: int, end: int) -> _Part | None:
        """A chunk that goes on after the end of the file."""
        self._file.seek(at)
        begin = self._file.read(HEAD + 64)
        if begin[:1] != bytes([Opcode.CHUNK]):
            return None
        try:
            head = ChunkHead(begin[HEAD:], int.from_bytes(begin[1:HEAD], "little"))
        except Damaged:
            return None
        return _Part(at, end, chunk=True, start_ns=head.start_ns, end_ns=head.end_ns, whole=False)

    def _count(self, contents: _Contents) -> None:
        """Finds out by reading what no index says: channels, how many messages, and the times."""
        self._contents = contents
        for part in contents.parts:
            heads = list(self._heads(part, self._read(part)))
            part.counts = Counter(channel for _, _, _, channel in heads)
            part.start_ns, part.end_ns = (min(heads)[0], max(heads)[0]) if heads else (0, 0)
        read = [part for part in contents.parts if part.counts]
        contents.counts = sum((part.counts or Counter() for part in read), Counter())
        contents.start_ns = min((part.start_ns for part in read), default=None)
        contents.end_ns = max((part.end_ns for part in read), default=None)

    def _read(self, part: _Part) -> bytes | memoryview:
        """The records of a part; none where it is damaged."""
        self._file.seek(part.begin)
        data = self._file.read(part.end - part.begin)
        if not part.chunk:
            return data
        length = int.from_bytes(data[1:HEAD], "little")
        try:
            if not data or data[0] != Opcode.CHUNK or (part.whole and length != len(data) - HEAD):
                raise Damaged("the chunk is not where the index has it")
            head = ChunkHead(data[HEAD : HEAD + 64], length)
            found = uncompressed(head, memoryview(data)[HEAD + head.data :], whole=part.whole)
            if part.whole and head.crc and zlib.crc32(found) != head.crc:
                raise Damaged("the checksum of a chunk is wrong")
        except Damaged as error:
            lost = sum((part.counts or Counter()).values())
            many = f", {lost} messages" if lost else ""
            self._tell(part.begin, Loss(f"{error} ({len(data)} bytes at {part.begin}{many})", len(data), lost))
            return b""
        return found

    def _heads(self, part: _Part, data: bytes | memoryview) -> Iterator[tuple[int, int, int, int]]:
        """Log time, place, length and channel of each message."""
        read, done, where = 0, 0, f"in the chunk at {part.begin}"
        try:
            for opcode, at, length in records_in(data):
                if opcode == Opcode.MESSAGE:
                    channel, log_time = message_head(data, at, length)
                    if not self._contents.knows(channel):
                        raise Damaged(f"a message of channel {channel}, which nothing describes")
                    yield log_time, at, length, channel
                    read += 1
                elif opcode in (Opcode.SCHEMA, Opcode.CHANNEL):
                    self._contents.take(parse(opcode, bytes(data[at : at + length])))
                else:
                    text = f"a record of kind {opcode}, which does not belong there ({length} bytes {where})"
                    self._tell(part.begin + at, Loss(text, bytes=length))
                done = at + length
        except Damaged as error:
            rest = len(data) - done
            if part.whole:
                self._tell(part.begin + 1, Loss(f"{error} ({rest} bytes {where})", bytes=rest))
            else:
                self._tell(part.begin, Loss(f"the last chunk is not whole: {read} messages of it were read", rest))

    def _tell(self, offset: int, loss: Loss) -> None:
        self._losses.add(self.path.name, offset, loss)


def _codec(channel: kinds.Channel) -> Codec:
    return "ros1" if channel.message_encoding == "ros1" else "cdr"
