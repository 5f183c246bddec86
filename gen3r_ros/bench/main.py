"""``gen3r_bench_ros``: figures of the ROS layer on this machine, as a table.

bash scripts/env.sh gen3r_bench_ros
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from gen3r_core.errors import Gen3RError
from gen3r_ros.bench.conversions import HD, POINTS, Timing, timings
from gen3r_ros.transport import use_large_message_profile

CORES, SECONDS = 2, 60.0


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    made = argparse.ArgumentParser(prog="gen3r_bench_ros", description="Measures the ROS layer on this machine.")
    made.add_argument("--only", choices=("load", "conversions"), help="one of the two parts")
    made.add_argument("--seconds", type=float, default=SECONDS, help="of the load, from the first result on")
    made.add_argument("--cores", type=int, default=CORES, help="that node, inference, camera and listener share")
    made.add_argument("--checkpoint", default="", help="of the node; empty: gen3r-small")
    made.add_argument("--points", type=int, default=POINTS, help="of the cloud")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print.

    Args:
        arguments: of the command line; None takes those of this process.

    Returns:
        0, or 1 where it could not be measured.
    """
    given = parser().parse_args(arguments)
    use_large_message_profile()
    busy = os.getloadavg()[0]
    lines = [f"{os.cpu_count()} cores; load before: {busy:.1f} (other programs count, and blur the figures)", ""]
    try:
        if given.only != "load":
            lines += conversion_table(timings(given.points, HD))
        if given.only != "conversions":
            lines += load_table(given)
    except Gen3RError as error:
        sys.stderr.write(f"gen3r_bench_ros: error: {error}\n")
        return 1
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def conversion_table(found: Sequence[Timing]) -> list[str]:
    """Rows of Markdown: one a conversion, one column a way."""
    ways = list(dict.fromkeys(one.how for one in found))
    lines = [f"| milliseconds | {' | '.join(ways)} |", f"| --- | {' | '.join('---:' for _ in ways)} |"]
    for what in dict.fromkeys(one.what for one in found):
        taken = {one.how: one.milliseconds for one in found if one.what == what}
        cells = ["" if how not in taken else _number(taken[how]) for how in ways]
        lines.append(f"| {what} | {' | '.join(cells)} |")
    return [*lines, ""]


def load_table(given: argparse.Namespace) -> list[str]:
    """Runs the node, and what came of it as rows of Markdown."""
    from gen3r_ros.bench.load import measure

    found = measure(given.seconds, given.cores, {"checkpoint": given.checkpoint} if given.checkpoint else {})
    dropped = ", ".join(f"{count} ({reason})" for reason, count in found.dropped.items()) or "none"
    rows = [
        ("seconds, cores, model", f"{found.seconds:.0f}, {found.cores}, {found.model}"),
        ("images that arrived, of those due", f"{found.images} of {found.due}"),
        ("images dropped", dropped),
        ("keyframes", str(found.keyframes)),
        ("reconstructions", str(found.reconstructions)),
        ("callbacks, 99th percentile", f"{found.callbacks_ms:.1f} ms"),
        ("the same, but for waiting for a core", f"{found.own_ms:.1f} ms"),
        ("image from arrival to end of callback, 99th percentile", f"{found.served_ms:.1f} ms"),
        ("memory of the node, at the end", f"{found.node_mb[-1]:.0f} MB"),
        ("its growth, third quarter of the time to last", f"{found.grown_mb:+.1f} MB"),
        ("memory of the inference process, at the end", f"{found.worker_mb[-1]:.0f} MB"),
    ]
    return ["| 640x480 at 30 Hz while a model infers | |", "| --- | --- |", *(f"| {a} | {b} |" for a, b in rows)]


def _number(value: float | None) -> str:
    return "not installed" if value is None else f"{value:.1f}"


if __name__ == "__main__":
    sys.exit(main())
