"""What the files of a bag have in common."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from gen3r_core.recordings.messages import Codec


@dataclass(frozen=True)
class Topic:
    """A topic of a file.

    Attributes:
        name: of the topic.
        type: of its messages, as ROS 2 writes it.
        count: how many; None where only reading tells.
        offered: profiles (QoS) of its publishers, as rosbag2 writes them; empty where the file has none. Not checked.
    """

    name: str
    type: str
    count: int | None
    offered: str = ""


class Stored(NamedTuple):
    """A message of a file.

    Attributes:
        topic: its name.
        type: of the message.
        received_ns: when it was recorded, integer nanoseconds.
        data: its bytes.
        codec: how they were written.
    """

    topic: str
    type: str
    received_ns: int
    data: bytes
    codec: Codec


def ros2_type(name: str) -> str:
    """``package/Name``, as ROS 1 has it, as ``package/msg/Name``."""
    package, _, kind = name.partition("/")
    return name if "/" in kind or not kind else f"{package}/msg/{kind}"


class Storage(Protocol):
    """A file that holds messages.

    Attributes:
        path: the file.
    """

    path: Path

    @property
    def topics(self) -> list[Topic]:
        """What there is; the same name may be there several times."""

    @property
    def start_ns(self) -> int | None:
        """When the first message was recorded, integer nanoseconds."""

    @property
    def end_ns(self) -> int | None:
        """When the last message was recorded."""

    def messages(
        self, names: Collection[str] | None = None, start_ns: int | None = None, end_ns: int | None = None
    ) -> Iterator[Stored]:
        """Messages, nearly in the order of time.

        Args:
            names: topics that are wanted; None for all.
            start_ns: none that was recorded before.
            end_ns: none that was recorded then or later.
        """

    def close(self) -> None:
        """Close the file."""
