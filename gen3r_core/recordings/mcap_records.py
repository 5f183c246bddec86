"""Records of an mcap file: telling sound ones from damage, and finding the next sound one after it.

The layout is that of the MCAP specification (mcap.dev/spec): a record is an opcode (1 byte), a length (8 bytes, little
endian) and so many bytes.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Collection, Iterator
from io import BytesIO
from types import MappingProxyType
from typing import Any, BinaryIO

import lz4.frame
import mcap.records as kinds
import zstandard
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode

MAGIC = b"\x89MCAP0\r\n"
HEAD = 9
"""Bytes of opcode and length."""

LARGEST_CHUNK = 1 << 30
"""Bytes of a chunk, compressed or not; recorders write a few MB."""

_MESSAGE_HEAD = struct.Struct("<HIQQ")
_LARGEST_PARSED = 1 << 24
_BLOCK = 1 << 20
_CANDIDATE = re.compile(rb"[\x03-\x06\x0f](?=.{4}\x00{4})", re.DOTALL)
_COMPRESSIONS = ("", "zstd", "lz4")
_PARSERS: MappingProxyType[int, Callable[[ReadDataStream], Any]] = MappingProxyType(
    {
        Opcode.HEADER: kinds.Header.read,
        Opcode.FOOTER: kinds.Footer.read,
        Opcode.SCHEMA: kinds.Schema.read,
        Opcode.CHANNEL: kinds.Channel.read,
        Opcode.MESSAGE_INDEX: kinds.MessageIndex.read,
        Opcode.CHUNK_INDEX: kinds.ChunkIndex.read,
        Opcode.STATISTICS: kinds.Statistics.read,
        Opcode.METADATA: kinds.Metadata.read,
        Opcode.METADATA_INDEX: kinds.MetadataIndex.read,
        Opcode.ATTACHMENT_INDEX: kinds.AttachmentIndex.read,
        Opcode.SUMMARY_OFFSET: kinds.SummaryOffset.read,
        Opcode.DATA_END: kinds.DataEnd.read,
    }
)


class Damaged(Exception):  # noqa: N818 - what it says of a record
    """A record, or what is in a chunk, is not sound. Does not leave this package."""


def parse(opcode: int, content: bytes) -> Any:
    """A small record.

    Raises:
        Damaged: it is none.
    """
    stream = ReadDataStream(BytesIO(content))
    try:
        record = _PARSERS[opcode](stream)
    except (McapError, struct.error, UnicodeDecodeError, ValueError, OverflowError, MemoryError) as error:
        raise Damaged(f"a record of kind {opcode} is damaged: {error}") from error
    if stream.count != len(content):
        raise Damaged(f"a record of kind {opcode} has {len(content)} bytes and uses {stream.count}")
    return record


class ChunkHead:
    """What a chunk says of itself before its records.

    Attributes:
        start_ns: log time of its first message, integer nanoseconds.
        end_ns: of its last.
        size: bytes of its records when they are not compressed.
        crc: of them, 0 for none.
        compression: "", "zstd" or "lz4".
        data: where its records begin, counted from the record's content.

    Raises:
        Damaged: it is no chunk.
    """

    def __init__(self, begin: bytes, length: int) -> None:
        try:
            self.start_ns, self.end_ns, self.size, self.crc, name = struct.unpack_from("<QQQII", begin)
            self.compression = begin[32 : 32 + min(name, 8)].decode("ascii")
            (records,) = struct.unpack_from("<Q", begin, 32 + name)
        except (struct.error, UnicodeDecodeError) as error:
            raise Damaged("the beginning of a chunk is damaged") from error
        self.data = 40 + name
        if (
            self.compression not in _COMPRESSIONS
            or self.data + records != length
            or self.start_ns > self.end_ns
            or max(self.size, length) > LARGEST_CHUNK
        ):
            raise Damaged("the beginning of a chunk is damaged")


def uncompressed(head: ChunkHead, data: memoryview, *, whole: bool) -> bytes | memoryview:
    """The records of a chunk.

    Args:
        head: of the chunk.
        data: its records, compressed.
        whole: all of them are there; else what can be decompressed of them is returned.

    Raises:
        Damaged: they cannot be decompressed, or to another size.
    """
    try:
        if head.compression == "zstd":
            # A damaged size must not ask for memory without end.
            if whole and zstandard.frame_content_size(data) not in (-1, head.size):
                raise Damaged("a chunk has another size than it says")
            if whole:
                return zstandard.ZstdDecompressor().decompress(data, max_output_size=head.size)
            return zstandard.ZstdDecompressor().decompressobj().decompress(data)
        if head.compression == "lz4":
            found: bytes = lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=head.size + 1)
        else:
            return data
    except (zstandard.ZstdError, RuntimeError, EOFError, ValueError, MemoryError) as error:
        raise Damaged(f"a chunk cannot be decompressed: {error}") from error
    if whole and len(found) != head.size:
        raise Damaged("a chunk has another size than it says")
    return found


def records_in(data: bytes | memoryview) -> Iterator[tuple[int, int, int]]:
    """Opcode, place and length of the content of each record that is there as a whole.

    Raises:
        Damaged: the last one is not whole.
    """
    at, end = 0, len(data)
    while at < end:
        if at + HEAD > end:
            raise Damaged("the last record is not whole")
        opcode, length = data[at], int.from_bytes(data[at + 1 : at + HEAD], "little")
        if at + HEAD + length > end:
            raise Damaged("the last record is not whole")
        yield opcode, at + HEAD, length
        at += HEAD + length


def message_head(data: bytes | memoryview, at: int, length: int) -> tuple[int, int]:
    """Channel and log time of a message.

    Raises:
        Damaged: it is too short.
    """
    if length < _MESSAGE_HEAD.size:
        raise Damaged("a message is too short")
    channel, _, log_time, _ = _MESSAGE_HEAD.unpack_from(data, at)
    return channel, log_time


MESSAGE_HEAD = _MESSAGE_HEAD.size


def sound(file: BinaryIO, at: int, end: int, channels: Collection[int] | None = None) -> tuple[int, int] | None:
    """Opcode and length of the record at a place, if it can be believed.

    Args:
        file: to read from.
        at: where.
        end: of what may be read; the record lies before it.
        channels: that messages may have; None for any.
    """
    file.seek(at)
    head = file.read(min(HEAD, end - at))
    if len(head) < HEAD:
        return None
    opcode, length = head[0], int.from_bytes(head[1:], "little")
    if at + HEAD + length > end:
        return None
    return (opcode, length) if _believable(file, opcode, length, channels) else None


def next_sound(file: BinaryIO, at: int, end: int, channels: Collection[int]) -> int | None:
    """Where the next record begins that can be believed, with data of the recording in it; None if there is none."""
    while at < end:
        file.seek(at)
        block = file.read(min(_BLOCK + HEAD, end - at))
        for match in _CANDIDATE.finditer(block):
            place = at + match.start()
            # Messages are told by little, so that two of them (or one and the end) must follow each other.
            found = sound(file, place, end, channels)
            if found is None:
                continue
            after = place + HEAD + found[1]
            if found[0] != Opcode.MESSAGE or after == end or sound(file, after, end, channels) is not None:
                return place
        at += _BLOCK
    return None


def _believable(file: BinaryIO, opcode: int, length: int, channels: Collection[int] | None) -> bool:
    if opcode == Opcode.CHUNK:
        try:
            ChunkHead(file.read(min(64, length)), length)
        except Damaged:
            return False
        return True
    if opcode == Opcode.MESSAGE:
        head = file.read(MESSAGE_HEAD)
        return len(head) == MESSAGE_HEAD <= length and (channels is None or _MESSAGE_HEAD.unpack(head)[0] in channels)
    if opcode in _PARSERS and length <= _LARGEST_PARSED:
        content = file.read(length)
        try:
            parse(opcode, content)
        except Damaged:
            return False
        return True
    if opcode == Opcode.ATTACHMENT or opcode >= 0x80:  # the latter are for private use
        try:
            ChunkHead(file.read(min(64, length)), length)
        except Damaged:
            return True
        return False  # a chunk with a damaged opcode
    return False
