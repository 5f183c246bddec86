"""Images between messages and arrays: every encoding, padding and byte order, and what is refused."""

import array
import contextlib
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("rclpy", reason="ROS is not installed")

from sensor_msgs.msg import Image
from std_msgs.msg import Header

from gen3r_core.errors import InputError
from gen3r_ros.conversions.encodings import ENCODINGS, demosaic, eight_bits
from gen3r_ros.conversions.images import (
    byte_array,
    depth_array,
    image_message,
    pixel_array,
    rgb_array,
    thumbnail,
)
from gen3r_ros.conversions.problems import REASONS, MessageError

PICTURES = sorted(name for name, one in ENCODINGS.items() if one.family != "depth")
COLORS = sorted(name for name, one in ENCODINGS.items() if one.family == "color")


def message_of(pixels, encoding, padding=0, big=False):
    """As a driver might send it: rows with padding, either byte order."""
    flat = pixels.reshape(len(pixels), -1)
    rows = np.ascontiguousarray(flat.astype(flat.dtype.newbyteorder(">" if big else "<"))).view(np.uint8)
    rows = np.pad(rows.reshape(len(pixels), -1), ((0, 0), (0, padding)), constant_values=201)
    return Image(
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=int(big),
        step=rows.shape[1],
        data=array.array("B", rows.tobytes()),
    )


def random_pixels(encoding, height, width, seed=0):
    one, rng = ENCODINGS[encoding], np.random.default_rng(seed)
    shape = (height, width) if one.channels == 1 else (height, width, one.channels)
    if one.dtype == "f4":
        return rng.uniform(0.1, 9, shape).astype(np.float32)
    return rng.integers(0, np.iinfo(one.dtype).max, shape, dtype=one.dtype, endpoint=True)


@given(
    st.sampled_from(sorted(ENCODINGS)),
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(0, 5),
    st.booleans(),
)
def test_the_numbers_of_a_message(encoding, rows, columns, padding, big):
    pixels = random_pixels(encoding, 2 * rows, 2 * columns)
    message = message_of(pixels, encoding, padding, big)
    read = pixel_array(message)
    assert read.dtype == ENCODINGS[encoding].dtype
    assert read.dtype.isnative
    np.testing.assert_array_equal(read, pixels)
    np.testing.assert_array_equal(pixel_array(image_message(pixels, encoding, Header())), pixels)


def test_the_last_row_needs_no_padding():
    message = message_of(random_pixels("rgb8", 4, 6), "rgb8", padding=7)
    whole = rgb_array(message).copy()
    message.data = message.data[:-7]
    np.testing.assert_array_equal(rgb_array(message), whole)


@pytest.mark.parametrize("encoding", COLORS)
def test_colours_come_out_red_green_blue(encoding):
    pixels = random_pixels(encoding, 5, 7)
    places = [encoding.index(color) if encoding[0] in "rb" else 2 - n for n, color in enumerate("rgb")]
    scale = 1 if pixels.dtype == np.uint8 else 257
    wanted = np.rint(pixels[..., places] / scale).astype(np.uint8)
    np.testing.assert_array_equal(rgb_array(message_of(pixels, encoding, 3)), wanted)


@pytest.mark.parametrize("encoding", ["mono8", "8UC1", "mono16"])
def test_grey_is_three_times_the_same(encoding):
    pixels = random_pixels(encoding, 4, 5)
    rgb = rgb_array(message_of(pixels, encoding))
    wanted = pixels if pixels.dtype == np.uint8 else np.rint(pixels / 257).astype(np.uint8)
    for channel in range(3):
        np.testing.assert_array_equal(rgb[..., channel], wanted)


def test_sixteen_bits_become_eight_by_rounding():
    every = np.arange(65536, dtype=np.uint16)
    np.testing.assert_array_equal(eight_bits(every), np.rint(every / 257).astype(np.uint8))


def test_rgb_is_a_view_and_cannot_be_written():
    message = message_of(random_pixels("rgb8", 4, 5), "rgb8")
    rgb = rgb_array(message)
    assert np.shares_memory(rgb, np.frombuffer(message.data, np.uint8))
    with pytest.raises(ValueError, match="read-only"):
        rgb[0, 0, 0] = 1


# --- mosaics -----------------------------------------------------------------------------------------------


def plain_demosaic(mosaic, cell):
    """Pixel by pixel: the mean of the nearest neighbours of each colour, mirrored at the edges."""
    height, width = mosaic.shape
    picture = np.zeros((height, width, 3))

    def mirrored(i, n):
        return -i if i < 0 else 2 * (n - 1) - i if i >= n else i

    for v in range(height):
        for u in range(width):
            for channel, color in enumerate("rgb"):
                near = {}
                for dv in (-1, 0, 1):
                    for du in (-1, 0, 1):
                        if cell[(v + dv) % 2 * 2 + (u + du) % 2] == color:
                            value = float(mosaic[mirrored(v + dv, height), mirrored(u + du, width)])
                            near.setdefault(dv * dv + du * du, []).append(value)
                picture[v, u, channel] = np.mean(near[min(near)])
    return picture


