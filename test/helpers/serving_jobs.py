"""Small jobs for a worker with a tiny model, and waiting for what it does."""

from __future__ import annotations

import time

import numpy as np

from gen3r_core.serving.options import WorkerOptions
from gen3r_core.serving.requests import PredictOptions, PredictRequest, ReconstructRequest

OPTIONS = WorkerOptions(threads=1, niceness=0, device="cpu", backoff_s=0.2)
QUICK = PredictOptions(num_frames=5, size=(112, 112), steps=2)


def until(condition, timeout=90.0):
    """Wait for a condition; what it returned."""
    end = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {timeout} s"
        time.sleep(0.005)
    return value


def pictures(count=2, height=90, width=120, seed=0):
    """Noise ``[N, H, W, 3]`` uint8."""
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def reconstruction(count=2, **values):
    return ReconstructRequest(pictures(count), **{"longest": 112, **values})


def prediction(steps=2, **values):
    options = PredictOptions(num_frames=5, size=(112, 112), steps=steps)
    return PredictRequest(pictures(2), **{"task": "2view", "prompt": "a room", "options": options, **values})
