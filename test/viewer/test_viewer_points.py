"""Which points are chosen, and their colours."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen3r_core.viewer import points as module
from gen3r_core.viewer.content import Content, shuffled
from gen3r_core.viewer.points import (
    GENERATED,
    OBSERVED,
    Chosen,
    choose,
    colorings,
    colors_of,
    thresholds,
)


def content(count=1000, *, seed=0, plain=False):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(count, 3)).astype(np.float32)
    colors = rng.integers(0, 256, (count, 3), dtype=np.uint8)
    if plain:
        return Content("plain", points, colors)
    return Content(
        "all",
        points,
        colors,
        confidence=rng.gamma(2, size=count).astype(np.float32),
        generated=rng.random(count) < 0.3,
        frame=rng.integers(-1, 10, count).astype(np.int32),
    )


LIMITS = st.none() | st.floats(-2, 2)


@given(
    until=st.none() | st.integers(-1, 10),
    below=LIMITS,
    least=LIMITS,
    most=st.integers(0, 1200),
    block=st.integers(1, 300),
    plain=st.booleans(),
)
def test_a_choice_is_what_its_words_say(until, below, least, most, block, plain):
    shown = content(plain=plain)
    heights = shown.points[:, 2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", block)
        found = choose(shown, heights, Chosen(until, below, least, most))
    wanted = [
        row
        for row in range(len(heights))
        if (until is None or shown.frame is None or shown.frame[row] <= until)
        and (below is None or heights[row] <= below)
        and (least is None or shown.confidence is None or shown.confidence[row] >= least)
    ]
    assert found.dtype == np.int64
    assert found.tolist() == wanted[:most]


def test_points_of_unknown_frames_are_always_there():
    shown = content()
    found = choose(shown, shown.points[:, 2], Chosen(until=-1))
    assert len(found) > 20
    assert (shown.frame[found] == -1).all()


def test_shuffling_keeps_rows_together_and_samples_fairly():
    before = content()
    before.points[:, 0] = np.arange(1000)
    after = shuffled(before)
    order = after.points[:, 0].astype(int)
    assert sorted(order.tolist()) == list(range(1000))
    for name in ("points", "colors", "confidence", "generated", "frame"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name)[order])
    assert 400 < order[:200].mean() < 600
    np.testing.assert_array_equal(shuffled(before).points, after.points)
    assert shuffled(content(plain=True)).confidence is None


def test_only_colourings_with_something_to_show_are_offered():
    assert colorings(content()) == ("image", "source", "confidence")
    assert colorings(content(plain=True)) == ("image",)
    assert thresholds(content(plain=True)) is None


def test_image_colours_are_those_of_the_points():
    shown, index = content(), np.array([5, 3, 999])
    np.testing.assert_array_equal(colors_of(shown, index, "image"), shown.colors[index])


def test_source_colours_tell_apart_and_keep_light_and_dark():
    shown = content()
    shown.colors[0], shown.colors[1] = 20, 230
    shown.generated[:2] = False
    found = colors_of(shown, np.arange(1000), "source").astype(int)
    nearer = np.abs(found - GENERATED).sum(axis=1) < np.abs(found - OBSERVED).sum(axis=1)
    np.testing.assert_array_equal(nearer, shown.generated)
    assert found[0].sum() < sum(OBSERVED) < found[1].sum()


def test_confidence_colours_run_from_dark_to_light():
    shown = content()
    found = colors_of(shown, np.argsort(shown.confidence), "confidence").astype(int)
    assert found[0].tolist() == [60, 20, 110]
    assert found[-1].tolist() == [250, 230, 60]
    assert (np.diff(found[:, 1]) >= 0).all()  # green grows all the way
    assert len(np.unique(found, axis=0)) > 200


def test_thresholds_hide_so_many_percent():
    shown = content(10_000)
    limits = thresholds(shown)
    for percent in (0, 10, 50, 99):
        share = (shown.confidence >= limits[percent]).mean()
        assert share == pytest.approx(1 - percent / 100, abs=0.001)
