"""Plays a bag into the graph, with its time on /clock: recorded messages as they are, on the topics they were on.

    ros2 run gen3r gen3r_play --ros-args -p bag:=FOLDER -p rate:=2.0

For where there is no `ros2 bag`; bags of ROS 1, damaged ones and compressed ones are played too. Who listens has
``use_sim_time``. At the end it says what was played and ends, or begins again (``loop``); then /clock is set back.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import Any

import rclpy
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from rosgraph_msgs.msg import Clock as ClockMessage
from tf2_msgs.msg import TFMessage

from gen3r_core.errors import Gen3RError, InputError
from gen3r_core.messages.problems import MessageError
from gen3r_core.recordings.bag import BagRecording
from gen3r_core.recordings.losses import SECOND
from gen3r_core.recordings.messages import RawMessage
from gen3r_core.recordings.opening import open_recording
from gen3r_core.recordings.recording import Item, Stream
from gen3r_ros.conversions.poses import stamp_message
from gen3r_ros.player_parameters import PlayerParameters, declare
from gen3r_ros.qos import CLOCK, LATCHED, kept_from_before, recorded_profile
from gen3r_ros.running import check_command_line, ros_context, spin_until_signal
from gen3r_ros.transport import use_large_message_profile

_OWN = ("/clock", "/rosout", "/parameter_events")
"""Topics that this process, as every node, has itself."""

_OLD_TF = "tf/msg/tfMessage"
_TICK_S = 0.002
_TURN_S = 0.05
"""Longest time in one callback, so that signals are heard."""

_LATE_S = 0.25
"""Lost time that is made up for; what is lost beyond is lost, and the recording goes on more slowly."""

_BEAT_S = 0.1
_SETTLE_S = 0.5
_ACKNOWLEDGED = Duration(seconds=5)


class Player:
    """Makes a node play a bag; parameters are in :mod:`gen3r_ros.player_parameters`.

    Args:
        node: that publishes; spin it.

    Attributes:
        done: whether all was played.
        played: messages that were published, by topic.

    Raises:
        InputError: there is no such bag, or nothing of it can be played.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._own: PlayerParameters = declare(node)
        self._bag = _opened(self._own)
        try:
            self._first, self._last = self._interval()
            self._streams = self._chosen()
            self._publishers = {name: self._publisher(stream) for name, stream in self._streams.items()}
        except BaseException:
            self._bag.close()
            raise
        self._clock = node.create_publisher(ClockMessage, "/clock", CLOCK)
        self._static: dict[str, Any] = {}  # transforms by child
        self.played: Counter[str] = Counter()
        self.done = False
        self._told: set[str] = set()
        self._held = self._from_before()
        self._began: float | None = None  # by time.monotonic, of the first message
        self._waiting = self._own.wait_for_subscriber
        self._clock_at, self._beat = 0, 0.0
        self._items: Iterator[Item] = iter(())
        self._next: Item | None = None
        self._send_held()
        node.create_timer(_TICK_S, self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME))
        seconds = (self._last - self._first) / SECOND
        node.get_logger().info(
            f"{self._bag.format}, {seconds:.1f} s at {self._own.rate:g} times its speed: {', '.join(self._streams)}"
        )

    def close(self) -> None:
        """Wait until reliable listeners have everything, at most a few seconds; close the bag."""
        for publisher in self._publishers.values():
            publisher.wait_for_all_acked(_ACKNOWLEDGED)
        for words in self._bag.losses.sentences():
            self._node.get_logger().warning(f"missing in the recording: {words}")
        self._bag.close()

    # ------------------------------------------------------------------ what there is

    def _interval(self) -> tuple[int, int]:
        """First and last stamp, nanoseconds."""
        start, end = self._bag.interval(self._own.start_s or None, self._own.end_s or None)
        if self._bag.start_ns is None or self._bag.end_ns is None:
            raise InputError(f"{self._bag.path}: there is no message in this bag")
        return start or self._bag.start_ns, min(end or self._bag.end_ns, self._bag.end_ns)

    def _chosen(self) -> dict[str, Stream]:
        names = self._own.names
        streams = {name: self._bag.stream(name) for name in names} if names else self._bag.streams
        found = {}
        for name, stream in sorted(streams.items()):
            if names is None and name in _OWN:
                continue
            if message_class(stream.type) is None:
                self._node.get_logger().warning(
                    f"{name} is not played: there are no messages of the type {stream.type} in this environment"
                )
                continue
            found[name] = stream
        if not found:
            raise InputError(f"{self._bag.path}: nothing of it can be played; it has\n{self._bag.table()}")
        return found

    def _publisher(self, stream: Stream) -> Any:
        static = stream.kind == "tf_static"  # all in one message
        profile = LATCHED if static else recorded_profile(self._bag.offered(stream.name))
        return self._node.create_publisher(message_class(stream.type), stream.name, profile)

    def _from_before(self) -> list[Item]:
        """What a robot said once, at its start, and what else is latched, holds for later parts as well."""
        if not self._own.start_s:
            return []
        held: dict[str, deque[Item]] = {}
        for name, stream in self._streams.items():
            kept = None if stream.kind == "tf_static" else kept_from_before(self._bag.offered(name))
            if kept != 0:
                held[name] = deque(maxlen=kept)
        for item in self._bag.items(list(held), None, self._first) if held else ():
            held[item.stream.name].append(item)
        return sorted((item for items in held.values() for item in items), key=lambda item: item.received_ns)

    # ------------------------------------------------------------------ time

    def _tick(self) -> None:
        now = time.monotonic()
        if self.done:
            return
        if self._began is None:
            self._before(now)
            return
        until = now + _TURN_S
        present = self._present(now)
        while self._next is not None and self._next.received_ns <= present and time.monotonic() < until:
            self._send(self._next)
            self._next = next(self._items, None)
        if self._next is None and present >= self._last:
            self._end()
        elif self._next is not None and present - self._next.received_ns > _LATE_S * self._own.rate * SECOND:
            self._began = now - (self._next.received_ns - self._first) / SECOND / self._own.rate
        else:
            self._tell_time(present if self._next is None else min(present, self._next.received_ns))

    def _before(self, now: float) -> None:
        """Say what time it is, for those who want to know before it begins."""
        if self._waiting and not any(
            self._publishers[name].get_subscription_count()
            for name, stream in self._streams.items()
            if stream.kind in ("image", "depth")
        ):
            if now >= self._beat:
                self._beat = now + _BEAT_S
                self._clock_at = 0
                self._tell_time(self._first)
            return
        self._begin(now + _SETTLE_S)  # who has just been found finds the other topics too

    def _begin(self, at: float) -> None:
        self._began, self._clock_at = at, 0
        # A nanosecond more: an interval ends before its end, and the last message belongs to it.
        self._items = self._bag.items(list(self._streams), self._first, self._last + 1)
        self._next = next(self._items, None)
        self._tell_time(self._first)

    def _present(self, now: float) -> int:
        """Recorded time, nanoseconds."""
        return self._first + round((now - (self._began or now)) * self._own.rate * SECOND)

    def _tell_time(self, stamp_ns: int) -> None:
        if stamp_ns >= self._clock_at + SECOND / self._own.clock_rate:
            self._clock_at = stamp_ns
            self._clock.publish(ClockMessage(clock=stamp_message(stamp_ns)))

    def _end(self) -> None:
        if self._own.loop:
            self._node.get_logger().info("the recording begins again")
            self._begin(time.monotonic())
            self._send_held()  # what the end of the recording says does not hold at its beginning
            return
        self.done = True
        counts = ", ".join(f"{count} on {name}" for name, count in sorted(self.played.items()))
        self._node.get_logger().info(f"played: {counts or 'nothing'}")

    # ------------------------------------------------------------------ messages

    def _send(self, item: Item) -> None:
        self._tell_time(item.received_ns)
        if self._publish(item):
            self.played[item.stream.name] += 1

    def _publish(self, item: Item) -> bool:
        name = item.stream.name
        try:
            data = _cdr(item)
            if item.stream.kind == "tf_static":
                self._send_static(name, data)
            else:
                self._publishers[name].publish(data)
        except (MessageError, RuntimeError) as error:
            if name not in self._told:
                self._told.add(name)
                self._node.get_logger().warning(f"a message of {name} cannot be sent: {error}; others are not told of")
            return False
        return True

    def _send_static(self, name: str, data: bytes) -> None:
        """Late listeners get one message, the last: all transforms must be in it."""
        for one in deserialize_message(data, TFMessage).transforms:
            self._static[one.child_frame_id] = one
        self._publishers[name].publish(TFMessage(transforms=list(self._static.values())))

    def _send_held(self) -> None:
        for item in self._held:
            self._publish(item)


