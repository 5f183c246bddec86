"""``gen3r info``: what is in a checkpoint folder."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gen3r_core.checkpoint.packaged import PACKAGED


def add_parser(commands: Any) -> None:
    """Add the sub-command."""
    parser = commands.add_parser("info", help="say what is in a checkpoint folder, what is missing, and its licences")
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        help=f"checkpoint of our or the published layout, or a Wan base folder (default {PACKAGED})",
    )
    parser.add_argument("--verify", action="store_true", help="also compare the SHA-256 sums (our layout)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the table; 0 if everything is there and fits, 1 otherwise."""
    from gen3r_core.checkpoint.info import format_info, inspect_checkpoint

    checkpoint, rows = inspect_checkpoint(args.folder, verify=args.verify)
    if args.json:
        print(json.dumps({"layout": checkpoint.layout, "parts": [asdict(row) for row in rows]}, indent=2))
    else:
        print(format_info(checkpoint, rows))
    return 0 if all(row.state == "ok" for row in rows) else 1
