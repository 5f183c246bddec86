import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen3r_core.errors import InputError
from gen3r_core.io.ply import read_ply, write_ply
from gen3r_core.reconstruction.voxel_map import VoxelLayer, VoxelMap


def random_cloud(seed, count=500, reach=1.0):
    rng = np.random.default_rng(seed)
    points = rng.uniform(-reach, reach, (count, 3)).astype(np.float32)
    return points, rng.integers(0, 256, (count, 3), dtype=np.uint8), rng.uniform(0.5, 4, count).astype(np.float32)


def plainly(clouds, size):
    """The same map with a dictionary and a loop."""
    cells = {}
    for points, colors, weights in clouds:
        for p, c, w in zip(points.astype(np.float64), colors.astype(np.float64), weights.astype(float), strict=True):
            cell = cells.setdefault(tuple(np.floor(p / size).astype(int)), np.zeros(8))
            cell += [w, 1, *(w * p), *(w * c)]
    keys = sorted(cells)
    sums = np.array([cells[key] for key in keys])
    return sums[:, 2:5] / sums[:, :1], sums[:, 5:] / sums[:, :1], sums[:, 0] / sums[:, 1]


def of(points, colors=(10, 20, 30), confidence=1.0):
    points = np.atleast_2d(np.asarray(points, dtype=np.float64))
    return points, np.tile(np.array(colors, dtype=np.uint8), (len(points), 1)), np.full(len(points), float(confidence))


@given(st.integers(0, 2**31), st.sampled_from([0.07, 0.3, 5.0]), st.integers(1, 4))
@settings(deadline=None, max_examples=25)
def test_the_same_as_a_dictionary_and_a_loop(seed, size, turns):
    clouds = [random_cloud(seed + turn) for turn in range(turns)]
    found = VoxelMap(size)
    for layer in (found.observed, found.generated):
        layer.half_life = 3
    for cloud in clouds:
        report = found.insert(*cloud)
        assert report.refused == report.evicted == 0
    points, colors, confidence = plainly(clouds, size)
    if size < 5:  # larger voxels reach the bound of the weight
        np.testing.assert_allclose(found.points().points, points, atol=1e-6)
        np.testing.assert_allclose(found.points().colors, colors, atol=0.51)
    np.testing.assert_allclose(found.points().confidence, confidence, rtol=0.3 if size == 5 else 1e-5)
    assert len(found) == len(points)


def test_counts_of_what_became_of_a_cloud():
    m = VoxelMap(0.1)
    assert m.insert(*of([[0.01, 0.01, 0.01], [0.02, 0.02, 0.02], [0.5, 0, 0]])) == (2, 0, 0, 0)
    assert m.insert(*of([[0.05, 0.05, 0.05], [0.95, 0, 0]])) == (1, 1, 0, 0)
    assert len(m) == 3
    assert m.insert(*of(np.empty((0, 3)))) == (0, 0, 0, 0)


def test_colour_and_place_are_means_weighted_by_confidence():
    m = VoxelMap(1.0)
    m.insert(*of([0.2, 0.2, 0.2], (0, 0, 100), 3.0))
    m.insert(*of([0.6, 0.2, 0.2], (100, 0, 0), 1.0))
    found = m.points()
    np.testing.assert_allclose(found.points, [[0.3, 0.2, 0.2]], atol=1e-6)
    assert found.colors.tolist() == [[25, 0, 75]]
    assert found.confidence.tolist() == [2]
    assert found.generated.tolist() == [False]


def test_float_colours_and_no_confidence():
    m = VoxelMap(1.0)
    m.insert(np.array([[-0.5, 0.5, 0.5]]), np.array([[0.0, 0.5, 2.0]]))
    assert m.points().colors.tolist() == [[0, 128, 255]]
    assert m.points().confidence.tolist() == [1]
    np.testing.assert_allclose(m.points().points, [[-0.5, 0.5, 0.5]])


