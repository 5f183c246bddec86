"""What the demonstration is asked for on its command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gen3r_core.errors import InputError

WORLD, TOUR = 9, 0
"""A furnished room of 4.9 m x 6.0 m, and a way round its furniture."""


@dataclass(frozen=True)
class DemoOptions:
    """How the demonstration runs.

    Attributes:
        output_dir: folder for the results.
        world: number of the world in the split "test".
        tour_seed: of the robot's way.
        checkpoint: folder of the model, ``random:tiny``, or empty for gen3r-small.
        drive_m: metres that the robot drives before it predicts.
        path_m: metres of the path that is predicted.
        after_m: metres that the robot drives after that path, to see more of the room.
        seconds: the robot drives no farther when there would not be time to end within them.
        width: pixels of the camera's images; their height is three quarters of it.
        samples: n x n rays a pixel.
        timeout_s: seconds for all of it.
        cache_dir: keeps rendered pictures for the next run; None: nothing is kept.

    Raises:
        InputError: numbers make no sense.
    """

    output_dir: Path = Path("outputs/demo")
    world: int = WORLD
    tour_seed: int = TOUR
    checkpoint: str = ""
    drive_m: float = 3.2
    path_m: float = 1.2
    after_m: float = 6.0
    seconds: float = 170.0
    width: int = 320
    samples: int = 2
    timeout_s: float = 600.0
    cache_dir: Path | None = None

    def __post_init__(self) -> None:
        if self.world < 0 or self.tour_seed < 0:
            raise InputError(f"worlds and tours have numbers from 0 on, got {self.world} and {self.tour_seed}")
        if not 1.0 <= self.drive_m <= 50.0 or not 0.2 <= self.path_m <= 20.0:
            raise InputError(f"a robot drives 1 to 50 m and predicts 0.2 to 20 m, got {self.drive_m} and {self.path_m}")
        if not 0.0 <= self.after_m <= 50.0 or not self.seconds > 0:
            raise InputError(f"after_m is 0 to 50 and seconds are positive, got {self.after_m} and {self.seconds}")
        if not 64 <= self.width <= 1280 or self.width % 4 or not 1 <= self.samples <= 4:
            raise InputError(
                f"pictures are 64 to 1280 pixels wide, a multiple of 4, of 1 to 4 samples, got {self.width} and "
                f"{self.samples}"
            )
        if not 10.0 <= self.timeout_s <= 86400.0:
            raise InputError(f"the demonstration needs 10 s or more, got {self.timeout_s}")

    @property
    def size(self) -> tuple[int, int]:
        """``(height, width)`` of the camera's images, pixels."""
        return self.width * 3 // 4, self.width


def parse(arguments: Sequence[str] | None = None) -> DemoOptions:
    """Read a command line; ends the process with code 2 and a usage line where it is wrong."""
    own = DemoOptions()
    parser = argparse.ArgumentParser(
        prog="gen3r_demo",
        description="A simulated robot drives through a room; the node reconstructs it, and predicts what a path will "
        "show. Both are compared with the truth.",
    )
    parser.add_argument("--output_dir", type=Path, default=own.output_dir, help=f"default {own.output_dir}")
    parser.add_argument("--world", type=int, default=own.world, help=f"number of the world (default {own.world})")
    parser.add_argument("--tour_seed", type=int, default=own.tour_seed, help="another one is another way through it")
    parser.add_argument("--checkpoint", default=own.checkpoint, help="folder of a model (default: gen3r-small)")
    parser.add_argument("--drive_m", type=float, default=own.drive_m, help=f"metres to drive first ({own.drive_m:g})")
    parser.add_argument("--path_m", type=float, default=own.path_m, help=f"metres to predict ({own.path_m:g})")
    parser.add_argument("--after_m", type=float, default=own.after_m, help=f"metres to drive then ({own.after_m:g})")
    parser.add_argument("--seconds", type=float, default=own.seconds, help=f"that it should take ({own.seconds:g})")
    parser.add_argument("--width", type=int, default=own.width, help=f"pixels of the camera ({own.width})")
    parser.add_argument("--samples", type=int, default=own.samples, help="n x n rays a pixel: 1 is faster, and jagged")
    parser.add_argument("--timeout", type=float, default=own.timeout_s, dest="timeout_s",
                        help=f"seconds for all of it ({own.timeout_s:g})")  # fmt: skip
    parser.add_argument("--cache_dir", type=Path, help="keep rendered pictures here for the next run")
    try:
        return DemoOptions(**vars(parser.parse_args(arguments)))
    except InputError as error:
        parser.error(str(error))