@pytest.mark.parametrize("encoding", [name for name in ENCODINGS if name.startswith("bayer")])
@pytest.mark.parametrize("size", [(2, 2), (7, 6), (6, 9)])
def test_a_mosaic_is_interpolated(encoding, size):
    mosaic = random_pixels(encoding, *size)
    wanted = plain_demosaic(mosaic, encoding[6:10])
    got = demosaic(pixel_array(message_of(mosaic, encoding, 2, big=True)), ENCODINGS[encoding].order)
    assert np.abs(got - wanted).max() <= 0.5
    scale = 1 if encoding.endswith("8") else 257
    assert np.abs(rgb_array(message_of(mosaic, encoding)) - wanted / scale).max() <= 1.01


@pytest.mark.parametrize("cell", ["rggb", "bggr", "gbrg", "grbg"])
def test_one_colour_through_a_mosaic_stays_itself(cell):
    color = dict(zip("rgb", (200, 90, 10), strict=True))
    tile = np.array([color[name] for name in cell], dtype=np.uint8).reshape(2, 2)
    rgb = rgb_array(message_of(np.tile(tile, (3, 4)), f"bayer_{cell}8"))
    assert (rgb == (200, 90, 10)).all()


# --- YUV ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("encoding", "places"), [("yuv422", "uyvy"), ("uyvy", "uyvy"), ("yuv422_yuy2", "yuyv")])
def test_yuv_is_that_of_bt_601(encoding, places):
    rng = np.random.default_rng(1)
    quads = rng.integers(0, 256, (3, 4, 4), dtype=np.uint8)
    quads[0, 0] = [{"y": 235, "u": 128, "v": 128}[name] for name in places]  # white
    y = np.stack([quads[..., place] for place, name in enumerate(places) if name == "y"], axis=-1)
    u, v = (quads[..., places.index(name), None].astype(float) - 128 for name in "uv")
    light = (y.astype(float) - 16) * 255 / 219
    pb, pr = u * 255 / 224, v * 255 / 224
    rgb = np.stack([light + 1.402 * pr, light - 0.344136 * pb - 0.714136 * pr, light + 1.772 * pb], axis=-1)
    wanted = rgb.clip(0, 255).reshape(3, 8, 3)
    got = rgb_array(message_of(quads.reshape(3, 8, 2), encoding, 4))
    assert np.abs(got - wanted).max() <= 1
    assert (got[0, :2] == 255).all()
    np.testing.assert_array_equal(thumbnail(message_of(quads.reshape(3, 8, 2), encoding), 8), y.reshape(3, 8))


