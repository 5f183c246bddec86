"""``gen3r convert``: any readable checkpoint to our layout."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from gen3r_core.commands.options import DTYPES, loading_bar


def add_parser(commands: Any) -> None:
    """Add the sub-command."""
    parser = commands.add_parser("convert", help="write a checkpoint in our layout (safetensors, SHA-256 sums)")
    parser.add_argument("source", type=Path, help="checkpoint of any layout, or a Wan2.1-Fun base folder")
    parser.add_argument("destination", type=Path, help="folder that does not exist yet")
    parser.add_argument("--dtype", choices=("keep", *DTYPES), default="keep", help="type of the weights (default keep)")
    parser.add_argument("--vggt", type=Path, help="with a Wan base folder: VGGT-1B, a folder or a weight file")
    parser.add_argument("--geo_adapter", type=Path, help="with a Wan base folder: the geometry adapter's weights")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Convert; an interrupted conversion goes on where it was."""
    import torch

    from gen3r_core.checkpoint.convert import convert_checkpoint
    from gen3r_core.checkpoint.folder import open_checkpoint, open_parts
    from gen3r_core.checkpoint.info import format_info, inspect_checkpoint

    if args.vggt or args.geo_adapter:
        checkpoint = open_parts(args.source, args.vggt, args.geo_adapter)
    else:
        checkpoint = open_checkpoint(args.source)
    dtype = None if args.dtype == "keep" else getattr(torch, DTYPES[args.dtype])
    with loading_bar() as progress:
        convert_checkpoint(checkpoint, args.destination, dtype=dtype, progress=progress)
    print(format_info(*inspect_checkpoint(args.destination)))
    return 0
