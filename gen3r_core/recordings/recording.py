"""What every recording looks like, whatever file it comes from: streams, and stamped items in the order of time."""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from gen3r_core.errors import InputError
from gen3r_core.recordings.losses import SECOND, Losses
from gen3r_core.recordings.messages import Kind, RawMessage
from gen3r_core.recordings.pictures import Still

_HORIZON_NS = SECOND // 2
_HORIZON_BYTES = 32 * 2**20
T = TypeVar("T")


@dataclass(frozen=True)
class Stream:
    """One topic, or what stands for it.

    Attributes:
        name: topic; for recordings without topics a name made of the file's.
        type: message type such as ``sensor_msgs/msg/Image``; "video" or "images" where there are no messages.
        kind: what it is good for.
        count: messages; None where nothing says it.
        hz: messages a second; None where that cannot be told.
    """

    name: str
    type: str
    kind: Kind
    count: int | None
    hz: float | None


@dataclass(frozen=True, eq=False)
class Item:
    """Something that was recorded. Nothing of it is decoded yet.

    Attributes:
        stream: where it belongs.
        received_ns: when it was recorded, integer nanoseconds. What a sensor says of its time is in the content.
        content: a message, or a still of a video or folder.
    """

    stream: Stream
    received_ns: int
    content: RawMessage | Still


class Recording(ABC):
    """A recording that is open. Use it in a ``with`` statement.

    Attributes:
        path: where it lies.
        format: in words, such as "rosbag2 (mcap)".
        streams: by name.
        losses: what is known to be missing; grows while items are read.
        start_ns: when it begins, integer nanoseconds; None where it holds nothing.
        end_ns: when it ends.
        timed: whether stamps are times: not for image folders whose names hold none.
    """

    path: Path
    format: str
    streams: dict[str, Stream]
    losses: Losses
    start_ns: int | None = None
    end_ns: int | None = None
    timed: bool = True

    @abstractmethod
    def items(
        self, names: Collection[str] | None = None, start_ns: int | None = None, end_ns: int | None = None
    ) -> Iterator[Item]:
        """What was recorded, in the order of time as far as half a second of it lets that be known.

        May be called again, for another pass. Memory does not grow with the recording.

        Args:
            names: streams that are wanted; None for all.
            start_ns: nothing that was recorded before, integer nanoseconds.
            end_ns: nothing that was recorded then or later.
        """

    def close(self) -> None:  # noqa: B027 - many have nothing to close
        """Give up files."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def seconds(self) -> float:
        """From the first item to the last."""
        return 0.0 if self.start_ns is None or self.end_ns is None else (self.end_ns - self.start_ns) / SECOND

    def of_kind(self, *kinds: Kind) -> list[Stream]:
        """Streams that hold something, in the order of their names."""
        return [self.streams[name] for name in sorted(self.streams)
                if self.streams[name].kind in kinds and self.streams[name].count != 0]  # fmt: skip

    def stream(self, name: str) -> Stream:
        """A stream by name.

        Raises:
            InputError: there is none; says which there are.
        """
        if name not in self.streams:
            raise InputError(f"{self.path}: there is no stream {name!r}; it has\n{self.table()}")
        return self.streams[name]

    def interval(self, start_s: float | None, end_s: float | None) -> tuple[int | None, int | None]:
        """A part of the recording, given in seconds from its beginning, as stamps.

        Raises:
            InputError: numbers that are no part, or after the end.
        """
        for name, value in (("start", start_s), ("end", end_s)):
            if value is not None and not 0 <= value < 1e9:
                raise InputError(f"{name} is in seconds from the beginning of the recording, got {value}")
        if start_s is not None and end_s is not None and end_s <= start_s:
            raise InputError(f"the end ({end_s} s) must come after the start ({start_s} s)")
        if start_s is not None and start_s > self.seconds:
            raise InputError(f"{self.path}: it lasts {self.seconds:.1f} s; nothing begins at {start_s} s")
        if self.start_ns is None:
            return None, None
        first, last = (None if value is None else self.start_ns + round(value * SECOND) for value in (start_s, end_s))
        return first, last

    def table(self) -> str:
        """The streams as a table: name, type, how many, and how often."""
        rows = [("name", "type", "kind", "count", "Hz")]
        for name in sorted(self.streams):
            stream = self.streams[name]
            count = "?" if stream.count is None else str(stream.count)
            rows.append((name, stream.type, stream.kind, count, "" if stream.hz is None else f"{stream.hz:.1f}"))
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        return "\n".join(
            "  " + "  ".join([*(row[n].ljust(widths[n]) for n in range(3)), *(row[n].rjust(widths[n]) for n in (3, 4))])
            for row in rows
        )


def in_order(timed: Iterable[tuple[int, int, T]]) -> Iterator[tuple[int, T]]:
    """Sorts what arrives nearly in order.

    Half a second, or 32 MiB, are held back. Something older than what has already gone out goes out at once.

    Args:
        timed: stamp in nanoseconds, size in bytes, and a thing.

    Yields:
        stamp and thing.
    """
    waiting: list[tuple[int, int, int, T]] = []
    held, newest = 0, 0
    for number, (stamp, size, thing) in enumerate(timed):
        if waiting and stamp < newest - 10 * _HORIZON_NS:  # time was set back: what waits belongs before it
            while waiting:
                first = heapq.heappop(waiting)
                yield first[0], first[3]
            held, newest = 0, stamp
        heapq.heappush(waiting, (stamp, number, size, thing))
        held, newest = held + size, max(newest, stamp) if len(waiting) > 1 else stamp
        while waiting and (waiting[0][0] < newest - _HORIZON_NS or held > _HORIZON_BYTES):
            first = heapq.heappop(waiting)
            held -= first[2]
            yield first[0], first[3]
    while waiting:
        first = heapq.heappop(waiting)
        yield first[0], first[3]
