"""``gen3r bench``: timed jobs on a model of a named size with random weights."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from gen3r_core.commands.options import (
    add_device_options,
    add_sampling_options,
    choose_device,
    choose_dtype,
    sampling_of,
)

TASKS = ("1view", "2view", "allview", "vggt")


def add_parser(commands: Any) -> None:
    """Add the sub-command."""
    parser = commands.add_parser("bench", help="time a model of a named size with random weights")
    parser.add_argument("--model", choices=("tiny", "small", "full"), default="tiny", help="size (default tiny)")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["2view"], help="jobs to time (default 2view)")
    parser.add_argument("--warmup", type=int, default=1, help="untimed short jobs before (default 1)")
    parser.add_argument("--repeats", type=int, default=3, help="timed jobs, of which the median counts (default 3)")
    parser.add_argument("--json", type=Path, help="also write the figures as JSON")
    add_sampling_options(parser)
    add_device_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Build, run, print the table."""
    from tqdm import tqdm

    from gen3r_core.bench import BenchReport, describe_machine, format_table, run_bench
    from gen3r_core.checkpoint.folder import PUBLISHED_DEFAULTS
    from gen3r_core.errors import InputError
    from gen3r_core.io.atomic import write_json_atomic
    from gen3r_core.progress import Progress
    from gen3r_core.sizes import random_pipeline

    if args.repeats < 1 or args.warmup < 0:
        raise InputError(f"bench needs at least one timed job, got --repeats {args.repeats} --warmup {args.warmup}")
    device = choose_device(args.device)
    dtype = choose_dtype(args.dtype, device)
    pipeline = random_pipeline(args.model, device=device, dtype=dtype)
    sampling = sampling_of(args, PUBLISHED_DEFAULTS)
    with tqdm(desc="bench", unit="step", mininterval=0.5) as bar:

        def show(progress: Progress) -> None:
            bar.set_postfix_str(f"{progress.stage} {progress.step}/{progress.total}", refresh=False)
            bar.update(1)

        results = run_bench(pipeline, args.tasks, sampling, warmup=args.warmup, repeats=args.repeats, callback=show)
    options = {
        "dtype": str(dtype).removeprefix("torch."),
        "steps": sampling.steps,
        "guidance": sampling.guidance,
        "scheduler": args.scheduler,
        "attention": args.attention,
        "warm-up": args.warmup,
        "median of": args.repeats,
    }
    report = BenchReport(args.model, describe_machine(device), options, results)
    print(format_table(report))
    if args.json is not None:
        write_json_atomic(args.json, report.to_dict())
    return 0
