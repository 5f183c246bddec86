"""Lenses: their formulas against closed forms and OpenCV, and rectified pictures against those of a pinhole camera."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen3r_core.errors import InputError
from gen3r_core.geometry.rectification import distort, rectified_intrinsics, rectify

K = np.array([[150.0, 0, 160.75], [0, 155.0, 119.0], [0, 0, 1]])
SIZE = (240, 320)
LENSES = {
    "barrel": ("plumb_bob", (-0.28, 0.07, 0.0, 0.0, 0.0)),
    "pincushion": ("plumb_bob", (0.15, -0.03, 0.001, -0.002)),
    "tangential": ("plumb_bob", (-0.1, 0.01, 0.003, 0.004, 0.001)),
    "rational": ("rational_polynomial", (0.5, 0.2, 0.0005, -0.0003, 0.01, 0.85, 0.33, 0.03)),
    "fisheye": ("equidistant", (0.02, -0.01, 0.004, -0.001)),
}
POINTS = np.stack(np.meshgrid(np.linspace(-1, 1, 21), np.linspace(-0.8, 0.8, 17)), axis=-1)


def pattern(x, y):
    """A smooth picture of directions, ``[..., 3]`` in [0, 255]."""
    return 127.5 + 120 * np.stack([np.sin(9 * x), np.cos(11 * y), np.sin(7 * (x + y))], axis=-1)


def rays(K, size):
    x = (np.arange(size[1]) + 0.5 - K[0, 2]) / K[0, 0]
    y = (np.arange(size[0]) + 0.5 - K[1, 2]) / K[1, 1]
    return np.stack(np.meshgrid(x, y), axis=-1)


def undistorted(model, coefficients, points):
    """The inverse, by Newton's method with numeric derivatives."""
    found, step = np.array(points), 1e-6
    for _ in range(30):
        off = distort(model, coefficients, found) - points
        columns = [
            (distort(model, coefficients, found + shift) - distort(model, coefficients, found - shift)) / (2 * step)
            for shift in (np.array([step, 0]), np.array([0, step]))
        ]
        found = found - np.linalg.solve(np.stack(columns, axis=-1), off[..., None])[..., 0]
    return found


def test_without_a_model_nothing_moves():
    np.testing.assert_array_equal(distort("", (), POINTS), POINTS)
    np.testing.assert_array_equal(rectified_intrinsics(K, SIZE, "", ()), K)


def test_plumb_bob_by_hand():
    np.testing.assert_allclose(distort("plumb_bob", (0.1, 0, 0, 0), [0.5, 0.0]), [0.5 * 1.025, 0])
    np.testing.assert_allclose(distort("plumb_bob", (0, 0.1, 0, 0, 0), [0.0, 0.5]), [0, 0.5 * (1 + 0.1 / 16)])
    np.testing.assert_allclose(distort("plumb_bob", (0, 0, 0, 0, 0.1), [0.0, 1.0]), [0, 1.1])
    np.testing.assert_allclose(distort("plumb_bob", (0, 0, 0.1, 0), [0.5, 0.5]), [0.55, 0.6])
    np.testing.assert_allclose(distort("plumb_bob", (0, 0, 0, 0.1), [0.5, 0.5]), [0.6, 0.55])


def test_rational_has_a_denominator():
    same = distort("rational_polynomial", (0.2, 0.1, 0.01, 0.02, 0.05, 0, 0, 0), POINTS)
    np.testing.assert_allclose(same, distort("plumb_bob", (0.2, 0.1, 0.01, 0.02, 0.05), POINTS))
    none = distort("rational_polynomial", (0.2, 0.1, 0, 0, 0.05, 0.2, 0.1, 0.05), POINTS)
    np.testing.assert_allclose(none, POINTS)
    by_hand = distort("rational_polynomial", (0, 0, 0, 0, 0, 1, 2, 3), [1.0, 0.0])
    np.testing.assert_allclose(by_hand, [1 / 7, 0])


def test_equidistant_measures_angles():
    moved = distort("equidistant", (0, 0, 0, 0), POINTS)
    np.testing.assert_allclose(np.hypot(*np.moveaxis(moved, -1, 0)), np.arctan(np.hypot(*np.moveaxis(POINTS, -1, 0))))
    a = math.atan(0.7)
    expected = a * (1 + 0.1 * a**2 + 0.2 * a**4 + 0.3 * a**6 + 0.4 * a**8)
    np.testing.assert_allclose(distort("equidistant", (0.1, 0.2, 0.3, 0.4), [0.0, -0.7]), [0, -expected])
    np.testing.assert_allclose(distort("equidistant", (0.1, 0, 0, 0), [1e-12, 0.0]), [1e-12, 0])


