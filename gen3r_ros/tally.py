"""What became of jobs and goals, for the log and for diagnostics."""

from __future__ import annotations

from collections import Counter

from rclpy.node import Node

from gen3r_core.serving.codes import ErrorCode
from gen3r_ros.goals import Goal, GoalEnd


class Tally:
    """One thread's own; others read.

    Args:
        node: for its log.

    Attributes:
        seconds: by stage, of the last job of each kind.
        counts: jobs by kind and code, goals by code, keyframes, and internal errors.
        last_failure: of a job, in words.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self.seconds: dict[str, dict[str, float]] = {}
        self.counts: Counter[str] = Counter()
        self.last_failure = ""

    def went_well(self, goal: Goal, end: GoalEnd) -> None:
        """End a goal that was reached."""
        self.counts["goals OK"] += 1
        goal.finish(end)

    def went_badly(self, goal: Goal, code: ErrorCode, message: str) -> None:
        """End one that was not."""
        self.counts[f"goals {code.name}"] += 1
        if code not in (ErrorCode.CANCELED, ErrorCode.SUPERSEDED):
            self.last_failure = message
            self._node.get_logger().warning(f"a goal ended as {code.name}: {message}", throttle_duration_sec=1.0)
        goal.finish(GoalEnd(code, message))

    def internal_error(self, error: Exception) -> None:
        """Something that should not happen."""
        self.counts["internal errors"] += 1
        self.last_failure = f"{type(error).__name__}: {error}"
        self._node.get_logger().error(f"an internal error: {self.last_failure}", throttle_duration_sec=5.0)
