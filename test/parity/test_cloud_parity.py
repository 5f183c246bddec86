"""Outlier filter, voxel grid and exported cloud against the reference run."""

import golden
import numpy as np
import pytest
import torch

from gen3r_core.io.ply import read_ply, write_ply
from gen3r_core.reconstruction.cloud import PointCloud, export_cloud, filter_cloud, voxel_down_sample

pytestmark = [golden.requires_golden, pytest.mark.parity]
LIMIT = 1e-5


@pytest.fixture(scope="module", params=golden.cases("pointcloud_export"))
def case(request):
    return golden.load(request.param)


@pytest.fixture(scope="module")
def cloud(case):
    return PointCloud.from_maps(case.inputs["points"], case.inputs["rgb"])


def _assert_same(found, case, name):
    order = np.lexsort(found.points.T[::-1])
    golden.assert_close(torch.from_numpy(found.points[order]), case.outputs[f"{name}/points"], LIMIT)
    golden.assert_close(torch.from_numpy(found.colors[order]), case.outputs[f"{name}/colors"], LIMIT)


def test_statistical_inliers(case, cloud):
    kept = filter_cloud(cloud)
    expected = cloud.select(case.outputs["statistical_inliers"].bool().flatten().numpy())
    # The near group comes first, here and in the reference; the set of points is what counts.
    assert {tuple(point) for point in kept.points} == {tuple(point) for point in expected.points}
    assert len(kept) == len(expected)


def test_voxel_down_sample(case, cloud):
    _assert_same(voxel_down_sample(cloud, case.meta["settings"]["voxel"]), case, "voxel_down_sample")


@pytest.mark.parametrize("remove_far", [False, True])
def test_saved_cloud(case, cloud, remove_far, tmp_path):
    write_ply(tmp_path / "cloud.ply", export_cloud(cloud, remove_far=remove_far))
    _assert_same(read_ply(tmp_path / "cloud.ply"), case, "saved_far_removed" if remove_far else "saved_far_kept")
