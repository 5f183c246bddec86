"""Clouds: thinning against slow references, distances against known ones."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from gen3r_core.metrics.cloud_distances import cloud_errors
from gen3r_core.metrics.clouds import aligned_points, points_error
from gen3r_core.metrics.sampling import farthest_points, voxel_means


def slow_farthest(points, count):
    taken, best = [0], np.full(len(points), np.inf, dtype=np.float32)
    while len(taken) < count:
        x, y, z = (points - points[taken[-1]]).astype(np.float32).T
        best = np.minimum(best, x * x + y * y + z * z)
        taken.append(int(best.argmax()))
    return taken


def cloud(seed, count, spread=(3.0, 2.0, 1.0)):
    return np.random.default_rng(seed).normal(size=(count, 3)) * np.array(spread)


@pytest.mark.parametrize(("count", "wanted"), [(1000, 200), (129, 128), (5000, 50), (2, 1)])
def test_farthest_points_are_those_of_the_plain_search(count, wanted):
    points = cloud(count, count).astype(np.float32)
    assert farthest_points(points, wanted).tolist() == slow_farthest(points, wanted)


@given(st.integers(0, 2**32 - 1), st.integers(1, 700), st.integers(1, 60), st.sampled_from([0.0, 1e-3, 1.0, 1e5]))
def test_farthest_points_of_any_cloud(seed, count, wanted, thickness):
    points = cloud(seed, count, (1.0, 1.0, thickness)).astype(np.float32)
    found = farthest_points(points, wanted)
    if count <= wanted:
        assert found.tolist() == list(range(count))
    else:
        assert found.tolist() == slow_farthest(points, wanted)


def test_farthest_points_cover_evenly():
    """Half of the points are crowded in one corner; the chosen ones are not."""
    crowd = np.concatenate([cloud(0, 5000, (0.01, 0.01, 0.01)), np.random.default_rng(1).uniform(-1, 1, (5000, 3))])
    chosen = crowd[farthest_points(crowd, 200)]
    assert (np.abs(chosen).max(axis=1) < 0.1).sum() < 5


@given(st.integers(0, 2**32 - 1), st.integers(1, 300), st.sampled_from([0.05, 0.7, 100.0]))
def test_voxel_means_by_dictionary(seed, count, size):
    points = cloud(seed, count)
    voxels = {}
    for point in points:
        voxels.setdefault(tuple(np.floor((point - points.min(axis=0)) / size).astype(int)), []).append(point)
    expected = [np.mean(members, axis=0) for _, members in sorted(voxels.items())]
    np.testing.assert_allclose(voxel_means(points, size), expected, atol=1e-9)


def test_voxels_of_points_that_are_far_off():
    """More voxels than can be numbered: neighbours are still joined, others not, in the same order."""
    points = np.array([[0.0, 0, 0], [0.1, 0, 0], [0, 1e12, 5], [1e12, 0, 0.2], [1e12, 0, 0.3], [3e9, 1e12, 1e12]])
    expected = np.array([[0.05, 0, 0], [0, 1e12, 5], [3e9, 1e12, 1e12], [1e12, 0, 0.25]])
    np.testing.assert_allclose(voxel_means(points, 1.0), expected)


def plane(step=0.01, z=0.0):
    x, y = np.meshgrid(np.arange(0, 1, step), np.arange(0, 1, step))
    return np.stack([x, y, np.full_like(x, z)], axis=-1).reshape(-1, 3)


def test_distances_of_two_planes():
    """Parallel planes with the same points: every distance is the gap; of half a plane, completeness is worse."""
    errors = cloud_errors([plane(z=0.05), plane()[:5000], np.full((5, 3), np.nan)], plane())
    assert errors[0] == pytest.approx((0.05, 0.05, 0.05))
    # Half of the points is 0.01 to 0.5 away from the half that is there: 0.255 on average.
    assert errors[1] == pytest.approx((0, 0.5 * 0.255, 0.25 * 0.255), abs=1e-3)
    assert all(math.isnan(value) for value in errors[2])


def test_distances_are_those_between_thinned_clouds():
    """With few points their own distances show: what is measured is the thinned clouds, as published."""
    moved = plane(0.004) + np.array([0.002, 0.002, 0])
    dense = cloud_errors([moved], plane(0.004))[0]
    sparse = cloud_errors([moved], plane(0.004), count=100)[0]
    assert dense.chamfer < 0.003
    assert 0.005 < sparse.chamfer < 0.05


@given(st.integers(0, 2**32 - 1), st.floats(0.05, 20))
def test_alignment_undoes_a_similarity(seed, scale):
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(4, 5, 3))
    rotation = Rotation.random(random_state=seed).as_matrix()
    moved = scale * truth @ rotation.T + rng.normal(size=3)
    mask = torch.from_numpy(rng.random((4, 5)) < 0.8)
    mask[0] = True
    predicted, known = aligned_points(torch.from_numpy(moved), torch.from_numpy(truth), mask)
    np.testing.assert_allclose(known, truth[mask.numpy()])
    np.testing.assert_allclose(predicted, known, atol=1e-8)


def test_points_that_are_not_finite_are_nan_only_where_they_count():
    truth, predicted = torch.rand(3, 4, 3), torch.rand(3, 4, 3)
    predicted[0, 0] = math.inf
    mask = torch.ones(3, 4, dtype=torch.bool)
    assert np.isnan(aligned_points(predicted, truth, mask)[0]).all()
    mask[0, 0] = False
    assert np.isfinite(aligned_points(predicted, truth, mask)[0]).all()


def test_points_error():
    truth = torch.zeros(1, 1, 1, 4, 3)
    truth[..., 0] = 2
    prediction = truth * 5
    mask = torch.ones(1, 1, 1, 4, dtype=torch.bool)
    assert points_error(prediction, truth, mask) == pytest.approx(0, abs=1e-6)
    prediction[0, 0, 0, 0] = torch.tensor([0.0, 10.0, 0.0])
    assert points_error(prediction, truth, mask) == pytest.approx(2 * 2**0.5 / 8)
