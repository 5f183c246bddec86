"""TF in and out: through tf2_ros where a ROS distribution has it, else by the topics themselves.

Both ways look alike (:class:`Transforms`, :class:`TransformSender`); :func:`listen_to_transforms` and
:func:`transform_sender` choose. There is no wheel of tf2_ros.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, Protocol

from geometry_msgs.msg import TransformStamped
from rclpy.callback_groups import CallbackGroup, MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.clock import JumpHandle, JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.time import Time
from tf2_msgs.msg import TFMessage

from gen3r_core.errors import InputError
from gen3r_core.geometry.transform_history import StampedTransform, TransformError, TransformHistory, seconds
from gen3r_ros.conversions.poses import stamp_ns as nanoseconds_of
from gen3r_ros.conversions.poses import transform_matrix
from gen3r_ros.qos import LATCHED, STATIC_TRANSFORMS, TRANSFORMS

__all__ = [
    "StampedTransform",
    "Tf2Sender",
    "Tf2Transforms",
    "TopicSender",
    "TopicTransforms",
    "TransformError",
    "TransformSender",
    "Transforms",
    "listen_to_transforms",
    "tf2_ros_module",
    "transform_sender",
]

KEPT_SECONDS = 10.0


class Transforms(Protocol):
    """Where frames are and were, from what other nodes publish. May be asked from any thread; never waits."""

    def lookup(self, target: str, source: str, stamp_ns: int | None = None) -> StampedTransform:
        """Where ``source`` is in ``target``.

        Args:
            target: frame of the result.
            source: frame that is looked for.
            stamp_ns: when, integer nanoseconds over 0 (tf2 takes 0 for the newest); None for the newest time at which
                all on the way is known.

        Raises:
            TransformError: saying in words what is missing, and whether waiting can help.
        """

    def clear(self) -> None:
        """Forget what moves. Jumps of the node's clock do it by themselves."""

    def close(self) -> None:
        """Stop listening."""


class TransformSender(Protocol):
    """Tells other nodes where frames are."""

    def send(self, transforms: Sequence[TransformStamped]) -> None:
        """On /tf: at their stamps."""

    def send_static(self, transforms: Sequence[TransformStamped]) -> None:
        """On /tf_static: always; together with those sent before."""

    def close(self) -> None:
        """Take the publishers down."""


def listen_to_transforms(node: Node, kept_seconds: float = KEPT_SECONDS) -> Transforms:
    """Listen to /tf and /tf_static by the means that there are.

    Args:
        node: with a clock whose jumps matter.
        kept_seconds: how far back lookups reach.
    """
    tf2_ros = tf2_ros_module()
    if tf2_ros is not None:
        return Tf2Transforms(node, kept_seconds, tf2_ros)
    return TopicTransforms(node, kept_seconds)


def transform_sender(node: Node) -> TransformSender:
    """Send to /tf and /tf_static by the means that there are."""
    tf2_ros = tf2_ros_module()
    return TopicSender(node) if tf2_ros is None else Tf2Sender(node, tf2_ros)


def tf2_ros_module() -> Any:
    """tf2_ros, or None where there is none or it does not load."""
    try:
        return importlib.import_module("tf2_ros")
    except ImportError:
        return None


class TopicTransforms:
    """:class:`Transforms` by the topics themselves.

    Args:
        node: that subscribes.
        kept_seconds: how far back lookups reach.
        callback_group: of the subscriptions; None takes one of their own, so that they never wait for others.

    Attributes:
        refused: transforms that could not be taken in: not finite, no rotation, or closing a loop.
    """

    def __init__(
        self, node: Node, kept_seconds: float = KEPT_SECONDS, callback_group: CallbackGroup | None = None
    ) -> None:
        self._node = node
        self._history = TransformHistory(kept_seconds)
        self.refused = 0
        group = callback_group or ReentrantCallbackGroup()
        self._subscriptions = [
            node.create_subscription(TFMessage, "/tf", self._take, TRANSFORMS, callback_group=group),
            node.create_subscription(
                TFMessage, "/tf_static", self._take_static, STATIC_TRANSFORMS, callback_group=group
            ),
        ]
        self._jumps = _on_jump(node, self.clear)

    def lookup(self, target: str, source: str, stamp_ns: int | None = None) -> StampedTransform:
        """See :class:`Transforms`."""
        return self._history.lookup(target, source, stamp_ns)

    def clear(self) -> None:
        """See :class:`Transforms`."""
        self._history.clear()

    def close(self) -> None:
        """See :class:`Transforms`."""
        self._jumps.unregister()
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)

    def _take(self, message: TFMessage) -> None:
        self._add(message, static=False)

    def _take_static(self, message: TFMessage) -> None:
        self._add(message, static=True)

    def _add(self, message: TFMessage, *, static: bool) -> None:
        for one in message.transforms:
            t, q = one.transform.translation, one.transform.rotation
            try:
                self._history.add(
                    one.header.frame_id,
                    one.child_frame_id,
                    nanoseconds_of(one.header.stamp),
                    (t.x, t.y, t.z),
                    (q.x, q.y, q.z, q.w),
                    static=static,
                )
            except InputError as error:
                self.refused += 1
                self._node.get_logger().warning(f"TF: {error}", throttle_duration_sec=10.0)


