"""Blocks of shared memory: what goes in comes out, and nothing stays open."""

import errno
import os
import resource
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from gen3r_core.errors import InputError
from gen3r_core.serving.shared import ALIGNMENT, SharedArrays, write_block

DTYPES = st.sampled_from(["u1", "f4", "f8", "i4", "?"])
ARRAYS = DTYPES.flatmap(
    lambda dtype: arrays_of.arrays(dtype, arrays_of.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=7))
)


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


@given(st.dictionaries(st.text(max_size=5), ARRAYS, max_size=4))
def test_what_goes_in_comes_out(arrays):
    before = open_files()
    descriptor, layout = write_block(arrays)
    block = SharedArrays(descriptor, layout)
    for name, array in arrays.items():
        assert name in block
        view = block[name]
        assert (view.dtype, view.shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(view, array)
        assert layout.places[name].offset % ALIGNMENT == 0
        assert not view.size or not view.flags.writeable
        del view
    assert "nothing of this name" not in block
    block.release()
    block.release()
    assert block.released
    assert open_files() == before


def test_a_list_of_images_becomes_one_array():
    wide = np.arange(2 * 6 * 4 * 3, dtype=np.uint8).reshape(2, 6, 4, 3)
    images = [wide[0, ::2], wide[1, ::-2]]  # not contiguous
    block = SharedArrays(*write_block({"images": images}))
    np.testing.assert_array_equal(block["images"], np.stack(images))


def test_a_private_view_may_be_written_to():
    descriptor, layout = write_block({"a": np.zeros(3)})
    other = SharedArrays(os.dup(descriptor), layout)
    block = SharedArrays(descriptor, layout, private=True)
    block["a"][:] = 1
    assert block["a"].tolist() == [1, 1, 1]
    assert other["a"].tolist() == [0, 0, 0]


def test_views_outlive_the_release():
    block = SharedArrays(*write_block({"a": np.arange(5000)}))
    view = block["a"]
    block.release()
    with pytest.raises(InputError, match="a was released with its result; copy what is needed for longer"):
        _ = block["a"]
    assert view.sum() == 5000 * 4999 // 2


def test_no_memory_leaves_nothing_open():
    before = open_files()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # memory files are files
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            write_block({"a": np.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    assert open_files() == before


def test_what_cannot_be_mapped_is_closed():
    before = open_files()
    descriptor, layout = write_block({"a": np.zeros(4)})
    os.ftruncate(descriptor, 0)
    with pytest.raises(ValueError, match="mmap"):
        SharedArrays(descriptor, layout)
    assert open_files() == before
