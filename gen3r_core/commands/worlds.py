"""``gen3r worlds``: previews of procedural worlds, and data sets made of them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gen3r_core.commands.options import choose_device, image_size

if TYPE_CHECKING:
    from gen3r_core.worlds.splits import Split

SPLITS: tuple[Split, ...] = ("train", "val", "test")
WORLD_KINDS = ("room", "corridor", "rooms")
PATH_KINDS = ("robot", "drone", "hand")
_FPS = 8.0


def add_parser(commands: Any) -> None:
    """Add the sub-command and its parts."""
    parser = commands.add_parser("worlds", help="procedural indoor worlds: previews and data sets")
    parts = parser.add_subparsers(dest="part", required=True, metavar="render|record|measure|export|captions")
    render = parts.add_parser("render", help="contact sheet, video and floor plan of some worlds")
    render.add_argument("--split", choices=SPLITS, default="train", help="whose seeds (default train)")
    render.add_argument("--seeds", type=seed_range, default=range(4), help="indices like 3 or 0-19 (default 0-3)")
    render.add_argument("--world", choices=WORLD_KINDS, help="kind of world (default: drawn)")
    render.add_argument("--path", choices=PATH_KINDS, help="whose camera (default: drawn)")
    render.add_argument("--output_dir", type=Path, default=Path("./results/worlds"), help="folder for the files")
    _add_clip_options(render, frames=17)
    render.set_defaults(run=run_render)
    _add_record(parts)
    _add_measure(parts)
    export = parts.add_parser("export", help="a data set in the layout of Gen3R's training; goes on where it stopped")
    export.add_argument("output_dir", type=Path, help="folder of the data set")
    export.add_argument("--train", type=int, default=100, help="training scenes (default 100)")
    export.add_argument("--val", type=int, default=0, help="validation scenes (default 0)")
    export.add_argument("--test", type=int, default=10, help="test scenes (default 10)")
    export.add_argument("--depth", action="store_true", help="also write depth: 16-bit PNG, millimetres")
    export.add_argument("--relative_paths", action="store_true", help="list files relative to the folder")
    _add_clip_options(export, frames=49)
    export.set_defaults(run=run_export)
    captions = parts.add_parser("captions", help="captions of clips, one a line, to train a tokenizer from")
    captions.add_argument("output", type=Path, help="text file to write")
    captions.add_argument("--split", choices=SPLITS, default="train", help="whose seeds (default train)")
    captions.add_argument("--seeds", type=seed_range, default=range(1000), help="indices (default 0-999)")
    captions.set_defaults(run=run_captions)


def seed_range(text: str) -> range:
    """``7`` or ``0-19``, both ends included.

    Raises:
        argparse.ArgumentTypeError: for anything else.
    """
    first, _, last = text.partition("-")
    try:
        found = range(int(first), int(last or first) + 1)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number like 7 or a range like 0-19") from error
    if len(found) == 0:
        raise argparse.ArgumentTypeError(f"the range {text!r} is empty: the first number is the smaller one")
    return found


def run_render(args: argparse.Namespace) -> int:
    """Render previews."""
    from tqdm import tqdm

    from gen3r_core.io.atomic import OutputFolder
    from gen3r_core.io.images import write_image
    from gen3r_core.io.video import write_video
    from gen3r_core.worlds.clips import plan_clip, render_clips, split_clips
    from gen3r_core.worlds.pictures import beside_depth, contact_sheet, floor_plan, stack_sheets

    device = choose_device(args.device)
    sheets = []
    with OutputFolder(args.output_dir) as out:
        for index in tqdm(args.seeds, desc="worlds", unit="world"):
            plan = plan_clip(
                args.split,
                index,
                args.num_frames,
                args.size,
                world_kind=args.world,
                path_kind=args.path,
                speed=args.speed,
            )
            clip = split_clips([plan], render_clips([plan], device=device, samples=args.samples))[0]
            name = f"{args.split}_{index:06d}"
            sheets.append(contact_sheet(clip))
            write_image(out.path(f"{name}.png"), sheets[-1])
            write_image(out.path(f"{name}_plan.png"), floor_plan(plan.world, plan.path.T_world_cam[:, :3, 3]))
            write_video(out.path(f"{name}.mp4"), beside_depth(clip), _FPS)
            tqdm.write(f"{name}: {clip.kind}: {clip.caption}")
        write_image(out.path("overview.png"), stack_sheets(sheets))
    print(f"{len(sheets)} worlds in {args.output_dir}")
    return 0


def _add_record(parts: Any) -> None:
    record = parts.add_parser("record", help="a robot's drive through rooms as a bag, with odometry and the truth")
    record.add_argument("output_dir", type=Path, help="folder of the bag; must not exist")
    record.add_argument("--split", choices=SPLITS, default="test", help="whose seeds (default test)")
    record.add_argument("--seed", type=int, default=0, help="index of the world (default 0)")
    record.add_argument("--world", choices=WORLD_KINDS, default="rooms", help="kind of world (default rooms)")
    record.add_argument("--length", type=float, default=34.0, help="metres to drive (default 34)")
    record.add_argument("--speed", type=float, default=0.08, help="metres between images (default 0.08)")
    record.add_argument("--hz", type=float, default=10.0, help="images a second (default 10)")
    record.add_argument("--size", type=image_size, default=(224, 224), help="side or HEIGHTxWIDTH (default 224)")
    record.add_argument("--hfov", type=float, default=1.3, help="horizontal field of view, radians (default 1.3)")
    record.add_argument("--samples", type=int, default=1, help="n x n samples a pixel (default 1)")
    record.add_argument("--odometry_scale", type=float, default=1.02, help="how much too long it is (default 1.02)")
    record.add_argument("--odometry_turn", type=float, default=0.02, help="share turned too far (default 0.02)")
    record.add_argument(
        "--odometry_yaw", type=float, default=0.2, help="degrees it turns to the left with every metre (default 0.2)"
    )
    record.add_argument(
        "--seconds", type=float, help="drive forth and back so long, with the same pictures (default: once)"
    )
    record.add_argument("--cache", type=Path, help="folder of rendered pictures, for a run that was interrupted")
    record.set_defaults(run=run_record)


def _add_measure(parts: Any) -> None:
    measure = parts.add_parser("measure", help="how far maps of a recorded drive are from the world")
    measure.add_argument("recording", type=Path, help="folder of `gen3r worlds record`")
    measure.add_argument("maps", type=Path, nargs="+", help="folders of `gen3r reconstruct`")
    measure.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")
    measure.set_defaults(run=run_measure)


def run_measure(args: argparse.Namespace) -> int:
    """Print errors of each map."""
    from gen3r_core.evaluation.map_truth import measure_map
    from gen3r_core.io.atomic import write_json_atomic
    from gen3r_core.worlds.recorded import read_truth

    truth = read_truth(args.recording)
    found = {str(folder): measure_map(folder, truth).facts() for folder in args.maps}
    for name, facts in found.items():
        print(name)
        for key, value in facts.items():
            print(f"  {key:24} {value:.4f}" if isinstance(value, float) else f"  {key:24} {value}")
    if args.json is not None:
        write_json_atomic(args.json, found)
    return 0


def run_record(args: argparse.Namespace) -> int:
    """Render a drive and write its bag."""
    from tqdm import tqdm

    from gen3r_core.worlds.recorded import DriveOptions, OdometryErrors, record_drive

    options = DriveOptions(
        args.split,
        args.seed,
        args.world,
        length_m=args.length,
        spacing_m=args.speed,
        hz=args.hz,
        size=args.size,
        hfov=args.hfov,
        samples=args.samples,
        errors=OdometryErrors(args.odometry_scale, args.odometry_turn, args.odometry_yaw),
        seconds=args.seconds,
    )
    with tqdm(desc="images", unit="image", mininterval=0.5) as bar:

        def show(done: int, count: int) -> None:
            bar.total = count
            bar.update(done - bar.n)

        truth = record_drive(args.output_dir, options, cache=args.cache, report=show)
    print(f"{len(truth.stamps_ns)} images in {args.output_dir}")
    return 0


def run_export(args: argparse.Namespace) -> int:
    """Write a data set, or the rest of it."""
    from tqdm import tqdm

    from gen3r_core.worlds.export import ExportSettings, export_worlds

    settings = ExportSettings(args.num_frames, args.size, args.samples, args.depth, args.speed)
    counts: dict[Split, int] = {split: getattr(args, split) for split in SPLITS if getattr(args, split) != 0}
    rendered = []
    with tqdm(total=sum(counts.values()), desc="export", unit="scene") as bar:

        def show(name: str, now: bool) -> None:
            bar.set_description(name, refresh=False)
            bar.update(1)
            rendered.append(now)

        export_worlds(
            args.output_dir,
            counts,
            settings,
            device=choose_device(args.device),
            relative_paths=args.relative_paths,
            report=show,
        )
    kept = len(rendered) - sum(rendered)
    print(f"{len(rendered)} scenes in {args.output_dir}" + (f", {kept} of them from before" if kept else ""))
    return 0


def run_captions(args: argparse.Namespace) -> int:
    """Write captions; nothing is rendered."""
    from tqdm import tqdm

    from gen3r_core.io.atomic import write_text_atomic
    from gen3r_core.worlds.clips import plan_clip

    found = [plan_clip(args.split, index).caption for index in tqdm(args.seeds, desc="captions", unit="clip")]
    write_text_atomic(args.output, "\n".join(found) + "\n")
    print(f"{len(found)} captions in {args.output}")
    return 0


def _add_clip_options(parser: argparse.ArgumentParser, frames: int) -> None:
    parser.add_argument("--num_frames", type=int, default=frames, help=f"frames of a clip (default {frames})")
    parser.add_argument("--size", type=image_size, default=(224, 224), help="side or HEIGHTxWIDTH (default 224)")
    parser.add_argument("--samples", type=int, default=2, help="n x n samples a pixel (default 2)")
    parser.add_argument("--speed", type=float, help="mean metres between frames (default: drawn)")
    parser.add_argument("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda, cuda:1, ...")
