import numpy as np
import pytest

from gen3r_core.errors import InputError
from gen3r_core.reconstruction.packing import bytes_of_colors, mask_depth


@pytest.mark.filterwarnings("error")
def test_colours_of_any_float_are_defined():
    odd = np.array([np.nan, -1, np.inf, -np.inf, 0.999, 1 / 255], dtype=np.float32)
    assert bytes_of_colors(odd).tolist() == [0, 0, 255, 0, 255, 1]
    with pytest.raises(InputError, match="uint8, or floats between 0 and 1, got int32"):
        bytes_of_colors(np.zeros((2, 3), dtype=np.int32))


def test_depth_in_floats():
    depth = np.array([1.5, -1, 0, np.inf, np.nan, 2])
    found = mask_depth(depth, np.array([True, True, True, True, True, False]))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [1.5, *[np.nan] * 5])
    np.testing.assert_array_equal(mask_depth(depth), [1.5, *[np.nan] * 4, 2])
    with pytest.raises(InputError, match="mask must have shape"):
        mask_depth(depth, np.ones(2, dtype=bool))