@pytest.mark.filterwarnings("error")
def test_points_that_are_none_are_refused_and_counted():
    m = VoxelMap(0.1)
    points, colors, confidence = of(
        [[np.nan, 0, 0], [0, np.inf, 0], [1e9, 0, 0], [0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 0, 3]]
    )
    confidence[4:7] = [0, np.nan, -1]
    assert m.insert(points, colors, confidence) == (1, 0, 6, 0)
    np.testing.assert_allclose(m.points().points, [[0, 0, 0]])


def test_far_from_the_origin_points_keep_their_millimetres():
    m = VoxelMap(0.02)
    far = np.array([[12_345.6789, -9_876.5432, 12.3456]])
    m.insert(*of(far))
    np.testing.assert_allclose(m.points().points, far, atol=1e-6)


def test_what_is_seen_now_counts_in_old_voxels_too():
    m = VoxelMap(1.0)
    for _ in range(1000):
        m.insert(*of([0.1, 0.1, 0.1], (0, 0, 0), 4.0))
    for _ in range(100):
        m.insert(*of([0.9, 0.1, 0.1], (200, 0, 0), 4.0))
    assert m.points().points[0, 0] > 0.7
    assert m.points().colors[0, 0] > 150
    assert m.points().confidence[0] == pytest.approx(4, rel=1e-5)
    heavy = VoxelMap(1.0)
    heavy.insert(*of(np.full((1000, 3), 0.1), (0, 0, 0), 4.0))
    for _ in range(100):
        heavy.insert(*of([0.9, 0.1, 0.1], (200, 0, 0), 4.0))
    assert heavy.points().points[0, 0] > 0.7


def test_observed_and_generated_are_kept_apart():
    m = VoxelMap(0.1)
    m.insert(*of([[0, 0, 0], [1, 0, 0]], (9, 9, 9)))
    assert m.insert(*of([[0.01, 0, 0], [2, 0, 0], [3, 0, 0]]), generated=True) == (2, 0, 0, 0)
    assert len(m.observed) == len(m.generated) == 2
    assert len(m.points().points) == 2
    both = m.points(include_generated=True)
    assert both.generated.tolist() == [False, False, True, True]
    np.testing.assert_allclose(both.points[:, 0], [0, 1, 2, 3], atol=1e-6)
    assert both.colors[0].tolist() == [9, 9, 9]
    # What has been seen replaces what was made up.
    assert m.insert(*of([[3.01, 0, 0], [5, 0, 0]])) == (2, 0, 0, 1)
    assert len(m.generated) == 1
    assert m.insert(*of([[7.0, 0, 0]])).evicted == 0
    m.clear()
    assert len(m) == 0
    assert m.insert(*of([[0.01, 0, 0]]), generated=True).added == 1


def grid(start, count=100):
    return np.stack([np.arange(start, start + count) + 0.5, np.zeros(count), np.zeros(count)], axis=1)


def test_the_bound_holds_and_the_oldest_leave():
    m = VoxelMap(1.0, max_points=500, max_generated=50)
    for turn in range(20):
        report = m.insert(*of(grid(100 * turn)))
        assert len(m.observed) <= 500
        assert report.added == 100
    x = m.points().points[:, 0]
    assert x.min() >= 1500
    assert set(grid(1900)[:, 0]) <= set(x)
    m.insert(*of(grid(9000)), generated=True)
    assert len(m.generated) == 45


def test_the_least_confident_leave():
    m = VoxelMap(1.0, max_points=150)
    m.insert(*of(grid(0), confidence=1.0))
    m.insert(*of(grid(1000), confidence=8.0))
    report = m.insert(*of(grid(2000, 50), confidence=4.0))
    assert report.evicted + len(m) == 250 - (200 - 135)
    kept = m.points()
    assert not (kept.points[:, 0] < 1000).any()
    assert kept.confidence.min() >= 4


def test_a_place_seen_for_long_does_not_keep_new_ones_out():
    m = VoxelMap(1.0, max_points=100)
    for _ in range(300):
        m.insert(*of(grid(0, 95)))
    for turn in range(1, 4):
        m.insert(*of(grid(1000 * turn, 20)))
        assert (m.points().points[:, 0] > 1000 * turn).sum() == 20


