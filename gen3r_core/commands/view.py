"""``gen3r view``: a map in the browser."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gen3r_core.errors import InputError

if TYPE_CHECKING:
    from gen3r_core.viewer.content import Content

PORT = 8080
COLORINGS = ("image", "source", "confidence")
UPS = ("auto", "x", "y", "z", "-x", "-y", "-z")


def add_parser(commands: Any) -> None:
    """Add the sub-command."""
    parser = commands.add_parser(
        "view",
        help="look at a map in the browser",
        description="Serve a page with the points, cameras and pictures of a map; docs/view.md says what is on it. "
        "Ctrl-C ends it.",
    )
    parser.add_argument("path", type=Path, help="folder of gen3r reconstruct or gen3r infer, or a PLY file")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    parser.add_argument("--port", type=_port, default=PORT, help=f"0 for any that is free (default {PORT})")
    parser.add_argument("--open", action="store_true", help="open the page in the browser of this machine")
    parser.add_argument(
        "--color", choices=COLORINGS, default="image", help="colours: of the image, observed or generated, confidence"
    )
    parser.add_argument(
        "--cut",
        type=_cut,
        default="auto",
        metavar="HEIGHT",
        help="show nothing above a height, `none`, or auto: below the ceiling",
    )
    parser.add_argument("--up", choices=UPS, default="auto", help="direction against gravity (default: found)")
    parser.add_argument(
        "--max_points", type=_count, default=500_000, metavar="N", help="shown at once (default 500000)"
    )
    parser.add_argument("--point_size", type=_size, metavar="SIZE", help="in units of the map (default: fitting)")
    parser.add_argument("--mesh", action="store_true", help="show the mesh from the start")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Read, serve, and end well when interrupted."""
    try:
        from gen3r_core.viewer.serving import serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"viser", "rich"}:
            raise
        raise InputError("gen3r view needs viser, which is not installed: pip install 'gen3r[view]'") from error
    from gen3r_core.viewer.opening import revision
    from gen3r_core.viewer.page import Source, ViewOptions

    options = ViewOptions(
        coloring=args.color,
        cut=args.cut,
        most=args.max_points,
        point_size=args.point_size,
        up=args.up,
        mesh=args.mesh,
    )
    source = Source(read=partial(_read, args.path), revision=partial(revision, args.path))
    serve(source, options, host=args.host, port=args.port, ready=partial(_ready, browser=args.open))
    return 0


def _read(path: Path) -> Content:
    from tqdm import tqdm

    from gen3r_core.viewer.opening import open_content

    with tqdm(desc="pictures", leave=False, delay=1) as bar:

        def loaded(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return open_content(path, loaded)


def _ready(url: str, *, browser: bool) -> None:
    print(f"the map is at {url} (Ctrl-C ends)", flush=True)
    if browser:
        import webbrowser

        if not webbrowser.open(url):
            print("no browser was found here: open the address yourself", flush=True)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: 0 to 65535")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal() or not 1000 <= int(text) <= 5_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of points from 1000 to 5000000")
    return int(text)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from error
    if not abs(value) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
    return value


def _size(text: str) -> float:
    value = _number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"a point's size must be positive, not {text}")
    return value


def _cut(text: str) -> float | Literal["auto", "none"]:
    if text == "auto":
        return "auto"
    return "none" if text == "none" else _number(text)
