"""Figures of all clips as one: means, a table to read, JSON to keep."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from gen3r_core.evaluation.measure import FIGURES, Figures
from gen3r_core.evaluation.run import SceneFigures

__all__ = ["build_report", "format_report"]

BASELINES = {"nearest": "nearest frame", "crossfade": "cross-fade", "vggt": "VGGT, all frames"}
"""By the names they have in JSON, in the order of the table."""

_LABELS = {
    "psnr_middle": ("PSNR, middle frames", "dB", 2),
    "psnr_unknown": ("PSNR, {frames}", "dB", 2),
    "ssim_unknown": ("SSIM, {frames}", "", 3),
    "psnr_first": ("PSNR, frame 0", "dB", 2),
    "psnr_whole": ("PSNR, frames 4, 8, ...", "dB", 2),
    "psnr_between": ("PSNR, frames between", "dB", 2),
    "psnr_last": ("PSNR, last four frames", "dB", 2),
    "absrel": ("depth AbsRel", "", 4),
    "delta125": ("depth within 1.25", "", 4),
    "auc30": ("camera AUC@30", "", 4),
    "rotation_deg": ("rotation error", "deg", 2),
    "translation_deg": ("direction error", "deg", 2),
    "ate": ("ATE", "m", 4),
    "accuracy": ("accuracy", "m", 4),
    "completeness": ("completeness", "m", 4),
    "chamfer": ("chamfer", "m", 4),
    "seconds_per_scene": ("time a scene", "s", 3),
}
_OWN_CAMERAS = ("1view", "2view")


def build_report(task: str, results: Sequence[SceneFigures], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Means over scenes, with what they are means of.

    Args:
        task: what was measured.
        results: of the scenes, at least one.
        settings: how; they become part of the report.

    Returns:
        Plain values for JSON: the mean of every figure over the scenes that have it (None where none has, or where a
        prediction was not finite: ``notes`` says so), the median of the seconds, the same by baseline, the settings,
        and each scene's own figures.
    """
    names = list(dict.fromkeys([*FIGURES, *(name for result in results for name in result.figures)]))
    means = _means([result.figures for result in results], names)
    found = [name for name in BASELINES if any(name in result.baselines for result in results)]
    baselines = {name: _baseline(name, results) for name in found}
    report: dict[str, Any] = {
        "task": task,
        "scenes": len(results),
        **means,
        "seconds_per_scene": statistics.median(result.seconds for result in results),
        "camera_control": means["auc30"] if task in _OWN_CAMERAS else None,
        "baselines": baselines,
    }
    if task == "adapter":
        report |= _round_trip(means, baselines["vggt"])
    return {
        **report,
        "notes": _notes(task, results, settings),
        **settings,
        "per_scene": [_scene(result) for result in results],
    }


def format_report(report: Mapping[str, Any]) -> str:
    """A report as a Markdown table, baselines beside the model, and notes below."""
    columns = [report, *report["baselines"].values()]
    header = ["", str(report["task"]), *(BASELINES[name] for name in report["baselines"])]
    rows = []
    for name, (label, unit, digits) in _LABELS.items():
        values = [column.get(name) for column in columns]
        if any(value is not None for value in values):
            frames = "frames not given" if report["task"] in _OWN_CAMERAS else "all frames"
            cells = ["-" if value is None else f"{value:.{digits}f}" for value in values]
            rows.append([f"{label.format(frames=frames)} {unit}".strip(), *cells])
    if report.get("absrel_ratio") is not None:
        rows.append(["depth AbsRel, after over before", f"{report['absrel_ratio']:.3f}", "-"])
    widths = [max(len(row[place]) for row in [header, *rows]) for place in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    table = "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)
    shown = (
        *("checkpoint", "data", "split", "seeds", "frames", "size"),
        *("steps", "guidance", "geometry", "prompt", "dtype", "device"),
    )
    facts = ", ".join(f"{name} {_short(report[name])}" for name in shown if report.get(name) is not None)
    notes = "".join(f"\n{note}" for note in report["notes"])
    return f"{report['scenes']} scenes; {facts}.\n\n{table}{notes}"


def _means(scenes: Sequence[Figures], names: Sequence[str]) -> dict[str, float | None]:
    means: dict[str, float | None] = {}
    for name in names:
        values = [value for scene in scenes if (value := scene.get(name)) is not None]
        means[name] = _finite(statistics.fmean(values)) if values else None
    return means


def _baseline(name: str, results: Sequence[SceneFigures]) -> dict[str, float | None]:
    seconds = [result.baseline_seconds[name] for result in results if name in result.baseline_seconds]
    means = _means([result.baselines.get(name, {}) for result in results], FIGURES)
    return {**means, "seconds_per_scene": statistics.median(seconds) if seconds else None}


def _round_trip(after: Mapping[str, float | None], before: Mapping[str, float | None]) -> dict[str, float | None]:
    """AbsRel and AUC@30 before and after, and the ratio of the two means of AbsRel."""
    ratio = None
    if after["absrel"] is not None and before["absrel"]:
        ratio = after["absrel"] / before["absrel"]
    found = {f"{name}_before": before[name] for name in ("absrel", "auc30")}
    return {**found, **{f"{name}_after": after[name] for name in ("absrel", "auc30")}, "absrel_ratio": ratio}


def _notes(task: str, results: Sequence[SceneFigures], settings: Mapping[str, Any]) -> list[str]:
    """What a reader has to know about missing figures."""
    notes = []
    total = len(results)
    if task != "vae":
        for name, what, lost in (
            ("absrel", "depth", "depth and point figures are missing there"),
            ("auc30", "cameras", "camera and point figures are missing there"),
        ):
            lacking = sum(name not in result.figures for result in results)
            if lacking:
                notes.append(f"{lacking} of {total} scenes have no {what} to compare with: {lost}")
    bad = [result.name for result in results if _is_broken(result)]
    if bad:
        notes.append(f"predictions are not finite in {len(bad)} of {total} scenes, {bad[0]} the first: means are null")
    silent = sum(result.prompt == "" for result in results)
    if silent and settings.get("prompt") == "right":
        notes.append(f"{silent} of {total} scenes have no caption and were prompted with nothing")
    return notes


def _is_broken(result: SceneFigures) -> bool:
    every = [result.figures, *result.baselines.values()]
    return any(value is not None and math.isnan(value) for figures in every for value in figures.values())


def _scene(result: SceneFigures) -> dict[str, Any]:
    return {
        "scene": result.name,
        "caption": result.caption,
        "prompt": result.prompt,
        "seconds": result.seconds,
        **_finite_all(result.figures),
        "baselines": {name: _finite_all(figures) for name, figures in result.baselines.items()},
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _finite_all(figures: Figures) -> Figures:
    return {name: _finite(value) for name, value in figures.items()}


def _short(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
