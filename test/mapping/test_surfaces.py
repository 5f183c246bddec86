"""Loops from surfaces: windows in metres that odometry has put beside each other."""

import numpy as np
import pytest
from pretend_vggt import SIZE, Errors, K, PretendVggt, building, odometry, path_error, round_trip

from gen3r_core.errors import InputError
from gen3r_core.geometry.poses import invert_poses, rotation_angles
from gen3r_core.mapping.known import KnownPoses
from gen3r_core.mapping.sequence import place_windows
from gen3r_core.mapping.surfaces import SurfaceOptions, surface_loops
from gen3r_core.mapping.windows import Prediction, WindowOptions, WindowStore, run_windows
from gen3r_core.progress import JobMonitor


class Anchored:
    """Windows as anchoring leaves them: cameras of the odometry, metres, depth a little wrong."""

    name = "anchored"

    def __init__(self, model, poses):
        self.model, self.poses = model, poses

    def __call__(self, images):
        numbers = [int(a) * 65536 + int(b) * 256 + int(c) for a, b, c in images[:, 0, 0]]
        rng = np.random.default_rng(numbers)
        depth = np.stack([self.model.true_depth(number) for number in numbers])
        depth = depth * (1 + 0.02 * rng.normal(size=(len(numbers), 1, 1))) * np.exp(0.01 * rng.normal(size=depth.shape))
        T = self.poses[numbers]
        return Prediction(depth, np.ones_like(depth), invert_poses(T[0]) @ T, np.repeat(K[None], len(T), axis=0),
                          np.ones((len(T), 4)))  # fmt: skip


@pytest.fixture(scope="module")
def drive():
    boxes, T = building(2, seed=1), round_trip(2, laps=1.5)
    odo = odometry(T, scale=1.01, turn=0.005, yaw_deg_per_m=0.12)
    model = PretendVggt(boxes, T, Errors())
    with WindowStore(None, {}) as store:
        names = run_windows(model.frames(), Anchored(model, odo), store)
        yield T, odo, store, names


def true_between(T, odo, a, b):
    """What lies between two windows' worlds, which are their first cameras."""
    return invert_poses(T[a.frames[0]]) @ T[b.frames[0]]


def test_they_correct_what_odometry_drifted(drive):
    T, odo, store, names = drive
    assert SIZE == (30, 40)
    before = place_windows(store, names, known=KnownPoses(odo))
    stages = []
    # Pictures of 30 x 40 pixels: points of far walls are 20 cm apart.
    options = SurfaceOptions(gates_m=(0.8, 0.6, 0.45, 0.3), min_overlap=0.35)
    monitor = JobMonitor(lambda p: stages.append((p.step, p.total)))
    loops = surface_loops(store, names, before.windows, options, monitor=monitor)
    assert stages[-1] == (len(loops), len(loops))
    kept = [loop for loop in loops if not loop.reason]
    assert len(kept) >= 3
    errors = []
    for loop in kept:
        a, b = (store.get(names[number]) for number in loop.windows)
        true = true_between(T, odo, a, b)
        found = loop.measured.sim3
        errors.append((np.linalg.norm(found.translation - true[:3, 3]),
                       np.degrees(rotation_angles(found.rotation.T @ true[:3, :3]))))  # fmt: skip
    print(errors, path_error(odo, T, scaled=False))
    metres, degrees = np.median(errors, axis=0)
    assert metres < 0.15
    assert degrees < 2
    after = place_windows(store, names, known=KnownPoses(odo), found_loops=loops)
    print(path_error(after.T_world_cam, T, scaled=False), path_error(before.T_world_cam, T, scaled=False))
    drifted = path_error(odo, T, scaled=False)
    assert path_error(before.T_world_cam, T, scaled=False) > 0.9 * drifted
    assert path_error(after.T_world_cam, T, scaled=False) < 0.7 * drifted


def test_a_corridor_says_nothing_of_the_way_along_it():
    """Two walls and no end: what is measured has its largest variance along them."""
    boxes = np.array([((-50, 1, 0), (50, 1.2, 3)), ((-50, -1.2, 0), (50, -1, 3)), ((-50, -2, -0.2), (50, 2, 0)),
                      ((-50, -2, 3), (50, 2, 3.2))], dtype=float)  # fmt: skip
    T = round_trip(2)[:2].repeat(6, axis=0)
    T[:, :3, :3] = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    T[:, :3, 3] = [(0.1 * (n % 6), 0, 1) for n in range(12)]
    model = PretendVggt(boxes, T)
    with WindowStore(None, {}) as store:
        names = run_windows(model.frames(), Anchored(model, T), store, WindowOptions(6, 1))
        placed = place_windows(store, names, known=KnownPoses(T))
        loops = surface_loops(store, names[:1] + names[-1:], [placed.windows[0], placed.windows[-1]],
                              SurfaceOptions(min_gap=1, max_residual_m=1))  # fmt: skip
    (loop,) = loops
    along, across = np.sqrt(np.diag(loop.measured.covariance))[[2, 0]]  # z of the first camera is along it
    assert along > 1.5 * across


def test_windows_that_see_nothing_make_no_loops(drive):
    _, odo, store, names = drive
    with WindowStore(None, {}) as blind:
        for name in names[:8]:
            window = store.get(name)
            window.depth[:] = 0
            blind.put(name, window)
        placed = place_windows(blind, names[:8], known=KnownPoses(odo[: int(window.frames[-1]) + 1]))
        assert surface_loops(blind, names[:8], placed.windows) == []
    with pytest.raises(InputError, match="loops from surfaces"):
        SurfaceOptions(min_gap=0)
