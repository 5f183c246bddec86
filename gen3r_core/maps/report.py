"""``report.html`` of a map: what it looks like, how well it fits what was seen, what was lost, and how it was made."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gen3r_core.geometry.poses import Array
from gen3r_core.maps.drawing import Drawing, ceiling_height, draw_from, scale_length, typical_spacing
from gen3r_core.maps.facts import FrameFacts, poses_of
from gen3r_core.maps.page import (
    bars,
    escape,
    figure_tables,
    inline_jpeg,
    inline_png,
    page,
    section,
    show,
    table,
    tiles,
    words,
)
from gen3r_core.maps.redrawn import RedrawnView, redraw
from gen3r_core.maps.scene_map import MapCloud, MapFrame
from gen3r_core.maps.upright import upright_axes

__all__ = ["VIEWS", "build_report", "report_views"]

VIEWS = 6
"""Frames that are shown beside what the map looks like from them."""

_PLAN = (900, 1080)
_SIDE = (420, 1080)
_SHOWN_SIDE = 360
_DIRECTIONS = 24
"""Keyframes of each camera that are drawn with where they look."""
_EXIT_WORDS = {0: "complete", 3: "partly lost", 1: "failed"}
_SHOWN_ABOVE = frozenset(
    {"source", "model", "options", "seconds", "figures", "lost", "losses", "generated", "result"}
    | {"metric", "metric_reason", "why_not_metric", "exit_code"}
)


@dataclass(frozen=True, eq=False)
class _Look:
    """A map as it is drawn.

    Attributes:
        frames: without images.
        points: ``[N, 3]`` of the cloud in upright axes.
        cameras: ``[F, 3]`` positions in the same axes.
        looks: ``[F, 3]`` where they look, in the same axes.
        cloud: of the map.
        unit: "m" or "units".
        spacing: of neighbouring points.
    """

    frames: Sequence[FrameFacts]
    points: Array
    cameras: Array
    looks: Array
    cloud: MapCloud
    unit: str
    spacing: float


def report_views(frames: Sequence[FrameFacts]) -> list[int]:
    """Which frames the report shows: evenly over those that were seen."""
    seen = [index for index, frame in enumerate(frames) if not frame.generated] or list(range(len(frames)))
    places = np.linspace(0, len(seen) - 1, min(VIEWS, len(seen))).round().astype(int)
    return [seen[place] for place in dict.fromkeys(places.tolist())]


def build_report(
    frames: Sequence[FrameFacts],
    cloud: MapCloud,
    run: Mapping[str, Any],
    picture: Callable[[int], MapFrame] | None,
    *,
    metric: bool,
    step: Callable[[], None] = lambda: None,
) -> str:
    """The page.

    Args:
        frames: of the map, without images.
        cloud: of the map.
        run: what ``run.json`` says.
        picture: a frame with its image, by index; None where there are no images.
        metric: the unit is the metre.
        step: called after each view that is drawn.

    Returns:
        HTML.
    """
    poses = poses_of(frames)
    known = run.get("gravity_known")
    axes = upright_axes(poses, gravity_known=known if isinstance(known, bool) else None)
    spacing = typical_spacing(cloud.points)
    points, cameras, looks = (
        values.astype(np.float64) @ axes.T for values in (cloud.points, poses[:, :3, 3], poses[:, :3, 2])
    )
    look = _Look(frames, points, cameras, looks, cloud, "m" if metric else "units", spacing)
    views: list[RedrawnView] = []
    for index in report_views(frames) if picture is not None else []:
        if picture is not None:
            views.append(redraw(index, picture(index), cloud, spacing))
        step()
    made = _mapping(run, "generated")
    source = run.get("source", "map")
    title = ", ".join(map(str, source)) if isinstance(source, list) else str(source)
    parts = [
        f"<h1>{escape(title)}</h1>",
        _introduction(run, metric=metric),
        tiles(_headline(look, run)),
        section("The map", *_maps(look)),
        section("What was seen, and the map from there", _views(views), _view_table(views, frames)),
        section("Figures", figure_tables(_mapping(run, "figures"))),
        section("What was lost", _losses(_mapping(run, "lost"), run.get("losses"))),
        section("Time", bars(_seconds(run), "s")),
        section("Generated", figure_tables(made) if any(made.values()) else ""),
        section("Run", figure_tables(_rest(run))),
        section("Settings", figure_tables(_mapping(run, "options"))),
    ]
    return page(f"{title}: map", parts)


def _introduction(run: Mapping[str, Any], *, metric: bool) -> str:
    sentences = []
    if "model" in run:
        sentences.append(f"Reconstructed with {run['model']}.")
    sentences.append("Lengths are metres." if metric else "Lengths are the map's own units, not metres.")
    reason = str(run.get("metric_reason") or run.get("why_not_metric") or "")
    if reason:
        sentences.append(f"{reason[:1].upper()}{reason[1:].rstrip('.')}.")
    code = run.get("exit_code")
    state = ""
    if code in _EXIT_WORDS:
        state = f' <span class="{"good" if code == 0 else "bad"}">{_EXIT_WORDS[code]}</span>'
    return f"<p>{escape(' '.join(sentences))}{state}</p>"


def _headline(look: _Look, run: Mapping[str, Any]) -> list[tuple[str, str]]:
    seen = [index for index, frame in enumerate(look.frames) if not frame.generated]
    made = len(look.frames) - len(seen)
    found = [(show(len(seen)), "keyframes"), (show(len(look.cloud)), "points")]
    length = float(np.linalg.norm(np.diff(look.cameras[seen], axis=0), axis=1).sum()) if len(seen) > 1 else 0.0
    found.append((f"{length:.3g} {look.unit}", "path"))
    if len(look.points):
        low, high = np.percentile(look.points, [1, 99], axis=0)
        found.append(
            (" \N{MULTIPLICATION SIGN} ".join(f"{side:.3g}" for side in high - low) + f" {look.unit}", "extent")
        )
    if made or look.cloud.generated.any():
        share = float(look.cloud.generated.mean()) if len(look.cloud) else 0.0
        found.append((f"{made:,} / {100 * share:.0f} %", "views / points generated"))
    found += [(show(run[name]), name) for name in ("windows", "loops") if isinstance(run.get(name), int)]
    total = sum(_seconds(run).values())
    if total:
        found.append((f"{total:.0f} s" if total < 600 else f"{total / 60:.0f} min", "in all"))
    return found


# ------------------------------------------------------------------ drawings


def _maps(look: _Look) -> list[str]:
    if not len(look.points) and not len(look.cameras):
        return ["<p>The map is empty.</p>"]
    cut, kept = ceiling_height(look.points, look.cameras)
    made = bool(look.cloud.generated.any())
    above = draw_from(
        look.cloud.select(kept), look.points[kept], look.cameras, (0, 1, 2),
        largest=_PLAN, spacing=look.spacing, tint_generated=made,
    )  # fmt: skip
    lying = np.ptp(look.cameras if len(look.cameras) else look.points, axis=0)
    side_axes = (0, 2, 1) if lying[0] >= lying[1] else (1, 2, 0)
    side = draw_from(
        look.cloud, look.points, look.cameras, side_axes, largest=_SIDE, spacing=look.spacing, tint_generated=made
    )
    caption = "From above"
    if math.isfinite(cut):
        caption += f"; what is more than {cut:.2g} {look.unit} above the cameras is cut off"
    eye = "below" if side_axes[0] == 0 else "to the right of"
    return [
        _drawing(look, above, (0, 1), f"{caption}."),
        _drawing(look, side, side_axes[:2], f"From the side (the eye is {eye} the plan above), nothing cut off."),
    ]


def _drawing(look: _Look, drawing: Drawing, axes: tuple[int, int], caption: str) -> str:
    height, width = drawing.pixels.shape[:2]
    places = drawing.place(look.cameras[:, axes[0]], look.cameras[:, axes[1]])
    line = max(max(width, height) / 400, 1.8)
    parts = [f'<image width="{width}" height="{height}" href="{inline_png(drawing.pixels)}"/>']
    tracks: dict[str, list[int]] = {}
    for index, frame in enumerate(look.frames):
        if not frame.generated:
            tracks.setdefault(frame.camera, []).append(index)
    strokes = []
    for track in tracks.values():
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places[track])
        strokes.append(("polyline", "points", points, 1.3 * line))
        strokes.append(("path", "d", _directions(look, track, places, axes, 9 * line), 0.6 * line))
    for name, more in (("halo", 1.2 * line), ("path", 0.0)):  # light edges below everything
        parts += [
            f'<{kind} class="{name}" stroke-width="{wide + more:.2f}" {key}="{where}"/>'
            for kind, key, where, wide in strokes
        ]
    parts += [
        f'<circle class="made" r="{1.1 * line:.2f}" cx="{x:.1f}" cy="{y:.1f}"/>'
        for frame, (x, y) in zip(look.frames, places, strict=True)
        if frame.generated
    ]
    for track in tracks.values():
        (x, y), (u, v) = places[track[0]], places[track[-1]]
        parts.append(f'<circle class="mark" stroke-width="{line:.2f}" r="{2.6 * line:.2f}" cx="{x:.1f}" cy="{y:.1f}"/>')
        corner, side = f'x="{u - 2 * line:.1f}" y="{v - 2 * line:.1f}"', f"{4 * line:.2f}"
        parts.append(f'<rect class="dot" width="{side}" height="{side}" {corner}/>')
    margin = 14 * line
    parts.append(_scale_bar(drawing, look.unit, line))
    stray = f" {100 * drawing.outside:.1f} % of the points lie farther out." if drawing.outside >= 0.0005 else ""
    legend = "path and where keyframes look (circle: first, square: last)"
    key = f'<span class="key"><i style="background:var(--path)"></i>{legend}'
    if any(frame.generated for frame in look.frames) or look.cloud.generated.any():
        key += '<i style="background:var(--made)"></i>generated'
    return (
        f'<figure><svg viewBox="0 0 {width} {height + margin:.0f}" style="max-width:{width}px" role="img" '
        f'aria-label="{escape(caption)}">'
        f"{''.join(parts)}</svg><figcaption>{escape(caption + stray)} {key}</span></figcaption></figure>"
    )


def _directions(look: _Look, track: list[int], places: Array, axes: tuple[int, int], length: float) -> str:
    """Short strokes from some keyframes to where they look."""
    few = [track[place] for place in np.linspace(0, len(track) - 1, min(_DIRECTIONS, len(track))).astype(int)]
    ends = places[few] + look.looks[few][:, axes] * (length, -length)
    return "".join(f"M{x:.1f} {y:.1f}L{u:.1f} {v:.1f}" for (x, y), (u, v) in zip(places[few], ends, strict=True))


def _scale_bar(drawing: Drawing, unit: str, line: float) -> str:
    height, width = drawing.pixels.shape[:2]
    length = scale_length(width / drawing.unit)
    x, y, wide = 3 * line, height + 5 * line, length * drawing.unit
    ticks = f"M{x:.1f} {y - 2 * line:.1f}v{4 * line:.1f}M{x:.1f} {y:.1f}h{wide:.1f}m0 {-2 * line:.1f}v{4 * line:.1f}"
    return (
        f'<path class="scale" stroke-width="{0.7 * line:.2f}" d="{ticks}"/>'
        f'<text class="word" font-size="{6 * line:.1f}" x="{x + wide + 3 * line:.1f}" y="{y + 2 * line:.1f}">'
        f"{length:g} {escape(unit)}</text>"
    )


# ------------------------------------------------------------------ views and tables


def _views(views: Sequence[RedrawnView]) -> str:
    if not views:
        return ""
    cells = []
    for view in views:
        pictures = "".join(
            f'<img alt="{name} {view.index}" src="{inline_jpeg(_thinned(pixels))}">'
            for name, pixels in (("frame", view.frame.image), ("map from frame", view.picture))
        )
        caption = f"frame {view.index}: {_decibels(view.psnr)}, {100 * view.covered:.0f} % covered"
        cells.append(f'<figure><div class="pair">{pictures}</div><figcaption>{escape(caption)}</figcaption></figure>')
    return (
        "<p>On the left what the model was given, on the right the cloud drawn as discs from the same place. PSNR is "
        f'over the pixels that points cover.</p><div class="views">{"".join(cells)}</div>'
    )


def _view_table(views: Sequence[RedrawnView], frames: Sequence[FrameFacts]) -> str:
    if not views:
        return ""
    first = next((frame.stamp_ns for frame in frames if frame.stamp_ns is not None), 0)
    rows: list[tuple[object, ...]] = []
    for view in views:
        stamp = view.frame.stamp_ns
        time = None if stamp is None else round((stamp - first) / 1e9, 3)
        rows.append((view.index, time, _decibels(view.psnr), f"{100 * view.covered:.0f} %"))
    known = [view.psnr for view in views if math.isfinite(view.psnr)]
    covered = f"{100 * float(np.mean([view.covered for view in views])):.0f} %"
    rows.append(("mean", "", _decibels(float(np.mean(known)) if known else math.nan), covered))
    return "<h3>PSNR of the map in these views</h3>" + table(rows, ("frame", "seconds", "PSNR", "covered"))


def _losses(lost: Mapping[str, Any], sentences: object) -> str:
    more = [str(one) for one in sentences] if isinstance(sentences, list) else []
    if not any(lost.values()) and not more:
        return "<p>Nothing.</p>"
    return table((words(name), value) for name, value in lost.items()) + "".join(
        f"<p>{escape(one)}</p>" for one in more
    )


def _decibels(value: float) -> str:
    return "\N{EN DASH}" if math.isnan(value) else ("\N{INFINITY} dB" if math.isinf(value) else f"{value:.2f} dB")


def _thinned(pixels: Any) -> Any:
    """Every n-th pixel of a large picture: the report stays small."""
    factor = max(1, min(pixels.shape[:2]) // _SHOWN_SIDE)
    return pixels[::factor, ::factor]


def _seconds(run: Mapping[str, Any]) -> dict[str, float]:
    values = _mapping(run, "seconds").items()
    return {
        str(name): float(value)
        for name, value in values
        if isinstance(value, int | float) and math.isfinite(value) and value >= 0
    }


def _rest(run: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in run.items() if name not in _SHOWN_ABOVE}


def _mapping(run: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = run.get(name)
    return value if isinstance(value, Mapping) else {}
