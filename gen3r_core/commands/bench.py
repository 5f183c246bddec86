"""``gen3r bench``: timed jobs on a model of a named size with random weights."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
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
    image_size,
    sampling_of,
)
from gen3r_core.errors import InputError

if TYPE_CHECKING:
    import torch

    from gen3r_core.bench import BenchReport
    from gen3r_core.checkpoint.folder import Checkpoint
    from gen3r_core.checkpoint.loading import Progress as LoadingProgress
    from gen3r_core.execution.grid import GridResult
    from gen3r_core.execution.levels import Level
    from gen3r_core.execution.plan import MemoryPlan
    from gen3r_core.jobs import Sampling
    from gen3r_core.pipeline import Gen3RPipeline
    from gen3r_core.progress import Callback, Progress

TASKS = ("1view", "2view", "allview", "vggt")


def add_parser(commands: Any) -> None:
    """Add the sub-command."""
    parser = commands.add_parser("bench", help="time a model of a named size with random weights")
    parser.add_argument("--model", choices=("tiny", "small", "full"), default="tiny", help="size (default tiny)")
    parser.add_argument("--checkpoint", type=Path, help="trained weights in place of random ones")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["2view"], help="jobs to time (default 2view)")
    parser.add_argument("--warmup", type=int, default=1, help="untimed short jobs before (default 1)")
    parser.add_argument("--repeats", type=int, default=3, help="timed jobs, of which the median counts (default 3)")
    parser.add_argument("--json", type=Path, help="also write the figures as JSON")
    parser.add_argument("--profiles", nargs="+", choices=PROFILE_NAMES, default=["exact"], help="profiles to time")
    parser.add_argument("--memory_budgets", nargs="+", type=float, help="budgets in GiB to time; none without it")
    parser.add_argument("--sizes", nargs="+", type=image_size, help="sizes to time, in place of --size")
    parser.add_argument("--errors", action="store_true", help="also measure the latents' error against exact")
    parser.add_argument(
        "--plot", type=Path, help="draw these errors against seconds to a file, .png, .svg or .pdf (needs matplotlib)"
    )
    parser.add_argument("--compile", action="store_true", help="compile the networks' blocks")
    parser.add_argument("--channels_last", action="store_true", help="reorder the convolutions of both autoencoders")
    parser.add_argument(
        "--cold",
        action="store_true",
        help="time the cold start instead: from the command's start to the end of one job, the checkpoint's files read "
        "from storage; parts are in seconds and in %% of the whole",
    )
    parser.add_argument("--kernels", action="store_true", help="time the attention kernels alone, and nothing else")
    parser.add_argument(
        "--differences", action="store_true", help="how far speed-ups move the first task's latents, and nothing else"
    )
    parser.add_argument(
        "--trace", type=int, default=0, metavar="N", help="also list the N longest kernels of each stage (a job more)"
    )
    add_sampling_options(parser)
    add_device_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Build, run, print the table."""
    check_output_file(args.json)
    if args.cold:
        return _cold(args)
    from tqdm import tqdm

    from gen3r_core.bench import BenchReport, describe_machine
    from gen3r_core.checkpoint.folder import PUBLISHED_DEFAULTS, open_checkpoint
    from gen3r_core.execution.branch_processes import is_first, join, processes
    from gen3r_core.execution.grid import GridResult, bench_grid, speed_up
    from gen3r_core.execution.levels import LEVELS
    from gen3r_core.pipeline import Gen3RPipeline
    from gen3r_core.sizes import random_pipeline

    if args.repeats < 1 or args.warmup < 0:
        raise InputError(f"bench needs at least one timed job, got --repeats {args.repeats} --warmup {args.warmup}")
    if args.plot is not None:
        _check_plot(args)
    device = choose_device(args.device)
    dtype = choose_dtype(args.dtype, device)
    processes()
    if args.differences and args.tasks[0] == "vggt":
        raise InputError("--differences compares latents, which --tasks vggt has none of; name another task")
    if args.kernels:
        return _kernels(device, dtype, args.repeats)
    checkpoint = None if args.checkpoint is None else open_checkpoint(args.checkpoint)
    sampling = sampling_of(args, PUBLISHED_DEFAULTS if checkpoint is None else checkpoint.defaults)
    samplings = [replace(sampling, size=size) for size in args.sizes or [args.size]]
    plans = []
    for budget in args.memory_budgets or [None]:
        # One pipeline serves all tasks and sizes of a budget: the most frames known, the largest size.
        largest = max(samplings, key=lambda one: one.size or (0, 0))
        plan = None if budget is None else _plan(checkpoint or args.model, args.tasks, largest, dtype, budget)
        plans.append((budget, plan))

    def make(level: Level) -> Gen3RPipeline:
        if checkpoint is None:
            return random_pipeline(args.model, device=device, dtype=dtype, level=level)
        return Gen3RPipeline.from_pretrained(checkpoint, device=device, dtype=dtype, level=level)

    def prepare(made: Gen3RPipeline) -> None:
        speed_up(made, channels_last=args.channels_last, compiled=args.compile)
        made.shared = join(device)

    found = GridResult()
    try:
        with tqdm(desc="bench", unit="step", mininterval=0.5, disable=not is_first()) as bar:
            show = _shown_on(bar)
            if args.differences:
                return _differences(args, make(LEVELS[0]), samplings[0], dtype, show)
            bench_grid(
                make,
                plans,
                samplings,
                args.tasks,
                args.profiles,
                found,
                device=device,
                errors=args.errors,
                prepare=prepare,
                warmup=args.warmup,
                repeats=args.repeats,
                trace=args.trace,
                callback=show,
            )
    finally:  # an error or Ctrl-C takes nothing of what was measured before
        if is_first() and found.results:
            name = args.model if checkpoint is None else checkpoint.name
            facts = _facts(args, sampling, dtype, found)
            report = BenchReport(name, describe_machine(device), facts, found.results)
            _write(args, report)
    if is_first() and args.plot is not None:
        from gen3r_core.bench_plot import write_plot

        write_plot(report, found.bad_caches, args.plot)
    return 0


