"""Goals along a path, from their acceptance to their views: the newest waits for the scale and for its turn."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np

from gen3r_core.checkpoint.precheck import CheckpointFacts
from gen3r_core.serving.client import InferenceWorker
from gen3r_core.serving.codes import ErrorCode
from gen3r_core.serving.hurry import EXACT
from gen3r_core.serving.requests import PATH, JobKind, predict_pace_key
from gen3r_core.serving.results import SceneResult
from gen3r_core.serving.status import WorkerState
from gen3r_core.serving.tickets import Outcome, Ticket
from gen3r_ros.goals import Goal, GoalEnd
from gen3r_ros.jobs import Job, Sources
from gen3r_ros.parameters import NodeParameters
from gen3r_ros.planning import TASK, RefusedError, Times, prepare
from gen3r_ros.scene import Scene
from gen3r_ros.tally import Tally

_MARGIN = 1.5
"""A prediction may take so many times as long as the last one."""


class Paths:
    """Belongs to the thread of :class:`~gen3r_ros.scene_loop.SceneLoop`.

    Args:
        worker: that predicts.
        scene: whose scale counts.
        tally: told how goals end.
        jobs: of the worker; those that are handed in here are added.
        parameters: the present ones.
        facts: of the checkpoint.

    Attributes:
        held: the goal that was not handed in yet; None where there is none.
    """

    def __init__(
        self,
        worker: InferenceWorker,
        scene: Scene,
        tally: Tally,
        jobs: dict[Ticket, Job],
        parameters: Callable[[], NodeParameters],
        facts: CheckpointFacts,
    ) -> None:
        self._worker, self._scene, self._tally, self._jobs = worker, scene, tally, jobs
        self._parameters, self._facts = parameters, facts
        self.held: Goal | None = None

    def hold(self, goal: Goal) -> None:
        """Take a goal; one that is held ends as SUPERSEDED."""
        goal.feedback("queued", 0, 1, math.nan)
        self.end(ErrorCode.SUPERSEDED, "a newer goal took its place")
        self.held = goal

    def submit(self, sources: Sources, *, coming: bool = False) -> None:
        """Hand the goal in that is held, if the scale is known and no other one is being predicted, or end it.

        What waits is handed in last, with the newest image and scale then.

        Args:
            sources: of images and transforms.
            coming: a reconstruction may tell the scale yet; then it is held on.
        """
        goal, model = self.held, self._worker.status.model
        if goal is None or model is None:  # the last: until the worker is there again
            return
        own, placement = self._parameters(), self._scene.placement
        enough = len(sources.camera.window(own.min_window)) >= own.min_window
        why = "nothing was reconstructed yet" if placement is None else placement.reason
        if not enough:
            why = f"there are fewer than {own.min_window} keyframes"
        try:
            ready = prepare(
                goal,
                sources.camera,
                sources.transforms,
                own,
                model,
                self._facts,
                self._scene.metric_placement,
                why,
                times=self._times(),
            )
        except RefusedError as error:
            if error.code is not ErrorCode.SCALE_UNKNOWN or not (coming and enough):
                self.end(error.code, str(error))
            return
        if self._predicting and not own.replace_running:
            return
        self.held = None
        if ready.profile != EXACT:
            self._tally.counts[f"goals hurried as {ready.profile}"] += 1
        ticket = self._worker.predict(ready.request, deadline_s=ready.deadline_s, replace_running=own.replace_running)
        self._jobs[ticket] = Job(ready.window, goal, ready.T_world_views, ready.scale, ready.profile)

    @property
    def _predicting(self) -> bool:
        status = self._worker.status
        return status.state is WorkerState.BUSY and status.words == str(JobKind.PREDICT)

    @property
    def hurried(self) -> bool:
        """Whether the goal that is held may be late if a reconstruction goes first, by what the last ones took."""
        held, seconds = self.held, self._tally.seconds
        if held is None or held.deadline is None:
            return False
        before = sum(seconds.get("reconstruct", {}).values())
        own = sum(seconds["predict"].values()) if "predict" in seconds else math.inf
        return held.deadline - time.monotonic() < before + _MARGIN * own

    def _times(self) -> Times:
        """What the worker knows of how long it takes."""
        return Times(
            self._worker.busy_s,
            lambda options: self._worker.fastest(predict_pace_key(TASK, 0, PATH, options), options.steps),
        )

    def predicted(self, job: Job, goal: Goal, outcome: Outcome, result: SceneResult, sources: Sources) -> None:
        """Publish what the worker made for a goal, and end it."""
        start = time.perf_counter()
        goal.feedback("publish", 0, 1, math.nan)
        revision = self._scene.predicted(
            job.window, result, job.T_world_views, job.known_scale, sum(outcome.stages.values())
        )
        sources.outputs.reconstruction(revision)
        views = sources.outputs.views(revision, result)
        self._tally.seconds["predict"] = {**outcome.stages, "publish": time.perf_counter() - start}
        goal.feedback("publish", 1, 1, 0.0)
        points = 0 if revision.generated is None else len(revision.generated.xyz)
        made = int(np.count_nonzero(~result.observed))
        age = sources.outputs.age(revision.stamp_ns)
        end = GoalEnd(ErrorCode.OK, "", revision.scene_id, revision.number, views, made, points, job.profile, age)
        self._tally.went_well(goal, end)

    def cancel(self, goal: Goal) -> None:
        """Its client wants it no more."""
        if self.held is goal:
            self.end(ErrorCode.CANCELED, "canceled by its client")

    def look_after_time(self) -> None:
        """End the goal that is held when its deadline has passed."""
        held = self.held
        if held is not None and held.deadline is not None and time.monotonic() >= held.deadline:
            self.end(ErrorCode.DEADLINE_MISSED, "its deadline passed while it waited")

    def end(self, code: ErrorCode, message: str) -> None:
        """The goal that is held ends so."""
        goal, self.held = self.held, None
        if goal is not None:
            self._tally.went_badly(goal, code, message)
