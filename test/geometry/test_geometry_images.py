import pytest
import torch

from gen3r_core.errors import InputError
from gen3r_core.geometry.images import center_crop, fit_to_multiple, resize_and_crop

K = torch.tensor([[100.0, 0, 32], [0, 120, 20], [0, 0, 1]], dtype=torch.float64)


def ramp(height, width):
    """An image whose red is u and whose green is v of each pixel's centre, in pixels."""
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([u, v, torch.zeros_like(u)])[None]


@pytest.mark.parametrize(("height", "width"), [(40, 64), (64, 40), (30, 30), (101, 57)])
@pytest.mark.parametrize("size", [(28, 28), (70, 70), (28, 56)])
def test_resize_and_crop_moves_pixels_where_the_intrinsics_say(height, width, size):
    resized, done = resize_and_crop(ramp(height, width), size)
    assert resized.shape == (1, 3, *size)
    pixel = torch.tensor([size[1] / 2, size[0] / 2, 1.0], dtype=torch.float64)
    ray = torch.linalg.inv(done.apply_to_intrinsics(K)) @ pixel
    source_u, source_v, _ = (K @ ray).tolist()
    middle = resized[0, :2, size[0] // 2 - 1 : size[0] // 2 + 1, size[1] // 2 - 1 : size[1] // 2 + 1].mean(dim=(1, 2))
    assert middle.tolist() == pytest.approx([source_u, source_v], abs=0.03)


def test_intrinsics_can_be_undone():
    _, done = resize_and_crop(torch.rand(1, 3, 33, 47), (14, 28))
    torch.testing.assert_close(done.undo_on_intrinsics(done.apply_to_intrinsics(K)), K)


def test_scaled_size_is_rounded_and_the_surplus_halved():
    _, done = resize_and_crop(torch.rand(1, 3, 101, 57), (28, 28))
    assert done.scaled_size == (round(101 * 28 / 57), 28)
    assert done.corner == ((done.scaled_size[0] - 28) // 2, 0)


def test_nothing_happens_at_the_right_size():
    images = torch.rand(2, 3, 28, 42)
    assert torch.equal(resize_and_crop(images, (28, 42))[0], images)
    assert torch.equal(fit_to_multiple(images)[0], images)


def test_resizing_is_antialiased():
    stripes = torch.zeros(1, 3, 64, 64)
    stripes[..., ::2] = 1
    small, _ = resize_and_crop(stripes, (8, 8))
    assert float((small - 0.5).abs().max()) < 0.05


def test_half_precision_stays_half():
    assert resize_and_crop(torch.rand(1, 3, 20, 20).bfloat16(), (14, 14))[0].dtype == torch.bfloat16


def test_center_crop_of_odd_surplus():
    grid = torch.arange(35).view(1, 1, 5, 7)
    assert center_crop(grid, (2, 4)).tolist() == [[[[8, 9, 10, 11], [15, 16, 17, 18]]]]


@pytest.mark.parametrize(
    ("size", "longest", "expected"),
    [
        ((480, 640), 518, (392, 518)),
        ((640, 480), 518, (518, 392)),
        ((100, 30), None, (98, 28)),
        ((5, 900), 518, (14, 518)),
    ],
)
def test_fit_to_multiple(size, longest, expected):
    fitted, done = fit_to_multiple(ramp(*size), 14, longest=longest)
    assert fitted.shape[2:] == expected
    K_new = done.apply_to_intrinsics(K)
    assert float(K_new[0, 0] / K[0, 0]) == pytest.approx(expected[1] / size[1])
    assert float(K_new[1, 2] / K[1, 2]) == pytest.approx(expected[0] / size[0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: resize_and_crop(torch.rand(3, 8, 8), (4, 4)), r"\[N, 3, H, W\] .* got \(3, 8, 8\)"),
        (lambda: resize_and_crop(torch.rand(1, 4, 8, 8), (4, 4)), r"got \(1, 4, 8, 8\)"),
        (lambda: resize_and_crop(torch.rand(0, 3, 8, 8), (4, 4)), "at least one pixel"),
        (lambda: resize_and_crop(torch.rand(1, 3, 8, 8), (4, 0)), r"both positive, got \(4, 0\)"),
        (lambda: resize_and_crop(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), (4, 4)), "torch.uint8; divide 8-bit"),
        (lambda: center_crop(torch.rand(8, 8), (4, 4)), r"\[N, C, H, W\], got \(8, 8\)"),
        (lambda: center_crop(torch.rand(1, 3, 8, 8), (4, 9)), r"cannot cut \(4, 9\) out of images of \(8, 8\)"),
        (lambda: fit_to_multiple(torch.rand(1, 3, 8, 8), 14, longest=13), "multiples of 14 with a longest side of 13"),
    ],
)
def test_errors(call, message):
    with pytest.raises(InputError, match=message):
        call()
