"""What profiles cost and gain, drawn: the error of their latents against the seconds of a job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gen3r_core.bench import BenchReport, BenchResult, heading
from gen3r_core.errors import InputError
from gen3r_core.execution.profiles import PROFILES
from gen3r_core.execution.trajectory import TrajectoryError
from gen3r_core.io.atomic import atomic_path

FORMATS = ("png", "svg", "pdf")
"""What a picture may be, by the ending of its name."""


def check_picture(path: Path) -> None:
    """See that a plot can be written there.

    Raises:
        InputError: the name ends otherwise than in one of :data:`FORMATS`.
    """
    if path.suffix[1:].lower() not in FORMATS:
        raise InputError(f"a plot can be {', '.join(FORMATS)}, by the ending of its name; got {path.name!r}")


def draw_errors(report: BenchReport, bad_caches: Sequence[TrajectoryError]) -> Figure:
    """Draw every result whose error is known.

    Errors are the largest relative L2 distance of the latents from the exact ones on their way, over the length of
    that way, in %; the exact profile has the error 0. Dotted lines are the limits of the profiles, a dashed one is the
    least error of a deliberately bad cache, which they must lie under.

    Args:
        report: of a bench with errors.
        bad_caches: errors of the bad cache.

    Raises:
        InputError: no result has an error.
    """
    known = [result for result in report.results if result.error is not None]
    if not known:
        raise InputError("there is nothing to plot: no profile of these has the frames and size of exact")
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    alone = len({(result.task, result.size, result.budget_gib) for result in known}) == 1
    for result in known:
        _point(axes, result, alone=alone)
    drawn = {result.profile for result in known}
    for profile in PROFILES.values():
        if profile.limit and profile.name in drawn:
            _level(axes, profile.limit, f"limit of {profile.name}", ":", "0.5")
    if bad_caches:
        _level(axes, min(error.worst for error in bad_caches), "a deliberately bad cache", "--", "tab:red")
    axes.set(xlabel="seconds of a job", ylabel="error of the latents against exact, %")
    axes.margins(y=0.1)
    axes.set_xlim(0, 1.3 * max(result.total for result in known))  # room for the words beside the last
    facts = ", ".join(f"{key} {report.options[key]}" for key in ("dtype", "steps", "guidance") if key in report.options)
    axes.set_title(f"{report.model} on {report.machine['device']}; {facts}", fontsize=9)
    return figure


def write_plot(report: BenchReport, bad_caches: Sequence[TrajectoryError], path: Path) -> None:
    """Write what :func:`draw_errors` draws.

    Args:
        report: of a bench with errors.
        bad_caches: errors of the bad cache.
        path: of the picture.

    Raises:
        InputError: there is nothing to plot, or the name's ending is unknown.
    """
    check_picture(path)
    figure, kind = draw_errors(report, bad_caches), path.suffix[1:].lower()
    with atomic_path(path) as partial:
        figure.savefig(partial, format=kind, dpi=150)


def _level(axes: Axes, error: float, words: str, line: str, color: str) -> None:
    """A line across at an error, 1 being the whole way."""
    axes.axhline(100 * error, linestyle=line, linewidth=1, color=color)
    place = ("axes fraction", "data")
    axes.annotate(words, (1, 100 * error), xycoords=place, ha="right", va="bottom", color=color, fontsize=8)


def _point(axes: Axes, result: BenchResult, *, alone: bool) -> None:
    """One result; ``alone`` says that only profiles differ, whose names then suffice."""
    error = 100 * (result.error or 0.0)
    axes.plot(result.total, error, marker="o" if result.accepted else "X", markersize=9, color="tab:blue")
    words = result.profile if alone else f"{result.profile}, {heading(replace(result, profile='exact'))}"
    words += f"\n{result.total:.3g} s, {error:.2g} %" + ("" if result.accepted else ", refused")
    axes.annotate(words, (result.total, error), xytext=(9, 4), textcoords="offset points", fontsize=9)
