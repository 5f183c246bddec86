"""Cameras, rays, unprojection and built-in paths against the reference run."""

import golden
import pytest
import torch

from gen3r_core.geometry import cameras, images, rigid, trajectories, unprojection

pytestmark = [golden.requires_golden, pytest.mark.parity]
LIMIT = 1e-5


@pytest.fixture(scope="module", params=golden.cases("functions_geometry"))
def case(request):
    return golden.load(request.param)


def test_pose_encodings(case):
    for tag, size in case.meta["settings"]["sizes"].items():
        T_cam_world, intrinsics = cameras.decode_pose_encoding(case.inputs["pose_enc"], tuple(size))
        golden.assert_close(T_cam_world, case.outputs[f"pose_dec_{tag}/extrinsics"], LIMIT)
        golden.assert_close(intrinsics, case.outputs[f"pose_dec_{tag}/intrinsics"], LIMIT)
        again = cameras.encode_pose(T_cam_world, intrinsics, tuple(size))
        golden.assert_close(again, case.outputs[f"pose_reenc_{tag}"], LIMIT)


def test_quaternions(case):
    matrices = rigid.quaternion_to_matrix(case.inputs["quats_xyzw"])
    golden.assert_close(matrices, case.outputs["quat_to_mat"], LIMIT)
    golden.assert_close(rigid.matrix_to_quaternion(matrices), case.outputs["mat_to_quat"], LIMIT)


def test_rigid_inverse(case):
    golden.assert_close(rigid.invert_rigid(case.inputs["se3"]), case.outputs["se3_inverse"], LIMIT)


def test_poses_relative_to_first(case):
    poses = case.inputs["c2ws"]
    golden.assert_close(rigid.relative_to_first(poses), case.outputs["preprocess_poses"], LIMIT)
    exact = rigid.relative_to_first(poses.double())
    assert exact.dtype == torch.float64
    golden.assert_close(exact, case.outputs["preprocess_poses_float64"], LIMIT)


def test_rays(case):
    poses, size = rigid.relative_to_first(case.inputs["c2ws"]), tuple(case.meta["settings"]["rays"])
    origins, directions = cameras.pixel_rays(poses, case.inputs["ray_K"], size)
    golden.assert_close(origins, case.outputs["rays_o"], LIMIT)
    golden.assert_close(directions, case.outputs["rays_d"], LIMIT)
    golden.assert_close(cameras.pluecker_rays(poses, case.inputs["ray_K"], size), case.outputs["plucker"], LIMIT)


def test_unprojection(case):
    depth = case.inputs["unproject/depth"].squeeze(-1)
    points = unprojection.unproject_depth(
        depth, case.inputs["unproject/extrinsics"], case.inputs["unproject/intrinsics"]
    )
    golden.assert_close(points, case.outputs["unproject/points"], LIMIT)


@pytest.mark.parametrize("limit_range", [False, True])
def test_depth_masks(case, limit_range):
    mask = unprojection.depth_mask(case.inputs["unproject/depth"].squeeze(-1), limit_range=limit_range)
    expected = case.outputs[f"unproject/mask_minmax{int(limit_range)}"].bool()
    # Percentile thresholds may move a pixel that lies on them; nothing else may differ.
    assert int((mask != expected).sum()) <= (2 * len(mask) if limit_range else 0)


def test_built_in_paths(case):
    settings = case.meta["settings"]
    names = [key.removeprefix("trajectory/") for key in case.outputs if key.startswith("trajectory/")]
    assert names, "the case holds no trajectory"
    for name in names:
        path = trajectories.built_in_path(name, settings["nf"], settings["scale"])
        golden.assert_close(path, case.outputs[f"trajectory/{name}"], LIMIT)


def test_intrinsics_after_resize_and_crop(case):
    for row, expected in zip(case.inputs["get_K_args"].tolist(), case.outputs["get_K"], strict=True):
        w, h, fx, fy, cx, cy, to_width, to_height = row
        K = torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float64)
        actual = cameras.intrinsics_after_resize_crop(K, (int(h), int(w)), (int(to_height), int(to_width)))
        golden.assert_close(actual, expected, LIMIT)


def test_center_crop(case):
    for index, ((height, width), size) in enumerate(case.meta["settings"]["crops"]):
        grid = torch.arange(height * width, dtype=torch.float32).view(1, 1, height, width)
        golden.assert_close(images.center_crop(grid, tuple(size)), case.outputs[f"center_crop_{index}"], 0.0)
