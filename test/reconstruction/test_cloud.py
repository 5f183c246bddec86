import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gen3r_core.errors import Gen3RError, InputError
from gen3r_core.reconstruction import cloud as cloud_module
from gen3r_core.reconstruction.cloud import (
    PointCloud,
    export_cloud,
    filter_cloud,
    import_open3d,
    remove_farthest,
    voxel_down_sample,
)


def sheet(count=2000, strays=0, seed=0):
    generator = np.random.default_rng(seed)
    points = generator.uniform(0, 1, (count, 3)) * [1, 1, 0.01] + [0, 0, 2]
    far = generator.uniform(5, 9, (strays, 3))
    return PointCloud(np.concatenate([points, far]), generator.uniform(0, 1, (count + strays, 3)))


def rows(array):
    return {tuple(row) for row in array}


def test_maps_become_a_cloud():
    points = torch.arange(24.0).view(2, 2, 2, 3)
    colors = torch.full((2, 2, 2, 3), 1.5)
    mask = torch.tensor([[[1, 0], [0, 0]], [[0, 0], [0, 1]]], dtype=torch.uint8)
    found = PointCloud.from_maps(points, colors, mask)
    assert found.points.tolist() == [[0, 1, 2], [21, 22, 23]]
    assert found.colors.max() == 1
    assert len(PointCloud.from_maps(points.bfloat16(), colors.bfloat16())) == 8
    assert len(PointCloud.from_maps(points, colors, torch.zeros(2, 2, 2))) == 0


def test_strays_go_and_the_sheet_stays():
    found = filter_cloud(sheet(strays=20))
    assert found.points[:, 0].max() < 1.1
    assert len(found) > 1700
    assert rows(found.points) <= rows(sheet(strays=20).points)


def test_colours_stay_with_their_points():
    original = sheet(strays=20)
    colors = {tuple(point): tuple(color) for point, color in zip(original.points, original.colors, strict=True)}
    found = filter_cloud(original, near_percent=30)
    assert all(colors[tuple(p)] == tuple(c) for p, c in zip(found.points, found.colors, strict=True))


def test_near_strays_go_only_when_asked_for_and_the_same_for_the_same_seed():
    lonely = PointCloud(np.concatenate([sheet().points, [[0.5, 0.5, 1.8]]]), np.zeros((2001, 3)))
    generous = {"ratio": 1e9}
    assert (0.5, 0.5, 1.8) in rows(filter_cloud(lonely, **generous).points)
    first, second = (
        filter_cloud(lonely, near_percent=50, generator=np.random.default_rng(3), **generous) for _ in range(2)
    )
    assert (0.5, 0.5, 1.8) not in rows(first.points)
    np.testing.assert_array_equal(first.points, second.points)


def test_the_global_generator_is_left_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002 - the very thing that must not be touched
    filter_cloud(sheet(200), near_percent=50)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


@pytest.mark.parametrize("count", [0, 1, 2])
def test_tiny_clouds_are_returned(count):
    tiny = sheet(count)
    assert filter_cloud(tiny) is tiny
    assert len(remove_farthest(tiny)) == (0, 1, 1)[count]
    assert len(voxel_down_sample(tiny, 10)) == min(count, 1)


@pytest.mark.parametrize("near_percent", [0, 100])
def test_points_at_one_place_stay(near_percent):
    same = PointCloud(np.ones((30, 3)), np.zeros((30, 3)))
    assert len(filter_cloud(same, near_percent=near_percent)) == 30


def test_pairs_of_equal_points_have_no_median_distance():
    doubled = np.repeat(sheet(200).points, 2, axis=0)
    kept = filter_cloud(PointCloud(doubled, np.zeros_like(doubled)), ratio=1e9, near_percent=100)
    assert len(kept) == 400


def test_farthest_fifth_goes():
    found = remove_farthest(sheet(1000))
    assert len(found) == 800
    assert found.points[:, 2].max() <= np.sort(sheet(1000).points[:, 2])[800]


points_strategy = hnp.arrays(np.float64, st.tuples(st.integers(1, 60), st.just(3)), elements=st.floats(-3, 3, width=32))


def cells_by_hand(points, size, origin):
    start = points.min(axis=0) - (size / 2 if origin == "centre" else 0)
    groups = {}
    for point in points:
        groups.setdefault(tuple(np.floor((point - start) / size)), []).append(point)
    return np.array([np.mean(groups[cell], axis=0) for cell in sorted(groups)])


