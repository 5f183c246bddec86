"""``gen3r train``: train one part of Gen3R, from nothing or from published weights."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

STAGES = ("video_vae", "vggt", "geometry_adapter", "transformer")


def add_parser(commands: Any) -> None:
    """Add the sub-command."""
    parser = commands.add_parser(
        "train",
        help="train one part, on procedural worlds or on a data set",
        description="Train one part of Gen3R. Several processes: accelerate launch -m gen3r_core.cli train ...",
    )
    parser.add_argument("stage", choices=STAGES, help="the part")
    parser.add_argument("--out", type=Path, required=True, help="folder of the training; the part goes to OUT/STAGE")
    parser.add_argument("--config", type=Path, help="JSON file; with --resume the default is OUT/training.json")
    parser.add_argument(
        "--set",
        dest="changes",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="changes, e.g. plan.steps=100 plan.phases.0.batch_size=4 model.loss.squared=1 source.pool=64",
    )
    parser.add_argument("--data", help="'worlds' (default), or the folder of a data set in the published layout")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint, if there is one")
    parser.add_argument("--max_minutes", type=float, help="stop in good order after this time, resumed runs included")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default auto")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Read the configuration, train, say where the result is."""
    from gen3r_core.commands.options import choose_device
    from gen3r_core.training.run import RESOLVED, read_config, train

    device = choose_device(args.device)
    path = args.config
    if path is None and args.resume and (args.out / RESOLVED).is_file():
        path = args.out / RESOLVED
    config = read_config(args.stage, path, args.changes, data=args.data)
    component = train(
        config, args.out, resume=args.resume, max_minutes=args.max_minutes, cpu=device.type == "cpu", bar=True
    )
    print(f"{args.stage} is in {component}; figures are in {args.out / 'figures.jsonl'}")
    return 0