def test_points_seen_again_are_young():
    m = VoxelMap(1.0, max_points=250)
    m.insert(*of(grid(0)))
    m.insert(*of(grid(100)))
    m.insert(*of(grid(0)))
    m.insert(*of(grid(200)))
    x = m.points().points[:, 0]
    assert set(grid(0)[:, 0]) <= set(x)
    assert set(grid(200)[:, 0]) <= set(x)
    assert ((x > 100) & (x < 200)).sum() == 25


def test_the_same_clouds_give_the_same_bytes():
    maps = [VoxelMap(0.05, max_points=900) for _ in range(2)]
    for turn in range(8):
        for m in maps:
            m.insert(*random_cloud(turn, 400, 3.0), generated=turn % 3 == 2)
    first, second = (m.points(include_generated=True) for m in maps)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def test_less_confident_points_can_be_left_out():
    m = VoxelMap(1.0)
    m.insert(*of([[0.5, 0, 0]], confidence=1.0))
    m.insert(*of([[5.5, 0, 0]], confidence=3.0))
    m.insert(*of([[9.5, 0, 0]], confidence=3.0), generated=True)
    assert m.points(min_confidence=2.0).points[:, 0].tolist() == [5.5]
    assert m.points(min_confidence=2.0, include_generated=True).points[:, 0].tolist() == [5.5, 9.5]


def test_a_map_becomes_a_ply_file(tmp_path):
    m = VoxelMap(0.1)
    m.insert(*random_cloud(0))
    write_ply(tmp_path / "map.ply", m.cloud())
    found, points = read_ply(tmp_path / "map.ply"), m.points()
    np.testing.assert_array_equal(found.points, points.points)
    np.testing.assert_array_equal(np.rint(found.colors * 255), points.colors)
    assert len(VoxelMap().cloud(include_generated=True)) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"voxel_size": 0.0}, "voxel size must be positive, got 0.0"),
        ({"voxel_size": float("inf")}, "voxel size must be positive"),
        ({"max_points": 0}, "room for at least 1 point"),
        ({"max_generated": 0}, "room for at least 1 point"),
        ({"half_life": 0.0}, "half-life"),
    ],
)
def test_bad_maps_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        VoxelMap(**change)


@pytest.mark.parametrize(
    ("points", "colors", "confidence", "message"),
    [
        (np.zeros((2, 2)), np.zeros((2, 2)), None, r"floats of shape \[N, 3\], got float64 \[2, 2\]"),
        (np.zeros((2, 3), dtype=int), np.zeros((2, 3)), None, "must be floats"),
        (np.zeros((2, 3)), np.zeros((1, 3)), None, r"colours must have shape \[2, 3\]"),
        (np.zeros((2, 3)), np.zeros((2, 3)), np.ones(3), r"floats of shape \[2\] as there are so many points"),
        (np.zeros((2, 3)), np.zeros((2, 3)), np.ones(2, dtype=int), "confidences must be floats"),
    ],
)
def test_bad_clouds_are_refused(points, colors, confidence, message):
    m = VoxelMap()
    with pytest.raises(InputError, match=message):
        m.insert(points, colors, confidence)
    assert len(m) == 0


def test_a_layer_gives_up_only_what_it_has():
    layer = VoxelLayer(1.0, 10)
    assert layer.remove(np.array([1, 2, 3])) == 0


def test_a_large_cloud_is_quick():
    rng = np.random.default_rng(0)
    m, seconds, count = VoxelMap(0.02, max_points=1_000_000), [], 300_000
    for turn in range(8):
        u, v = rng.uniform(0, 6, count), rng.uniform(0, 2.5, count)
        points = np.stack([u + 0.3 * turn, np.sin(u) + rng.normal(0, 0.01, count), v], axis=1).astype(np.float32)
        colors = rng.integers(0, 256, (count, 3), dtype=np.uint8)
        confidence = rng.uniform(1, 5, count).astype(np.float32)
        start = time.process_time()  # of this process: others share the cores
        m.insert(points, colors, confidence)
        seconds.append(time.process_time() - start)
    print(f"300,000 points into a map of {len(m)}: median {1e3 * np.median(seconds):.0f} ms, "
          f"longest {1e3 * max(seconds):.0f} ms")  # fmt: skip
    assert np.median(seconds) < 0.15
