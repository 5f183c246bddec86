"""Loops from matches: two visits are found and measured; other places, and those that only look alike, are not."""

from dataclasses import replace

import numpy as np
import pytest
from textured_room import poses, window

from gen3r_core.errors import InputError
from gen3r_core.geometry.poses import rotation_angles
from gen3r_core.mapping.features import FeatureBook
from gen3r_core.mapping.loops import LoopOptions
from gen3r_core.mapping.sightings import SightingOptions, match_loops
from gen3r_core.mapping.windows import WindowStore

OPTIONS = SightingOptions(loops=LoopOptions(min_gap=8, near=1, min_likeness=0.3, per_window=6))


def visit(start, yaw, first, scale, like=0):
    """Five frames; those of visits with one number look alike to whoever proposes loops."""
    place = np.array(start) + np.linspace(0, 0.4, 5)[:, None] * [1, 0, 0.5]
    made = window(poses(np.linspace(yaw, yaw + 10, 5), place), first, scale)
    features = np.eye(16, dtype=np.float32)[[like] * 5] + 0.3 * np.eye(16, dtype=np.float32)[8 : 8 + 5]
    return replace(made, features=features / np.linalg.norm(features, axis=1, keepdims=True))


def loops(store, windows, options=OPTIONS):
    names = [f"w{number}" for number in range(len(windows))]
    for name, one in zip(names, windows, strict=True):
        store.put(name, one)
    return match_loops(store, names, FeatureBook(lambda frame: pytest.fail(f"frame {frame} is at hand")), options)


@pytest.fixture
def store():
    with WindowStore(None, {}) as one:
        yield one


def test_a_second_visit_is_measured(store):
    second = visit([0.3, 0.1, -0.2], 12, 10, 0.8)
    found = loops(store, [visit([0, 0, 0], 0, 0, 1.5), visit([0, 0, 0], 170, 5, 1.0, like=1), second])
    believed = [loop for loop in found if not loop.reason]
    assert believed
    assert {loop.windows for loop in believed} == {(0, 2)}
    for loop in believed:
        # Both windows' worlds are the room, each in its own unit.
        similarity, covariance = loop.measured.sim3, loop.measured.covariance
        assert similarity.scale == pytest.approx(0.8 / 1.5, rel=0.01)
        assert np.degrees(rotation_angles(similarity.rotation)) < 0.3
        assert np.linalg.norm(similarity.translation) < 0.02
        assert np.linalg.eigvalsh(covariance).min() > 0
        assert np.degrees(loop.measured.sigmas[1]) < 3
        assert loop.agreeing > 0.5


def test_other_places_are_refused(store):
    found = loops(store, [visit([0, 0, 0], 0, 0, 1.0), visit([0, 0, 0], 90, 5, 1.0, like=1),
                          visit([0, 0, 0], 180, 10, 1.0)])  # fmt: skip
    assert found
    assert all(loop.measured is None and loop.reason.startswith("too few matches") for loop in found)


def test_two_copies_of_a_small_thing_are_no_place(store):
    """One picture on two walls: it matches well, but within a corner of the view only."""
    first, second = visit([0, 0, 0], 0, 0, 1.0), visit([0, 0, 0], 180, 10, 1.0)
    for one, other in zip(first.colors, second.colors, strict=True):
        other[30:65, 40:70] = one[30:65, 40:70]
    found = loops(store, [first, visit([0, 0, 0], 90, 5, 1.0, like=1), second])
    assert all(loop.reason for loop in found)
    assert any("lie together" in loop.reason for loop in found)


def test_neighbours_are_no_loop(store):
    found = loops(store, [visit([0, 0, 0], 0, 0, 1.0), visit([0, 0, 0], 5, 4, 1.0)])
    assert found == []


def test_options_are_checked():
    with pytest.raises(InputError, match="matches"):
        SightingOptions(min_matches=2)
