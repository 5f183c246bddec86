"""``gen3r reconstruct``: bags, videos and folders of images in, a map in."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from gen3r_core.checkpoint.packaged import PACKAGED
from gen3r_core.commands.options import DTYPES, choose_device, choose_dtype
from gen3r_core.commands.recording_options import add_reading_options, shot_options

if TYPE_CHECKING:
    from gen3r_core.offline.options import OfflineOptions
    from gen3r_core.offline.run import Outcome
    from gen3r_core.progress import Progress


def add_parser(commands: Any) -> None:
    """Add the sub-command."""
    parser = commands.add_parser(
        "reconstruct",
        help="turn bags, videos or folders of images into maps",
        description="Turn recordings into maps; docs/reconstruct.md says how. Exit codes: 0 clean, 3 something of the "
        "recording was lost and the rest used, 1 failed.",
    )
    parser.add_argument(
        "path", type=Path, nargs="+", metavar="RECORDING",
        help="bag, video, folder of images, transforms.json or COLMAP folder; several are spread over the devices",
    )  # fmt: skip
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the map; of several, their parent")
    parser.add_argument("--checkpoint", metavar="FOLDER", help=f"default {PACKAGED}, the model in this package")
    parser.add_argument(
        "--device", nargs="+", default=["auto"], help="auto, cpu, cuda, cuda:1, ...; several for several"
    )
    parser.add_argument("--dtype", choices=("auto", *DTYPES), default="auto", help="of what generates views")
    add_reading_options(parser)
    parser.add_argument("--resume", action="store_true", help="go on with a run that was stopped")
    chosen = parser.add_argument_group("keyframes and windows")
    chosen.add_argument("--spacing", type=float, default=0.15, metavar="M", help="metres between keyframes (0.15)")
    chosen.add_argument("--turn", type=float, default=10.0, metavar="DEG", help="degrees between them (10)")
    chosen.add_argument(
        "--change", type=float, default=0.03, help="change of the picture between them, without poses (0.03)"
    )
    chosen.add_argument("--longest", type=int, metavar="PX", help="longer side of the images (default: the model's)")
    chosen.add_argument("--window", type=int, default=17, metavar="N", help="keyframes in a window (17)")
    chosen.add_argument("--overlap", type=int, default=6, metavar="N", help="of which so many are shared (6)")
    made = parser.add_argument_group("map")
    made.add_argument("--max-points", type=int, default=5_000_000, metavar="N", help="of the cloud (5000000)")
    made.add_argument("--voxel", type=float, metavar="M", help="edge of its voxels (default: 0.02 where metric)")
    made.add_argument("--mesh", action="store_true", help="also a mesh")
    made.add_argument("--save-depth", action="store_true", help="also the depth maps")
    made.add_argument(
        "--generate", action="append", default=[], metavar="FROM:TO",
        help="let Gen3R predict views between two seconds of the recording (12.5:18), or so many metres beyond one "
        "(12.5:+1.5); again for more",
    )  # fmt: skip
    made.add_argument("--prompt", default="", help="words for what is generated")
    made.add_argument("--seed", type=int, default=42, help="of what is generated")
    made.add_argument("--steps", type=int, help="denoising steps of what is generated (default: the model's)")
    tried = parser.add_argument_group("for comparison")
    tried.add_argument("--no-graph", action="store_true", help="join windows one behind the other, close no loops")
    tried.add_argument("--no-matches", action="store_true", help="keep the network's cameras where no poses are known")
    tried.add_argument("--no-confirm", action="store_true", help="keep points that other views see at another depth")
    tried.add_argument("--no-anchor", action="store_true", help="do not fit depth to known poses")
    parser.set_defaults(run=partial(run, parser))


def run(parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    """Reconstruct one or several; the worst exit code of them.

    Args:
        parser: of the command.
        args: what it made of the command line.
    """
    from gen3r_core.offline.model import OfflineModel
    from gen3r_core.offline.options import Stretch
    from gen3r_core.offline.several import EXIT_PARTLY, spread, worst

    # Whatever can be wrong is found before anything is read.
    options = _options(args, tuple(Stretch.parse(text) for text in args.generate))
    devices = [choose_device(name) for name in args.device]
    models = [OfflineModel(args.checkpoint, device, choose_dtype(args.dtype, device)) for device in devices]
    models[0].check()
    if len(args.path) == 1:
        return _one(args.path[0], args.output_dir, models[0], options, resume=args.resume).exit_code
    codes = spread(parser, args, [str(device) for device in devices])
    for folder, code in codes.items():
        words = {0: "done", EXIT_PARTLY: "done, something was lost"}
        print(f"{folder}: {words.get(code, f'failed ({code})')}")
    return worst(codes.values())


def _options(args: argparse.Namespace, stretches: tuple[Any, ...]) -> OfflineOptions:
    from gen3r_core.mapping.windows import WindowOptions
    from gen3r_core.offline.options import OfflineOptions

    return OfflineOptions(
        shots=shot_options(args),
        spacing_m=args.spacing,
        turn_deg=args.turn,
        change=args.change,
        window=WindowOptions(args.window, args.overlap),
        longest=args.longest,
        matches=not args.no_matches,
        anchor=not args.no_anchor,
        graph=not args.no_graph,
        confirm=not args.no_confirm,
        voxel=args.voxel,
        max_points=args.max_points,
        mesh=args.mesh,
        depth=args.save_depth,
        stretches=stretches,
        prompt=args.prompt,
        seed=args.seed,
        steps=args.steps,
    )


def _one(path: Path, destination: Path, model: Any, options: OfflineOptions, *, resume: bool) -> Outcome:
    from gen3r_core.offline.run import reconstruct

    with _Bars() as bars:
        outcome = reconstruct(path, destination, model, options, resume=resume, callback=bars.show)
    run_ = outcome.run
    unit = "metres" if run_["metric"] else f"not in metres: {run_['why_not_metric']}"
    print(f"{destination}: {run_['points']} points from {run_['keyframes']} keyframes in {run_['windows']} windows, "
          f"{run_['loops']} loops closed; {unit}")  # fmt: skip
    for sentence in run_["losses"]:
        print(f"  lost: {sentence}")
    return outcome


class _Bars:
    """A progress bar with the time that is left for each stage, one after the other."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._stage = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, progress: Progress) -> None:
        from tqdm import tqdm

        if progress.stage != self._stage:
            if self._bar is not None:
                self._bar.close()
            self._stage = progress.stage
            self._bar = tqdm(total=progress.total or None, desc=progress.stage, mininterval=0.5)
        if progress.total:
            self._bar.total = progress.total
        self._bar.update(progress.step - self._bar.n)
