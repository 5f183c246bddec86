"""``gen3r convert``: any readable checkpoint, or single trained parts, to our layout."""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gen3r_core.commands.options import DTYPES, GEOMETRIES, image_size, loading_bar
from gen3r_core.errors import InputError

if TYPE_CHECKING:
    from gen3r_core.checkpoint.convert import Kinds
    from gen3r_core.checkpoint.folder import Checkpoint

STORED = {"keep": "keep", "int8": "int8", **DTYPES, **{name: name for name in DTYPES.values()}}
"""What weights can be stored as, by the words for it."""


def add_parser(commands: Any) -> None:
    """Add the sub-command."""
    parser = commands.add_parser(
        "convert",
        help="write a checkpoint in our layout (safetensors, SHA-256 sums), or put trained parts together",
        description="Write a checkpoint in our layout. An interrupted conversion goes on where it was.",
    )
    parser.add_argument(
        "source", type=Path, nargs="?", help="checkpoint of any layout, or a Wan2.1-Fun base folder; not with --parts"
    )
    parser.add_argument("destination", type=Path, nargs="?", help="folder that does not exist yet, or is empty")
    parser.add_argument("--output", type=Path, help="the destination, where --parts take the source's place")
    parser.add_argument(
        "--parts",
        nargs="+",
        type=part_folder,
        default=[],
        metavar="[NAME=]FOLDER",
        help="trained parts, e.g. vggt=runs/vggt/vggt or, for all that a training has made, runs/vggt; with a source "
        "they take the place of its own",
    )
    parser.add_argument(
        "--random",
        choices=("tiny", "small", "full"),
        help="random weights of this size in the source's place, for benchmarks of loading and of mapped files",
    )
    parser.add_argument(
        "--dtype",
        "--weights_dtype",
        type=stored_types,
        default="keep",
        metavar="TYPE[,PART=TYPE...]",
        help=f"type of the weights: {', '.join(STORED)} (default keep); single parts may have their own, e.g. "
        "int8,vggt=fp16. int8 has one scale for each row of a matrix",
    )
    parser.add_argument("--max_shard_size", type=float, metavar="MIB", help="largest weight file (default 2048)")
    parser.add_argument("--num_frames", type=int, help="frames the model was trained for (default the source's, or 17)")
    parser.add_argument("--steps", type=int, help="denoising steps that suit the model (default the source's, or 50)")
    parser.add_argument("--guidance", type=float, help="guidance that suits the model (default the source's, or 5)")
    parser.add_argument(
        "--geometry", choices=GEOMETRIES, help="what tells the depth of its frames (default the source's, or latents)"
    )
    parser.add_argument("--size", type=image_size, help="and the size: side or HEIGHTxWIDTH (default its, or 224)")
    parser.add_argument("--licence", help="of the weights (with --parts: of these), to be noted, e.g. Apache-2.0")
    parser.add_argument(
        "--replace", action="store_true", help="the destination may be a checkpoint of ours: replace it"
    )
    parser.add_argument("--vggt", type=Path, help="with a Wan base folder: VGGT-1B, a folder or a weight file")
    parser.add_argument("--geo_adapter", type=Path, help="with a Wan base folder: the geometry adapter's weights")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Convert; an interrupted conversion goes on where it was."""
    from gen3r_core.checkpoint.convert import convert_checkpoint
    from gen3r_core.checkpoint.info import format_info, inspect_checkpoint

    if args.random is not None and args.destination is None and args.output is None:
        args.source, args.destination = None, args.source
    destination = args.output or args.destination
    if destination is None or (args.output and args.destination):
        raise InputError("name the destination once: as the second folder, or with --output")
    destination = destination.resolve()
    if args.max_shard_size is not None and not args.max_shard_size > 0:
        raise InputError(f"--max_shard_size must be positive, got {args.max_shard_size:g}")
    with _opened(args) as checkpoint, loading_bar() as progress:
        convert_checkpoint(
            checkpoint,
            destination,
            dtype=_kinds(args.dtype, checkpoint),
            shard_bytes=None if args.max_shard_size is None else int(args.max_shard_size * 2**20),
            replace=args.replace,
            progress=progress,
        )
    written, rows = inspect_checkpoint(destination)
    print(format_info(written, rows))
    sizes = [path.stat().st_size for path in destination.rglob("*") if path.is_file()]
    print(f"\n{sum(sizes) / 2**20:.2f} MiB in {len(sizes)} files, the largest of {max(sizes) / 2**20:.2f} MiB")
    return 0


def part_folder(text: str) -> tuple[str | None, Path]:
    """``NAME=FOLDER``, or a folder alone."""
    name, separator, folder = text.partition("=")
    if not separator or "/" in name:
        return None, Path(text)
    return name, Path(folder)


def stored_types(text: str) -> dict[str | None, str]:
    """Types by part from ``TYPE,PART=TYPE,...``; None stands for all other parts.

    Raises:
        argparse.ArgumentTypeError: a type is unknown, or a part has two.
    """
    kinds: dict[str | None, str] = {}
    for item in text.split(","):
        part, separator, kind = item.strip().rpartition("=")
        if kind not in STORED:
            raise argparse.ArgumentTypeError(f"{kind!r} is no type of weights; choose among {', '.join(STORED)}")
        key = part if separator else None
        if key in kinds:
            raise argparse.ArgumentTypeError(f"{text!r} gives {'a part' if key else 'all parts'} two types")
        kinds[key] = STORED[kind]
    return kinds


def _opened(args: argparse.Namespace) -> AbstractContextManager[Checkpoint]:
    if args.random is None:
        return nullcontext(_open(args))
    from gen3r_core.random_checkpoint import random_checkpoint

    own = (
        args.source,
        args.vggt,
        args.geo_adapter,
        args.num_frames,
        args.steps,
        args.guidance,
        args.geometry,
        args.size,
    )
    if args.parts or any(value is not None for value in (*own, args.licence)):
        raise InputError(
            "--random takes the place of a source and says all about it: beside it go the destination, --dtype, "
            "--max_shard_size and --replace"
        )
    return random_checkpoint(args.random)


def _open(args: argparse.Namespace) -> Checkpoint:
    from dataclasses import replace

    from gen3r_core.checkpoint.folder import open_checkpoint, open_parts
    from gen3r_core.checkpoint.parts import TOKENIZER, UNKNOWN_LICENCE, check_parts, gather_parts
    from gen3r_core.conditioning import LatentShape

    base: Checkpoint | None = None
    if args.source is not None:
        wan = args.vggt or args.geo_adapter
        base = open_parts(args.source, args.vggt, args.geo_adapter) if wan else open_checkpoint(args.source)
    elif not args.parts:
        raise InputError("name a source: a checkpoint folder, or trained parts with --parts")
    given = _defaults(args)
    if args.parts or base is None:
        checkpoint = gather_parts(args.parts, given, base, args.licence or UNKNOWN_LICENCE)
        check_parts(checkpoint)
    else:
        licences = dict.fromkeys((*base.components, TOKENIZER), args.licence) if args.licence else {}
        manifest = {**base.manifest, "licences": {**base.manifest.get("licences", {}), **licences}}
        checkpoint = replace(base, defaults={**base.defaults, **given}, manifest=manifest)
    if given:
        LatentShape(checkpoint.defaults["num_frames"], *checkpoint.defaults["image_size"])
    return checkpoint


def _defaults(args: argparse.Namespace) -> dict[str, Any]:
    """Frames and size as given; without a source that says them, those of the small model."""
    from gen3r_core.sizes import SIZES

    frames, size = args.num_frames, args.size
    if args.source is None:
        small = SIZES["small"]
        frames, size = (small.num_frames if frames is None else frames), (small.image_size if size is None else size)
    if args.steps is not None and args.steps < 1:
        raise InputError(f"--steps must be at least 1, got {args.steps}")
    if args.guidance is not None and not 0 <= args.guidance < 1000:
        raise InputError(f"--guidance must be 0 or more, got {args.guidance}")
    given = {
        "num_frames": frames,
        "image_size": None if size is None else list(size),
        "steps": args.steps,
        "guidance": args.guidance,
        "geometry": args.geometry,
    }
    return {key: value for key, value in given.items() if value is not None}


def _kinds(types: dict[str | None, str], checkpoint: Checkpoint) -> Kinds:
    import torch

    kinds = {name: None if kind == "keep" else getattr(torch, kind) for name, kind in types.items()}
    usual = kinds.pop(None, None)
    named: dict[str, torch.dtype | None] = {str(name): kind for name, kind in kinds.items()}
    return {**dict.fromkeys(checkpoint.components, usual), **named} if named else usual
