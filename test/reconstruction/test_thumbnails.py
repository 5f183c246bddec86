import time

import numpy as np
import pytest
from PIL import Image, ImageFilter

from gen3r_core.errors import InputError
from gen3r_core.reconstruction.thumbnails import image_change, look_at


def picture(seed=0, size=(480, 640), shift=0):
    """Smooth random texture, 8 bits; shifted to the left by so many pixels."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (24, 48), dtype=np.uint8))
    return np.asarray(coarse.resize((1280, 640), Image.Resampling.BICUBIC))[: size[0], shift : shift + size[1]]


def filtered(grey, image_filter):
    return np.asarray(Image.fromarray(np.ascontiguousarray(grey)).filter(image_filter))


def noisy(grey, sigma=3.0, seed=1):
    noise = np.random.default_rng(seed).normal(0, sigma, grey.shape)
    return np.clip(grey + noise, 0, 255).astype(np.uint8)


def test_the_same_image_has_not_changed():
    look = look_at(picture())
    assert look.size == (480, 640)
    assert image_change(look, look) == pytest.approx(0, abs=1e-9)


def test_change_grows_with_the_shift():
    first = look_at(picture())
    changes = [image_change(first, look_at(picture(shift=shift))) for shift in (0, 5, 15, 40)]
    assert changes == sorted(changes)
    assert changes[1] < 0.1
    assert changes[3] > 0.3
    assert image_change(first, look_at(picture(seed=9))) > 0.7


def test_exposure_and_noise_are_no_change():
    first = look_at(picture())
    darker = (picture() * 0.5 + 20).astype(np.uint8)
    assert image_change(first, look_at(noisy(darker))) < 0.02


def test_without_texture_the_level_counts():
    grey, dark = (look_at(np.full((60, 80), level, dtype=np.uint8)) for level in (100, 84))
    assert image_change(grey, grey) == 0
    assert image_change(grey, dark) == pytest.approx(16 / 64)
    assert image_change(grey, look_at(np.full((60, 80), 255, dtype=np.uint8))) == 1


def test_images_of_other_sizes_are_unrelated():
    assert image_change(look_at(picture()), look_at(picture()[::4, ::4])) == 1
    assert image_change(look_at(picture()), look_at(picture(size=(470, 640)))) == 1


def test_blur_lowers_sharpness():
    sharp = noisy(filtered(picture(), ImageFilter.FIND_EDGES) // 2 + picture() // 2, 1)
    values = [look_at(filtered(sharp, ImageFilter.GaussianBlur(radius))).sharpness for radius in (0, 0.5, 1, 2)]
    assert values == sorted(values, reverse=True)
    assert values[2] < 0.5 * values[0]


def test_sharpness_by_hand():
    grey = np.zeros((9, 9), dtype=np.uint8)
    grey[4, 4] = 100
    # Of the 7x7 inner pixels one has Laplacian -400 and four have 100.
    laplacian = np.array([-400, *[100] * 4, *[0] * 44])
    level = np.array([100, *[0] * 48])
    assert look_at(grey).sharpness == pytest.approx(laplacian.var() / (level.var() + 1), rel=1e-5)


def test_sixteen_bits_look_like_eight():
    first, second = look_at(picture()), look_at(picture().astype(np.uint16) * 257)
    np.testing.assert_allclose(first.blocks, second.blocks, rtol=1e-5)
    assert first.sharpness == pytest.approx(second.sharpness, rel=1e-4)


@pytest.mark.parametrize("size", [(8, 8), (8, 500), (97, 11), (1080, 1920)])
def test_any_size_and_any_strides(size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    strided, copied = look_at(image[..., 1]), look_at(image[..., 1].copy())
    np.testing.assert_array_equal(strided.blocks, copied.blocks)
    assert strided.sharpness == copied.sharpness
    assert strided.blocks.size <= 32 * 32 * 8 * 8


@pytest.mark.parametrize(
    "grey", [np.zeros((7, 90), np.uint8), np.zeros((60, 80, 3), np.uint8), np.zeros((60, 80), np.float32)]
)
def test_other_arrays_are_refused(grey):
    with pytest.raises(InputError, match="take one channel of a colour image"):
        look_at(grey)


def test_a_look_costs_less_than_a_millisecond():
    image, seconds = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8), []
    last = look_at(image[..., 1])
    for _ in range(200):
        start = time.perf_counter()
        look = look_at(image[..., 1])
        image_change(last, look)
        seconds.append(time.perf_counter() - start)
    print(f"a 640x480 image is looked at and compared in {1e3 * np.median(seconds):.2f} ms")
    assert np.median(seconds) < 0.001