# --- thumbnails --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", [name for name in PICTURES if "yuv" not in name and "uy" not in name])
@pytest.mark.parametrize("longest", [2, 5, 40])
def test_thumbnails_are_grey_pixels_of_the_picture(encoding, longest):
    pixels = random_pixels(encoding, 12, 20)
    small = thumbnail(message_of(pixels, encoding, 5), longest)
    stride = -(-20 // longest)
    rgb = rgb_array(message_of(pixels, encoding)).astype(float)
    if encoding.startswith("bayer"):
        stride = max(2, stride + stride % 2)
        cell = encoding[6:10]
        row = cell.index("r") // 2
        wanted = rgb[row::stride, cell.index("g", 2 * row) - 2 * row :: stride, 1]
    else:
        wanted = (rgb @ (0.299, 0.587, 0.114))[::stride, ::stride]
    assert max(small.shape) <= longest
    assert small.dtype == np.uint8
    assert np.abs(small - wanted).max() <= 1.6


# --- depth -------------------------------------------------------------------------------------------------


def test_depth_is_in_metres_and_missing_depth_is_nan():
    millimetres = np.array([[0, 1500], [65535, 20]], dtype=np.uint16)
    wanted = np.array([[np.nan, 1.5], [65.535, 0.02]], dtype=np.float32)
    for encoding in ("16UC1", "mono16"):
        for big in (False, True):
            depth = depth_array(message_of(millimetres, encoding, 1, big))
            assert depth.dtype == np.float32
            np.testing.assert_allclose(depth, wanted, rtol=1e-6)
    metres = np.array([[np.inf, 1.5], [-1, 0]], dtype=np.float32)
    wanted = np.array([[np.nan, 1.5], [np.nan, np.nan]], dtype=np.float32)
    for big in (False, True):
        np.testing.assert_array_equal(depth_array(message_of(metres, "32FC1", 3, big)), wanted)
    with pytest.raises(MessageError, match="16UC1") as caught:
        depth_array(message_of(random_pixels("rgb8", 2, 2), "rgb8"))
    assert caught.value.reason == "encoding"


# --- what is refused ---------------------------------------------------------------------------------------


def changed(made_as="rgb8", **values):
    message = message_of(random_pixels(made_as, 4, 6), made_as)
    for name, value in values.items():
        setattr(message, name, value)
    return message


@pytest.mark.parametrize(
    ("message", "reason", "words"),
    [
        (changed(height=0), "size", "6x0 pixels"),
        (changed(width=0), "size", "0x4 pixels"),
        (changed(width=70000, height=70000), "size", "70000x70000"),
        (changed(encoding="jpeg"), "encoding", "'jpeg' is not known"),
        (changed(encoding=""), "encoding", "'' is not known"),
        (changed(step=17), "step", "rows of 17 bytes"),
        (changed(step=0), "step", "needs 18 or more"),
        (changed(step=19), "step", "72 bytes in all"),
        (changed(data=array.array("B")), "step", "0 bytes in all"),
        (changed(height=5), "step", "90 in all"),
        (changed("uyvy", width=5), "size", "uyvy cannot have 5x4"),
        (changed("bayer_rggb8", height=1), "size", "cannot have 6x1"),
        (changed("16UC1"), "encoding", "depth"),
    ],
)
def test_bad_images_are_refused_with_a_reason(message, reason, words):
    for convert in (rgb_array, thumbnail):
        with pytest.raises(MessageError, match=words) as caught:
            convert(message)
        assert caught.value.reason == reason
        assert reason in REASONS


@settings(max_examples=300)
@given(
    height=st.integers(0, 9) | st.integers(0, 2**32 - 1),
    width=st.integers(0, 9) | st.integers(0, 2**32 - 1),
    step=st.integers(0, 80) | st.integers(0, 2**32 - 1),
    encoding=st.sampled_from(sorted(ENCODINGS)) | st.text(max_size=8),
    big=st.integers(0, 255),
    data=st.binary(max_size=400),
)
def test_no_message_does_worse_than_being_refused(height, width, step, encoding, big, data):
    message = Image(height=height, width=width, step=step, encoding=encoding, is_bigendian=big)
    message.data = array.array("B", data)
    for convert in (rgb_array, thumbnail, depth_array):
        with contextlib.suppress(MessageError):
            made = convert(message)
            assert made.size
            if convert is not thumbnail:
                assert made.shape[:2] == (height, width)


def test_arrays_that_do_not_fit_make_no_message():
    for pixels, encoding in (
        (np.zeros((2, 2, 3)), "rgb8"),
        (np.zeros((2, 2), np.uint8), "rgb8"),
        (np.zeros((2, 2, 3), np.uint8), "nv12"),
        (np.zeros((2, 2, 3, 1), np.uint8), "rgb8"),
    ):
        with pytest.raises(InputError, match="does not make an image"):
            image_message(pixels, encoding, Header())


def test_bytes_are_taken_from_any_layout():
    values = np.arange(12, dtype=np.uint16).reshape(3, 4)[:, ::2]
    assert byte_array(values).tobytes() == np.ascontiguousarray(values).tobytes()
    assert len(byte_array(np.zeros((0, 3)))) == 0


# --- speed -------------------------------------------------------------------------------------------------


def fastest(work, times=5):
    best = float("inf")
    for _ in range(times):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return 1e3 * best


def test_a_1080p_image_takes_milliseconds():
    """Run with -rP for the figures. The limit is wide, as test machines are slow and busy."""
    taken = {}
    for encoding in ("rgb8", "bgr8", "rgba8", "mono8", "mono16", "bayer_rggb8", "yuv422"):
        message = message_of(random_pixels(encoding, 1080, 1920), encoding)
        taken[encoding] = fastest(lambda message=message: rgb_array(message))
        small = fastest(lambda message=message: thumbnail(message))
        print(f"{encoding:12} 1920x1080 to RGB {taken[encoding]:7.2f} ms, to a thumbnail {small:6.3f} ms")
        assert small < 10
    picture = random_pixels("rgb8", 1080, 1920)
    out = fastest(lambda: image_message(picture, "rgb8", Header()))
    naive = fastest(lambda: Image(data=picture.tobytes()), 1)
    print(f"RGB to a message {out:.2f} ms; with data=bytes {naive:.2f} ms")
    assert taken["rgb8"] < 5
    assert taken["bgr8"] < 60
    assert out < 60
