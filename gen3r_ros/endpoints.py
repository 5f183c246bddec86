"""Subscriptions and publishers whose quality of service can be overridden, and that tell whose does not go with ours.

The parameters are those that ROS has for it, such as ``qos_overrides./image_raw.subscription.reliability``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from rclpy.callback_groups import CallbackGroup, MutuallyExclusiveCallbackGroup
from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
from rclpy.exceptions import InvalidParameterTypeException
from rclpy.node import Node
from rclpy.qos import QoSCompatibility, QoSPolicyKind, QoSProfile, qos_check_compatible, qos_policy_name_from_kind
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription

from gen3r_core.errors import InputError

_POLICIES = (QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, QoSPolicyKind.RELIABILITY, QoSPolicyKind.DURABILITY)
_ELSEWHERE = "gen3r/"
"""Where topics may go whose names others have as well."""


class Endpoints:
    """Makes them, and remembers which topics have trouble.

    Args:
        node: whose they are.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._policies: dict[str, str] = {}  # that was incompatible last, by topic
        self._own: dict[str, tuple[bool, QoSProfile]] = {}  # whether we listen, and our profile
        self._kinds: dict[str, tuple[str, str]] = {}  # that we publish: the topic as asked for, and its type
        self._made: list[Any] = []
        # Groups remember what was ever in them; the node's own lasts as long as the node.
        self._group = MutuallyExclusiveCallbackGroup()

    def subscribe(
        self, kind: Any, topic: str, callback: Callable[..., None], qos: QoSProfile, group: CallbackGroup | None = None
    ) -> Any:
        """A subscription.

        Args:
            kind: of message.
            topic: relative or not.
            callback: for messages.
            qos: where no parameter says otherwise; left as it is.
            group: of the callbacks.

        Raises:
            InputError: an override makes no sense, or the topic has another type in this process already.
        """
        name = self._node.resolve_topic_name(topic)
        own = copy.copy(qos)
        events = SubscriptionEventCallbacks(incompatible_qos=lambda event: self._incompatible(name, event))
        return self._remember(topic, kind, own, listens=True, make=lambda: self._node.create_subscription(
            kind, topic, callback, own, callback_group=group or self._group, event_callbacks=events,
            qos_overriding_options=QoSOverridingOptions(_POLICIES)))  # fmt: skip

    def advertise(self, kind: Any, topic: str, qos: QoSProfile) -> Any:
        """A publisher; arguments and errors as :meth:`subscribe`."""
        name = self._node.resolve_topic_name(topic)
        own = copy.copy(qos)
        events = PublisherEventCallbacks(incompatible_qos=lambda event: self._incompatible(name, event))
        overrides = QoSOverridingOptions(_POLICIES)
        made = self._remember(topic, kind, own, listens=False, make=lambda: self._node.create_publisher(
            kind, topic, own, callback_group=self._group, event_callbacks=events,
            qos_overriding_options=overrides))  # fmt: skip
        self._kinds[name] = topic, _type_name(kind)
        return made

    def close(self) -> None:
        """Take all of them down that are there."""
        while self._made:
            one = self._made.pop()
            if isinstance(one, Subscription):
                self._node.destroy_subscription(one)
            else:
                self._node.destroy_publisher(one)

    def trouble(self, topic: str) -> str:
        """Whose quality of service does not go with ours, in one sentence; empty where all does.

        Args:
            topic: as resolved.
        """
        policy = self._policies.get(topic)
        if policy is None:
            return ""
        listens, own = self._own[topic]
        look = self._node.get_publishers_info_by_topic if listens else self._node.get_subscriptions_info_by_topic
        for other in look(topic):
            pair = (other.qos_profile, own) if listens else (own, other.qos_profile)
            if qos_check_compatible(*pair)[0] == QoSCompatibility.ERROR:
                value = getattr(own, policy.lower(), None)
                ours = f" ({value.name.lower()})" if value is not None and hasattr(value, "name") else ""
                side = "subscription" if listens else "publisher"
                return (
                    f"QoS incompatible with {other.node_namespace.rstrip('/')}/{other.node_name} on {topic}: its "
                    f"{policy} does not go with ours{ours}; change it there, or set qos_overrides.{topic}.{side}."
                    f"{policy.lower()} here"
                )
        return ""  # whoever it was is gone, or not in the graph's list yet

    def clash(self, topic: str) -> str:
        """Who publishes something else on a topic that we publish, in one sentence; empty where nobody does.

        Args:
            topic: as resolved.
        """
        asked, kind = self._kinds[topic]
        return _clash(topic, asked, kind, self._node.get_publishers_info_by_topic(topic))

    def troubles(self) -> list[str]:
        """Of all topics."""
        found = [*map(self.trouble, list(self._policies)), *map(self.clash, list(self._kinds))]
        return [words for words in found if words]

    def _remember(self, topic: str, kind: Any, own: QoSProfile, *, listens: bool, make: Callable[[], Any]) -> Any:
        name = self._node.resolve_topic_name(topic)
        try:
            made = make()
        except (RuntimeError, ValueError, TypeError, InvalidParameterTypeException) as error:
            self.close()  # who asked gives up
            raise InputError(self._why_not(name, topic, _type_name(kind), error)) from error
        self._own[name] = listens, own
        self._made.append(made)
        return made

    def _why_not(self, name: str, topic: str, kind: str, error: Exception) -> str:
        """What to do about an endpoint that cannot be made."""
        look = self._node.get_publishers_info_by_topic, self._node.get_subscriptions_info_by_topic
        reasons = [_clash(name, topic, kind, [other for ask in look for other in ask(name)])]
        given = self._node._parameter_overrides  # noqa: SLF001 - nothing else tells those that were not declared
        if any(one.startswith(f"qos_overrides.{name}.") for one in given):
            reasons.append(f"the parameters qos_overrides.{name} make no sense: {error}")
        return "; ".join(filter(None, reasons)) or f"{name} ({kind}) cannot be had: {error}"

    def _incompatible(self, topic: str, event: Any) -> None:
        self._policies[topic] = qos_policy_name_from_kind(event.last_policy_kind)
        words = self.trouble(topic) or f"QoS incompatible on {topic}: the {self._policies[topic]} of somebody else"
        self._node.get_logger().warning(words, throttle_duration_sec=1.0)


def _type_name(kind: Any) -> str:
    """Of a class of messages, as ROS writes it: sensor_msgs/msg/Image."""
    package, folder, *_ = kind.__module__.split(".")
    return f"{package}/{folder}/{kind.__name__}"


def _clash(topic: str, asked: str, kind: str, others: Sequence[Any]) -> str:
    """Which of the others has another type on a topic, and what to do; empty where none has.

    Args:
        topic: as resolved.
        asked: the same as our code names it, which is what a remapping is from.
        kind: our type.
        others: publishers and subscriptions of the topic.
    """
    for other in others:
        if other.topic_type != kind:
            launched = f" (map_topic:={_ELSEWHERE}map of the launch files)" if asked == "map" else ""
            return (
                f"{topic} is {other.topic_type} of {other.node_namespace.rstrip('/')}/{other.node_name}, and {kind} "
                f"here; who listens can have one of them only: remap ours, -r {asked}:={_ELSEWHERE}{asked}{launched}, "
                f"or the other's"
            )
    return ""
