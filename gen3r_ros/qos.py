"""Quality of service by the kind of data: sensors in, results out, and what late subscribers still want."""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from gen3r_core.recordings.offered import Offered

SENSOR = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=5,
    reliability=ReliabilityPolicy.BEST_EFFORT,
    durability=DurabilityPolicy.VOLATILE,
)
"""Images and camera infos in: matches every publisher, and the newest count."""

RESULT = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=10,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
)
"""Clouds and poses out: matches best-effort subscribers too."""

VIEWS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=200,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
)
"""Predicted views: all of one prediction go out at once, and what a full queue lets go of is never sent again. Free
places take no memory; views stay until every reliable subscriber has them, so that one that stands still shall not cost
gigabytes."""

LATCHED = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
"""Map and state out: who subscribes later gets the last one."""

TRANSFORMS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=100,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
)
"""/tf, as tf2 has it."""

STATIC_TRANSFORMS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=100,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
"""/tf_static as a listener has it: one message of each node that sends any. Senders take LATCHED."""

CLOCK = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
)
"""/clock out."""

_DEEPEST = 100
"""Messages of a recorded topic that are kept for late listeners, at most."""


def recorded_profile(offered: Offered | None) -> QoSProfile:
    """How a recorded topic is played: transient local where it was so, and always reliable, which fits all listeners.

    Args:
        offered: by those who published it; None where the recording does not say.
    """
    if offered is None or not offered.latched:
        return RESULT
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=min(offered.depth or RESULT.depth, _DEEPEST),
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL,
    )


def kept_from_before(offered: Offered | None) -> int:
    """Messages of a recorded topic that held when a part of the recording begins; at least the last where it latches.

    Args:
        offered: by those who published it; None where the recording does not say.
    """
    return min(offered.depth or 1, _DEEPEST) if offered is not None and offered.latched else 0
