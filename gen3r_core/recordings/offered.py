"""What the publishers of a recorded topic offered (QoS), as rosbag2 notes it: YAML, one profile for each publisher.

Policies are numbers of rmw up to version 8 of its metadata, and words later.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

LATCHED_IN_ROS1 = "[{history: keep_last, depth: 1, reliability: reliable, durability: transient_local}]"
"""What a latching publisher of ROS 1 does, in rosbag2's words."""

_LONGEST = 1 << 16
"""Characters that are looked at: hundreds of publishers."""

_MOST = (1 << 31) - 1
_TRANSIENT_LOCAL = (1, "transient_local")
_RELIABLE = (1, "reliable")
_KEEP_ALL = (2, "keep_all")


@dataclass(frozen=True)
class Offered:
    """What all publishers of a topic together offered.

    Attributes:
        latched: one of them was transient local: who subscribed later got its last messages.
        reliable: one of them was.
        depth: messages that were kept for late subscribers, or, where no publisher was transient local, for slow ones;
            0 where one of the publishers did not tell (many DDS tell a recorder nothing of it).
    """

    latched: bool
    reliable: bool
    depth: int


def offered(texts: Iterable[str]) -> Offered | None:
    """What was offered on a topic; None where nothing readable says it.

    Args:
        texts: lists of profiles as rosbag2 writes them. Damaged ones count as none.
    """
    profiles = [profile for text in texts for profile in _profiles(text)]
    if not profiles:
        return None
    latched = [profile for profile in profiles if profile.get("durability") in _TRANSIENT_LOCAL]
    depths = [_depth(profile) for profile in latched or profiles]
    reliable = any(profile.get("reliability") in _RELIABLE for profile in profiles)
    return Offered(bool(latched), reliable, min(sum(depths), _MOST) if all(depths) else 0)


def _profiles(text: str) -> list[dict[str, Any]]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    if not text or len(text) > _LONGEST:
        return []
    try:
        found = YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError):
        return []
    return [profile for profile in found if isinstance(profile, dict)] if isinstance(found, list) else []


def _depth(profile: dict[str, Any]) -> int:
    if profile.get("history") in _KEEP_ALL:
        return _MOST
    depth = profile.get("depth")
    return depth if isinstance(depth, int) and depth > 0 else 0
