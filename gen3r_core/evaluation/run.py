"""Going through the clips: predict, measure, compare with what needs no model."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

import torch

from gen3r_core.conditioning import Task
from gen3r_core.errors import InputError
from gen3r_core.evaluation.baselines import cross_fade, nearest_known
from gen3r_core.evaluation.measure import (
    Figures,
    class_figures,
    geometry_figures,
    image_figures,
    predicted_clouds,
)
from gen3r_core.evaluation.predictions import Prediction
from gen3r_core.evaluation.scenes import Scenes, TrueScene
from gen3r_core.evaluation.tasks import Evaluated, VideoVAETask
from gen3r_core.metrics.cloud_distances import CloudErrors, cloud_errors, prepare_worker
from gen3r_core.progress import Callback, Progress

__all__ = ["SceneFigures", "evaluate"]

Show = Callable[[TrueScene, Prediction, "SceneFigures"], None]


@dataclass(frozen=True)
class SceneFigures:
    """All figures of one clip.

    Attributes:
        name: of the scene.
        caption: of the scene.
        prompt: what a generation was asked for, otherwise None.
        seconds: that the prediction took.
        figures: of the prediction.
        baselines: the same of "nearest", "crossfade" and "vggt", where they make sense.
        baseline_seconds: that a baseline took, for those that run a network.
    """

    name: str
    caption: str
    prompt: str | None
    seconds: float
    figures: Figures
    baselines: dict[str, Figures] = field(default_factory=dict)
    baseline_seconds: dict[str, float] = field(default_factory=dict)


def evaluate(
    scenes: Scenes,
    model: Evaluated,
    *,
    device: torch.device,
    batch_size: int = 1,
    workers: int = 0,
    callback: Callback | None = None,
    show: Show | None = None,
) -> Generator[SceneFigures]:
    """Measure a model, clip by clip.

    The first batch is predicted twice, once to warm up. Clouds are compared while the next clips are predicted, if
    there are workers; that is why figures may come late, but always in order.

    Args:
        scenes: the clips.
        model: what is measured.
        device: where clips are made and networks run.
        batch_size: clips that are predicted together.
        workers: processes that compare clouds; 0 does it in this one.
        callback: told when clips are made or read, and about the steps of a prediction.
        show: given each clip with its prediction, for pictures; the figures of clouds are not there yet.

    Yields:
        The figures of each clip.

    Raises:
        InputError: a clip cannot be read or does not suit the networks, or an option makes no sense.
        DeviceError: memory runs out.
    """
    if batch_size < 1 or workers < 0:
        raise InputError(f"an evaluation needs batches of at least one clip, got {batch_size}, and {workers} workers")
    pool = _CloudPool(workers)
    waiting: deque[tuple[SceneFigures, Future[list[CloudErrors]] | None]] = deque()
    rows = iter(range(len(scenes)))
    warm = False
    try:
        while chosen := list(islice(rows, batch_size)):
            if callback is not None:
                callback(Progress("clips", 0, 1))
            clips = scenes.load(chosen, device)
            if not warm:
                model.predict(clips, warm_up=True, callback=callback)
                warm = True
            for clip, prediction in zip(clips, model.predict(clips, callback=callback), strict=True):
                measured = _measure(clip, prediction, model)
                if show is not None:
                    show(clip, prediction, measured)
                waiting.append((measured, pool.submit(clip, prediction)))
                while waiting and (len(waiting) > 2 * workers or _is_done(waiting[0][1])):
                    yield _complete(*waiting.popleft())
        while waiting:
            yield _complete(*waiting.popleft())
    finally:
        pool.close()


def _measure(scene: TrueScene, prediction: Prediction, model: Evaluated) -> SceneFigures:
    """All figures but those of clouds."""
    figures: Figures = {}
    baselines: dict[str, Figures] = {}
    seconds: dict[str, float] = {}
    if prediction.colors is not None:
        figures |= image_figures(prediction.colors, scene.colors, model.task)
        if isinstance(model, VideoVAETask):
            figures |= class_figures(prediction.colors, scene.colors)
        if model.task is not None and model.task is not Task.ALL_VIEW:
            known = model.task.known_frames(len(scene.colors))
            baselines["nearest"] = image_figures(nearest_known(scene.colors, known), scene.colors, model.task)
            if len(known) > 1:
                baselines["crossfade"] = image_figures(cross_fade(scene.colors, known), scene.colors, model.task)
    if prediction.geometry is not None:
        figures |= geometry_figures(prediction.geometry, scene)
    if prediction.vggt is not None:
        baselines["vggt"] = geometry_figures(prediction.vggt, scene)
        if prediction.vggt_seconds is not None:
            seconds["vggt"] = prediction.vggt_seconds
    return SceneFigures(scene.name, scene.caption, prediction.prompt, prediction.seconds, figures, baselines, seconds)


def _complete(measured: SceneFigures, clouds: Future[list[CloudErrors]] | None) -> SceneFigures:
    """With the figures of clouds, in the order in which :meth:`_CloudPool.submit` takes predictions."""
    if clouds is not None:
        targets = [measured.figures]
        if "vggt" in measured.baselines:
            targets.append(measured.baselines["vggt"])
        for target, errors in zip(targets, clouds.result(), strict=True):
            target.update(errors._asdict())
    return measured


def _is_done(clouds: Future[list[CloudErrors]] | None) -> bool:
    return clouds is None or clouds.done()


class _CloudPool:
    """Compares clouds, here or in other processes."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._processes: ProcessPoolExecutor | None = None

    def submit(self, scene: TrueScene, prediction: Prediction) -> Future[list[CloudErrors]] | None:
        """Errors of the prediction's cloud, then of VGGT's; None where there is nothing to compare."""
        found = [geometry for geometry in (prediction.geometry, prediction.vggt) if geometry is not None]
        clouds = predicted_clouds(found, scene) if prediction.geometry is not None else None
        if clouds is None:
            return None
        if not self._workers:
            done: Future[list[CloudErrors]] = Future()
            done.set_result(cloud_errors(*clouds))
            return done
        if self._processes is None:
            context = multiprocessing.get_context("spawn")
            self._processes = ProcessPoolExecutor(self._workers, mp_context=context, initializer=prepare_worker)
        return self._processes.submit(cloud_errors, *clouds)

    def close(self) -> None:
        """Ends the processes; what has not begun is dropped."""
        if self._processes is not None:
            self._processes.shutdown(wait=True, cancel_futures=True)
