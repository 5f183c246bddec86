"""Preparing images: what the model sees, and the same in more pixels for features."""

from dataclasses import replace

import numpy as np
import pytest

from gen3r_core.messages.cameras import CameraModel
from gen3r_core.offline.keyframes import Preparer, Sight
from gen3r_core.recordings.shots import Shot


class Picture:
    """As a recording gives it, decoded."""

    def __init__(self, height, width):
        rows, columns = np.indices((height, width))
        self._pixels = np.stack([255 * rows // height, 255 * columns // width, 0 * rows], axis=2).astype(np.uint8)

    def rgb(self):
        return self._pixels


def camera(height, width):
    """Its model: half as long as it is wide, looking at the middle."""
    return CameraModel(np.array([[width / 2, 0, width / 2], [0, width / 2, height / 2], [0, 0, 1.0]]), (height, width))


def shot(height, width, name="camera", model=None):
    return Shot(camera=name, number=0, stamp_ns=0, picture=Picture(height, width), model=model, T_world_cam=None,
                depth=None)  # fmt: skip


@pytest.mark.parametrize(
    ("size", "image", "fine"),
    [((480, 640), (168, 224), (480, 640)), ((1080, 1920), (126, 224), (360, 640)), ((168, 224), (168, 224), None)],
)
def test_as_fine_as_the_camera_but_not_without_end(size, image, fine):
    made = Preparer(Sight(224, 14)).prepare(shot(*size))
    assert made.image.shape == (*image, 3)
    assert (None if made.fine is None else made.fine.shape[:2]) == fine
    if fine is not None:  # the same picture: brightness runs evenly over it
        for one in (made.image, made.fine):
            rows, columns = np.indices(one.shape[:2])
            assert np.abs(one[..., 0] - 255 * (rows + 0.5) / one.shape[0]).max() < 2.5
            assert np.abs(one[..., 1] - 255 * (columns + 0.5) / one.shape[1]).max() < 2.5


@pytest.mark.parametrize("size", [(200, 300), (480, 640), (720, 1280)])
@pytest.mark.parametrize("longest", [224, 518])
def test_all_images_of_a_camera_are_prepared_as_the_first(size, longest):
    """Sides rounded to the model's squares are stretched a little: of later images nothing is cut off in exchange."""
    preparer = Preparer(Sight(longest, 14))
    first, second = (preparer.prepare(shot(*size, model=camera(*size))) for _ in range(2))
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.intrinsics, second.intrinsics)
    assert (first.fine is None) == (second.fine is None)
    if first.fine is not None:
        np.testing.assert_array_equal(first.fine, second.fine)


def test_edges_are_cut_where_a_camera_changes_its_shape():
    preparer = Preparer(Sight(224, 14))
    preparer.prepare(shot(480, 640))
    cut = preparer.prepare(shot(480, 960))
    for one, shape in ((cut.image, (168, 224, 3)), (cut.fine, (480, 640, 3))):
        assert one.shape == shape
        columns = np.arange(shape[1])
        assert np.abs(one[0, :, 1] - 255 * (160 + (columns + 0.5) * 640 / shape[1]) / 960).max() < 2.5
    other = preparer.prepare(shot(480, 960, "other"))
    assert other.image.shape == (112, 224, 3)
    assert other.fine is not None


def test_a_camera_of_another_size_is_scaled_and_one_of_another_aspect_left_out():
    preparer = Preparer(Sight(224, 14))
    own = preparer.prepare(shot(480, 640, model=camera(480, 640)))
    half = preparer.prepare(shot(480, 640, model=camera(240, 320)))
    np.testing.assert_allclose(half.intrinsics, own.intrinsics)
    assert preparer.foreign == 0
    odd = preparer.prepare(shot(480, 640, model=camera(640, 480)))
    assert odd.intrinsics is None
    assert preparer.foreign == 1


def test_of_many_lenses_some_are_kept():
    preparer = Preparer(Sight(224, 14))
    for number in range(20):
        lens = replace(camera(120, 160), distortion_model="plumb_bob", distortion=(0.01 * number, 0, 0, 0, 0))
        assert preparer.prepare(shot(120, 160, model=lens)).intrinsics is not None
    assert len(preparer._maps) == 16