def message_class(kind: str) -> Any:
    """The class of messages of a type such as ``sensor_msgs/msg/Image``; None where there is none."""
    if kind == _OLD_TF:
        return TFMessage
    package, _, name = kind.partition("/msg/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), name) if package and name else None
    except (ImportError, AttributeError):
        return None


def _opened(own: PlayerParameters) -> BagRecording:
    recording = open_recording(own.path)
    if not isinstance(recording, BagRecording):
        recording.close()
        raise InputError(
            f"{own.path}: this is no bag ({recording.format}); gen3r reads it without ROS: gen3r reconstruct --help"
        )
    return recording


def _cdr(item: Item) -> bytes:
    content = item.content
    if not isinstance(content, RawMessage):  # a bag holds messages
        raise MessageError("size", "no message")
    return content.cdr()


def main(arguments: Sequence[str] | None = None) -> int:
    """Play until the end, or until it is interrupted.

    Args:
        arguments: of the command line, ROS's among them; None takes those of this process.

    Returns:
        0, or 1 where it cannot start or go on.
    """
    check_command_line("gen3r_play", "Plays a bag. Parameters: docs/parameters.md; use: docs/ros.md.", arguments)
    use_large_message_profile()
    with ros_context(arguments):
        node = rclpy.create_node("gen3r_play")
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        player: Player | None = None
        try:
            player = Player(node)
            spin_until_signal(executor, lambda: player.done)
        except Gen3RError as error:
            node.get_logger().fatal(str(error))
            return 1
        finally:
            executor.shutdown(timeout_sec=1.0)
            if player is not None:
                player.close()
            node.destroy_node()
    return 0


if __name__ == "__main__":
    sys.exit(main())
