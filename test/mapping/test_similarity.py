import numpy as np
import pytest
from camera_tracks import random_sim3
from hypothesis import given, settings
from hypothesis import strategies as st

from gen3r_core.errors import InputError
from gen3r_core.geometry.sim3 import Sim3
from gen3r_core.mapping.similarity import (
    IDENTITY,
    UncertainSim3,
    compose,
    right_jacobian_inverse,
    so3_exp,
    so3_log,
)

seeds = st.integers(0, 2**31)
lengths = st.floats(1e-12, np.pi - 1e-3)


def direction(seed):
    v = np.random.default_rng(seed).normal(size=3)
    return v / np.linalg.norm(v)


def moved(sim3, d):
    """A similarity after a small change in the chart."""
    return Sim3(sim3.scale * float(np.exp(d[6])), sim3.rotation @ so3_exp(d[3:6]), sim3.translation + d[:3])


def difference(after, before):
    return np.array([
        *(after.translation - before.translation),
        *so3_log(before.rotation.T @ after.rotation),
        np.log(after.scale / before.scale),
    ])  # fmt: skip


def numeric(function, at):
    h = 1e-6
    return np.stack(
        [(difference(function(moved(at, d)), function(moved(at, -d)))) / (2 * h) for d in h * np.eye(7)], axis=1
    )


@given(seeds, lengths)
@settings(deadline=None, max_examples=100)
def test_logarithm_undoes_the_exponential(seed, length):
    v = length * direction(seed)
    R = so3_exp(v)
    np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(so3_log(R), v, atol=1e-9, rtol=1e-6)


def test_a_half_turn_has_a_logarithm_of_half_a_turn():
    R = np.diag([1.0, -1, -1])
    assert np.abs(so3_log(R)) == pytest.approx([np.pi, 0, 0])


@given(seeds, st.floats(1e-8, 3.1))
@settings(deadline=None, max_examples=60)
def test_the_jacobian_is_the_derivative_of_the_logarithm(seed, length):
    v, h = length * direction(seed), 1e-6
    columns = [(so3_log(so3_exp(v) @ so3_exp(d)) - so3_log(so3_exp(v) @ so3_exp(-d))) / (2 * h) for d in h * np.eye(3)]
    np.testing.assert_allclose(right_jacobian_inverse(v), np.stack(columns, axis=1), atol=2e-5)


def test_the_jacobian_does_not_jump_where_its_series_ends():
    v = direction(3)
    below, above = (right_jacobian_inverse(length * v) for length in (0.01 - 1e-9, 0.01 + 1e-9))
    np.testing.assert_allclose(below, above, atol=1e-9)


@given(seeds)
@settings(deadline=None, max_examples=40)
def test_similarities_are_a_group(seed):
    rng = np.random.default_rng(seed)
    a, b, c = (random_sim3(rng) for _ in range(3))
    points = rng.normal(size=(5, 3))
    np.testing.assert_allclose(compose(a, b).apply(points), a.apply(b.apply(points)), rtol=1e-9, atol=1e-9)
    left, right = compose(compose(a, b), c), compose(a, compose(b, c))
    np.testing.assert_allclose(left.apply(points), right.apply(points), rtol=1e-9, atol=1e-8)
    assert compose(a, a.inverse()).scale == pytest.approx(1)
    np.testing.assert_allclose(compose(a.inverse(), a).apply(points), points, atol=1e-9)
    np.testing.assert_allclose(compose(IDENTITY, a).apply(points), a.apply(points))


@given(seeds)
@settings(deadline=None, max_examples=30)
def test_covariances_are_carried_over_by_true_derivatives(seed):
    rng = np.random.default_rng(seed)
    first, second = random_sim3(rng, 1.7), random_sim3(rng, 0.6)
    J = numeric(lambda one: one.inverse(), first)
    A, B = (M @ M.T for M in rng.normal(size=(2, 7, 7)))
    back = UncertainSim3(first, A).inverse()
    assert back.sim3.scale == pytest.approx(1 / 1.7)
    np.testing.assert_allclose(back.covariance, J @ A @ J.T, rtol=1e-4, atol=1e-4)
    J1 = numeric(lambda one: compose(one, second), first)
    J2 = numeric(lambda one: compose(first, one), second)
    both = UncertainSim3(first, A).after(UncertainSim3(second, B))
    np.testing.assert_allclose(both.covariance, J1 @ A @ J1.T + J2 @ B @ J2.T, rtol=1e-4, atol=1e-4)


def test_widening_adds_variances():
    wide = UncertainSim3(IDENTITY, np.eye(7)).widened(2, 3, 4)
    assert wide.sigmas == pytest.approx((np.sqrt(5), np.sqrt(10), np.sqrt(17)))


@pytest.mark.parametrize("covariance", [np.eye(6), np.full((7, 7), np.nan)])
def test_a_covariance_is_a_finite_matrix(covariance):
    with pytest.raises(InputError, match=r"finite matrix \[7, 7\]"):
        UncertainSim3(IDENTITY, covariance)
