import math

import numpy as np
import pytest
from camera_tracks import random_sim3
from hypothesis import given, settings
from hypothesis import strategies as st

from gen3r_core.errors import CancelledError, InputError
from gen3r_core.geometry.poses import rotation_angles
from gen3r_core.geometry.sim3 import Sim3
from gen3r_core.mapping.pose_graph import Kernel, PoseGraph, SolverOptions, _State
from gen3r_core.mapping.similarity import IDENTITY, compose, so3_exp
from gen3r_core.progress import JobMonitor

seeds = st.integers(0, 2**31)


def shaken(sim3, rng, sigma):
    return Sim3(
        sim3.scale * float(np.exp(sigma * rng.normal())),
        sim3.rotation @ so3_exp(sigma * rng.normal(size=3)),
        sim3.translation + sigma * rng.normal(size=3),
    )


def ring(count, rng, growth=0.2):
    """Nodes round a circle, each of a unit of its own."""
    found = []
    for n in range(count):
        turn = so3_exp(np.array([0, 0, 2 * np.pi * n / count])) @ so3_exp(0.1 * rng.normal(size=3))
        place = 5 * np.array([np.cos(2 * np.pi * n / count), np.sin(2 * np.pi * n / count), 0])
        found.append(Sim3(float(np.exp(growth * rng.normal())), turn, place))
    return found


def between(true, i, j):
    return compose(true[i].inverse(), true[j])


def off(solution, true):
    """Largest errors: translation, radians, logarithm of scale."""
    t = np.linalg.norm(solution.translations - np.stack([one.translation for one in true]), axis=1).max()
    R = rotation_angles(np.swapaxes(solution.rotations, 1, 2) @ np.stack([one.rotation for one in true])).max()
    s = np.abs(np.log(solution.scales / [one.scale for one in true])).max()
    return t, R, s


def chained(measured):
    found = [IDENTITY]
    for one in measured:
        found.append(compose(found[-1], one))
    return found


@given(seeds)
@settings(deadline=None, max_examples=15)
def test_exact_measurements_are_met_from_a_bad_start(seed):
    rng = np.random.default_rng(seed)
    true = ring(9, rng)
    graph = PoseGraph([true[0], *(shaken(one, rng, 0.2) for one in true[1:])])
    graph.hold(0, pose=True, scale=True)
    for n in range(9):
        graph.add_between("steps", n, (n + 1) % 9, between(true, n, (n + 1) % 9), 1e-4 * np.eye(7))
    solution = graph.solve()
    assert max(off(solution, true)) < 1e-5
    assert solution.converged
    assert solution.cost < 1e-6
    assert solution.sim3(3).scale == pytest.approx(true[3].scale)


@given(seeds)
@settings(deadline=None, max_examples=25)
def test_derivatives_are_those_of_the_residuals(seed):
    rng = np.random.default_rng(seed)
    nodes = [random_sim3(rng, float(np.exp(rng.normal()))) for _ in range(3)]
    graph = PoseGraph(nodes)
    graph.share([0.1, 0.2])
    M = rng.normal(size=(7, 7))
    up = rng.normal(size=3)
    for scaled in (True, False):
        graph.add_between(f"between {scaled}", 0, 2, random_sim3(rng, 1.3), M @ M.T + np.eye(7), scaled=scaled,
                          bending=1e-3 * rng.normal(size=(3, 2)))  # fmt: skip
    graph.add_scale("scale", 1, 2.0, 0.3)
    graph.add_up("up", 1, up / np.linalg.norm(up), 0.2)
    state = _State(np.log([one.scale for one in nodes]), np.stack([one.rotation for one in nodes]),
                   np.stack([one.translation for one in nodes]), 1e-2 * rng.normal(size=2))  # fmt: skip
    h = 1e-6
    for name, group in graph._groups.items():
        terms = group.terms(state)
        whole = np.zeros((*terms.residuals.shape, 23))
        for node, J in terms.nodes:
            for m, at in enumerate(node):
                whole[m, :, 7 * at : 7 * at + 7] += J[m]
        if terms.shared is not None:
            whole[:, :, 21:] = terms.shared
        for column in range(23):
            d = h * np.eye(23)[column]
            slope = (group.terms(state.moved(d)).residuals - group.terms(state.moved(-d)).residuals) / (2 * h)
            np.testing.assert_allclose(whole[:, :, column], slope, rtol=1e-4, atol=2e-3, err_msg=f"{name} {column}")


