"""Times of frames, for files in which everything has one."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["SECOND", "STEP_NS", "complete_stamps"]

SECOND = 1_000_000_000
STEP_NS = SECOND // 10
"""Between frames that nothing is known of."""
_END_NS = (1 << 31) * SECOND
"""ROS has seconds in 31 bits."""


def complete_stamps(stamps: Sequence[int | None]) -> list[int]:
    """Times for all frames.

    Those without one are spread evenly between their neighbours, or 0.1 s apart before the first and after the last.
    Where no frame has one they begin at 1 s: a stamp of 0 means "unknown" or "now" in ROS.

    Args:
        stamps: nanoseconds; None where not known. What ROS cannot write counts as not known.

    Returns:
        nanoseconds in [0, 2^31 s), in the order of the frames.
    """
    known = [(place, stamp) for place, stamp in enumerate(stamps) if stamp is not None and 0 <= stamp < _END_NS]
    if not known:
        return [SECOND + place * STEP_NS for place in range(len(stamps))]
    found = [0] * len(stamps)
    first, last = known[0], known[-1]
    for place in range(first[0]):
        found[place] = max(0, first[1] - (first[0] - place) * STEP_NS)
    for (at, stamp), (then, next_stamp) in zip(known, [*known[1:], last], strict=True):
        for place in range(at, then):
            found[place] = stamp + (next_stamp - stamp) * (place - at) // (then - at)
    for place in range(last[0], len(stamps)):
        found[place] = min(_END_NS - 1, last[1] + (place - last[0]) * STEP_NS)
    return found
