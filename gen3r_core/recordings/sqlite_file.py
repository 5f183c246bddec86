"""One sqlite3 file of a rosbag2, sound or damaged.

A sound file is read through SQLite, in the order in which it was written. What SQLite refuses (it opens no file that
was cut) is read page by page instead.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from gen3r_core.errors import InputError
from gen3r_core.recordings.losses import Loss, Losses
from gen3r_core.recordings.sqlite_pages import carve, page_size
from gen3r_core.recordings.storage import Stored, Topic

MAGIC = b"SQLite format 3\0"
Row = tuple[int, int, int, bytes]
_ERRORS = (sqlite3.Error, UnicodeDecodeError)
"""The latter where names, or SQLite's own message about them, are no text."""


class SqliteFile:
    """An open file.

    Args:
        path: the file.
        losses: where damage is told of.

    Attributes:
        start_ns: when the first message was recorded, integer nanoseconds; None if there is none.
        end_ns: when the last one was.

    Raises:
        InputError: it cannot be read, or is no rosbag2.
    """

    def __init__(self, path: Path, losses: Losses) -> None:
        self.path, self._losses = path, losses
        # A journal is only heeded where one lies beside the file: others must not need a folder they can write to.
        beside = any(path.with_name(path.name + ending).exists() for ending in ("-wal", "-journal"))
        mode = "mode=ro" if beside else "immutable=1"
        self._db = sqlite3.connect(f"file:{quote(str(path))}?{mode}", uri=True, check_same_thread=False)
        self._names: dict[int, tuple[str, str]] = {}
        self._offered: dict[int, str] = {}
        self._counts: dict[int, int] = {}
        self.start_ns: int | None = None
        self.end_ns: int | None = None
        self._sound = False
        try:
            self._check_size()
            self._measure()
            self._sound = True
        except _ERRORS as error:
            self._db.close()
            self._measure_pages(error)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @property
    def topics(self) -> list[Topic]:
        """What there is."""
        return [
            Topic(name, kind, self._counts.get(number, 0), self._offered.get(number, ""))
            for number, (name, kind) in self._names.items()
        ]

    def messages(
        self, names: Collection[str] | None = None, start_ns: int | None = None, end_ns: int | None = None
    ) -> Iterator[Stored]:
        """Messages in the order in which they were written; see :class:`Storage`."""
        wanted = {number for number, (name, _) in self._names.items() if names is None or name in names}
        first = -(1 << 63) if start_ns is None else start_ns
        last = (1 << 63) - 1 if end_ns is None else end_ns
        for _, topic, stamp, data in self._rows(wanted, first, last):
            if topic in wanted and first <= stamp < last:
                yield Stored(*self._names[topic], stamp, data, "cdr")

    def _rows(self, wanted: set[int], first: int, last: int) -> Iterator[Row]:
        done = -(1 << 63)
        if self._sound:
            query = (
                f"SELECT id, topic_id, timestamp, data FROM messages WHERE topic_id IN ({','.join(map(str, wanted))}) "  # noqa: S608 - numbers only
                f"AND timestamp >= {first} AND timestamp < {last} ORDER BY id"
            )
            try:
                for row in self._db.execute(query):
                    if row[0] > done and _is_message(row):
                        done = row[0]
                        yield row
            except _ERRORS as error:
                self._losses.add(self.path.name, 1, Loss(f"damaged after message {done}: {error}"))
            else:
                return
        for row in self._pages():
            if row[0] > done:
                yield row

    def _pages(self) -> Iterator[Row]:
        with self.path.open("rb") as file:
            for number, columns in carve(file):
                row = (number, *columns[1:])
                if len(columns) == 4 and _is_message(row):
                    yield row  # type: ignore[misc]  # it was looked at

    def _check_size(self) -> None:
        with self.path.open("rb") as file:
            header = file.read(100)
        size, promised = self.path.stat().st_size, page_size(header) * int.from_bytes(header[28:32], "big")
        if size < promised:
            text = f"the file was cut: {size} bytes of {promised} are there"
            self._losses.add(self.path.name, 0, Loss(text))
            raise sqlite3.DatabaseError(text)

    def _measure(self) -> None:
        """Topics, counts and times, from the small columns alone."""
        rows = self._db.execute("SELECT id, name, type, serialization_format FROM topics ORDER BY id").fetchall()
        self._take_topics([(number, [None, *columns]) for number, *columns in rows])
        self._counts = dict(self._db.execute("SELECT topic_id, COUNT(*) FROM messages GROUP BY topic_id"))
        times = self._db.execute("SELECT MIN(timestamp), MAX(timestamp) FROM messages").fetchone()
        self.start_ns, self.end_ns = times
        with contextlib.suppress(*_ERRORS):  # the first versions have no such column
            for number, profiles in self._db.execute("SELECT id, CAST(offered_qos_profiles AS BLOB) FROM topics"):
                self._offered[number] = (profiles or b"").decode("utf-8", "replace")

    def _measure_pages(self, error: Exception) -> None:
        self._names = {}
        with self.path.open("rb") as file:
            self._take_topics([(number, columns) for number, columns in carve(file) if len(columns) in (4, 5, 6)])
        if not self._names:
            raise InputError(
                f"{self.path}: nothing of this rosbag2 can be read: {error}; its list of topics is damaged or missing"
            ) from error
        self._counts = {}
        times: list[int] = []
        for _, topic, stamp, _ in self._pages():
            if topic in self._names:
                self._counts[topic] = self._counts.get(topic, 0) + 1
                times = [min([stamp, *times[:1]]), max([stamp, *times[1:]])]
        self.start_ns, self.end_ns = times or (None, None)
        with contextlib.suppress(KeyError):
            del self._losses.found[self.path.name, 1]
        text = f"{error}; {sum(self._counts.values())} messages of it can be read"
        self._losses.add(self.path.name, 0, Loss(text))

    def _take_topics(self, rows: Sequence[tuple[int, Sequence[object]]]) -> None:
        for number, columns in rows:
            name, kind, coding = columns[1:4]
            if isinstance(name, str) and isinstance(kind, str) and name.startswith("/") and coding == "cdr":
                self._names[number] = (name, kind)
                profiles = columns[4] if len(columns) > 4 else None
                self._offered[number] = profiles if isinstance(profiles, str) else ""


def _is_message(row: tuple[object, ...]) -> bool:
    number, topic, stamp, data = row
    return isinstance(number, int) and isinstance(topic, int) and isinstance(stamp, int) and isinstance(data, bytes)
