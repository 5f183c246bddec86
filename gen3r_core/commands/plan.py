"""``gen3r plan``: what a job will need of the device's memory, before a weight is loaded."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from gen3r_core.checkpoint.packaged import PACKAGED
from gen3r_core.commands.options import (
    add_device_options,
    add_sampling_options,
    choose_device,
    choose_dtype,
    sampling_of,
)

TASKS = ("1view", "2view", "allview")


def add_parser(commands: Any) -> None:
    """Add the sub-command."""
    parser = commands.add_parser("plan", help="predict a job's memory, and choose a level for a memory budget")
    parser.add_argument("checkpoint", type=Path, nargs="?", help=f"checkpoint folder (default {PACKAGED})")
    parser.add_argument("--model", choices=("tiny", "small", "full"), help="a model of a named size in its place")
    parser.add_argument("--task", choices=TASKS, default="2view", help="which frames are given (default 2view)")
    parser.add_argument("--memory_budget", type=float, help="GiB that may be used on the device; all levels without it")
    parser.add_argument("--prompt_embeds", action="store_true", help="prompts come embedded: no text encoder")
    parser.add_argument("--json", type=Path, help="also write the figures as JSON")
    add_sampling_options(parser)
    add_device_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Predict and print."""
    from gen3r_core.conditioning import LatentShape, Task
    from gen3r_core.execution.levels import LEVELS
    from gen3r_core.execution.plan import GIB, Planner, empty_networks
    from gen3r_core.io.atomic import write_json_atomic

    leave_out = "text_encoder" if args.prompt_embeds else None
    configs, defaults = _model(args, leave_out)
    sampling = sampling_of(args, defaults)
    height, width = sampling.size or defaults["image_size"]
    shape = LatentShape(sampling.num_frames or defaults["num_frames"], height, width)
    networks = empty_networks(configs, choose_dtype(args.dtype, choose_device(args.device)))
    guided = sampling.guidance > 1
    planner = Planner(networks, Task(args.task), shape, guided=guided, geometry=sampling.geometry)
    plans = [planner.plan(level) for level in LEVELS] if args.memory_budget is None else []
    if args.memory_budget is not None:
        plans = [planner.choose(args.memory_budget)]
    print(f"{args.task}, {shape.num_frames} frames of {shape.height}x{shape.width}: predicted peaks in GiB")
    for plan in plans:
        print(plan.words())
        print("  " + ", ".join(f"{stage.stage} {stage.total / GIB:.2f}" for stage in plan.stages))
    if args.json is not None:
        write_json_atomic(args.json, [plan.to_dict() for plan in plans])
    return 0


def _model(args: argparse.Namespace, leave_out: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The networks' configurations, and what is usual for the model."""
    from gen3r_core.checkpoint.folder import PUBLISHED_DEFAULTS, open_checkpoint
    from gen3r_core.execution.plan import configs_of
    from gen3r_core.sizes import SIZES

    if args.model is not None:
        named = SIZES[args.model]
        configs = {name: config for name, config in named.components.items() if name != leave_out}
        return configs, PUBLISHED_DEFAULTS | {"num_frames": named.num_frames, "image_size": named.image_size}
    checkpoint = open_checkpoint(args.checkpoint)
    return configs_of(checkpoint, leave_out=leave_out), dict(checkpoint.defaults)
