"""From the seconds that are left to a way of predicting that may need no more: the profiles, from exact to fastest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from gen3r_core.errors import InputError
from gen3r_core.execution.profiles import PROFILES
from gen3r_core.serving.pace import REPEATED, seconds_of
from gen3r_core.serving.requests import PredictOptions

EXACT = "exact"
MARGIN = 1.1
"""A job is expected to take so much longer than the fastest of its kind did."""

_CONSTANT = ("text", "image")
"""Stages that take the same for any size and number of views."""

Known = Callable[[PredictOptions], Mapping[str, float] | None]
"""Seconds by stage of the fastest job with such options, of denoising by step; None where nothing is known."""


@dataclass(frozen=True)
class Way:
    """A way to predict.

    Attributes:
        profile: its name, one of :data:`~gen3r_core.execution.profiles.PROFILES`.
        options: of the request; frames and size are numbers.
    """

    profile: str
    options: PredictOptions

    @property
    def pixels(self) -> int:
        """Of all views together."""
        height, width = self.options.size or (0, 0)
        return (self.options.num_frames or 0) * height * width

    @property
    def work(self) -> float:
        """What denoising takes, to compare it."""
        return self.pixels * self.options.steps * _branches(self.options)


def ways(options: PredictOptions, *, task: str, fastest: str, fixed: Sequence[str] = ()) -> list[Way]:
    """The ways to predict, from exact on; those that are no faster than the one before are left out.

    Args:
        options: as they would be without any hurry; frames and size are numbers.
        task: of the prediction.
        fastest: name of the last profile that may be used.
        fixed: options that stay as they are: somebody asked for them.
    """
    frames, size = options.num_frames, options.size
    if frames is None or size is None:
        raise InputError(f"how long it takes depends on frames and size, got {frames} and {size}; give both")
    found = [Way(EXACT, options)]
    names = list(PROFILES)
    for name in names[1 : names.index(fastest) + 1]:
        hurried = PROFILES[name].sampling(options, task=task, num_frames=frames, image_size=size)
        hurried = replace(hurried, **{own: getattr(options, own) for own in fixed})
        if Way(name, hurried).work < found[-1].work:
            found.append(Way(name, hurried))
    return found


def choose(found: Sequence[Way], left_s: float | None, known: Known) -> Way:
    """The first way that is in time, going by jobs that were done; the last where none is.

    Where nothing is known of a way, it is reckoned from the exact one. Where nothing is known of that either, it is
    taken, and the next goal knows more.

    Args:
        found: of :func:`ways`.
        left_s: seconds, without those that the worker has to do before; None for any.
        known: asked for the times of jobs.
    """
    if left_s is None:
        return found[0]
    first = known(found[0].options)
    for way in found:
        run = known(way.options) or (first and _reckoned(first, found[0], way))
        if run is None or MARGIN * seconds_of(run, way.options.steps) <= left_s:
            return way
    return found[-1]


def _reckoned(run: Mapping[str, float], known: Way, way: Way) -> dict[str, float]:
    """What a run says of another way: time goes by pixels, or less than that, and twice for guided steps."""
    less = way.pixels / known.pixels
    branches = _branches(way.options) / _branches(known.options)
    return {
        name: value * (1.0 if name in _CONSTANT else less) * (branches if name == REPEATED else 1.0)
        for name, value in run.items()
    }


def _branches(options: PredictOptions) -> float:
    begin, end = options.guided_share
    return 1.0 + (end - begin) * (options.guidance > 1)
