"""The tree of frames and its past, without a graph."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation, Slerp

from gen3r_core.errors import InputError
from gen3r_core.geometry import transform_history
from gen3r_core.geometry.transform_history import TransformError, TransformHistory

S = 1_000_000_000
UNIT = (0.0, 0.0, 0.0, 1.0)


def turned(degrees):
    half = math.radians(degrees) / 2
    return (0.0, 0.0, math.sin(half), math.cos(half))


@st.composite
def placements(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    q = rng.normal(size=4)
    return tuple(rng.normal(size=3).tolist()), tuple((q / np.linalg.norm(q)).tolist())


def matrix(placement):
    T = np.eye(4)
    T[:3, :3] = Rotation.from_quat(placement[1]).as_matrix()
    T[:3, 3] = placement[0]
    return T


@given(st.lists(st.tuples(st.integers(0, 30), placements()), min_size=1, max_size=10), st.data())
def test_any_two_frames_of_any_tree(drawn, data):
    """Frame n + 1 hangs from one before it; the answer is the product along the tree."""
    history, T_root = TransformHistory(), {"f0": np.eye(4)}
    for number, (above, placement) in enumerate(drawn):
        parent, child = f"f{above % (number + 1)}", f"f{number + 1}"
        history.add(parent, child, 7 * S, *placement, static=bool(above % 2))
        T_root[child] = T_root[parent] @ matrix(placement)
    target, source = (data.draw(st.sampled_from(sorted(T_root))) for _ in range(2))
    wanted = np.linalg.inv(T_root[target]) @ T_root[source]
    for stamp in (7 * S, None):
        np.testing.assert_allclose(history.lookup(target, source, stamp).T_target_source, wanted, atol=1e-9)
    assert history.frames() == {f"f{n + 1}": f"f{above % (n + 1)}" for n, (above, _) in enumerate(drawn)}


@given(placements(), placements(), st.floats(0, 1))
def test_between_two_times_it_is_interpolated(first, second, share):
    history = TransformHistory()
    history.add("map", "base", 10 * S, *first)
    history.add("map", "base", 12 * S, *second)
    stamp = round((10 + 2 * share) * S)
    share = (stamp - 10 * S) / (2 * S)
    found = history.lookup("map", "base", stamp)
    assert found.stamp_ns == stamp
    way = Slerp([0, 1], Rotation.from_quat([first[1], second[1]]))
    np.testing.assert_allclose(found.T_target_source[:3, :3], way(share).as_matrix(), atol=1e-6)
    straight = (1 - share) * np.array(first[0]) + share * np.array(second[0])
    np.testing.assert_allclose(found.T_target_source[:3, 3], straight, atol=1e-12)


@given(st.permutations(range(6)))
def test_the_order_of_arrival_does_not_matter(order):
    history = TransformHistory()
    for number in order:
        assert history.add("map", "base", number * S, (float(number**2), 0.0, 0.0), UNIT)
    assert not history.add("map", "base", 3 * S, (99.0, 0.0, 0.0), UNIT)
    for number in range(5):
        middle = history.lookup("map", "base", number * S + S // 2).T_target_source[0, 3]
        assert middle == pytest.approx((number**2 + (number + 1) ** 2) / 2)


def test_the_newest_is_that_of_the_slowest():
    history = TransformHistory()
    for stamp in range(1, 9):
        history.add("odom", "base", stamp * S, (float(stamp), 0.0, 0.0), UNIT)
    for stamp in (1, 4):
        history.add("map", "odom", stamp * S, (0.0, float(stamp), 0.0), UNIT)
    history.add("base", "camera", 0, (0.0, 0.0, 1.0), UNIT, static=True)
    found = history.lookup("map", "camera")
    assert found.stamp_ns == 4 * S
    np.testing.assert_array_equal(found.T_target_source[:3, 3], [4, 4, 1])
    only_static = history.lookup("camera", "base")
    assert only_static.stamp_ns is None
    np.testing.assert_array_equal(only_static.T_target_source[:3, 3], [0, 0, -1])
    assert history.lookup("camera", "base", 77 * S).stamp_ns == 77 * S
    np.testing.assert_array_equal(history.lookup("base", "base", 77 * S).T_target_source, np.eye(4))


def fails(history, words, *arguments):
    with pytest.raises(TransformError) as caught:
        history.lookup(*arguments)
    assert words in str(caught.value)
    return caught.value.may_come


def test_what_is_missing_is_said_in_words():
    history = TransformHistory()
    nothing = "no transform from base_link to map at 12.300: nothing is known of map; no transform has come at all"
    assert fails(history, nothing, "map", "base_link", 12_300_000_000)
    history.add("map", "odom", 10 * S, (0.0, 0.0, 0.0), UNIT)
    history.add("map", "odom", 12 * S, (0.0, 0.0, 0.0), UNIT)
    history.add("odom", "base_link", 11 * S, (0.0, 0.0, 0.0), UNIT)
    ahead = (
        "no transform from base_link to map at 12.300: base_link in odom is known at 11.000 only; "
        "odom in map is known from 10.000 to 12.000"
    )
    assert fails(history, ahead, "map", "base_link", 12_300_000_000)
    assert not fails(history, "at 9.000: odom in map is known from 10.000 to 12.000", "map", "odom", 9 * S)
    assert not fails(history, "base_link in odom is known at 11.000 only", "odom", "base_link", 11 * S - 1)
    assert fails(history, "nothing is known of camera; known are base_link, map, odom", "map", "camera")
    assert not fails(history, "nothing is known of a frame without a name", "map", "")
    history.add("world", "other", 1 * S, (0.0, 0.0, 0.0), UNIT)
    assert fails(history, "not connected; other hangs from world, base_link from map", "base_link", "other")
    # Both are known, but never at one time.
    history.add("odom", "arm", 20 * S, (0.0, 0.0, 0.0), UNIT)
    fails(history, "no transform from base_link to arm: arm in odom is known at 20.000 only", "arm", "base_link")
    for number in range(30):
        history.add("map", f"n{number}", S, (0.0, 0.0, 0.0), UNIT)
    fails(history, "and 24 more", "map", "camera")


def test_the_past_is_bounded():
    history = TransformHistory(seconds=2)
    for step in range(1000):
        history.add("map", "base", step * S // 100, (0.0, 0.0, 0.0), UNIT)
    (edge,) = history._edges.values()
    assert len(edge.stamps) == len(edge.values) <= 202
    history.lookup("map", "base", round(7.99 * S))
    assert not history.add("map", "base", 5 * S, (0.0, 0.0, 0.0), UNIT)
    assert not fails(history, "is known from 7.990 to 9.990", "map", "base", 5 * S)


def test_samples_and_frames_are_bounded(monkeypatch):
    monkeypatch.setattr(transform_history, "LARGEST_SAMPLES", 20)
    monkeypatch.setattr(transform_history, "LARGEST_FRAMES", 5)
    history = TransformHistory()
    for step in range(50):
        history.add("map", "base", step, (0.0, 0.0, 0.0), UNIT)
    assert len(history._edges["base"].stamps) == 20
    for number in range(4):
        history.add("map", f"f{number}", 0, (0.0, 0.0, 0.0), UNIT)
    with pytest.raises(InputError, match="more than 5 frames; late is not taken"):
        history.add("map", "late", 0, (0.0, 0.0, 0.0), UNIT)
    assert history.add("map", "base", 60, (0.0, 0.0, 0.0), UNIT)


def test_when_time_is_set_back_a_frame_begins_anew():
    """A bag that is played again, without a clock that says so. One stray old message changes nothing."""
    history = TransformHistory()
    for second in range(100, 120):
        history.add("map", "base", second * S, (0.0, 0.0, 0.0), UNIT)
    assert not history.add("map", "base", 0, (0.0, 0.0, 0.0), UNIT)
    assert history.add("map", "base", 120 * S, (0.0, 0.0, 0.0), UNIT)
    taken = [history.add("map", "base", second * S, (0.0, 0.0, 0.0), UNIT) for second in range(1, 8)]
    assert taken == [False] * 4 + [True] * 3
    assert history.lookup("map", "base").stamp_ns == 7 * S


def test_clear_keeps_what_is_static():
    history = TransformHistory()
    history.add("map", "base", 5 * S, (0.0, 0.0, 0.0), UNIT)
    history.add("base", "camera", 5 * S, (0.0, 0.0, 0.0), UNIT, static=True)
    history.clear()
    assert history.frames() == {"camera": "base"}
    history.add("map", "base", 1 * S, (0.0, 0.0, 0.0), UNIT)
    assert history.lookup("map", "camera").stamp_ns == 1 * S


def test_a_frame_may_get_another_parent():
    history = TransformHistory()
    for second in (1, 2):
        history.add("table", "cup", second * S, (1.0, 0.0, 0.0), UNIT)
    history.add("world", "table", 0, (0.0, 5.0, 0.0), UNIT, static=True)
    history.add("world", "hand", 0, (0.0, 0.0, 3.0), turned(90), static=True)
    history.add("hand", "cup", 3 * S, (1.0, 0.0, 0.0), UNIT)
    np.testing.assert_allclose(history.lookup("world", "cup").T_target_source[:3, 3], [0, 1, 3], atol=1e-12)
    # What it was in before is forgotten, not mixed with what it is in now.
    assert not fails(history, "cup in hand is known at 3.000 only", "world", "cup", 2 * S)
    history.add("hand", "cup", 0, (2.0, 0.0, 0.0), UNIT, static=True)
    np.testing.assert_allclose(history.lookup("world", "cup", S).T_target_source[:3, 3], [0, 2, 3], atol=1e-12)


@pytest.mark.parametrize("order", list(itertools.permutations([("a", "b"), ("b", "c"), ("c", "a")])))
def test_loops_are_refused(order):
    history = TransformHistory()
    for parent, child in order[:2]:
        history.add(parent, child, S, (0.0, 0.0, 0.0), UNIT)
    parent, child = order[2]
    with pytest.raises(InputError, match=f"from {child} to {parent} would close a loop"):
        history.add(parent, child, S, (0.0, 0.0, 0.0), UNIT)
    assert len(history.frames()) == 2
    history.lookup("a", "c")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("map", "map", S, (0.0, 0.0, 0.0), UNIT), "from one frame to another"),
        (("/map", "map", S, (0.0, 0.0, 0.0), UNIT), "from one frame to another"),
        (("", "base", S, (0.0, 0.0, 0.0), UNIT), "from one frame to another"),
        (("map", "base", S, (math.nan, 0.0, 0.0), UNIT), "no rotation of finite numbers"),
        (("map", "base", S, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0)), "no rotation of finite numbers"),
        (("map", "base", S, (0.0, 0.0, 0.0), (math.inf, 0.0, 0.0, 1.0)), "no rotation of finite numbers"),
    ],
)
def test_what_is_no_transform_is_refused(arguments, words):
    history = TransformHistory()
    with pytest.raises(InputError, match=words):
        history.add(*arguments)
    assert history.frames() == {}


@pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf])
def test_a_history_lasts_some_seconds(seconds):
    with pytest.raises(InputError, match="lasts some seconds"):
        TransformHistory(seconds)


def test_leading_slashes_do_not_matter():
    history = TransformHistory()
    history.add("/map", "/base", S, (1.0, 0.0, 0.0), UNIT)
    assert history.lookup("map", "/base").T_target_source[0, 3] == 1.0
