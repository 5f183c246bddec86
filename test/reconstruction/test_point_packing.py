import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gen3r_core.errors import InputError
from gen3r_core.reconstruction.packing import (
    POINT_DTYPE,
    bytes_of_colors,
    depth_to_metres,
    depth_to_millimetres,
    mask_depth,
    pack_points,
    unpack_points,
)

singles = st.floats(width=32)


def test_bytes_of_one_point():
    points = np.array([[1.5, -2, 0.25]])
    packed = pack_points(points, np.array([[0x12, 0x34, 0x56]], dtype=np.uint8), np.array([7.5]))
    assert packed.tobytes() == struct.pack("<fff", 1.5, -2, 0.25) + bytes([0x56, 0x34, 0x12, 0]) + struct.pack(
        "<f", 7.5
    )
    assert POINT_DTYPE.itemsize == 20
    assert [POINT_DTYPE.fields[name][1] for name in ("x", "y", "z", "rgb", "confidence")] == [0, 4, 8, 12, 16]
    assert float(packed["x"][0]) == 1.5


@given(st.data(), st.integers(0, 20))
@settings(deadline=None, max_examples=60)
def test_there_and_back(data, count):
    points = data.draw(hnp.arrays(np.float32, (count, 3), elements=singles))
    colors = data.draw(hnp.arrays(np.uint8, (count, 3)))
    confidence = data.draw(hnp.arrays(np.float32, count, elements=singles))
    packed = pack_points(points, colors, confidence)
    found = unpack_points(np.frombuffer(packed.tobytes(), dtype=POINT_DTYPE))
    np.testing.assert_array_equal(found.points, points)
    np.testing.assert_array_equal(found.colors, colors)
    np.testing.assert_array_equal(found.confidence, confidence)


def test_images_of_points_float_colours_and_no_confidence():
    points = np.arange(24.0).reshape(2, 4, 3)
    colors = np.full((2, 4, 3), [0.0, 0.5, 7.0], dtype=np.float32)
    found = unpack_points(pack_points(points, colors))
    np.testing.assert_array_equal(found.points, points.reshape(8, 3))
    assert found.colors[3].tolist() == [0, 128, 255]
    assert found.confidence.tolist() == [1] * 8
    np.testing.assert_array_equal(unpack_points(pack_points(points, colors)[::2]).points, points.reshape(8, 3)[::2])


@pytest.mark.filterwarnings("error")
def test_colours_of_any_float_are_defined():
    odd = np.array([np.nan, -1, np.inf, -np.inf, 0.999, 1 / 255], dtype=np.float32)
    assert bytes_of_colors(odd).tolist() == [0, 0, 255, 0, 255, 1]


@pytest.mark.parametrize(
    ("points", "colors", "confidence", "message"),
    [
        (np.zeros((2, 2)), np.zeros((2, 2)), None, r"floats of shape \[..., 3\], got float64 \[2, 2\]"),
        (np.zeros((2, 3), dtype=int), np.zeros((2, 3)), None, "must be floats"),
        (np.zeros((2, 3)), np.zeros((3, 3)), None, r"colours must have shape \[2, 3\]"),
        (np.zeros((2, 3)), np.zeros((2, 3), dtype=np.int32), None, "uint8, or floats between 0 and 1, got int32"),
        (np.zeros((2, 3)), np.zeros((2, 3)), np.zeros((2, 1)), r"confidences must have shape \[2\]"),
    ],
)
def test_bad_points_are_refused(points, colors, confidence, message):
    with pytest.raises(InputError, match=message):
        pack_points(points, colors, confidence)


def test_other_records_are_refused():
    with pytest.raises(InputError, match="packed points are"):
        unpack_points(np.zeros(3))


@pytest.mark.filterwarnings("error")
def test_depth_in_millimetres():
    depth = np.array([[1.2344, 0.0004, 0.0006], [np.nan, -1, np.inf], [65.535, 65.536, 0]], dtype=np.float32)
    found = depth_to_millimetres(depth)
    assert found.dtype == np.uint16
    assert found.tolist() == [[1234, 0, 1], [0, 0, 0], [65535, 0, 0]]
    metres = depth_to_metres(found)
    assert metres.dtype == np.float32
    np.testing.assert_allclose(metres[0, 0], 1.234)
    assert np.isnan(metres).tolist() == [[False, True, False], [True, True, True], [False, True, True]]
    with pytest.raises(InputError, match="uint16 millimetres, got float32"):
        depth_to_metres(depth)


def test_depth_in_floats():
    depth = np.array([1.5, -1, 0, np.inf, np.nan, 2])
    found = mask_depth(depth, np.array([True, True, True, True, True, False]))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [1.5, *[np.nan] * 5])
    np.testing.assert_array_equal(mask_depth(depth), [1.5, *[np.nan] * 4, 2])
    with pytest.raises(InputError, match="mask must have shape"):
        mask_depth(depth, np.ones(2, dtype=bool))
