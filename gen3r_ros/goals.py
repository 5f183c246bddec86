"""What clients ask for: goals of the actions and the topic, from their acceptance to their result."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from builtin_interfaces.msg import Duration
from gen3r.action import PredictViews, Reconstruct
from gen3r.msg import GenerationOptions, Reconstruction
from nav_msgs.msg import Path
from rclpy.action.server import ActionServer, CancelResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node

from gen3r_core.errors import InputError
from gen3r_core.serving.codes import ErrorCode
from gen3r_ros.parameters import NodeParameters
from gen3r_ros.qos import RESULT

_CANCEL_S = 2.0


@dataclass(frozen=True)
class GoalEnd:
    """How a goal ended; see the actions for the fields."""

    code: ErrorCode
    message: str = ""
    scene_id: str = ""
    revision: int = 0
    views: int = 0
    views_generated: int = 0
    points_generated: int = 0
    profile: str = ""
    age: Any = None
    reconstruction: Any = None


Feedback = Callable[[str, int, int, float], None]
"""Called with stage, steps done, steps of the stage, and seconds left (NaN while unknown)."""


@dataclass(eq=False)
class Goal:
    """Something to do for somebody, who may wait for its end in another thread.

    Attributes:
        request: goal message of an action.
        feedback: told of progress; returns quickly.
        accepted: when, by ``time.monotonic``.
        end: how it ended; None before.
    """

    request: Any
    feedback: Feedback = lambda _stage, _step, _total, _left: None
    accepted: float = field(default_factory=time.monotonic)
    end: GoalEnd | None = None
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def deadline(self) -> float | None:
        """By ``time.monotonic``; None if there is none."""
        return self.accepted + self.request.deadline_s if self.request.deadline_s else None

    def finish(self, end: GoalEnd) -> None:
        """It ended; only the first end counts."""
        if self.end is None:
            self.end = end
            self.ended.set()

    def left(self) -> float | None:
        """Seconds until its deadline, None if there is none.

        Raises:
            InputError: it is negative or not finite.
        """
        if not (math.isfinite(self.request.deadline_s) and self.request.deadline_s >= 0):
            raise InputError(f"deadline_s is a number of seconds, 0 for none, got {self.request.deadline_s}")
        return None if self.deadline is None else max(self.deadline - time.monotonic(), 1e-3)


class Goals:
    """The actions PredictViews and Reconstruct, and the topic ``goal_path``; there as long as the node is.

    Args:
        node: that serves.
        submit: takes a goal over; called in a callback.
        cancel: wants a goal to end as CANCELED; the same.
        parameters: the present ones of the node.
    """

    def __init__(
        self,
        node: Node,
        submit: Callable[[Goal], None],
        cancel: Callable[[Goal], None],
        parameters: Callable[[], NodeParameters],
    ) -> None:
        self._node, self._submit, self._cancel, self._parameters = node, submit, cancel, parameters
        self._running: dict[bytes, Goal] = {}
        group = ReentrantCallbackGroup()
        for kind, name in ((PredictViews, "predict_views"), (Reconstruct, "reconstruct")):
            ActionServer(
                node,
                kind,
                name,
                self._executor_of(kind),
                callback_group=group,
                cancel_callback=self._take_cancel,
            )
        self._paths = node.create_subscription(Path, "goal_path", self._take_path, RESULT, callback_group=group)

    def _executor_of(self, kind: Any) -> Callable[[Any], Any]:
        """What waits in a thread of the executor until a goal ended; the newest supersede, so there are few."""

        def execute(handle: Any) -> Any:
            def feedback(stage: str, step: int, total: int, left: float) -> None:
                handle.publish_feedback(kind.Feedback(stage=stage, step=step, total=total, seconds_left=left))

            goal = Goal(handle.request, feedback)
            self._running[bytes(handle.goal_id.uuid)] = goal
            try:
                if handle.is_cancel_requested:  # before it was executed
                    goal.finish(GoalEnd(ErrorCode.CANCELED, "canceled by its client"))
                else:
                    self._submit(goal)
                goal.ended.wait()
            finally:
                self._running.pop(bytes(handle.goal_id.uuid), None)
            end = goal.end or GoalEnd(ErrorCode.WORKER_FAILED)
            self._close(handle, end.code)
            return result_message(kind, end, time.monotonic() - goal.accepted)

        return execute

    def _close(self, handle: Any, code: ErrorCode) -> None:
        """Put the action's own state to what became of the goal."""
        if code is ErrorCode.OK:
            handle.succeed()
            return
        until = time.monotonic() + _CANCEL_S  # the client's request is answered in another thread
        while code is ErrorCode.CANCELED and not handle.is_cancel_requested and time.monotonic() < until:
            time.sleep(0.001)
        if code is ErrorCode.CANCELED and handle.is_cancel_requested:
            handle.canceled()
        else:
            handle.abort()

    def _take_cancel(self, handle: Any) -> CancelResponse:
        goal = self._running.get(bytes(handle.goal_id.uuid))
        if goal is not None:
            self._cancel(goal)
        return CancelResponse.ACCEPT

    def _take_path(self, message: Path) -> None:
        own = self._parameters()
        goal = Goal(
            PredictViews.Goal(path=message, prompt=own.prompt, deadline_s=own.deadline_s, options=GenerationOptions())
        )
        self._submit(goal)


def result_message(kind: Any, end: GoalEnd, seconds: float) -> Any:
    """The result of an action."""
    if kind is Reconstruct:
        return Reconstruct.Result(
            code=int(end.code),
            message=end.message,
            reconstruction=end.reconstruction or Reconstruction(),
            seconds=seconds,
        )
    return PredictViews.Result(
        code=int(end.code),
        message=end.message,
        scene_id=end.scene_id,
        revision=end.revision,
        views=end.views,
        views_generated=end.views_generated,
        points_generated=end.points_generated,
        profile=end.profile,
        age=end.age or Duration(),
        seconds=seconds,
    )