class Tf2Transforms:
    """:class:`Transforms` by tf2_ros.

    Args:
        node: that subscribes.
        kept_seconds: how far back lookups reach.
        tf2_ros: the module.
    """

    def __init__(self, node: Node, kept_seconds: float, tf2_ros: Any) -> None:
        self._tf2 = tf2_ros
        self._buffer = tf2_ros.Buffer(cache_time=Duration(nanoseconds=round(kept_seconds * 1e9)))
        self._listener = tf2_ros.TransformListener(self._buffer, node)
        # A buffer without a node watches a clock of its own; one with a node offers a service in its name.
        self._jumps = _on_jump(node, self.clear)

    def lookup(self, target: str, source: str, stamp_ns: int | None = None) -> StampedTransform:
        """See :class:`Transforms`."""
        try:
            found = self._buffer.lookup_transform(target, source, Time(nanoseconds=stamp_ns or 0))
        except self._tf2.TransformException as error:
            when = "" if stamp_ns is None else f" at {seconds(stamp_ns)}"
            hopeless = isinstance(error, self._tf2.InvalidArgumentException) or "into the past" in str(error)
            raise TransformError(
                f"no transform from {source} to {target}{when}: {error}", may_come=not hopeless
            ) from error
        stamp = nanoseconds_of(found.header.stamp)
        return StampedTransform(transform_matrix(found.transform), stamp if stamp_ns is None and stamp else stamp_ns)

    def clear(self) -> None:
        """See :class:`Transforms`."""
        self._buffer.clear()

    def close(self) -> None:
        """See :class:`Transforms`."""
        self._jumps.unregister()
        self._listener.unregister()


class TopicSender:
    """:class:`TransformSender` by the topics themselves."""

    def __init__(self, node: Node) -> None:
        self._node = node
        group = MutuallyExclusiveCallbackGroup()  # the node's own would remember them for ever
        self._moving = node.create_publisher(TFMessage, "/tf", TRANSFORMS, callback_group=group)
        self._fixed = node.create_publisher(TFMessage, "/tf_static", LATCHED, callback_group=group)
        self._sent: dict[str, TransformStamped] = {}

    def send(self, transforms: Sequence[TransformStamped]) -> None:
        """See :class:`TransformSender`."""
        self._moving.publish(TFMessage(transforms=list(transforms)))

    def send_static(self, transforms: Sequence[TransformStamped]) -> None:
        """See :class:`TransformSender`."""
        self._sent.update({one.child_frame_id: one for one in transforms})
        # Late listeners get one message, the last: all must be in it.
        self._fixed.publish(TFMessage(transforms=list(self._sent.values())))

    def close(self) -> None:
        """See :class:`TransformSender`."""
        self._node.destroy_publisher(self._moving)
        self._node.destroy_publisher(self._fixed)


class Tf2Sender:
    """:class:`TransformSender` by tf2_ros."""

    def __init__(self, node: Node, tf2_ros: Any) -> None:
        self._node = node
        self._moving = tf2_ros.TransformBroadcaster(node)
        self._fixed = tf2_ros.StaticTransformBroadcaster(node)

    def send(self, transforms: Sequence[TransformStamped]) -> None:
        """See :class:`TransformSender`."""
        self._moving.sendTransform(list(transforms))

    def send_static(self, transforms: Sequence[TransformStamped]) -> None:
        """See :class:`TransformSender`."""
        self._fixed.sendTransform(list(transforms))

    def close(self) -> None:
        """See :class:`TransformSender`."""
        self._node.destroy_publisher(self._moving.pub_tf)
        self._node.destroy_publisher(self._fixed.pub_tf)


def _on_jump(node: Node, forget: Any) -> JumpHandle:
    """Call a function when the node's clock is set back, or changes between simulated and real time."""

    def jumped(_jump: TimeJump) -> None:
        node.get_logger().warning("the clock jumped: transforms from before are forgotten")
        forget()

    threshold = JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=True)
    return node.get_clock().create_jump_callback(threshold, post_callback=jumped)