def _plan(
    model: str | Checkpoint, tasks: Sequence[str], sampling: Sampling, dtype: torch.dtype, budget: float
) -> MemoryPlan:
    """The plan for a budget, which is also printed: that of the task that knows the most frames."""
    from gen3r_core.conditioning import Task
    from gen3r_core.execution.plan import plan_model

    task = Task.ALL_VIEW if {"allview", "vggt"} & set(tasks) else Task.TWO_VIEW
    plan = plan_model(model, task, sampling, dtype, budget, reconstructs="vggt" in tasks)
    print(plan.words())
    return plan


def _check_plot(args: argparse.Namespace) -> None:
    """Before anything is measured."""
    if not args.errors:
        raise InputError("--plot draws the latents' errors against seconds; add --errors, which measures them")
    try:
        from gen3r_core.bench_plot import check_picture
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        raise InputError("--plot needs matplotlib, which is not installed: pip install 'gen3r[plot]'") from error
    check_picture(args.plot)
    check_output_file(args.plot)
    from gen3r_core.execution.profiles import PROFILES

    if set(args.tasks) == {"vggt"} or not any(PROFILES[name].comparable for name in args.profiles):
        raise InputError(
            "--plot needs a task that generates and a profile of the frames and size of exact: vggt has no latents, "
            "and those of preview are fewer"
        )


def _shown_on(bar: Any) -> Callback:
    """Steps of a job on a progress bar."""

    def show(progress: Progress) -> None:
        bar.set_postfix_str(f"{progress.stage} {progress.step}/{progress.total}", refresh=False)
        bar.update(1)

    return show


def _facts(args: argparse.Namespace, sampling: Sampling, dtype: torch.dtype, found: GridResult) -> dict[str, Any]:
    from gen3r_core.execution.branch_processes import processes

    facts = _job_facts(args, sampling, dtype) | {"warm-up": args.warmup, "median of": args.repeats} | _speed_ups(args)
    if processes() > 1:
        facts["processes"] = processes()
    verdict = found.verdict()
    return facts if verdict is None else facts | {"measure": verdict}


def _job_facts(args: argparse.Namespace, sampling: Sampling, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "steps": sampling.steps,
        "guidance": sampling.guidance,
        "geometry": str(sampling.geometry),
        "scheduler": args.scheduler,
        "attention": args.attention,
    }


def _speed_ups(args: argparse.Namespace) -> dict[str, Any]:
    return {name: True for name, on in (("compiled", args.compile), ("channels last", args.channels_last)) if on}


def _write(args: argparse.Namespace, report: BenchReport) -> None:
    from gen3r_core.bench import format_table, heading
    from gen3r_core.io.atomic import write_json_atomic
    from gen3r_core.trace import format_kernels

    print(format_table(report))
    for result in report.results:
        if result.kernels:
            print(f"\n{heading(result)}: the longest kernels\n\n{format_kernels(result.kernels)}")
    if args.json is not None:
        write_json_atomic(args.json, report.to_dict())


def _differences(
    args: argparse.Namespace, pipeline: Gen3RPipeline, sampling: Sampling, dtype: torch.dtype, callback: Callback
) -> int:
    from gen3r_core.bench import describe_machine
    from gen3r_core.conditioning import Task
    from gen3r_core.execution.differences import format_differences, measure_differences
    from gen3r_core.execution.grid import speed_up

    def optimise() -> None:
        speed_up(pipeline, channels_last=True, compiled=True)

    found = measure_differences(pipeline, Task(args.tasks[0]), sampling, optimise, callback)
    facts = describe_machine(pipeline.device) | {
        "dtype": str(dtype).removeprefix("torch."),
        "steps": str(sampling.steps),
    }
    print(", ".join(f"{key} {value}" for key, value in facts.items()) + ".\n\n" + format_differences(found))
    return 0


