"""``gen3r fetch``: download a published checkpoint. The only command that reaches for the network."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_parser(commands: Any) -> None:
    """Add the sub-command."""
    parser = commands.add_parser("fetch", help="download a published checkpoint (goes on where it was interrupted)")
    parser.add_argument("repo_id", help="owner/name on the Hugging Face hub")
    parser.add_argument("folder", type=Path, help="where to put it")
    parser.add_argument("--revision", help="branch, tag or commit (default: the main branch)")
    parser.add_argument("--endpoint", help="another server that speaks the hub's protocol")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Show the licences, download, and say what came."""
    from gen3r_core.checkpoint.fetch import fetch_checkpoint

    report = fetch_checkpoint(args.repo_id, args.folder, revision=args.revision, endpoint=args.endpoint, announce=print)
    print(
        f"{len(report.files)} files, {report.total_bytes / 2**20:.1f} MiB in {report.folder} "
        f"({report.received_bytes / 2**20:.1f} MiB received now)"
    )
    return 0
