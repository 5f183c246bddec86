"""What is known about a map, as a small table in HTML."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from gen3r_core.viewer.content import Content, ViewCamera

__all__ = ["camera_text", "summary_html"]

_LONGEST = 120
_STATES = {3: "part of the recording was lost", 1: "failed"}


def summary_html(content: Content) -> str:
    """The map's unit, counts and losses; nothing in it is taken for markup.

    Args:
        content: any; of ``run.json`` what is there and has the expected kind.
    """
    run = content.run
    rows: list[tuple[str, str]] = [("unit", _unit(content)), ("points", _points(content))]
    if content.cameras:
        rows.append(("frames", _frames(content.cameras)))
    if content.mesh is not None:
        rows.append(("mesh", f"{len(content.mesh.triangles):,} triangles"))
    rows += [(name, _shown(run[name])) for name in ("source", "model", "windows", "loops", "prompt") if run.get(name)]
    code = run.get("exit_code")
    if isinstance(code, int) and code in _STATES:
        rows.append(("state", _STATES[code]))
    lost = run.get("lost")
    if isinstance(lost, Mapping):
        reasons = [f"{_shown(reason)}: {_shown(count)}" for reason, count in lost.items() if count]
        rows.append(("lost", ", ".join(reasons) or "nothing"))
    cells = "".join(
        f'<tr><td style="opacity:0.6;padding-right:0.7em;vertical-align:top">{html.escape(name)}</td>'
        f'<td style="overflow-wrap:anywhere">{html.escape(value)}</td></tr>'
        for name, value in rows
    )
    return f'<div style="padding:0.3em 0.8em;font-size:0.85em"><table>{cells}</table></div>'


def camera_text(content: Content, index: int) -> str:
    """One line about a frame: its number, whether it was seen, its camera and its time since the first."""
    camera = content.cameras[index]
    parts = [f"frame {index}", "generated" if camera.generated else "observed"]
    if camera.camera:
        parts.append(camera.camera)
    stamps = [other.stamp_ns for other in content.cameras if other.stamp_ns is not None]
    if camera.stamp_ns is not None:
        parts.append(f"{(camera.stamp_ns - min(stamps)) / 1e9:.2f} s")
    return ", ".join(parts)


def _unit(content: Content) -> str:
    result = content.run.get("result")
    scale = result.get("metres_per_unit") if isinstance(result, Mapping) else None
    if isinstance(scale, int | float) and scale > 0:
        return f"{scale:.4g} m"
    if content.metric is None:
        return "not known"
    reason = content.run.get("metric_reason") or content.run.get("why_not_metric")
    return ("metres" if content.metric else "the map's own, not metres") + (f" ({_shown(reason)})" if reason else "")


def _points(content: Content) -> str:
    count = len(content.points)
    made = 0 if content.generated is None else int(content.generated.sum())
    return f"{count:,}" + (f", {made:,} of them generated" if made else "")


def _frames(cameras: tuple[ViewCamera, ...]) -> str:
    made = sum(camera.generated for camera in cameras)
    names = {camera.camera for camera in cameras}
    text = f"{len(cameras) - made:,} observed" + (f", {made:,} generated" if made else "")
    return text + (f", {len(names)} cameras" if len(names) > 1 else "")


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        value = value.get("name") or value.get("path") or ", ".join(map(str, value))
    elif isinstance(value, list | tuple):
        value = ", ".join(map(str, value))
    text = str(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
