import dataclasses

import numpy as np
import pytest
from pretend_vggt import Errors, PretendVggt, building, round_trip

from gen3r_core.errors import InputError
from gen3r_core.mapping.loops import Candidate, LoopOptions, agreement, candidates, verify
from gen3r_core.mapping.windows import WindowStore, run_windows

SMALL = Errors(0.3, 0.01, 0.1, 0.002, 0.01, 0.02)


@pytest.fixture(scope="module")
def lap():
    """A way round and over its beginning again: frame 96 is about where frame 0 was."""
    boxes, T = building(2, seed=1), round_trip(2, laps=1.4)
    model = PretendVggt(boxes, T, SMALL)
    with WindowStore(None, {}) as store:
        names = run_windows(model.frames(), model, store)
        yield model, store, names


def looked_at(lap, first, second, options=None):
    model, store, names = lap
    numbers = [next(n for n, name in enumerate(names) if frame in store.get(name).frames[2:-2])
               for frame in (first, second)]  # fmt: skip
    return verify(Candidate(first, second, 1.0), (names[numbers[0]], names[numbers[1]]), tuple(numbers), store, model,
                  options)  # fmt: skip


def come_back(model, frame):
    """The later frame that is nearest to an early one."""
    away = np.linalg.norm(model.T[60:, :3, 3] - model.T[frame, :3, 3], axis=1)
    return 60 + int(away.argmin())


def test_a_place_that_is_visited_again_is_measured(lap):
    model, store, names = lap
    loop = looked_at(lap, 8, come_back(model, 8))
    assert loop.reason == ""
    assert loop.agreeing > 0.8
    first, second = (store.get(names[n]) for n in loop.windows)
    # From the second window to the first, as true cameras have it, in units of the first.
    there = np.linalg.inv(model.T[first.frames[0]]) @ model.T[second.frames[0]]
    unit = np.median([model.true_depth(int(f)) for f in first.frames]) / np.median(first.depth[first.depth > 0])
    np.testing.assert_allclose(loop.measured.sim3.translation * unit, there[:3, 3], atol=0.2)
    np.testing.assert_allclose(loop.measured.sim3.rotation, there[:3, :3], atol=0.05)


def test_visits_of_different_rooms_are_not_believed(lap):
    loop = looked_at(lap, 8, 50, LoopOptions(tolerance=0.03))
    assert loop.reason


def test_visits_that_look_at_different_things_are_told(lap):
    loop = looked_at(lap, 8, come_back(lap[0], 8), LoopOptions(min_seen=1.01))
    assert "look at different things" in loop.reason
    assert loop.measured is not None
    loop = looked_at(lap, 8, come_back(lap[0], 8), LoopOptions(min_agreeing=1.01))
    assert "contradict each other" in loop.reason


def test_a_visit_that_looks_different_beside_another_is_told(lap):
    model, store, names = lap

    class Confused:
        name = "confused"

        def __call__(self, images):
            found = model(images)
            rng = np.random.default_rng(0)
            found.depth[:] = np.exp(rng.normal(size=found.depth.shape))
            return found

    later = come_back(model, 9)
    number = next(n for n, name in enumerate(names) if later in store.get(name).frames)
    loop = verify(Candidate(9, later, 1.0), (names[0], names[number]), (0, number), store, Confused())
    assert "has another form" in loop.reason
    assert loop.measured is None


def test_agreement_of_a_window_with_itself_and_with_another_depth(lap):
    _, store, names = lap
    window = store.get(names[0])
    seen, agreeing = agreement(window, [4, 5], [5, 6], 0.1)
    assert seen > 0.7
    assert agreeing > 0.8
    depth = window.depth.copy()
    depth[8:] *= 2
    assert agreement(dataclasses.replace(window, depth=depth), [4, 5], [9, 10], 0.1)[1] < 0.4
    assert agreement(dataclasses.replace(window, depth=np.zeros_like(depth)), [4], [5], 0.1) == (0, 0)
    behind = window.T_window_cam.copy()
    behind[9] = behind[9] @ np.diag([-1.0, 1, -1, 1])
    assert agreement(dataclasses.replace(window, T_window_cam=behind), [4], [9], 0.1)[0] < 0.05


def walk(rng, places, size=32):
    """Features of a walk over places: near ones alike."""
    anchors = rng.normal(size=(int(max(places)) + 2, size))
    low = np.floor(places).astype(int)
    share = (places - low)[:, None]
    found = anchors[low] * (1 - share) + anchors[low + 1] * share + 0.05 * rng.normal(size=(len(places), size)) + 3
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def test_visits_are_found_far_apart_and_once_each():
    places = np.concatenate([np.arange(0, 12, 0.1), np.arange(2, 6, 0.1)])
    found = candidates(walk(np.random.default_rng(0), places), 10)
    assert 2 <= len(found) <= 20
    for first, second, likeness in found:
        assert second - first >= 40
        assert abs(places[first] - places[second]) <= 1
        assert likeness >= 0.7
    assert [one.likeness for one in found] == sorted((one.likeness for one in found), reverse=True)
    pairs = np.array([one[:2] for one in found])
    apart = np.abs(pairs[:, None] - pairs[None]).max(axis=2) + 99 * np.eye(len(pairs))
    assert apart.min() >= 6


def test_there_are_no_more_candidates_than_asked_for():
    places = np.concatenate([np.arange(0, 25, 0.25), np.arange(0, 25, 0.25)])
    features = walk(np.random.default_rng(0), places)
    assert len(candidates(features, 3, LoopOptions(per_window=1))) == 3
    assert candidates(features, 0) == []
    assert candidates(features[:30], 3) == []
    noise = np.random.default_rng(1).normal(size=(200, 32)).astype(np.float32)
    alternating = np.where(np.arange(200)[:, None] % 2, 1, -1) * np.abs(noise[:1])
    assert candidates(alternating.astype(np.float32), 9) == []  # near frames are not alike: nothing to compare with


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(InputError, match="gap of 2 frames"):
        LoopOptions(min_gap=1)
