"""Small recordings for the offline reconstruction, and runs of its command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from gen3r_core.cli import main
from gen3r_core.maps.folder import read_map

TINY = ("--checkpoint", "random:tiny", "--longest", "56", "--window", "4", "--overlap", "2", "--change", "0.01",
        "--spacing", "0.05", "--max-points", "20000")  # fmt: skip


def reconstruct(recording, destination, *more):
    """Exit code of the command, in this process."""
    return main(["reconstruct", str(recording), "--output_dir", str(destination), *TINY, *more])


def run_of(destination):
    """What run.json says."""
    return json.loads((Path(destination) / "run.json").read_text())


def assert_same_maps(first, second):
    """All of two maps but how long they took."""
    a, b = read_map(first), read_map(second)
    for name in ("points", "colors", "confidence", "generated", "frame"):
        np.testing.assert_array_equal(getattr(a.cloud, name), getattr(b.cloud, name))
    assert len(a.frames) == len(b.frames)
    for one, other in zip(a.frames, b.frames, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.T_world_cam, other.T_world_cam)
        assert one.stamp_ns == other.stamp_ns
    runs = [{key: value for key, value in one.run.items() if key != "seconds"} for one in (a, b)]
    assert runs[0] == runs[1]


def start(recording, destination, *more):
    """The command in a process of its own."""
    line = [sys.executable, "-m", "gen3r_core.cli", "reconstruct", str(recording), "--output_dir", str(destination)]
    return subprocess.Popen([*line, *TINY, *more], env={**os.environ, "OMP_NUM_THREADS": "1"},
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
