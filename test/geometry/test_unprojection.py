import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gen3r_core.errors import InputError
from gen3r_core.geometry.cameras import decode_pose_encoding
from gen3r_core.geometry.unprojection import depth_mask, percentiles, unproject_depth


def cameras(frames, size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    encoding = torch.cat([torch.randn(frames, 7, generator=generator), torch.full((frames, 2), 1.0)], dim=1)
    return decode_pose_encoding(encoding, size)


def test_points_project_back_to_their_pixels():
    depth = torch.rand(3, 6, 9, generator=torch.Generator().manual_seed(1)) + 0.5
    T_cam_world, K = cameras(3, (6, 9))
    points = unproject_depth(depth, T_cam_world, K)
    assert points.shape == (3, 6, 9, 3)
    assert points.dtype == torch.float32
    in_camera = torch.einsum("fij,fhwj->fhwi", T_cam_world[:, :, :3], points) + T_cam_world[:, None, None, :, 3]
    torch.testing.assert_close(in_camera[..., 2], depth, atol=1e-5, rtol=0)
    pixels = torch.einsum("fij,fhwj->fhwi", K, in_camera)[..., :2] / in_camera[..., 2:]
    v, u = torch.meshgrid(torch.arange(6.0), torch.arange(9.0), indexing="ij")
    torch.testing.assert_close(pixels, torch.stack([u, v], dim=-1).expand_as(pixels), atol=1e-4, rtol=0)


def test_square_poses_and_other_dtypes():
    depth = torch.full((2, 4, 4), 2.0, dtype=torch.float64)
    T_cam_world, K = cameras(2, (4, 4))
    square = torch.cat([T_cam_world, torch.tensor([0.0, 0, 0, 1]).expand(2, 1, 4)], dim=1)
    points = unproject_depth(depth, square.double(), K.double())
    assert points.dtype == torch.float32
    torch.testing.assert_close(points, unproject_depth(depth.float(), T_cam_world, K))


@given(
    hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-1e3, 1e3, width=32)),
    st.floats(0, 100),
)
@settings(deadline=None, max_examples=200)
def test_percentiles_equal_numpy(values, q):
    (found,) = percentiles(torch.from_numpy(values), [q])
    expected = np.percentile(values, q)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-4)


def test_percentiles_over_16_million_values():
    values = torch.arange(2**24 + 2, dtype=torch.float64)
    low, high = percentiles(values, (0.1, 98))
    assert float(low) == pytest.approx(0.001 * (2**24 + 1))
    assert float(high) == pytest.approx(0.98 * (2**24 + 1))


def test_mask_without_range_wants_positive_finite_depth():
    depth = torch.tensor([[[1.0, 0.0, -1.0, 1e-9, float("nan"), float("inf"), 1e9]]])
    assert depth_mask(depth, limit_range=False).tolist() == [[[True, False, False, False, False, False, True]]]


def test_mask_with_range_as_numpy_has_it():
    generator = torch.Generator().manual_seed(5)
    depth = torch.rand(4, 30, 40, generator=generator) * torch.tensor([1.0, 10, 60, 1e3])[:, None, None]
    depth[1, :10] = -1
    mask = depth_mask(depth, limit_range=True)
    for frame, found in zip(depth.numpy(), mask.numpy(), strict=True):
        low, high = max(1e-8, np.percentile(frame, 0.1)), min(np.percentile(frame, 98), 50.0)
        np.testing.assert_array_equal(found, (frame > low) & (frame < high))
    assert 0 < mask[3].sum() < 100


def test_mask_with_range_leaves_out_nan_and_keeps_other_frames():
    depth = torch.rand(2, 10, 10, generator=torch.Generator().manual_seed(0)) + 1
    alone = depth_mask(depth[1:], limit_range=True)
    depth[0, 0, 0] = float("nan")
    mask = depth_mask(depth, limit_range=True)
    assert not mask[0, 0, 0]
    assert mask[0].any()
    assert torch.equal(mask[1:], alone)


def test_constant_depth_is_outside_its_own_range():
    assert not depth_mask(torch.ones(1, 3, 3), limit_range=True).any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: unproject_depth(torch.ones(4, 4), *cameras(1, (4, 4))), r"\[F, H, W\], got \(4, 4\)"),
        (lambda: unproject_depth(torch.ones(2, 4, 4), *cameras(1, (4, 4))), "as there are 2 depth maps"),
        (
            lambda: unproject_depth(torch.ones(2, 4, 4), cameras(2, (4, 4))[0], torch.eye(3)),
            r"intrinsics must have shape \[2, 3, 3\]",
        ),
        (lambda: depth_mask(torch.ones(4, 4), limit_range=True), r"\[F, H, W\] with at least one pixel"),
        (lambda: depth_mask(torch.ones(2, 0, 4), limit_range=False), r"got \(2, 0, 4\)"),
        (lambda: percentiles(torch.ones(3, 0), [50]), "at least one value"),
        (lambda: percentiles(torch.ones(3), [101]), "between 0 and 100, got 101"),
    ],
)
def test_errors(call, message):
    with pytest.raises(InputError, match=message):
        call()
