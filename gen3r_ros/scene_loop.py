"""The thread between callbacks and the worker: it hands jobs in, places what comes back, and publishes it.

Callbacks only put things into its inbox. Scene, map and goals belong to this thread alone.
"""

from __future__ import annotations

import contextlib
import math
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

import numpy as np
from gen3r.action import Reconstruct
from rclpy.node import Node

from gen3r_core.checkpoint.precheck import CheckpointFacts
from gen3r_core.errors import InputError
from gen3r_core.serving.client import InferenceWorker
from gen3r_core.serving.codes import ErrorCode
from gen3r_core.serving.events import EndedEvent, ProgressEvent, StatusEvent
from gen3r_core.serving.requests import JobKind, ReconstructRequest
from gen3r_core.serving.results import SceneResult
from gen3r_core.serving.status import WorkerState
from gen3r_core.serving.tickets import Outcome, Ticket
from gen3r_ros.camera_image import ImageKeyframe, common_size
from gen3r_ros.goals import Goal, GoalEnd
from gen3r_ros.jobs import Job, Sources
from gen3r_ros.parameters import NodeParameters
from gen3r_ros.paths import Paths
from gen3r_ros.placement import known_poses
from gen3r_ros.planning import nothing_from
from gen3r_ros.scene import SavedMap, Scene
from gen3r_ros.tally import Tally

T = TypeVar("T")
Identity = tuple[tuple[int, str], ...]
"""What tells a window from others: stamps and cameras."""

_TICK_S = 0.1
_RETRY_S = 1.0
"""After a reconstruction that failed, so that a fault does not fill the log."""

_IN_A_ROW = 3
"""So many predictions in a hurry may put a reconstruction off; their scale and the map get old meanwhile."""


