"""JPEG and PNG in messages: read, made small, and refused when damaged."""

import array
import contextlib
import io
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

pytest.importorskip("rclpy", reason="ROS is not installed")

from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header

from gen3r_core.errors import InputError
from gen3r_core.messages import compressed
from gen3r_ros.conversions.compressed import (
    compressed_message,
    compressed_rgb,
    compressed_size,
    compressed_thumbnail,
)
from gen3r_ros.conversions.problems import MessageError


def picture(height=48, width=64):
    """Smooth, so that JPEG keeps it."""
    v, u = np.mgrid[0:height, 0:width]
    waves = [127 + 100 * np.sin(u / 9 + phase) * np.cos(v / 11) for phase in (0, 1, 2)]
    return np.stack(waves, axis=-1).astype(np.uint8)


def file_message(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return CompressedImage(format=kind.lower(), data=array.array("B", file.getvalue()))


@pytest.mark.parametrize(("kind", "most"), [("png", 0), ("jpeg", 12)])
def test_a_picture_comes_back(kind, most):
    message = compressed_message(picture(), Header(frame_id="camera"), kind)
    assert message.format == f"rgb8; {kind} compressed bgr8"
    assert message.header.frame_id == "camera"
    assert compressed_size(message) == (48, 64)
    assert np.abs(compressed_rgb(message).astype(int) - picture()).max() <= most


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_grey_pictures(kind):
    grey = picture()[..., 0]
    rgb = compressed_rgb(compressed_message(grey, Header(), kind))
    assert rgb.shape == (48, 64, 3)
    assert np.abs(rgb[..., 1].astype(int) - grey).max() <= 6


def test_other_kinds_of_png():
    sixteen = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    message = file_message(Pillow.fromarray(sixteen), "PNG")
    np.testing.assert_array_equal(compressed_rgb(message)[..., 2], sixteen // 257)
    np.testing.assert_array_equal(compressed_thumbnail(message, 16), sixteen // 257)
    alpha = np.dstack([picture(), np.full((48, 64), 7, np.uint8)])
    np.testing.assert_array_equal(compressed_rgb(file_message(Pillow.fromarray(alpha), "PNG")), picture())
    few = Pillow.fromarray(picture()).convert("P")
    np.testing.assert_array_equal(compressed_rgb(file_message(few, "PNG")), np.asarray(few.convert("RGB")))


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_thumbnails(kind):
    whole = picture(480, 640)
    small = compressed_thumbnail(compressed_message(whole, Header(), kind), 80)
    assert small.shape == (60, 80)
    grey = whole @ (0.299, 0.587, 0.114)
    # A JPEG's is a mean of 8x8 pixels, a PNG's is one of them.
    wanted = grey[::8, ::8] if kind == "png" else grey.reshape(60, 8, 80, 8).mean(axis=(1, 3))
    assert np.abs(small - wanted).max() < 5


@pytest.mark.parametrize("kind", ["png", "jpeg"])
@given(st.integers(0, 10**6))
def test_cut_files_are_refused(kind, cut):
    message = compressed_message(picture(), Header(), kind)
    whole = message.data
    message.data = whole[: cut % (len(whole) - 20)]
    for convert in (compressed_rgb, compressed_thumbnail):
        with pytest.raises(MessageError, match="is no JPEG or PNG, or is damaged") as caught:
            convert(message)
        assert caught.value.reason == "compression"


@given(st.binary(max_size=200), st.sampled_from([b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n"]), st.text(max_size=5))
def test_no_bytes_do_worse_than_being_refused(content, magic, name):
    message = CompressedImage(format=name, data=array.array("B", magic + content))
    for convert in (compressed_rgb, compressed_thumbnail, compressed_size):
        with contextlib.suppress(MessageError):
            convert(message)


def test_other_formats_are_refused():
    with pytest.raises(MessageError, match="no JPEG or PNG"):
        compressed_rgb(file_message(Pillow.fromarray(picture()), "BMP"))


def test_far_too_large_pictures_are_refused_before_they_are_decoded(monkeypatch):
    message = compressed_message(picture(), Header(), "png")
    monkeypatch.setattr(compressed, "LARGEST_PIXELS", 3000)
    with pytest.raises(MessageError, match="64x48 pixels, over 3000") as caught:
        compressed_rgb(message)
    assert caught.value.reason == "size"


def test_pillows_own_limit_is_a_refusal_as_well(monkeypatch):
    monkeypatch.setattr(Pillow, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(MessageError, match="too large") as caught:
        compressed_rgb(compressed_message(picture(), Header(), "png"))
    assert caught.value.reason == "size"


@pytest.mark.parametrize("array_", [np.zeros((2, 2, 4), np.uint8), np.zeros((2, 2)), np.zeros(4, np.uint8)])
def test_only_pictures_are_compressed(array_):
    with pytest.raises(InputError, match="a picture is"):
        compressed_message(array_, Header())


def test_a_jpegs_thumbnail_is_cheaper_than_the_picture():
    """Run with -rP for the figures."""
    message = compressed_message(picture(1080, 1920), Header())
    taken = []
    for convert in (compressed_rgb, compressed_thumbnail):
        best = float("inf")
        for _ in range(3):
            start = time.perf_counter()
            convert(message)
            best = min(best, time.perf_counter() - start)
        taken.append(1e3 * best)
    print(f"JPEG of 1920x1080: to RGB {taken[0]:.1f} ms, to a thumbnail {taken[1]:.1f} ms")
    assert taken[1] < taken[0]
