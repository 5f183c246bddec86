"""``gen3r eval``: the figures of a model, or of a part of it, on clips whose truth is known."""

from __future__ import annotations

import argparse
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gen3r_core.commands.options import (
    PROFILE_NAMES,
    add_device_options,
    add_sampling_options,
    check_output_file,
    choose_device,
    choose_dtype,
    loading_bar,
    sampling_of,
)
from gen3r_core.commands.worlds import SPLITS, seed_range
from gen3r_core.errors import Gen3RError, InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from gen3r_core.evaluation.predictions import Prediction
    from gen3r_core.evaluation.run import SceneFigures, Show
    from gen3r_core.evaluation.scenes import Scenes, TrueScene
    from gen3r_core.evaluation.tasks import Evaluated
    from gen3r_core.jobs import Sampling

TASKS = ("vae", "adapter", "feedforward", "refined", "1view", "2view", "allview")
PROMPTS = ("right", "none", "wrong")
_GENERATIONS = TASKS[4:]


def add_parser(commands: Any) -> None:
    """Add the sub-command."""
    parser = commands.add_parser(
        "eval",
        help="measure a model on procedural worlds or on a data set",
        description="Measure a model, or one part of it, on clips whose truth is known; docs/evaluation.md says what "
        "the figures mean.",
    )
    parser.add_argument("--task", choices=TASKS, required=True, help="a part, or what the whole model generates")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FOLDER",
        help="checkpoint folder, or folder of a training (default: the model in this package)",
    )
    parser.add_argument(
        "--parts",
        nargs="+",
        type=_part,
        default=[],
        metavar="NAME=FOLDER",
        help="parts in place of the checkpoint's, e.g. vggt=runs/vggt/vggt",
    )
    parser.add_argument(
        "--seeds", type=seed_range, help="worlds like 3 or 0-63 (default 0-63), or scenes of --data (default all)"
    )
    parser.add_argument("--split", choices=SPLITS, default="test", help="whose worlds or lists (default test)")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="a data set on disk in place of worlds")
    parser.add_argument(
        "--interval", type=_at_least(1), default=1, help="take every so-manyeth frame of --data (default 1)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")
    parser.add_argument("--output_dir", type=Path, metavar="FOLDER", help="also draw a contact sheet of each scene")
    parser.add_argument(
        "--prompt", choices=PROMPTS, default="right", help="the scene's caption, nothing, or another scene's caption"
    )
    parser.add_argument("--negative_prompt", default="bad detailed", help="what to stay away from")
    parser.add_argument("--noise_seed", type=int, default=0, help="scene i is drawn with this plus i (default 0)")
    parser.add_argument(
        "--batch_size", type=_at_least(1), default=1, help="scenes that are predicted together (default 1)"
    )
    parser.add_argument(
        "--workers", type=_at_least(0), default=0, help="processes that compare point clouds (default 0)"
    )
    parser.add_argument(
        "--profile", choices=PROFILE_NAMES, default="exact", help="what is given up for speed, to measure its price"
    )
    parser.add_argument("--calibration", type=Path, help="file of 'gen3r calibrate': lets the profile spare steps")
    add_sampling_options(parser)
    add_device_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check, load, measure, print and write."""
    from gen3r_core.evaluation.parts import open_for_evaluation, shape_of
    from gen3r_core.evaluation.tasks import PARTS, check_shape, load_task
    from gen3r_core.execution.calibration import Calibration
    from gen3r_core.execution.profiles import profile_named
    from gen3r_core.execution.step_cache import check_levels
    from gen3r_core.schedulers import FlowSolver

    # Whatever can be wrong is found before weights are loaded.
    profile = profile_named(args.profile)
    if profile.side_share < 1 and args.task in _GENERATIONS:
        raise InputError(
            f"profile {profile.name!r} makes smaller and fewer frames, which have no truth to compare with"
        )
    calibration = None if args.calibration is None else Calibration.load(args.calibration)
    checkpoint = open_for_evaluation(args.checkpoint, args.parts)
    for part in PARTS[args.task]:
        checkpoint.component(part)
    frames, size = shape_of(checkpoint, args.num_frames, args.size)
    check_shape(args.task, frames, size)
    sampling = sampling_of(
        args, checkpoint.defaults, negative_prompt=args.negative_prompt, num_frames=frames, size=size
    )
    if args.task in _GENERATIONS:
        sampling = profile.sampling(sampling, task=args.task, num_frames=frames, image_size=size)
    solver = FlowSolver(sampling.scheduler, sampling.steps, shift=sampling.shift, euler=checkpoint.scheduler)
    if calibration is not None:
        check_levels(solver.sigmas.tolist()[:-1], calibration.levels)
    sampling = replace(sampling, shift=solver.shift)
    _check_outputs(args)
    scenes, seeds = _scenes(args, frames, size)
    prompt_of = _prompts(args.prompt, scenes)
    device = choose_device(args.device)
    dtype = choose_dtype(args.dtype, device)
    with loading_bar() as progress:
        model = load_task(
            args.task,
            checkpoint,
            sampling,
            prompt_of,
            device=device,
            dtype=dtype,
            seed=args.noise_seed,
            profile=profile,
            calibration=calibration,
            progress=progress,
        )
    settings = _settings(args, seeds, sampling, device, dtype)
    results: list[SceneFigures] = []
    try:
        _measure(args, scenes, model, device, results)
    except (Gen3RError, KeyboardInterrupt):
        if results:
            path = None if args.json is None else _partial(args.json)
            _finish(args, results, {**settings, "complete": False}, path)
            print(f"stopped after {len(results)} of {len(scenes)} scenes" + (f"; see {path}" if path else ""))
        raise
    _finish(args, results, {**settings, "complete": True}, args.json)
    if args.json is not None:
        _partial(args.json).unlink(missing_ok=True)
    return 0


def _settings(
    args: argparse.Namespace, seeds: str | None, sampling: Sampling, device: torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    """What the figures depend on, for the report."""
    from gen3r_core.bench import describe_machine
    from gen3r_core.checkpoint.packaged import PACKAGED

    checkpoint = args.checkpoint or (None if args.parts else PACKAGED)
    size = list(sampling.size or ())
    of_generation = {
        "steps": sampling.steps,
        "guidance": sampling.guidance,
        "geometry": str(sampling.geometry),
        "scheduler": sampling.scheduler,
        "shift": sampling.shift,
        "prompt": args.prompt,
        "negative_prompt": sampling.negative_prompt,
        "noise_seed": args.noise_seed,
        "calibration": None if args.calibration is None else str(args.calibration),
    }
    generated = args.task in _GENERATIONS
    return {
        "checkpoint": None if checkpoint is None else str(checkpoint),
        "parts": {name: str(path) for name, path in args.parts},
        "data": None if args.data is None else str(args.data),
        "split": args.split,
        "seeds": seeds,
        "frames": sampling.num_frames,
        "size": size,
        "profile": args.profile,
        **{name: value if generated else None for name, value in of_generation.items()},
        "batch_size": args.batch_size,
        "device": str(device),
        "dtype": str(dtype).removeprefix("torch."),
        "versions": describe_machine(device),
    }


def _measure(
    args: argparse.Namespace,
    scenes: Scenes,
    model: Evaluated,
    device: torch.device,
    results: list[SceneFigures],
) -> None:
    """Fills the results as they come, so that an interrupt finds those that are done."""
    from tqdm import tqdm

    from gen3r_core.evaluation.run import evaluate
    from gen3r_core.progress import Progress

    with tqdm(total=len(scenes), desc=args.task, unit="scene", mininterval=0.5) as bar:

        def step(progress: Progress) -> None:
            bar.set_postfix_str(f"{progress.stage} {progress.step}/{progress.total}")

        figures = evaluate(
            scenes,
            model,
            device=device,
            batch_size=args.batch_size,
            workers=args.workers,
            callback=step,
            show=None if args.output_dir is None else _sheet_writer(args.output_dir, model),
        )
        with closing(figures):
            for result in figures:
                results.append(result)
                bar.update(1)


def _finish(args: argparse.Namespace, results: list[SceneFigures], settings: dict[str, Any], path: Path | None) -> None:
    from gen3r_core.evaluation.report import build_report, format_report
    from gen3r_core.io.atomic import write_json_atomic

    report = build_report(args.task, results, settings)
    print(format_report(report))
    if path is not None:
        write_json_atomic(path, report)


def _scenes(args: argparse.Namespace, frames: int, size: tuple[int, int]) -> tuple[Scenes, str | None]:
    """The clips, and the range of seeds for the report."""
    from gen3r_core.evaluation.scenes import FolderScenes, WorldScenes

    seeds = args.seeds
    shown = None if seeds is None else f"{seeds[0]}-{seeds[-1]}"
    if args.data is not None:
        return FolderScenes(args.data, args.split, frames, size, rows=seeds, interval=args.interval), shown
    if args.interval != 1:
        raise InputError("--interval goes with --data; the frames of worlds are as far apart as their paths have them")
    return WorldScenes(args.split, seeds or range(64), frames, size), shown or "0-63"


def _prompts(kind: str, scenes: Scenes) -> Callable[[TrueScene], str]:
    if kind == "none":
        return lambda _scene: ""
    if kind == "wrong":
        scenes.other_caption(0)  # that there is none shall be said now
        return lambda scene: scenes.other_caption(scene.row)
    return lambda scene: scene.caption


def _sheet_writer(folder: Path, model: Evaluated) -> Show:
    from gen3r_core.evaluation.sheets import evaluation_sheet
    from gen3r_core.io.images import write_image

    def write(scene: TrueScene, prediction: Prediction, measured: SceneFigures) -> None:
        write_image(folder / f"{scene.name}.png", evaluation_sheet(scene, prediction, measured, model.task))

    return write


def _check_outputs(args: argparse.Namespace) -> None:
    from gen3r_core.io.atomic import output_error

    check_output_file(args.json)
    if args.output_dir is not None:
        try:
            args.output_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise output_error(args.output_dir, error) from error


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.stem}.partial{path.suffix}")


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from error
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is too small: at least {least} is needed")
        return value

    return number


def _part(text: str) -> tuple[str, Path]:
    """``NAME=FOLDER``.

    Raises:
        argparse.ArgumentTypeError: for anything else.
    """
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise argparse.ArgumentTypeError(f"{text!r} is not a part like vggt=runs/vggt/vggt")
    return name, Path(folder)