@pytest.mark.parametrize("lens", LENSES)
def test_as_opencv_has_it(lens):
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed; nothing of gen3r needs it")
    model, coefficients = LENSES[lens]
    points, D = POINTS.reshape(-1, 1, 2), np.array(coefficients)
    ours = distort(model, coefficients, points)[:, 0] * (K[0, 0], K[1, 1]) + K[:2, 2]
    if model == "equidistant":
        theirs = cv2.fisheye.distortPoints(points, K, D)
    else:
        theirs = cv2.projectPoints(np.dstack([points, np.ones((len(points), 1))]), np.zeros(3), np.zeros(3), K, D)[0]
    np.testing.assert_allclose(ours, theirs[:, 0], atol=1e-8)
    made = rectify(K, SIZE, model, coefficients)
    corner = np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])  # OpenCV has the first pixel's centre at (0, 0)
    make = cv2.fisheye.initUndistortRectifyMap if model == "equidistant" else cv2.initUndistortRectifyMap
    x, y = make(K - corner, D, np.eye(3), made.intrinsics - corner, SIZE[::-1], cv2.CV_32FC1)
    np.testing.assert_allclose(made.x, x, atol=2e-3)
    np.testing.assert_allclose(made.y, y, atol=2e-3)
    picture = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    picture = cv2.GaussianBlur(picture, (9, 9), 3)
    theirs = cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    assert np.abs(made.picture(picture).astype(int) - theirs).max() <= 2


@pytest.mark.parametrize("lens", LENSES)
def test_a_rectified_picture_is_that_of_a_pinhole_camera(lens):
    model, coefficients = LENSES[lens]
    seen = undistorted(model, coefficients, rays(K, SIZE))
    np.testing.assert_allclose(distort(model, coefficients, seen)[::40, ::40], rays(K, SIZE)[::40, ::40], atol=1e-9)
    taken = np.rint(pattern(seen[..., 0], seen[..., 1])).astype(np.uint8)
    made = rectify(K, SIZE, model, coefficients)
    true = rays(made.intrinsics, SIZE)
    off = np.abs(made.picture(taken) - pattern(true[..., 0], true[..., 1]))
    assert off.max() < 5
    # Nothing is shown that was not seen, and one edge touches that of the lens's picture.
    margins = (made.x.min(), made.y.min(), SIZE[1] - 1 - made.x.max(), SIZE[0] - 1 - made.y.max())
    assert min(margins) > -0.51
    assert made.intrinsics[0, 0] == made.intrinsics[1, 1]
    np.testing.assert_array_equal(made.intrinsics[:2, 2], K[:2, 2])
    if lens != "fisheye":  # which is cut before
        assert min(margins) < 1.0


def test_depth_keeps_its_values():
    """A wall behind a slope, in half the resolution; each pixel has a value of one of its neighbours."""
    model, coefficients = LENSES["barrel"]
    seen = undistorted(model, coefficients, rays(K, SIZE))[::2, ::2]
    wall = seen[..., 0] > 0.2
    depth = np.where(wall, 1.0, 3.0 + seen[..., 1]).astype(np.float32)
    made = rectify(K, SIZE, model, coefficients)
    true = rays(made.intrinsics, SIZE)
    expected = np.where(true[..., 0] > 0.2, 1.0, 3.0 + true[..., 1])
    off = np.abs(made.depth(depth) - expected)
    assert np.quantile(off, 0.98) < 0.02
    assert set(np.unique(made.depth(depth))) <= set(np.unique(depth))


def test_what_makes_no_sense_is_refused():
    with pytest.raises(InputError, match=r"'magic' .* plumb_bob with 4 or 5; rational_polynomial with 8"):
        distort("magic", (1.0,), POINTS)
    with pytest.raises(InputError, match="is not understood"):
        distort("plumb_bob", (1.0, 2.0), POINTS)
    with pytest.raises(InputError, match="is not understood"):
        distort("plumb_bob", (math.nan, 0, 0, 0), POINTS)
    with pytest.raises(InputError, match="leaves nothing of a picture of 320x240"):
        rectified_intrinsics(K, SIZE, "plumb_bob", (0, 0, 50.0, 0))
    with pytest.raises(InputError, match="cannot be rectified"):
        rectify(K, (1, 320), *LENSES["barrel"])
    made = rectify(K, SIZE, *LENSES["barrel"])
    with pytest.raises(InputError, match=r"\[240, 320, 3\] uint8"):
        made.picture(np.zeros((48, 64, 3), np.uint8))


@settings(max_examples=40, deadline=None)
@given(
    coefficients=st.lists(st.floats(-2, 2), min_size=8, max_size=8),
    model=st.sampled_from(["plumb_bob", "rational_polynomial", "equidistant"]),
    focal=st.floats(3, 200),
)
def test_any_lens_is_rectified_or_refused(coefficients, model, focal):
    """Never by a picture of what it did not see."""
    count = {"plumb_bob": 5, "rational_polynomial": 8, "equidistant": 4}[model]
    size, matrix = (30, 40), np.array([[focal, 0, 20], [0, focal, 15], [0, 0, 1.0]])
    try:
        made = rectify(matrix, size, model, coefficients[:count])
    except InputError:
        return
    border = np.ones(size, bool)
    border[1:-1, 1:-1] = False
    assert made.x[border].min() > -0.55
    assert made.x[border].max() < size[1] - 0.45
    assert made.y[border].min() > -0.55
    assert made.y[border].max() < size[0] - 0.45
    made.picture(np.zeros((*size, 3), np.uint8))