def _kernels(device: torch.device, dtype: torch.dtype, repeats: int) -> int:
    from gen3r_core.bench import describe_machine
    from gen3r_core.bench_attention import FULL_SIZES, SMALL_SIZES, format_attention, time_attention

    times = time_attention(SMALL_SIZES if device.type == "cpu" else FULL_SIZES, device, dtype, repeats=repeats)
    facts = describe_machine(device) | {"dtype": str(dtype).removeprefix("torch."), "median of": str(repeats)}
    print(", ".join(f"{key} {value}" for key, value in facts.items()) + ".\n\n" + format_attention(times))
    return 0


def _cold(args: argparse.Namespace) -> int:
    """Time the cold start of this process."""
    _check_cold(args)
    from tqdm import tqdm

    from gen3r_core.bench import describe_machine
    from gen3r_core.bench_cold import (
        ColdReport,
        ColdWatch,
        Part,
        cold_start,
        format_cold,
        import_compiler,
        start_device,
    )
    from gen3r_core.checkpoint.folder import open_checkpoint
    from gen3r_core.execution.branch_processes import processes
    from gen3r_core.execution.grid import speed_up
    from gen3r_core.io.atomic import write_json_atomic
    from gen3r_core.pipeline import Gen3RPipeline

    if processes() > 1:
        raise InputError(f"--cold measures one process, not {processes()}")
    compiler = import_compiler() if args.compile else {}
    watch = ColdWatch()
    watch.lap(Part.STARTED)
    device = choose_device(args.device)
    start_device(device)
    watch.lap(Part.DEVICE)
    dtype = choose_dtype(args.dtype, device)
    checkpoint = open_checkpoint(args.checkpoint)
    sampling = sampling_of(args, checkpoint.defaults, size=args.sizes[0] if args.sizes else args.size)
    level = _cold_level(args, checkpoint, sampling, device, dtype)
    watch.lap(Part.PLAN if args.memory_budgets else Part.REST)
    with tqdm(desc="bench", unit="step", mininterval=0.5) as bar:

        def load(progress: LoadingProgress) -> Gen3RPipeline:
            def tell(name: str, done: int, total: int) -> None:
                progress(name, done, total)
                bar.set_postfix_str(f"load {name}", refresh=False)
                bar.update(0)

            return Gen3RPipeline.from_pretrained(checkpoint, device=device, dtype=dtype, level=level, progress=tell)

        def prepare(made: Gen3RPipeline) -> None:
            speed_up(made, channels_last=args.channels_last, compiled=args.compile)

        result = cold_start(watch, checkpoint, load, args.tasks[0], sampling, prepare=prepare, callback=_shown_on(bar))
    facts = _job_facts(args, sampling, dtype) | _speed_ups(args) | compiler
    if args.memory_budgets:
        facts["budget GiB"] = args.memory_budgets[0]
    report = ColdReport(checkpoint.name, describe_machine(device), facts, result)
    print(format_cold(report))
    if args.json is not None:
        write_json_atomic(args.json, report.to_dict())
    return 0


def _check_cold(args: argparse.Namespace) -> None:
    """Refuse what a single job of a checkpoint leaves no room for."""
    if args.checkpoint is None:
        raise InputError(
            "--cold also measures how weights are loaded, and random weights are not loaded: name a checkpoint "
            "with --checkpoint (gen3r-small is in this package)"
        )
    others = {
        "--kernels": args.kernels,
        "--differences": args.differences,
        "--errors": args.errors,
        "--trace": args.trace,
        "--plot": args.plot is not None,
        "--profiles other than exact": args.profiles != ["exact"],
        "several --sizes": len(args.sizes or ()) > 1,
        "several --memory_budgets": len(args.memory_budgets or ()) > 1,
    }
    given = [name for name, on in others.items() if on]
    if given:
        raise InputError(f"--cold times a single job, without {', '.join(given)}")


def _cold_level(
    args: argparse.Namespace, checkpoint: Checkpoint, sampling: Sampling, device: torch.device, dtype: torch.dtype
) -> Level:
    """The level for the budget, which is imposed; the first without one."""
    from gen3r_core.execution.levels import LEVELS
    from gen3r_core.execution.plan import limit_memory

    if not args.memory_budgets:
        return LEVELS[0]
    plan = _plan(checkpoint, args.tasks[:1], sampling, dtype, args.memory_budgets[0])
    limit_memory(device, args.memory_budgets[0])
    return plan.level
