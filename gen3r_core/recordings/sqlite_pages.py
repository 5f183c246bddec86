"""Rows of a damaged sqlite3 file, page by page, without its tree: every row whose pages are there.

The layout is that of SQLite's documentation (sqlite.org/fileformat2.html): a leaf of a table (type 13) holds rows, of
which long ones go on in a chain of overflow pages.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO

_LEAF = 0x0D
_LARGEST_ROW = 1 << 30
_INTEGERS = (0, 1, 2, 3, 4, 6, 8)

Value = int | float | str | bytes | None


class _Broken(Exception):  # noqa: N818 - of one row
    pass


def page_size(header: bytes) -> int:
    """Bytes of a page; 0 if the header names none."""
    size = int.from_bytes(header[16:18], "big")
    size = 65536 if size == 1 else size
    return size if size >= 512 and size & (size - 1) == 0 else 0


def carve(file: BinaryIO) -> Iterator[tuple[int, list[Value]]]:
    """Row ids and columns of all tables, in the order of pages.

    Args:
        file: a sqlite3 file. A page at its end that is not whole is left out.
    """
    file.seek(0)
    header = file.read(100)
    size = page_size(header)
    if not size or len(header) < 100:
        return
    usable = size - header[20]
    pages = os.fstat(file.fileno()).st_size // size
    for number in range(pages):
        file.seek(number * size)
        page = file.read(size)
        begin = 100 if number == 0 else 0
        if page[begin] != _LEAF:
            continue
        cells = int.from_bytes(page[begin + 3 : begin + 5], "big")
        for cell in range(min(cells, (usable - 8) // 2)):
            place = begin + 8 + 2 * cell
            at = int.from_bytes(page[place : place + 2], "big")
            try:
                payload, at = _varint(page, at)
                row, at = _varint(page, at)
                yield row, _columns(_payload(file, page, at, payload, usable, size, pages))
            except (_Broken, IndexError, UnicodeDecodeError):
                continue


def _payload(file: BinaryIO, page: bytes, at: int, length: int, usable: int, size: int, pages: int) -> bytes:
    if not 0 < length <= _LARGEST_ROW:
        raise _Broken
    local, most = length, usable - 35
    if length > most:
        least = (usable - 12) * 32 // 255 - 23
        local = least + (length - least) % (usable - 4)
        local = local if local <= most else least
    parts = [page[at : at + local]]
    if len(parts[0]) < local:
        raise _Broken
    rest, following = length - local, int.from_bytes(page[at + local : at + local + 4], "big")
    while rest > 0:
        if not 1 <= following <= pages:
            raise _Broken
        file.seek((following - 1) * size)
        piece = file.read(usable)
        parts.append(piece[4 : 4 + rest])
        rest -= len(parts[-1])
        following = int.from_bytes(piece[:4], "big")
    return b"".join(parts)


def _columns(payload: bytes) -> list[Value]:
    head, at = _varint(payload, 0)
    kinds = []
    while at < head:
        kind, at = _varint(payload, at)
        kinds.append(kind)
    values: list[Value] = []
    at = head
    for kind in kinds:
        length = _INTEGERS[kind] if kind < 7 else 8 if kind == 7 else 0 if kind < 12 else (kind - 12) // 2
        piece = payload[at : at + length]
        if len(piece) < length or kind in (10, 11):
            raise _Broken
        at += length
        if kind == 0:
            values.append(None)
        elif kind < 7:
            values.append(int.from_bytes(piece, "big", signed=True))
        elif kind in (8, 9):
            values.append(kind - 8)
        elif kind == 7 or kind % 2 == 0:
            values.append(piece)
        else:
            values.append(piece.decode())
    return values


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of 1 to 9 bytes, and the place after it."""
    value = 0
    for place in range(at, at + 8):
        value = value << 7 | data[place] & 0x7F
        if data[place] < 0x80:
            return value, place + 1
    return value << 8 | data[at + 8], at + 9
