"""Preparing images: what the model sees, and the same in more pixels for features."""

import numpy as np
import pytest

from gen3r_core.offline.keyframes import Preparer, Sight
from gen3r_core.recordings.shots import Shot


class Picture:
    """As a recording gives it, decoded."""

    def __init__(self, height, width):
        rows, columns = np.indices((height, width))
        self._pixels = np.stack([255 * rows // height, 255 * columns // width, 0 * rows], axis=2).astype(np.uint8)

    def rgb(self):
        return self._pixels


def shot(height, width, camera="camera"):
    return Shot(camera=camera, number=0, stamp_ns=0, picture=Picture(height, width), model=None, T_world_cam=None,
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


def test_none_where_a_camera_changes_its_shape_and_edges_are_cut():
    preparer = Preparer(Sight(224, 14))
    preparer.prepare(shot(480, 640))
    cut = preparer.prepare(shot(480, 960))
    assert cut.image.shape == (168, 224, 3)
    assert cut.fine is None
    other = preparer.prepare(shot(480, 960, "other"))
    assert other.image.shape == (112, 224, 3)
    assert other.fine is not None