def test_noise_is_spread_over_a_ring():
    rng = np.random.default_rng(1)
    true = ring(40, rng)
    true = [compose(true[0].inverse(), one) for one in true]
    steps = [shaken(between(true, n, (n + 1) % 40), rng, 0.02) for n in range(40)]
    start = chained(steps[:-1])
    graph = PoseGraph(start)
    graph.hold(0, pose=True, scale=True)
    for n, step in enumerate(steps):
        graph.add_between("steps", n, (n + 1) % 40, step, 0.02**2 * np.eye(7))
    solution = graph.solve()
    open_end = np.linalg.norm(compose(start[-1], steps[-1]).translation)
    closed_end = np.linalg.norm(compose(solution.sim3(39), steps[-1]).translation)
    assert closed_end < open_end / 10
    # 280 measurements of 273 unknowns: the cost is chi-squared of seven degrees of freedom.
    assert 0.5 < solution.cost < 25


@pytest.mark.parametrize("seed", range(3))
def test_annealed_loops_survive_as_many_false_ones(seed):
    rng = np.random.default_rng(seed)
    true = ring(30, rng)
    true = [compose(true[0].inverse(), one) for one in true]
    steps = [shaken(between(true, n, n + 1), rng, 0.02) for n in range(29)]
    graph = PoseGraph(chained(steps))
    graph.hold(0, pose=True, scale=True)
    for n, step in enumerate(steps):
        graph.add_between("steps", n, n + 1, step, 0.02**2 * np.eye(7), kernel=Kernel.CAUCHY)
    for n in range(8):
        graph.add_between("loops", n, 22 + n, shaken(between(true, n, 22 + n), rng, 0.03), 0.03**2 * np.eye(7),
                          kernel=Kernel.GEMAN_MCCLURE)  # fmt: skip
    for n in range(8):
        graph.add_between("loops", n, 12 + n, shaken(IDENTITY, rng, 0.5), 0.03**2 * np.eye(7),
                          kernel=Kernel.GEMAN_MCCLURE)  # fmt: skip
    solution = graph.solve()
    assert (solution.weights["loops"][:8] > 0.3).all()
    assert (solution.weights["loops"][8:] < 0.05).all()
    assert off(solution, true)[0] < 1


def test_a_wrong_step_beside_a_right_one_loses_its_weight():
    graph = PoseGraph([IDENTITY] * 2)
    graph.hold(0, pose=True, scale=True)
    right, wrong = Sim3(1.0, np.eye(3), np.array([1.0, 0, 0])), Sim3(1.0, np.eye(3), np.array([9.0, 0, 0]))
    for one in (right, right, wrong):
        graph.add_between("steps", 0, 1, one, 0.1**2 * np.eye(7), kernel=Kernel.CAUCHY)
    solution = graph.solve()
    assert solution.translations[1, 0] == pytest.approx(1, abs=0.02)
    assert solution.weights["steps"][0] > 0.9
    assert solution.weights["steps"][2] < 0.01
    assert solution.errors["steps"][2] > 6000


def test_scales_and_gravity_reach_nodes_that_do_not_have_them():
    rng = np.random.default_rng(0)
    true = ring(6, rng)
    tilt = so3_exp(np.array([0.2, -0.1, 0.4]))
    graph = PoseGraph([Sim3(0.5 * one.scale, tilt @ one.rotation, 0.5 * tilt @ one.translation) for one in true])
    graph.hold(0, pose=False, scale=False)
    for n in range(5):
        graph.add_between("steps", n, n + 1, between(true, n, n + 1), 1e-6 * np.eye(7))
    graph.add_scale("depth", 4, true[4].scale, 0.01)
    for n in (1, 3):
        graph.add_up("gravity", n, true[n].rotation[2], 0.01)
    solution = graph.solve()
    np.testing.assert_allclose(solution.scales, [one.scale for one in true], rtol=1e-4)
    np.testing.assert_allclose(solution.rotations[:, 2], [one.rotation[2] for one in true], atol=1e-3)


