"""``gen3r calibrate``: which steps a profile may spare, measured on the checkpoint itself."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from gen3r_core.checkpoint.packaged import PACKAGED
from gen3r_core.commands.options import (
    add_device_options,
    add_sampling_options,
    check_output_file,
    choose_device,
    choose_dtype,
    loading_bar,
    sampling_of,
)


def add_parser(commands: Any) -> None:
    """Add the sub-command."""
    parser = commands.add_parser("calibrate", help="measure which steps a profile may spare, for this checkpoint")
    parser.add_argument("checkpoint", type=Path, nargs="?", help=f"checkpoint folder (default {PACKAGED})")
    parser.add_argument("output", type=Path, help="JSON file to write, for --calibration")
    parser.add_argument("--profile", choices=("balanced", "fast"), default="balanced", help="whose steps are measured")
    parser.add_argument("--frame_path", nargs="+", type=Path, required=True, help="first and last image of a clip")
    parser.add_argument("--prompts", nargs="+", required=True, help="one or more prompts: a job for each")
    parser.add_argument("--cameras", default="free", help="free or a built-in path (default free)")
    parser.add_argument("--seed", type=int, default=42, help="of the first job; each further job has the next")
    add_sampling_options(parser)
    add_device_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Load, generate, measure, write."""
    from tqdm import tqdm

    from gen3r_core.checkpoint.folder import open_checkpoint
    from gen3r_core.commands.infer import read_frames
    from gen3r_core.conditioning import Task
    from gen3r_core.execution.calibration import calibrate
    from gen3r_core.execution.profiles import profile_named
    from gen3r_core.jobs import Job, resolve_jobs
    from gen3r_core.pipeline import Gen3RPipeline
    from gen3r_core.progress import Progress

    check_output_file(args.output)
    checkpoint = open_checkpoint(args.checkpoint)
    task = Task.TWO_VIEW if len(args.frame_path) > 1 else Task.ONE_VIEW
    images = read_frames(args.frame_path, task, len(args.frame_path))
    height, width = checkpoint.defaults["image_size"]
    frames = checkpoint.defaults["num_frames"]
    profile = profile_named(args.profile)
    asked = sampling_of(args, checkpoint.defaults)
    sampling = profile.sampling(asked, task=task, num_frames=frames, image_size=(height, width))
    jobs = [Job(images, task, text, args.cameras, args.seed + index) for index, text in enumerate(args.prompts)]
    resolve_jobs(jobs, sampling, num_frames=frames, image_size=(height, width))
    device = choose_device(args.device)
    with loading_bar() as progress:
        pipeline = Gen3RPipeline.from_pretrained(
            checkpoint, device=device, dtype=choose_dtype(args.dtype, device), progress=progress
        )
    name = checkpoint.name
    with tqdm(total=len(jobs) * sampling.steps, desc="calibrate", unit="step", mininterval=0.5) as bar:

        def show(report: Progress) -> None:
            bar.update(report.stage == "denoise" and report.step > 0)

        calibration = calibrate(pipeline, jobs, sampling, model=name, callback=show)
    calibration.save(args.output)
    spared = calibration.cache(profile.spared_error or 0.0).skips
    print(f"{args.output}: profile {profile.name} spares {sum(spared)} of {len(spared)} steps of {name}")
    return 0
