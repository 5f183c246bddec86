"""Options that several commands share, and what their words mean."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gen3r_core.errors import DeviceError, InputError, OutputError

if TYPE_CHECKING:
    import torch

    from gen3r_core.checkpoint.loading import Progress as LoadingProgress
    from gen3r_core.jobs import Sampling

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
SCHEDULERS = ("euler", "unipc", "dpm++")
PROFILE_NAMES = ("exact", "balanced", "fast", "preview")
GEOMETRIES = ("latents", "frames")
KERNELS = ("auto", "flash4", "cudnn", "flash", "efficient", "math")


def add_device_options(parser: argparse.ArgumentParser) -> None:
    """``--device`` and ``--dtype``."""
    parser.add_argument("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda, cuda:1, ...")
    parser.add_argument(
        "--dtype",
        choices=("auto", *DTYPES),
        default="auto",
        help="type of the weights and of the computation; auto is bf16 on a GPU and fp32 on a CPU",
    )


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """How to denoise."""
    parser.add_argument("--steps", type=int, help="denoising steps (default: the model's)")
    parser.add_argument("--guidance", type=float, help="weight of the prompt (default: the model's; 1 is unguided)")
    parser.add_argument("--scheduler", choices=SCHEDULERS, default="euler", help="solver (default euler, as published)")
    parser.add_argument("--shift", type=float, help="shift of the noise levels (default: the checkpoint's or solver's)")
    parser.add_argument("--num_frames", type=int, help="frames to generate, 4k+1 (default: the model's)")
    parser.add_argument(
        "--size", type=image_size, help="side in pixels or HEIGHTxWIDTH, multiples of 112 (default: the model's)"
    )
    parser.add_argument(
        "--geometry",
        choices=GEOMETRIES,
        help="what tells the depth: the latents (as published), or VGGT on the frames (default: the model's)",
    )
    parser.add_argument("--attention", choices=KERNELS, default="auto", help="attention kernel (default auto)")


def add_execution_options(parser: argparse.ArgumentParser) -> None:
    """How fast, and in how much memory."""
    parser.add_argument(
        "--profile",
        choices=PROFILE_NAMES,
        default="exact",
        help="what may be given up for speed (default exact: nothing); only exact is verified on published weights",
    )
    parser.add_argument("--calibration", type=Path, help="file of 'gen3r calibrate': lets the profile spare steps")
    parser.add_argument("--memory_budget", type=float, help="GiB that may be used on the device; see 'gen3r plan'")
    parser.add_argument(
        "--compile", action="store_true", help="compile the networks' blocks: faster from the second job on"
    )


def sampling_of(args: argparse.Namespace, defaults: Mapping[str, Any], **others: Any) -> Sampling:
    """What :func:`add_sampling_options` was told.

    Args:
        args: of the command.
        defaults: of the checkpoint, for steps, guidance and geometry that were not given.
        others: further fields of the result, or values that take precedence.

    Raises:
        InputError: the guidance is out of range or no number.
    """
    from gen3r_core.jobs import Sampling

    if args.guidance is not None and not 0 <= args.guidance < 1000:
        raise InputError(f"--guidance must be 0 or more, and below 1000, got {args.guidance}")
    given = {
        "num_frames": args.num_frames,
        "size": args.size,
        "steps": defaults["steps"] if args.steps is None else args.steps,
        "guidance": defaults["guidance"] if args.guidance is None else args.guidance,
        "scheduler": args.scheduler,
        "shift": args.shift,
        "attention": args.attention,
        "geometry": args.geometry or defaults["geometry"],
    }
    return Sampling(**{**given, **others})


def check_output_file(path: Path | None) -> None:
    """See before a long command that a file can be written there; None is no file.

    Raises:
        OutputError: its folder is missing or may not be written to, or a folder is in its place.
    """
    if path is None:
        return
    folder = path.absolute().parent
    if not folder.is_dir():
        raise OutputError(f"cannot write {path}: there is no folder {path.parent}; make it, or name another")
    if path.is_dir():
        raise OutputError(f"cannot write {path}: a folder of this name is in the way; choose another one")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write {path}: {folder} may not be written to; choose another folder")


def image_size(text: str) -> tuple[int, int]:
    """``560`` or ``560x448`` (height x width).

    Raises:
        argparse.ArgumentTypeError: not one or two whole numbers.
    """
    try:
        sides = [int(side) for side in text.lower().split("x")]
        height, width = sides if len(sides) == 2 else (*sides, *sides)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size like 560 or 560x448 (height x width)") from error
    return height, width


def choose_device(name: str) -> torch.device:
    """The torch device for ``--device``; processes that `torchrun` started take a GPU each.

    Raises:
        DeviceError: it does not exist here.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:  # pragma: gpu-only
        name = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"device {name!r} is unknown; use auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise DeviceError(f"device {name!r} is not supported; use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"device {name!r} is not there: torch sees {torch.cuda.device_count()} GPUs; use --device cpu"
        )
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The torch dtype for ``--dtype``."""
    import torch

    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    dtype: torch.dtype = getattr(torch, DTYPES[name])
    return dtype


@contextmanager
def loading_bar() -> Iterator[LoadingProgress]:
    """A progress bar in bytes for loading or converting components."""
    from tqdm import tqdm

    bars: dict[str, Any] = {}

    def report(name: str, done: int, total: int) -> None:
        if name not in bars:
            bars[name] = tqdm(total=total, desc=name, unit="B", unit_scale=True, leave=False, mininterval=0.5)
        bars[name].update(done - bars[name].n)
        if done >= total:
            bars[name].close()

    try:
        yield report
    finally:
        for bar in bars.values():
            bar.close()