def test_a_shared_error_is_found_by_a_loop():
    """Each step is told to turn a tenth too much; that the way is a closed square shows it."""
    z = np.array([0.0, 0, 1])
    graph = PoseGraph(chained([Sim3(1.0, so3_exp(1.1 * np.pi / 20 * z), np.array([0.2, 0, 0]))] * 40))
    graph.share([0.2])
    graph.hold(0, pose=True)
    for n in range(41):
        graph.hold(n, scale=True)
    for n in range(40):
        turn = np.pi / 20
        measured = Sim3(1.0, so3_exp(1.1 * turn * z), np.array([0.2, 0, 0]))
        graph.add_between("odometry", n, n + 1, measured, 0.01**2 * np.eye(7), scaled=False,
                          bending=np.outer(z, [1.1 * turn]))  # fmt: skip
    graph.add_between("loop", 40, 0, IDENTITY, 0.001**2 * np.eye(7))
    solution = graph.solve()
    assert solution.shared[0] == pytest.approx(-0.1 / 1.1, abs=0.01)


def test_thousands_of_nodes_take_seconds():
    rng = np.random.default_rng(0)
    count = 1000
    true = ring(count, rng)
    true = [compose(true[0].inverse(), one) for one in true]
    steps = [shaken(between(true, n, n + 1), rng, 1e-3) for n in range(count - 1)]
    graph = PoseGraph(chained(steps))
    graph.hold(0, pose=True, scale=True)
    for n, step in enumerate(steps):
        graph.add_between("steps", n, n + 1, step, 1e-6 * np.eye(7))
    for n in range(0, 450, 50):
        graph.add_between("loops", n, n + 500, between(true, n, n + 500), 1e-4 * np.eye(7),
                          kernel=Kernel.GEMAN_MCCLURE)  # fmt: skip
    solution = graph.solve()
    assert solution.converged
    assert (solution.weights["loops"] > 0.5).all()


def test_solving_can_be_stopped():
    graph = PoseGraph([IDENTITY] * 2)
    graph.add_between("steps", 0, 1, IDENTITY, np.eye(7))
    told = []

    def stop(progress):
        told.append((progress.stage, progress.step))
        return False

    with pytest.raises(CancelledError, match="graph"):
        graph.solve(SolverOptions(), JobMonitor(stop))
    assert told == [("graph", 0)]


def test_what_makes_no_sense_is_refused():
    graph = PoseGraph([IDENTITY] * 2)
    with pytest.raises(InputError, match="at least one node"):
        PoseGraph([])
    with pytest.raises(InputError, match="2 nodes, got node 2"):
        graph.hold(2)
    with pytest.raises(InputError, match="against itself"):
        graph.add_between("a", 1, 1, IDENTITY, np.eye(7))
    with pytest.raises(InputError, match="not positive definite"):
        graph.add_between("a", 0, 1, IDENTITY, np.zeros((7, 7)))
    with pytest.raises(InputError, match="are positive"):
        graph.add_scale("b", 0, -1, 1)
    with pytest.raises(InputError, match="length 1"):
        graph.add_up("c", 0, np.ones(3), 1)
    graph.add_between("a", 0, 1, IDENTITY, np.eye(7))
    for wrong in (
        lambda: graph.add_scale("a", 0, 1, 1),
        lambda: graph.add_up("a", 0, np.array([0, 0, 1.0]), 1),
        lambda: graph.add_between("a", 0, 1, IDENTITY, np.eye(7), kernel=Kernel.CAUCHY),
    ):
        with pytest.raises(InputError, match="of another kind"):
            wrong()
    with pytest.raises(InputError, match="before measurements"):
        graph.share([1.0])


def test_nothing_free_is_nothing_done():
    graph = PoseGraph([IDENTITY])
    graph.hold(0, pose=True, scale=True)
    graph.add_scale("depth", 0, math.e, 1.0)
    solution = graph.solve()
    assert solution.scales[0] == 1
    assert solution.errors["depth"][0] == pytest.approx(1)
