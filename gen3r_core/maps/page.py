"""Pieces of a report: HTML that needs no other file and no script, light and dark as the reader's system is."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = [
    "bars",
    "escape",
    "figure_tables",
    "inline_jpeg",
    "inline_png",
    "page",
    "section",
    "show",
    "table",
    "tiles",
    "words",
]

_STYLE = """
:root{color-scheme:light dark;--paper:#fbfbfa;--card:#fff;--ink:#1d2126;--soft:#5d6670;--line:#dfe3e6;--path:#0b62c4;
--made:#c05a08;--bar:#8fb4de;--bad:#b3361b;--good:#14804a}
@media(prefers-color-scheme:dark){:root{--paper:#14171a;--card:#1c2024;--ink:#e6e9ec;--soft:#9aa4ae;--line:#30363c;
--path:#6db1ff;--made:#f39a4a;--bar:#38608f;--bad:#ff8a6b;--good:#5ccb92}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif;background:var(--paper);color:var(--ink);margin:0}
main{max-width:1120px;margin:0 auto;padding:2rem 1.2rem 4rem}
h1{font-size:1.6rem;line-height:1.25;margin:0;overflow-wrap:anywhere}
h2{font-size:1.15rem;margin:2.6rem 0 .7rem}
h3{font-size:.95rem;margin:1.2rem 0 .4rem}
p{margin:.4rem 0;color:var(--soft);max-width:75ch}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(140px,1fr));gap:10px;margin:1.4rem 0 0}
.tile{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:.6rem .8rem}
.tile b{display:block;font-size:1.25rem;font-weight:600;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.tile span{color:var(--soft);font-size:.85rem}
figure{margin:0 0 1.2rem;background:var(--card);border:1px solid var(--line);border-radius:8px;padding:10px}
figcaption{color:var(--soft);font-size:.87rem;margin-top:.5rem}
figure svg{display:block;width:100%;height:auto;margin:0 auto}
.views{display:grid;grid-template-columns:repeat(auto-fill,minmax(330px,1fr));gap:12px}
.views figure{margin:0}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:6px}
.pair img{width:100%;display:block;border-radius:4px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;min-width:min(100%,420px)}
td,th{padding:.3rem .9rem .3rem 0;border-bottom:1px solid var(--line);text-align:left;vertical-align:top;
font-weight:400;overflow-wrap:anywhere}
thead th{color:var(--soft);font-size:.85rem}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.bar{width:min(38vw,360px)}.bar i{display:block;height:.8rem;margin-top:.35rem;min-width:2px;border-radius:3px;
background:var(--bar)}
.bad{color:var(--bad);font-weight:600}.good{color:var(--good);font-weight:600}
.path{fill:none;stroke:var(--path);stroke-linejoin:round;stroke-linecap:round}
.halo{fill:none;stroke:var(--card);stroke-opacity:.75;stroke-linejoin:round;stroke-linecap:round}
.dot{fill:var(--path)}.made{fill:var(--made)}.mark{fill:var(--card);stroke:var(--path)}
.scale{stroke:var(--ink);fill:none}.word{fill:var(--ink);font-family:system-ui,sans-serif}
.key i{display:inline-block;width:.8rem;height:.8rem;border-radius:50%;vertical-align:-.08rem;margin:0 .3rem 0 .8rem}
@media print{figure,.tile{break-inside:avoid}}
"""


def escape(value: object) -> str:
    """Text that is safe in HTML, attributes included."""
    return html.escape(str(value))


def page(title: str, parts: Iterable[str]) -> str:
    """A whole page of pieces that are HTML already."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body><main>\n"
        + "\n".join(parts)
        + "\n</main></body></html>\n"
    )


def section(title: str, *parts: str) -> str:
    """A heading with pieces below it; nothing where there are none."""
    filled = [part for part in parts if part]
    return f"<section><h2>{escape(title)}</h2>\n" + "\n".join(filled) + "</section>" if filled else ""


