"""``gen3r recordings``: what is in a recording, and which of its images are worth reconstructing from."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from gen3r_core.commands.recording_options import add_recording_options, shot_options

if TYPE_CHECKING:
    from gen3r_core.recordings.recording import Recording

EXIT_PARTLY = 3
"""What could be read was used; something is missing."""

T = TypeVar("T")


def add_parser(commands: Any) -> None:
    """Add the sub-command and its parts."""
    parser = commands.add_parser("recordings", help="look into bags, videos and folders of images")
    parts = parser.add_subparsers(dest="part", required=True, metavar="info|keyframes")
    info = parts.add_parser("info", help="the streams of a recording, how long it is, and what of it is damaged")
    info.add_argument("path", type=Path, help="bag, video, folder of images, transforms.json or COLMAP folder")
    info.add_argument("--quick", action="store_true", help="do not read it as a whole to find damage")
    info.add_argument("--json", action="store_true", help="print JSON instead of a table")
    info.set_defaults(run=run_info)
    keyframes = parts.add_parser("keyframes", help="choose images by how far the camera moved, or how they changed")
    add_recording_options(keyframes)
    keyframes.add_argument("--output_dir", type=Path, help="write the chosen images there as PNG")
    keyframes.set_defaults(run=run_keyframes)


def run_info(args: argparse.Namespace) -> int:
    """Print the table; 0 if all is there, 3 if something is missing."""
    from gen3r_core.recordings.opening import open_recording

    with open_recording(args.path) as recording:
        if not args.quick:
            for _ in _shown(recording, ((item.received_ns, item) for item in recording.items()), "reading"):
                pass
        losses = recording.losses
        if args.json:
            print(json.dumps(_facts(recording), indent=2))
        else:
            print(f"{recording.path}: {recording.format}, {_length(recording)}")
            print(recording.table())
            _print_losses(recording)
        return EXIT_PARTLY if losses.anything else 0


def run_keyframes(args: argparse.Namespace) -> int:
    """Print what was chosen; 0 if all was there, 3 if something was missing or broken."""
    import time

    from gen3r_core.io.atomic import OutputFolder
    from gen3r_core.io.images import write_image
    from gen3r_core.recordings.opening import open_recording
    from gen3r_core.recordings.selection import KeyframeSelection
    from gen3r_core.recordings.shots import ShotReader

    with open_recording(args.path) as recording:
        shots = ShotReader(recording, shot_options(args))
        selection = KeyframeSelection(shots)
        start, posed = time.perf_counter(), 0
        chosen = _shown(recording, ((shot.stamp_ns, shot) for shot in selection), "choosing")
        if args.output_dir is None:
            for shot in chosen:
                posed += shot.T_world_cam is not None
        else:
            with OutputFolder(args.output_dir) as out:
                for shot in chosen:
                    posed += shot.T_world_cam is not None
                    name = f"{shot.camera.strip('/').replace('/', '_')}_{shot.number:06d}.png"
                    write_image(out.path(name), shot.picture.rgb())
        seconds = time.perf_counter() - start
        counts = {**shots.counts, **selection.counts}
        print(f"{counts.pop('keyframes', 0)} keyframes of {counts.pop('images', 0)} images, {posed} with a pose"
              f"{f' in {shots.placing.world}' if shots.placing.world else f' ({shots.placing.why_not})'}")  # fmt: skip
        speed = f", {recording.seconds / seconds:.1f} times real time" if recording.timed else ""
        print(f"{seconds:.1f} s for {_length(recording)}{speed}; peak memory {_peak_gb():.2f} GB")
        for reason, count in sorted(counts.items()):
            print(f"  {reason}: {count}")
        if selection.broken:
            print(f"gen3r: the first broken image is {selection.broken}", file=sys.stderr)
        _print_losses(recording)
        return EXIT_PARTLY if recording.losses.anything or selection.broken else 0


def _peak_gb() -> float:
    """Of this process since it began."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def _length(recording: Recording) -> str:
    if recording.start_ns is None:
        return "empty"
    return f"{recording.seconds:.1f} s" if recording.timed else "without times"


def _print_losses(recording: Recording) -> None:
    losses = recording.losses
    if losses.anything:
        seconds = f", {losses.seconds:.2f} s" if losses.seconds else ""
        print(f"damaged: {losses.bytes} bytes unread, {losses.messages} messages known to be missing{seconds}")
    for sentence in losses.sentences():
        print(f"  {sentence}")


def _facts(recording: Recording) -> dict[str, Any]:
    losses = recording.losses
    return {
        "path": str(recording.path),
        "format": recording.format,
        "seconds": recording.seconds,
        "start_ns": recording.start_ns,
        "timed": recording.timed,
        "streams": [vars(recording.streams[name]) for name in sorted(recording.streams)],
        "damage": {
            "anything": losses.anything,
            "bytes": losses.bytes,
            "messages": losses.messages,
            "seconds": losses.seconds,
            "places": losses.sentences(most=1000),
        },
    }


def _shown(recording: Recording, stamped: Iterable[tuple[int, T]], name: str) -> Iterator[T]:
    """The things, with a progress bar in seconds of the recording."""
    from tqdm import tqdm

    start, total = recording.start_ns or 0, round(recording.seconds)
    with tqdm(total=total, desc=name, unit="s", mininterval=0.5, leave=False) as bar:
        for stamp, thing in stamped:
            done = min((stamp - start) // 1_000_000_000, total)
            if done > bar.n:
                bar.update(done - bar.n)
            yield thing
