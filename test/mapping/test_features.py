"""Features: found, matched where they are the same, remembered, and none where there is nothing to see."""

import numpy as np
import pytest
from textured_room import look, poses

from gen3r_core.errors import InputError
from gen3r_core.mapping.features import FeatureBook, FeatureOptions, Features, find_features, match_features

PICTURE, _ = look(poses([10], [[0, 0, 0]])[0])


def test_what_moved_is_found_again():
    big = np.kron(PICTURE[20:100:2, 20:140:2], np.ones((2, 2, 1))).astype(np.uint8)
    first, second = find_features(big[:, :110]), find_features(big[:, 10:])
    found = match_features(first, second)
    moved = first.pixels[found[:, 0]] - second.pixels[found[:, 1]]
    good = np.abs(moved - [10, 0]).max(axis=1) < 0.5
    assert good.sum() > 60
    assert good.mean() > 0.9
    np.testing.assert_allclose(np.linalg.norm(first.descriptors, axis=1), 1, atol=1e-3)
    assert len(np.unique(found[:, 1])) == len(found)


def test_pixels_are_counted_from_the_first_ones_centre():
    picture = np.full((60, 80, 3), 40, np.uint8)
    rows, columns = np.indices((60, 80))
    picture[(rows - 30) ** 2 + (columns - 50) ** 2 <= 30] = 220
    at = find_features(picture).pixels
    assert np.abs(at - [50, 30]).max(axis=1).min() < 0.2


def test_nothing_to_see_gives_nothing():
    grey = find_features(np.full((40, 40, 3), 90, np.uint8))
    assert len(grey.pixels) == 0
    assert len(find_features(np.zeros((8, 8, 3), np.uint8)).pixels) == 0
    assert match_features(grey, find_features(PICTURE)).shape == (0, 2)


def test_a_match_is_clearly_better_than_the_next():
    a = np.eye(128, dtype=np.float32)[:2]
    near = (a[0] + 0.1 * a[1]) / np.linalg.norm(a[0] + 0.1 * a[1])
    first = Features(np.zeros((2, 2)), a)
    assert match_features(first, Features(np.zeros((2, 2)), a)).tolist() == [[0, 0], [1, 1]]
    doubtful = Features(np.zeros((3, 2)), np.stack([near, near, a[1]]))
    assert match_features(first, doubtful).tolist() == [[1, 2]]


def test_a_book_looks_once():
    asked = []
    book = FeatureBook(lambda frame: asked.append(frame) or PICTURE)
    assert len(book.features(3).pixels) == len(book.features(3).pixels)
    book.features(4, PICTURE)
    np.testing.assert_array_equal(book.matches(3, 4), book.matches(3, 4))
    assert asked == [3]
    assert len(book.matches(3, 4)) > 100


def test_finer_images_are_looked_at_and_places_told_in_the_usual_pixels():
    picture = np.full((120, 160, 3), 40, np.uint8)
    rows, columns = np.indices((120, 160))
    picture[(rows - 61) ** 2 + (columns - 101) ** 2 <= 30] = 220
    book = FeatureBook(lambda _: picture, size=(30, 80))
    at = book.features(0, np.zeros((30, 80, 3), np.uint8)).pixels
    wanted = (101.5 / 2 - 0.5, 61.5 / 4 - 0.5)
    assert np.abs(at - wanted).max(axis=1).min() < 0.1
    assert (at[:, 1] < 30).all()


def test_what_cannot_be_used():
    with pytest.raises(InputError, match="uint8"):
        find_features(PICTURE[..., 0])
    with pytest.raises(InputError, match="ratio"):
        FeatureOptions(ratio=0)