def tiles(values: Iterable[tuple[str, str]]) -> str:
    """Boxes of (value, what it is)."""
    boxes = (f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for value, name in values)
    return f'<div class="tiles">{"".join(boxes)}</div>'


def table(rows: Iterable[Sequence[object]], head: Sequence[str] = ()) -> str:
    """A table; numbers stand on the right. Nothing where there are no rows."""
    lines = [list(row) for row in rows]
    if not lines:
        return ""
    body = "".join(
        "<tr>" + "".join(f"<td{_class(cell)}>{escape(show(cell))}</td>" for cell in line) + "</tr>" for line in lines
    )
    names = "".join(f"<th{_class(cell)}>{escape(name)}</th>" for name, cell in zip(head, lines[0], strict=False))
    top = f"<thead><tr>{names}</tr></thead>" if any(head) else ""
    return f'<div class="scroll"><table>{top}<tbody>{body}</tbody></table></div>'


def bars(values: Mapping[str, float], unit: str) -> str:
    """A table with a bar for each value; nothing where there is none."""
    largest = max(values.values(), default=0.0)
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td class=n>{escape(show(float(value)))} {escape(unit)}</td>"
        f'<td class="bar"><i style="width:{100 * value / largest if largest > 0 else 0:.1f}%"></i></td></tr>'
        for name, value in values.items()
    )
    return f'<div class="scroll"><table><tbody>{rows}</tbody></table></div>' if rows else ""


def figure_tables(figures: Mapping[str, Any], above: str = "") -> str:
    """Tables of figures: plain values in one; each mapping, and each list of mappings, in one of its own.

    Args:
        figures: values by name.
        above: what a heading begins with.
    """
    parts = [table((words(name), value) for name, value in figures.items() if _is_plain(value))]
    for name, value in figures.items():
        title = f"{above}{words(name)}"
        if isinstance(value, dict):
            rows = [value] if value else []
        else:
            rows = [] if _is_plain(value) else [row for row in value if isinstance(row, dict)]
        if len(rows) == 1:  # down the page: it may be long
            inner = figure_tables(rows[0], f"{title}, ")
            # Where all of it is in further tables, these have headings of their own.
            parts.append(inner if inner.startswith("<h3>") else f"<h3>{escape(title)}</h3>{inner}")
        elif rows:
            columns = list(dict.fromkeys(key for row in rows for key in row))
            inner = table(([row.get(key) for key in columns] for row in rows), [words(key) for key in columns])
            parts.append(f"<h3>{escape(title)}</h3>{inner}")
    return "".join(parts)


def show(value: object) -> str:
    """A value for readers: four digits of floats, thousands of whole numbers apart."""
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if not math.isfinite(value):
            return "\N{EN DASH}" if math.isnan(value) else "\N{INFINITY}"
        return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(show(one) for one in value) or "\N{EN DASH}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {show(one)}" for name, one in value.items())
    return str(value)


def inline_png(pixels: NDArray[np.uint8]) -> str:
    """A data URL of ``[H, W, 3 or 4]`` uint8; transparency is kept."""
    return _inline(pixels, "PNG", optimize=True)


def inline_jpeg(pixels: NDArray[np.uint8], quality: int = 85) -> str:
    """A data URL of ``[H, W, 3]`` uint8."""
    return _inline(pixels, "JPEG", quality=quality)


def _inline(pixels: NDArray[np.uint8], kind: str, **options: Any) -> str:
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, format=kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def words(name: object) -> str:
    """A name of JSON for readers; sentences, files and topics stay as they are."""
    text = str(name)
    return text.replace("_", " ") if text.isidentifier() else text


def _is_plain(value: object) -> bool:
    """Whether a value goes into one cell."""
    if isinstance(value, list):
        return not any(isinstance(one, dict) for one in value)
    return not isinstance(value, dict)


def _class(cell: object) -> str:
    number = cell is None or (isinstance(cell, int | float) and not isinstance(cell, bool))
    return " class=n" if number else ""