@given(points_strategy, st.floats(0.1, 2), st.sampled_from(["centre", "corner"]))
@settings(deadline=None, max_examples=100)
def test_voxel_averages(points, size, origin):
    found = voxel_down_sample(PointCloud(points, np.abs(points) / 3), size, origin=origin)
    np.testing.assert_allclose(found.points, cells_by_hand(points, size, origin), atol=1e-12)


def test_voxels_as_open3d_has_them():
    o3d, mine = import_open3d(), sheet()
    theirs = o3d.geometry.PointCloud()
    theirs.points, theirs.colors = o3d.utility.Vector3dVector(mine.points), o3d.utility.Vector3dVector(mine.colors)
    expected, found = theirs.voxel_down_sample(0.05), voxel_down_sample(mine, 0.05)
    order = np.lexsort(np.asarray(expected.points).T[::-1])
    mine_order = np.lexsort(found.points.T[::-1])
    np.testing.assert_allclose(found.points[mine_order], np.asarray(expected.points)[order], atol=1e-12)
    np.testing.assert_allclose(found.colors[mine_order], np.asarray(expected.colors)[order], atol=1e-12)


def test_a_grid_too_large_for_one_number():
    points = np.array([[0, 0, 0], [1e6, 1e6, 1e6], [1e6, 1e6, 1e6 + 1e-4], [1e6, 0, 1e6], [0, 0, 1e6]])
    found = voxel_down_sample(PointCloud(points, np.zeros_like(points)), 1e-3)
    np.testing.assert_allclose(found.points, cells_by_hand(points, 1e-3, "centre"))
    assert len(found) == 4


@pytest.mark.parametrize(("remove_far", "size"), [(False, 0.005), (True, 0.003)])
def test_export(remove_far, size):
    original = sheet(3000, strays=5)
    found = export_cloud(original, remove_far=remove_far)
    expected = filter_cloud(remove_farthest(original) if remove_far else original)
    np.testing.assert_array_equal(found.points, voxel_down_sample(expected, size, origin="corner").points)
    assert (len(found) < 2450) == remove_far


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: export_cloud(sheet(0)), "no point to export: every pixel was masked out"),
        (lambda: voxel_down_sample(sheet(), 0), "voxel size must be positive, got 0"),
        (lambda: voxel_down_sample(sheet(), 1e-12), "voxel size 1e-12 is too small for a cloud that extends over 0.99"),
        (lambda: filter_cloud(sheet(), neighbours=0), "at least 1 neighbour"),
        (lambda: PointCloud(np.zeros((3, 2)), np.zeros((3, 2))), r"got \(3, 2\) and \(3, 2\)"),
        (lambda: PointCloud(np.zeros((3, 3)), np.zeros((2, 3))), r"got \(3, 3\) and \(2, 3\)"),
        (lambda: PointCloud(np.zeros((3, 3)), np.zeros((3, 3), np.uint8)), "divide 8-bit colours by 255"),
        (lambda: PointCloud(np.zeros((3, 3)), np.full((3, 3), 2.0)), "between 0 and 1, got 2 to 2"),
        (
            lambda: PointCloud(np.array([[0, 0, 0], [np.inf, 0, 0]]), np.zeros((2, 3))),
            "1 of 2 points are NaN or infinite, the first is point 1",
        ),
        (lambda: PointCloud.from_maps(torch.zeros(2, 3), torch.zeros(3, 3)), r"got \(2, 3\) and \(3, 3\)"),
        (
            lambda: PointCloud.from_maps(torch.zeros(2, 3), torch.zeros(2, 3), torch.ones(3)),
            r"shape \(2,\) as the points",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize("error", [ImportError("No module named open3d"), OSError("libusb-1.0.so.0: cannot open")])
def test_open3d_that_cannot_be_loaded(monkeypatch, error):
    class Refuse:
        def find_spec(self, name, _path=None, _target=None):
            if name == "open3d":
                raise error

    monkeypatch.delitem(sys.modules, "open3d", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Refuse(), *sys.meta_path])
    with pytest.raises(Gen3RError, match=rf"cannot be loaded: {error}.*Debian packages libusb-1\.0-0"):
        cloud_module.import_open3d()