class SceneLoop:
    """Runs from configuration to clean-up.

    Args:
        node: for its log and clock.
        parameters: the present ones.
        facts: of the checkpoint.

    Attributes:
        worker: started by :meth:`start`.
        scene: that results belong to.
        tally: of jobs and goals.
    """

    def __init__(self, node: Node, parameters: Callable[[], NodeParameters], facts: CheckpointFacts) -> None:
        self._node, self._parameters = node, parameters
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.worker = InferenceWorker(parameters().worker, wake=lambda: self._inbox.put(None))
        own = parameters()
        self.scene = Scene(own.map_voxel_m, own.map_max_points)
        self._sources: Sources | None = None
        self._jobs: dict[Ticket, Job] = {}
        self._done_window: Identity = ()  # of the last that was handed in
        self._not_before = 0.0
        self._predictions = 0  # since the last reconstruction
        self._ending = threading.Lock()
        self._stopping = self._gone = False
        self._state = WorkerState.STOPPED
        self.tally = Tally(node)
        self._paths = Paths(self.worker, self.scene, self.tally, self._jobs, parameters, facts)
        self._thread = threading.Thread(target=self._run, name="gen3r scene", daemon=True)

    # ------------------------------------------------------------------ from other threads

    def start(self) -> None:
        """Begin to load the model; returns at once."""
        self.worker.start()
        self._thread.start()

    def stop(self, timeout: float = 10.0) -> bool:
        """End everything; False if the worker is not gone after ``timeout`` seconds."""
        self._put(self._stop)
        self._thread.join(timeout)
        self.worker.stop()
        return self.worker.join(timeout)

    def open(self, sources: Sources) -> None:
        """The node is active: a new scene begins. That of an earlier time is gone."""
        self._call(lambda: self._open(sources))

    def shut(self) -> None:
        """It is not any more: goals end as NOT_ACTIVE; returns when nothing will be published. The scene stays."""
        self._call(self._shut)

    @property
    def jobs(self) -> int:
        """Of the worker, waiting or running."""
        return len(self._jobs)

    @property
    def goal_waits(self) -> bool:
        """Whether a goal was not handed in yet."""
        return self._paths.held is not None

    def submit(self, goal: Goal) -> None:
        """Take a goal over."""
        self._put(lambda: self._take(goal))

    def cancel(self, goal: Goal) -> None:
        """Have a goal end as CANCELED."""
        self._inbox.put(lambda: self._cancel(goal))

    def keyframe(self) -> None:
        """There is a new keyframe."""
        self._inbox.put(self._new_keyframe)

    def restart(self, words: str) -> None:
        """Time was set back: another scene begins."""
        self._inbox.put(lambda: self._restart(words))

    def saved_map(self, *, include_generated: bool) -> SavedMap:
        """See :meth:`Scene.saved_map`."""
        return self._call(lambda: self.scene.saved_map(include_generated=include_generated))

    def _put(self, item: Callable[[], None]) -> None:
        """Into the inbox; done here where the thread has ended, so that nobody waits for ever."""
        with self._ending:
            if not self._gone:
                self._inbox.put(item)
                return
        item()

    def _call(self, function: Callable[[], T], timeout: float = 20.0) -> T:
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(function())
            except BaseException as error:  # noqa: BLE001 - it is raised where the result is waited for
                future.set_exception(error)

        self._put(run)
        return future.result(timeout)

    # ------------------------------------------------------------------ the loop

    def _run(self) -> None:
        while not self._stopping:
            item = None
            with contextlib.suppress(queue.Empty):
                item = self._inbox.get(timeout=_TICK_S)
            self._turn(item)
        with self._ending:
            self._gone = True
        while not self._inbox.empty():
            self._turn(self._inbox.get())

    def _turn(self, item: Callable[[], None] | None) -> None:
        try:
            if item is not None:
                item()
            for event in self.worker.events.drain():
                self._hear(event)
            if not self._stopping:
                self._look_after_time()
                self._reconstruct_on()
                self._predict_on()
        except Exception as error:  # noqa: BLE001 - the thread goes on, whatever one message or result does
            self.tally.internal_error(error)

    def _stop(self) -> None:
        self._shut()
        self._stopping = True

    def _open(self, sources: Sources) -> None:
        self._sources = sources
        self._begin_scene()

    def _shut(self) -> None:
        self._sources = None
        self._paths.end(ErrorCode.NOT_ACTIVE, "the node was deactivated")
        for ticket, job in list(self._jobs.items()):
            ticket.cancel()
            if job.goal is not None:
                job.goal.finish(GoalEnd(ErrorCode.NOT_ACTIVE, "the node was deactivated"))
            job.window = ()

    def _begin_scene(self) -> None:
        self.scene.begin()
        self._done_window = ()
        if self._sources is not None:
            self._sources.outputs.forget()

    def _new_keyframe(self) -> None:
        self.tally.counts["keyframes"] += 1

    def _restart(self, words: str) -> None:
        """What is being computed is of the old scene; it is not published."""
        self.tally.counts["restarts of time"] += 1
        why = f"{words}, and with it the images that the goal began at are of another scene; send it again"
        self._paths.end(ErrorCode.NO_IMAGES, why)
        for ticket, job in self._jobs.items():
            ticket.cancel()
            if job.goal is not None:
                self.tally.went_badly(job.goal, ErrorCode.NO_IMAGES, why)
            job.window = ()
        self._begin_scene()

    def _look_after_time(self) -> None:
        self._paths.look_after_time()
        if self._sources is not None:
            self.scene.publish_map(self._sources.outputs, self._parameters().map_period_s)

    # ------------------------------------------------------------------ reconstruction

    def _reconstruct_on(self) -> None:
        """Hand the present window in, if the worker is free and it is another one than last time.

        It goes before a goal that waits: paths that come faster than predictions are made would leave it no turn.
        """
        own, sources = self._parameters(), self._sources
        unscaled = self._paths.held is not None and self.scene.metric_placement is None
        if sources is None or not (own.continuous or unscaled) or not self._free:
            return
        if not unscaled and self._predictions < _IN_A_ROW and self._paths.hurried:
            return
        window = sources.camera.window(own.window)
        identity = _identity(window)
        if len(window) < own.min_window or identity == self._done_window or time.monotonic() < self._not_before:
            return
        self._done_window = identity
        self._submit_window(window, None, None)

    @property
    def _free(self) -> bool:
        return self.worker.status.state is WorkerState.READY and not self._jobs

    def _predict_on(self) -> None:
        """Hand the goal in that waited for the worker; one whose scale is not known waits for a reconstruction."""
        if self._sources is not None and self.scene.metric_placement is not None and self._free:
            self._paths.submit(self._sources, coming=self._coming())

    def _submit_window(self, window: tuple[ImageKeyframe, ...], goal: Goal | None, deadline_s: float | None) -> None:
        own = self._parameters()
        try:
            size = common_size(window)
            views = [keyframe.payload.view(size) for keyframe in window]
            request = ReconstructRequest(
                [picture for picture, _ in views],
                np.stack([intrinsics for _, intrinsics in views]),
                longest=own.longest or None,
                cloud=own.cloud,
                T_world_cam=known_poses(window) if own.anchor and not own.metres_per_unit else None,
            )
            ticket = self.worker.reconstruct(request, deadline_s=deadline_s)
        except InputError as error:
            self._fail(Job(window, goal), ErrorCode.INVALID_REQUEST, str(error))
            return
        self._jobs[ticket] = Job(window, goal)

    def _reconstructed(self, job: Job, outcome: Outcome, result: SceneResult, sources: Sources) -> None:
        start = time.perf_counter()
        revision = self.scene.reconstructed(
            job.window, result, self._parameters().metres_per_unit, sum(outcome.stages.values())
        )
        aligned = time.perf_counter()
        facts = sources.outputs.reconstruction(revision)
        own = {"align": aligned - start, "publish": time.perf_counter() - aligned}
        self.tally.seconds["reconstruct"] = {**outcome.stages, **own}
        if job.goal is not None:
            job.goal.feedback("align", 1, 1, 0.0)
            job.goal.feedback("publish", 1, 1, 0.0)
            self.tally.went_well(job.goal, GoalEnd(ErrorCode.OK, reconstruction=facts))
            if job.goal.request.new_scene:
                sources.camera.clear()
                self._begin_scene()
        self._paths.submit(sources)

    # ------------------------------------------------------------------ goals

    def _take(self, goal: Goal) -> None:
        sources, status = self._sources, self.worker.status
        if sources is None:
            goal.finish(GoalEnd(ErrorCode.NOT_ACTIVE, "the node is not active; activate it first"))
        elif status.model is None and status.state is WorkerState.FAILED:
            goal.finish(GoalEnd(ErrorCode.WORKER_FAILED, status.words))
        elif isinstance(goal.request, Reconstruct.Goal):
            self._take_reconstruct(goal, sources)
        else:
            self._paths.hold(goal)
            self._paths.submit(sources, coming=self._coming())

    def _take_reconstruct(self, goal: Goal, sources: Sources) -> None:
        own = self._parameters()
        window = sources.camera.window(goal.request.max_keyframes or own.window)
        goal.feedback("queued", 0, 1, math.nan)
        if not window:
            self.tally.went_badly(goal, *nothing_from(sources.camera))
            return
        try:
            left = goal.left()
        except InputError as error:
            goal.finish(GoalEnd(ErrorCode.INVALID_REQUEST, str(error)))
            return
        self._submit_window(window, goal, left)

    def _coming(self) -> bool:
        """Whether there is a reconstruction to wait for, if there are keyframes enough."""
        sources = self._sources
        return sources is not None and (bool(self._jobs) or self._present(sources) != self._done_window)

    def _present(self, sources: Sources) -> Identity:
        return _identity(sources.camera.window(self._parameters().window))

    def _cancel(self, goal: Goal) -> None:
        self._paths.cancel(goal)
        for ticket, job in self._jobs.items():
            if job.goal is goal:
                ticket.cancel()

    # ------------------------------------------------------------------ what the worker says

    def _hear(self, event: object) -> None:
        if isinstance(event, StatusEvent):
            self._status(event)
        elif isinstance(event, ProgressEvent):
            job = self._jobs.get(event.ticket)
            if job is not None and job.goal is not None:
                job.goal.feedback(event.stage, event.step, event.total, event.seconds_left)
        elif isinstance(event, EndedEvent):
            self._ended(event.ticket, event.outcome)

    def _status(self, event: StatusEvent) -> None:
        state, told = event.status.state, self._node.get_logger()
        before, self._state = self._state, state
        if state is before:
            return
        if state is WorkerState.FAILED:
            told.error(f"the model cannot be used: {event.status.words}")
            self._paths.end(ErrorCode.WORKER_FAILED, event.status.words)
        elif state is WorkerState.RESTARTING:
            told.error(f"the inference process was lost: {event.status.words}")
        elif state is WorkerState.READY and before in (WorkerState.LOADING, WorkerState.STARTING):
            model = event.status.model
            if model is not None:
                told.info(f"{model.name} is ready on {model.device} ({model.dtype}, {model.parameters:,} parameters)")
            if self._sources is not None:
                self._paths.submit(self._sources, coming=self._coming())

    def _ended(self, ticket: Ticket, outcome: Outcome) -> None:
        job = self._jobs.pop(ticket, None)
        self._predictions = self._predictions + 1 if ticket.kind is JobKind.PREDICT else 0
        self.tally.counts[f"{ticket.kind} {outcome.code.name}"] += 1
        result = outcome.result
        if job is None or not job.window or result is None:
            if result is not None:
                result.release()
            elif job is not None and job.window:
                self._fail(job, outcome.code, outcome.message)
            return
        with result:
            try:
                if self._sources is not None and job.goal is not None and job.T_world_views is not None:
                    self._paths.predicted(job, job.goal, outcome, result, self._sources)
                elif self._sources is not None:
                    self._reconstructed(job, outcome, result, self._sources)
            except Exception as error:
                self._fail(job, ErrorCode.INFERENCE_FAILED, f"what the model made cannot be used: {error}")
                raise

    def _fail(self, job: Job, code: ErrorCode, message: str) -> None:
        if job.goal is not None:
            self.tally.went_badly(job.goal, code, message)
            return
        self.tally.last_failure = message
        self._done_window = ()  # it may go better next time
        self._not_before = time.monotonic() + _RETRY_S
        if code is not ErrorCode.SUPERSEDED:
            text = f"a reconstruction ended as {code.name}: {message}"
            self._node.get_logger().warning(text, throttle_duration_sec=5.0)


def _identity(window: tuple[ImageKeyframe, ...]) -> Identity:
    return tuple((keyframe.stamp_ns, keyframe.payload.source) for keyframe in window)
