"""The report as one HTML file that needs nothing else: pictures are in it."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gen3r_ros.demo.figures import TARGETS

Pictures = NDArray[np.uint8]
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1c2028;max-width:1180px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.7rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .5rem}p{margin:.3rem 0;color:#555b66}
img{max-width:100%;display:block;border-radius:3px}
.row{display:grid;gap:6px}.two{display:grid;grid-template-columns:1fr 1fr;gap:14px}
table{border-collapse:collapse;width:100%}td,th{padding:.35rem .6rem;border-bottom:1px solid #e3e6ea;text-align:left}
td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.met{color:#14824a;font-weight:600}.missed{color:#be461e;font-weight:600}
figure{margin:0}figcaption{color:#555b66;font-size:.85rem;margin-top:.2rem}video{width:100%;border-radius:3px}
"""


@dataclass(frozen=True)
class Row:
    """Pictures side by side.

    Attributes:
        title: above them.
        pictures: ``[H, W, 3]`` uint8 each.
        captions: below each; empty for none.
    """

    title: str
    pictures: Sequence[Pictures]
    captions: Sequence[str] = ()


def build_page(title: str, intro: str, figures: Mapping[str, Any], rows: Sequence[Row], video: bytes | None) -> str:
    """The page.

    Args:
        title: of it.
        intro: one paragraph.
        figures: of the report, by name.
        rows: of pictures, in order.
        video: an MP4 file; None for none.
    """
    parts = [
        "<!doctype html><html lang=en><head><meta charset=utf-8>",
        '<meta name=viewport content="width=device-width,initial-scale=1">',
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{html.escape(title)}</h1><p>{html.escape(intro)}</p>",
        _targets(figures),
    ]
    for row in rows:
        parts.append(f"<h2>{html.escape(row.title)}</h2>")
        parts.append(f'<div class=row style="grid-template-columns:repeat({len(row.pictures)},1fr)">')
        for number, pixels in enumerate(row.pictures):
            caption = row.captions[number] if number < len(row.captions) else ""
            below = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
            parts.append(
                f'<figure><img alt="{html.escape(caption or row.title)}" src="{_inline(pixels)}">{below}</figure>'
            )
        parts.append("</div>")
    if video is not None:
        source = base64.b64encode(video).decode()
        parts.append(f'<h2>Video</h2><video controls muted loop src="data:video/mp4;base64,{source}"></video>')
    parts += [_all(figures), "</body></html>\n"]
    return "".join(parts)


def _targets(figures: Mapping[str, Any]) -> str:
    rows = []
    for target in TARGETS:
        value = figures.get(target.name)
        met = target.met(value)
        sign = "at least" if target.at_least else "at most"
        rows.append(
            f"<tr><td>{html.escape(target.label)}</td><td class=n>{html.escape(target.show(value))}</td>"
            f"<td class=n>{sign} {target.limit * target.scale:g} {target.unit}</td>"
            f"<td class={'met' if met else 'missed'}>{'met' if met else 'missed'}</td></tr>"
        )
    head = "<tr><th>figure</th><th>measured</th><th>target</th><th></th></tr>"
    return f"<h2>Against the truth</h2><table>{head}{''.join(rows)}</table>"


def _all(figures: Mapping[str, Any]) -> str:
    rows = []
    for name, value in figures.items():
        if isinstance(value, dict | list):
            continue
        shown = f"{value:.4g}" if isinstance(value, float) and math.isfinite(value) else str(value)
        rows.append(f"<tr><td>{html.escape(name)}</td><td class=n>{html.escape(shown)}</td></tr>")
    return f"<h2>All figures</h2><table>{''.join(rows)}</table>"


def _inline(pixels: Pictures) -> str:
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, format="JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
