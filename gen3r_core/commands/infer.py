"""``gen3r infer``: images in, a scene on disk out. Upstream's option names work unchanged."""

from __future__ import annotations

import argparse
import struct
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gen3r_core.checkpoint.packaged import PACKAGED
from gen3r_core.commands.options import (
    add_device_options,
    add_execution_options,
    add_sampling_options,
    choose_device,
    choose_dtype,
    loading_bar,
    sampling_of,
)
from gen3r_core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from gen3r_core.jobs import Job, Sampling
    from gen3r_core.pipeline import Gen3RPipeline
    from gen3r_core.scene import CameraPath

TASKS = ("1view", "2view", "allview")
VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v")
_WRITTEN = 6
_STAGES = 6


def add_parser(commands: Any) -> None:
    """Add the sub-command."""
    parser = commands.add_parser("infer", help="generate or reconstruct a scene from images or a video")
    parser.add_argument(
        "--pretrained_model_name_or_path",
        "--checkpoint",
        type=Path,
        metavar="FOLDER",
        help=f"checkpoint folder (default {PACKAGED}, the model in this package)",
    )
    parser.add_argument("--task", choices=TASKS, default="1view", help="first frame, first and last, or all are given")
    parser.add_argument(
        "--frame_path",
        nargs="+",
        type=Path,
        required=True,
        help="image (1view), first and last image (2view), video, folder or images (allview)",
    )
    parser.add_argument(
        "--cameras",
        default="free",
        help="free, zoom_in, zoom_out, arc_left, arc_right, translate_up, translate_down, or a file: upstream's "
        "cameras.json or a nerfstudio transforms.json",
    )
    parser.add_argument("--prompts", required=True, help="prompt, or a text file whose first line is the prompt")
    parser.add_argument("--output_dir", type=Path, default=Path("./results"), help="folder for the files")
    parser.add_argument("--remove_far_points", action="store_true", help="drop the farthest 20 %% of the cloud")
    parser.add_argument("--negative_prompt", default="bad detailed", help="what to stay away from")
    parser.add_argument("--prompt_embeds", type=Path, help="file of 'gen3r embed-prompts'; spares the text encoder")
    parser.add_argument("--metres_per_unit", type=float, help="the camera file is in metres; metres in one scene unit")
    parser.add_argument(
        "--camera_axes",
        choices=("opengl", "opencv"),
        default="opengl",
        help="axes of a transforms.json (nerfstudio: opengl; Gen3R's training data: opencv)",
    )
    parser.add_argument("--seed", type=int, default=42, help="of all random draws (default 42)")
    add_sampling_options(parser)
    add_execution_options(parser)
    add_device_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check inputs, load, generate, write."""
    from gen3r_core.checkpoint.folder import open_checkpoint
    from gen3r_core.conditioning import LatentShape, Task
    from gen3r_core.execution.branch_processes import is_first, join, processes
    from gen3r_core.execution.calibration import Calibration
    from gen3r_core.execution.grid import speed_up
    from gen3r_core.execution.levels import LEVELS
    from gen3r_core.execution.plan import limit_memory, plan_model
    from gen3r_core.execution.profiles import profile_named
    from gen3r_core.execution.step_cache import check_levels
    from gen3r_core.io.results import check_destination
    from gen3r_core.jobs import Job, resolve_jobs
    from gen3r_core.pipeline import Gen3RPipeline
    from gen3r_core.prompts import PromptCache, read_prompt
    from gen3r_core.schedulers import FlowSolver

    # Whatever can be wrong is found before weights are loaded.
    processes()
    task = Task(args.task)
    profile = profile_named(args.profile)
    calibration = None if args.calibration is None else Calibration.load(args.calibration)
    checkpoint = open_checkpoint(args.pretrained_model_name_or_path)
    height, width = args.size or checkpoint.defaults["image_size"]
    frames = checkpoint.defaults["num_frames"] if args.num_frames is None else args.num_frames
    LatentShape(frames, height, width)
    sampling = sampling_of(args, checkpoint.defaults, negative_prompt=args.negative_prompt)
    sampling = profile.sampling(sampling, task=task, num_frames=frames, image_size=(height, width))
    solver = FlowSolver(sampling.scheduler, sampling.steps, shift=sampling.shift, euler=checkpoint.scheduler)
    if calibration is not None:
        check_levels(solver.sigmas.tolist()[:-1], calibration.levels)
    sampling = replace(sampling, shift=solver.shift)
    prompt = read_prompt(args.prompts)
    cameras = _cameras(args)
    images = read_frames(args.frame_path, task, frames)
    job = Job(images, task, prompt, cameras, args.seed)
    shape, _ = resolve_jobs([job], sampling, num_frames=frames, image_size=(height, width))
    check_destination(args.output_dir, shape.num_frames, shape.size)
    prompts = PromptCache.load(args.prompt_embeds) if args.prompt_embeds else None
    if prompts is not None:
        for text in (prompt, args.negative_prompt):
            prompts.get(text)
    device = choose_device(args.device)
    dtype = choose_dtype(args.dtype, device)
    level = LEVELS[0]
    if args.memory_budget is not None:
        plan = plan_model(checkpoint, task, sampling, dtype, args.memory_budget, text=prompts is None)
        print(plan.words())
        limit_memory(device, args.memory_budget)
        level = plan.level
    start = time.perf_counter()
    with loading_bar() as progress:
        pipeline = Gen3RPipeline.from_pretrained(
            checkpoint, device=device, dtype=dtype, prompts=prompts, progress=progress, level=level
        )
    loading = time.perf_counter() - start
    if args.compile:
        speed_up(pipeline, channels_last=False, compiled=True)
    pipeline.shared = join(device)
    with profile.apply(pipeline, calibration):
        if not is_first():  # its share of the work; the first process writes
            pipeline.generate(job, sampling)
            return 0
        _generate(args, pipeline, job, sampling, dtype, loading)
    return 0


def _generate(
    args: argparse.Namespace,
    pipeline: Gen3RPipeline,
    job: Job,
    sampling: Sampling,
    dtype: torch.dtype,
    loading: float,
) -> None:
    from tqdm import tqdm

    from gen3r_core.bench import describe_machine
    from gen3r_core.conditioning import Task
    from gen3r_core.geometry_source import GeometrySource
    from gen3r_core.io.results import write_scene
    from gen3r_core.progress import JobMonitor, Progress

    # Single stages before and after denoising, and the files.
    follows_path = job.task is not Task.ALL_VIEW and job.cameras != "free"
    stages = _STAGES + (sampling.geometry == GeometrySource.FRAMES and follows_path)
    with tqdm(total=sampling.steps + _WRITTEN + stages, desc="start", unit="step", mininterval=0.5) as bar:

        def show(progress: Progress) -> None:
            bar.set_description(progress.stage, refresh=progress.step == 0)  # every stage is seen to begin
            bar.update(1 if progress.step else 0)

        def writing(name: str) -> None:
            bar.set_description(f"write {name}")
            bar.update(1)

        monitor = JobMonitor(show, pipeline.device)
        scene = pipeline.generate(job, sampling, monitor=monitor)
        facts = {
            "command": "infer",
            "task": args.task,
            "prompt": job.prompt,
            "negative_prompt": args.negative_prompt,
            "frame_path": [str(path) for path in args.frame_path],
            "cameras": args.cameras,
            "metres_per_unit": args.metres_per_unit,
            "checkpoint": str(args.pretrained_model_name_or_path or PACKAGED),
            "steps": sampling.steps,
            "guidance": sampling.guidance,
            "geometry": str(sampling.geometry),
            "scheduler": sampling.scheduler,
            "shift": sampling.shift,
            "attention": str(sampling.attention),
            "profile": args.profile,
            "calibration": None if args.calibration is None else str(args.calibration),
            "level": pipeline.placement.level.name,
            "lowered": monitor.lowered,
            "seed": args.seed,
            "dtype": str(dtype).removeprefix("torch."),
            "remove_far_points": args.remove_far_points,
            "versions": describe_machine(pipeline.device),
            "seconds": {name: round(value, 4) for name, value in {"load": loading, **monitor.seconds}.items()},
        }
        write_scene(args.output_dir, scene, facts, remove_far=args.remove_far_points, report=writing)
        bar.set_description("done")
        bar.update(bar.total - bar.n)
    print(f"{len(scene)} frames of {scene.image_size[0]}x{scene.image_size[1]} in {args.output_dir}")


def _cameras(args: argparse.Namespace) -> str | CameraPath:
    from gen3r_core.geometry.trajectories import BUILT_IN_PATHS
    from gen3r_core.io.cameras import read_cameras

    if args.task == "allview" or args.cameras in BUILT_IN_PATHS:
        if args.task != "allview" and args.metres_per_unit is not None:
            raise InputError(f"--metres_per_unit goes with a camera file; --cameras {args.cameras} needs none")
        return "free" if args.task == "allview" else str(args.cameras)
    path = Path(args.cameras)
    if not path.is_file():
        raise InputError(
            f"cameras {args.cameras!r} is neither a file nor a built-in path; the paths are {', '.join(BUILT_IN_PATHS)}"
        )
    return read_cameras(path, axes=args.camera_axes, metres_per_unit=args.metres_per_unit)


def read_frames(paths: Sequence[Path], task: str, num_frames: int) -> torch.Tensor:
    """The images a task asks for.

    Args:
        paths: files, or one folder or video.
        task: "1view" takes one image, "2view" two, "allview" a video, a folder or images.
        num_frames: for allview, how many are read at most.

    Returns:
        ``[N, 3, H, W]`` float32 in [0, 1].

    Raises:
        InputError: the wrong number of paths for the task, or unreadable ones.
    """
    import torch

    from gen3r_core.io.images import list_images, read_images
    from gen3r_core.io.video import read_video

    for path in paths:
        if not path.exists():
            raise InputError(f"{path} does not exist; check --frame_path")
    wanted = {"1view": 1, "2view": 2}.get(task)
    if wanted is not None and len(paths) != wanted:
        raise InputError(
            f"task {task} takes {wanted} image{'s' * (wanted > 1)} in --frame_path, got {len(paths)} paths"
        )
    if wanted is None and len(paths) == 1 and _is_video(paths[0]):
        try:
            frames = read_video(paths[0], max_frames=num_frames)
        except InputError as error:
            if paths[0].suffix.lower() in VIDEO_SUFFIXES:
                raise
            raise InputError(f"{error} (nor is it an image that can be read)") from error
    elif wanted is None and len(paths) == 1 and paths[0].is_dir():
        frames = read_images(list_images(paths[0])[:num_frames])
    else:
        frames = read_images(list(paths)[:num_frames] if wanted is None else list(paths))
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255


def _is_video(path: Path) -> bool:
    """Whether FFmpeg is to read it: names of videos, and files that Pillow does not know."""
    from PIL import Image, UnidentifiedImageError

    from gen3r_core.io.images import IMAGE_SUFFIXES

    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES or suffix in IMAGE_SUFFIXES or not path.is_file():
        return suffix in VIDEO_SUFFIXES
    try:
        with Image.open(path) as image:
            return image.format == "MPEG"  # which Pillow knows by name only
    except UnidentifiedImageError:
        return not _is_text(path)
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, MemoryError, Image.DecompressionBombError):
        # A damaged image: what is wrong with it is said where it is read.
        return False


def _is_text(path: Path) -> bool:
    """FFmpeg plays texts as on an old terminal, which nobody means."""
    import av

    try:
        with av.open(str(path)) as container:
            return container.format.name == "tty"
    except (av.FFmpegError, ValueError):
        return False  # reading it says what is wrong
