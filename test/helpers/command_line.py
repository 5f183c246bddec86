"""Running ``gen3r`` in this process or in one of its own, and inputs for it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from gen3r_core.cli import main
from gen3r_core.io.video import write_video

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
QUICK = ("--num_frames", "5", "--size", "112", "--steps", "2", "--device", "cpu")


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


def gen3r(*arguments: object) -> Done:
    """Run a command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Done(code, out.getvalue(), err.getvalue())


def environment() -> dict[str, str]:
    """Of a process of its own: nothing reaches for the network."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}


def gen3r_process(*arguments: object, program: tuple[str, ...] = (sys.executable, "-m", "gen3r_core.cli")) -> Done:
    """Run a command line in a process of its own."""
    done = subprocess.run(
        [*program, *map(str, arguments)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def picture(index: int, height: int = 120, width: int = 160) -> np.ndarray:
    """A smooth picture that moves with ``index``: ``[height, width, 3]`` uint8."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin((x + 9 * index) / 17 + c) + np.cos((y - 5 * index) / (11 + c)) for c in range(3)]
    return (np.stack(waves, axis=-1) * 60 + 127).astype(np.uint8)


def write_picture(path: Path, index: int = 0, height: int = 120, width: int = 160) -> Path:
    Image.fromarray(picture(index, height, width)).save(path)
    return path


def write_clip(path: Path, frames: int = 9) -> Path:
    write_video(path, np.stack([picture(index) for index in range(frames)]), 12)
    return path


def write_cameras(path: Path, frames: int = 9, **changed: object) -> Path:
    """An upstream ``cameras.json`` of a camera that moves forward; ``changed`` replaces keys."""
    extrinsics = np.tile(np.eye(4), (frames, 1, 1))
    extrinsics[:, 2, 3] = -np.linspace(0, 0.5, frames)
    intrinsics = np.tile(np.array([[500.0, 0, 280], [0, 500, 280], [0, 0, 1]]), (frames, 1, 1))
    path.write_text(json.dumps({"extrinsics": extrinsics.tolist(), "intrinsics": intrinsics.tolist(), **changed}))
    return path
