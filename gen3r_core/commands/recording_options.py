"""Options of commands that read a recording."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gen3r_core.recordings.shots import ShotOptions


def add_recording_options(parser: argparse.ArgumentParser) -> None:
    """The recording, and what to read of it."""
    parser.add_argument("path", type=Path, help="bag, video, folder of images, transforms.json or COLMAP folder")
    add_reading_options(parser)


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    """What to read of a recording."""
    parser.add_argument(
        "--camera",
        "--topics",
        action="append",
        default=[],
        metavar="TOPIC",
        help="whose images, or `all` (where there are several)",
    )
    parser.add_argument("--depth", metavar="TOPIC", help="depth images of the camera (default: found if there is one)")
    parser.add_argument(
        "--poses", default="auto", metavar="TOPIC", help="odometry or poses, `none`, or auto: TF, else odometry"
    )
    parser.add_argument("--world", metavar="FRAME", help="frame of the poses (default: the top of the TF tree)")
    parser.add_argument("--start", type=float, metavar="S", help="seconds from the beginning of the recording")
    parser.add_argument("--end", type=float, metavar="S", help="the same, where to stop")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take every N-th image (default 1)")


def shot_options(args: argparse.Namespace) -> ShotOptions:
    """What :func:`add_recording_options` was told.

    Raises:
        InputError: a step of less than 1.
    """
    from gen3r_core.recordings.shots import ShotOptions

    return ShotOptions(
        cameras=tuple(args.camera),
        depth=args.depth,
        poses=args.poses,
        world=args.world,
        start_s=args.start,
        end_s=args.end,
        every=args.every,
    )
