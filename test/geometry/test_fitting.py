"""Pictures of several sizes brought to one, and what becomes of their cameras and depth."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen3r_core.errors import InputError
from gen3r_core.geometry.fitting import covering_box, cut_intrinsics, cut_nearest, cut_picture

SIDES = st.integers(1, 500)


@given(SIDES, SIDES, SIDES, SIDES)
def test_a_box_has_the_aspect_and_touches_two_edges(height, width, to_height, to_width):
    left, top, right, bottom = covering_box((height, width), (to_height, to_width))
    assert (right - left) / (bottom - top) == pytest.approx(to_width / to_height)
    assert left == pytest.approx(width - right, abs=1e-9)
    assert top == pytest.approx(height - bottom, abs=1e-9)
    assert min(left, top) == pytest.approx(0, abs=1e-9)
    assert min(left, top) >= 0


def test_the_same_size_changes_nothing():
    picture = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    box = covering_box((6, 8), (6, 8))
    assert cut_picture(picture, box, (6, 8)) is picture
    K = np.array([[5.0, 0, 4], [0, 5, 3], [0, 0, 1]])
    np.testing.assert_array_equal(cut_intrinsics(K, box, (6, 8)), K)
    depth = picture[..., 0].astype(np.float32)
    np.testing.assert_array_equal(cut_nearest(depth, (6, 8), box, (6, 8)), depth)


def test_picture_camera_and_depth_stay_together():
    """A ramp of directions keeps its values where the new intrinsics say."""
    size, wanted = (120, 240), (60, 90)
    K = np.array([[200.0, 0, 110], [0, 200, 64], [0, 0, 1]])
    x = (np.arange(240) + 0.5 - 110) / 200
    picture = np.repeat((128 + 150 * x)[None, :, None], 120, 0).repeat(3, 2).round().astype(np.uint8)
    box = covering_box(size, wanted)
    assert box == (30, 0, 210, 120)
    made, new = cut_picture(picture, box, wanted), cut_intrinsics(K, box, wanted)
    true = 128 + 150 * (np.arange(90) + 0.5 - new[0, 2]) / new[0, 0]
    assert np.abs(made[30, 2:-2, 0] - true[2:-2]).max() < 1
    coarse = np.repeat(x.reshape(-1, 4).mean(axis=1)[None], 30, 0).astype(np.float32)
    cut = cut_nearest(coarse, size, box, wanted)
    assert np.abs(cut[0] - (np.arange(90) + 0.5 - new[0, 2]) / new[0, 0]).max() < 0.011  # half a coarse pixel
    with pytest.raises(InputError, match="all positive"):
        covering_box((0, 3), wanted)
