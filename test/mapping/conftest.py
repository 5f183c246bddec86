"""One drive of 301 frames through nine rooms, predicted once for all tests."""

from types import SimpleNamespace

import pytest
from pretend_vggt import Errors, PretendVggt, building, odometry, path_length, round_trip

from gen3r_core.mapping.known import KnownPoses
from gen3r_core.mapping.sequence import place_windows
from gen3r_core.mapping.windows import WindowStore, run_windows

ERRORS = Errors(bend_deg=4.0, drift=0.1, jitter_deg=1.0, jitter=0.015, depth=0.09, outliers=0.1)
"""Depth and turns as wrong as the small VGGT's in clips; in drives that turn much it is far worse (docs/mapping.md)."""


@pytest.fixture(scope="session")
def drive():
    boxes, T = building(3, seed=0), round_trip(3, laps=1.6)
    model = PretendVggt(boxes, T, ERRORS, aliased=0.5)
    odo = odometry(T, yaw_deg_per_m=0.2)
    with WindowStore(None, {"model": model.name}) as store:
        names = run_windows(model.frames(), model, store)
        yield SimpleNamespace(
            boxes=boxes, T=T, length=path_length(T), model=model, odometry=odo, store=store, names=names,
            free=place_windows(store, names, model),
            known=place_windows(store, names, model, known=KnownPoses(odo)),
        )  # fmt: skip


@pytest.fixture(scope="session")
def short():
    """40 frames with small errors."""
    boxes, T = building(2, seed=1), round_trip(2, laps=1.0)[:40]
    model = PretendVggt(boxes, T, seed=3)
    with WindowStore(None, {}) as store:
        names = run_windows(model.frames(), model, store)
        yield SimpleNamespace(boxes=boxes, T=T, model=model, store=store, names=names)
