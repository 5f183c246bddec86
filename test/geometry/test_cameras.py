import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gen3r_core.errors import InputError
from gen3r_core.geometry import cameras
from gen3r_core.geometry.trajectories import built_in_path

K = torch.tensor([[100.0, 0, 32], [0, 120, 20], [0, 0, 1]], dtype=torch.float64)
angles = st.floats(0.2, 2.5)
parts = st.floats(-1, 1)


@given(st.tuples(parts, parts, parts, parts, parts, parts, st.floats(0.1, 1), angles, angles))
@settings(deadline=None, max_examples=50)
def test_pose_encoding_round_trip(values):
    encoding = torch.tensor(values, dtype=torch.float64)
    T, intrinsics = cameras.decode_pose_encoding(encoding, (48, 80))
    again = cameras.encode_pose(T, intrinsics, (48, 80))
    encoding[3:7] /= encoding[3:7].norm()
    torch.testing.assert_close(again, encoding, atol=1e-9, rtol=0)


def test_decoded_camera_by_hand():
    encoding = torch.tensor([1.0, 2, 3, 0, 0, 0, 2, math.pi / 2, 2 * math.atan(0.5)], dtype=torch.float64)
    T, intrinsics = cameras.decode_pose_encoding(encoding, (10, 20))
    torch.testing.assert_close(T[:, :3], torch.eye(3, dtype=torch.float64))
    assert T[:, 3].tolist() == [1, 2, 3]
    torch.testing.assert_close(intrinsics, torch.tensor([[20.0, 0, 10], [0, 5, 5], [0, 0, 1]], dtype=torch.float64))


def test_half_precision_encodings_are_decoded_in_float32():
    T, intrinsics = cameras.decode_pose_encoding(torch.ones(2, 3, 9, dtype=torch.bfloat16), (14, 14))
    assert (T.dtype, intrinsics.dtype) == (torch.float32, torch.float32)
    assert (T.shape, intrinsics.shape) == ((2, 3, 3, 4), (2, 3, 3, 3))


def test_scaling_intrinsics():
    scaled = cameras.scale_intrinsics(K, (40, 64), (80, 32))
    assert scaled.tolist() == [[50, 0, 16], [0, 240, 40], [0, 0, 1]]


@pytest.mark.parametrize(
    ("from_size", "to_size", "expected"),
    [
        # twice as high: ratio 2, 128 wide, 24 px cut off on the left
        ((40, 64), (80, 80), [[200, 0, 40], [0, 240, 40], [0, 0, 1]]),
        # ratio 0.5: 20 x 32 covers 10 x 32 with 5 px cut off at the top
        ((40, 64), (10, 32), [[50, 0, 16], [0, 60, 5], [0, 0, 1]]),
        # ratio 11/3: 40 * 11/3 = 146.67 is truncated to 146, surplus 36, cut 18
        ((40, 30), (110, 110), [[1100 / 3, 0, 352 / 3], [0, 440, 220 / 3 - 18], [0, 0, 1]]),
    ],
)
def test_intrinsics_after_resize_and_crop(from_size, to_size, expected):
    found = cameras.intrinsics_after_resize_crop(K, from_size, to_size)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_ray_of_the_principal_point_is_the_optical_axis():
    intrinsics = torch.tensor([[[10.0, 0, 2.5], [0, 10, 1.5], [0, 0, 1]]])
    poses = built_in_path("arc_right", 3)[2:]
    origins, directions = cameras.pixel_rays(poses, intrinsics, (3, 5))
    assert origins.shape == directions.shape == (1, 3, 3, 5)
    torch.testing.assert_close(directions[0, :, 1, 2], poses[0, :3, 2])
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(1, 3, 5))


def test_points_on_rays_project_to_pixel_centres():
    generator = torch.Generator().manual_seed(0)
    encoding = torch.cat([torch.randn(4, 7, generator=generator), torch.full((4, 2), 1.2)], dim=1).double()
    T_world_cam, intrinsics = cameras.decode_pose_encoding(encoding, (6, 8))
    T_world_cam = torch.nn.functional.pad(T_world_cam, (0, 0, 0, 1))
    T_world_cam[:, 3, 3] = 1
    origins, directions = cameras.pixel_rays(T_world_cam, intrinsics.float(), (6, 8))
    points = torch.nn.functional.pad((origins + 2.5 * directions).flatten(2), (0, 0, 0, 1), value=1.0)
    in_camera = (torch.linalg.inv(T_world_cam) @ points)[:, :3]
    pixels = (intrinsics @ in_camera)[:, :2] / in_camera[:, 2:]
    v, u = torch.meshgrid(torch.arange(6) + 0.5, torch.arange(8) + 0.5, indexing="ij")
    expected = torch.stack([u, v]).flatten(1).double().expand(4, 2, 48)
    torch.testing.assert_close(pixels, expected, atol=1e-5, rtol=0)
    assert directions.dtype == torch.float64


def test_pluecker_moment_is_the_same_for_every_point_of_a_ray():
    poses = built_in_path("zoom_in", 3, 2.0)
    rays = cameras.pluecker_rays(poses, K.float().expand(3, 3, 3), (40, 64))
    assert rays.shape == (3, 6, 40, 64)
    moment, direction = rays.split(3, dim=1)
    assert moment[0].abs().max() == 0
    further = poses[:, :3, 3, None, None] + 7 * direction
    torch.testing.assert_close(torch.linalg.cross(further, direction, dim=1), moment, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cameras.decode_pose_encoding(torch.zeros(2, 8), (4, 4)), r"\[\.\.\., 9\], got \(2, 8\)"),
        (lambda: cameras.decode_pose_encoding(torch.zeros(9), (0, 4)), r"both positive, got \(0, 4\)"),
        (lambda: cameras.encode_pose(torch.zeros(3, 3), K, (4, 4)), r"camera poses .* got \(3, 3\)"),
        (lambda: cameras.encode_pose(torch.zeros(3, 4), K[0], (4, 4)), r"intrinsics .* got \(3,\)"),
        (lambda: cameras.scale_intrinsics(K, (4, 4), (4, -4)), r"both positive, got \(4, -4\)"),
        (lambda: cameras.pixel_rays(torch.eye(4), K, (4, 4)), r"\[F, 4, 4\], got \(4, 4\)"),
        (
            lambda: cameras.pixel_rays(torch.eye(4).expand(2, 4, 4), K[None], (4, 4)),
            r"\[2, 3, 3\] as there are 2 poses",
        ),
    ],
)
def test_wrong_shapes(call, message):
    with pytest.raises(InputError, match=message):
        call()
