import time
from dataclasses import replace

import numpy as np
import pytest
from camera_tracks import yawed
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from gen3r_core.errors import InputError
from gen3r_core.reconstruction.keyframes import KeyframeOptions, KeyframeSelector, Verdict

OPTIONS = KeyframeOptions(min_interval_s=0.2, max_interval_s=5.0, sharpness=0.0)


def texture(seed=0, shift=0, blur=0.0):
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, (60, 120), dtype=np.uint8)).resize(
        (240, 120), Image.Resampling.BICUBIC
    )
    image = image.crop((shift, 0, shift + 160, 120))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(blur)) if blur else image)


SHARP, BLURRED = texture(), texture(blur=3)


def ns(seconds):
    return round(seconds * 1e9)


def offer(selector, seconds, pose=None, image=SHARP):
    return selector.offer(ns(seconds), seconds, image, pose)


def stamps(selector):
    return [keyframe.payload for keyframe in selector]


def never():
    raise AssertionError("this image need not have been looked at")


def test_motion_by_pose():
    selector = KeyframeSelector(OPTIONS)
    verdicts = [
        offer(selector, t, yawed(x, 0, yaw)).verdict
        for t, x, yaw in [(0, 0, 0), (1, 0.24, 0), (2, 0.26, 0), (3, 0.3, 0.2), (4, 0.3, 0.25), (5, 0.5, 0.25)]
    ]
    assert verdicts == [
        Verdict.FIRST, Verdict.UNMOVED, Verdict.MOVED, Verdict.UNMOVED, Verdict.TURNED, Verdict.UNMOVED
    ]  # fmt: skip
    assert stamps(selector) == [0, 2, 4]
    assert [keyframe.verdict for keyframe in selector] == [Verdict.FIRST, Verdict.MOVED, Verdict.TURNED]
    np.testing.assert_array_equal(selector.window(1)[0].T_world_cam, yawed(0.3, 0, 0.25))
    assert selector.counts == {"first": 1, "moved": 1, "turned": 1, "unmoved": 3}


def test_images_that_cannot_become_keyframes_are_not_looked_at():
    selector = KeyframeSelector(OPTIONS)
    calls = []

    def thumbnail():
        calls.append(1)
        return SHARP

    assert selector.offer(0, "a", thumbnail, yawed(0, 0, 0)).keyframe.payload == "a"
    assert calls == [1]
    assert selector.offer(ns(0.1), "b", never, yawed(9, 0, 0)).verdict is Verdict.TOO_SOON
    assert selector.offer(ns(1), "c", never, yawed(0.1, 0, 0)).verdict is Verdict.UNMOVED
    assert selector.offer(ns(1), "d", never, yawed(9, 0, 0)).verdict is Verdict.OUT_OF_ORDER
    assert selector.offer(ns(0.5), "e", never, None).verdict is Verdict.OUT_OF_ORDER
    assert selector.offer(ns(1.1), "f", thumbnail, yawed(1, 0, 0)).verdict is Verdict.MOVED
    assert calls == [1, 1]


@pytest.mark.parametrize("lost", ["both", "first", "second"])
def test_motion_by_image_change_where_a_pose_is_missing(lost):
    selector = KeyframeSelector(OPTIONS)
    first, second = (None if lost in {"both", which} else yawed(0, 0, 0) for which in ("first", "second"))
    offer(selector, 0, first)
    assert offer(selector, 1, second).verdict is Verdict.UNMOVED
    assert offer(selector, 2, second, texture(shift=1)).verdict is Verdict.UNMOVED
    decision = offer(selector, 3, second, texture(shift=40))
    assert decision.verdict is Verdict.CHANGED
    assert decision.keyframe.payload == 3


def test_a_robot_that_waits_gets_fresh_images_and_keeps_what_it_has_seen():
    selector = KeyframeSelector(replace(OPTIONS, capacity=4, recent=2))
    for t in range(4):
        offer(selector, t, yawed(t, 0, 0))
    for t in range(4, 200):
        offer(selector, t, yawed(3.0 + 0.01 * (t % 2), 0, 0))
    assert len(selector) == 4
    assert stamps(selector)[:3] == [0, 1, 2]
    assert stamps(selector)[3] >= 194
    assert selector.counts["due"] == selector.counts["replaced"] == 39
    assert selector.counts["evicted"] == 0


@pytest.mark.parametrize("posed", [True, False])
def test_a_slow_creep_adds_up_to_motion(posed):
    selector = KeyframeSelector(OPTIONS)
    for t in range(0, 60, 2):
        offer(selector, t, yawed(0.01 * t, 0, 0) if posed else None, SHARP if posed else texture(shift=t // 8))
    assert selector.counts["moved" if posed else "changed"] >= 2


def test_the_first_pose_after_none_becomes_what_motion_is_measured_from():
    selector = KeyframeSelector(OPTIONS)
    offer(selector, 0)
    assert offer(selector, 5, yawed(0, 0, 0)).verdict is Verdict.DUE
    assert selector.offer(ns(6), 6, never, yawed(0.1, 0, 0)).verdict is Verdict.UNMOVED
    assert offer(selector, 7, yawed(0.3, 0, 0)).verdict is Verdict.MOVED


def blurry(wait=0.5):
    """A selector that has seen enough sharp images to know a blurred one; newest at 9 s and 9 m."""
    selector = KeyframeSelector(replace(OPTIONS, sharpness=0.5, sharpness_wait_s=wait))
    for t in range(10):
        offer(selector, t, yawed(t, 0, 0), texture(shift=2 * t))
    assert selector.counts["blurred"] == 0
    return selector


def test_a_blurred_image_waits_for_a_sharp_one():
    selector = blurry()
    assert offer(selector, 10, yawed(10, 0, 0), BLURRED).verdict is Verdict.BLURRED
    assert len(selector) == 10
    # The next one is taken although it has come back to where the last keyframe was.
    decision = offer(selector, 10.1, yawed(9, 0, 0))
    assert decision.verdict is Verdict.MOVED
    assert decision.keyframe.payload == 10.1
    assert stamps(selector)[-2:] == [9, 10.1]
    assert offer(selector, 11, yawed(9.1, 0, 0)).verdict is Verdict.UNMOVED


def test_after_a_bounded_wait_the_sharpest_is_taken():
    selector = blurry()
    before = selector.counts.copy()
    decisions = [
        offer(selector, t, yawed(10 + t, 0, 0), texture(blur=blur))
        for t, blur in [(10, 4), (10.2, 2), (10.4, 4), (10.5, 6)]
    ]
    assert [decision.verdict for decision in decisions] == [Verdict.BLURRED] * 4
    assert [decision.keyframe is None for decision in decisions] == [True, True, True, False]
    assert decisions[-1].keyframe.payload == 10.2
    assert stamps(selector)[-1] == 10.2
    gained = selector.counts - before
    assert gained == {"blurred": 3, "moved": 1}
    assert offer(selector, 10.6, yawed(30, 0, 0)).verdict is Verdict.MOVED


def test_without_patience_blur_does_not_matter():
    assert offer(blurry(0.0), 10, yawed(10, 0, 0), BLURRED).verdict is Verdict.MOVED


def test_a_camera_that_is_always_soft_is_not_blurred():
    selector = KeyframeSelector(replace(OPTIONS, sharpness=0.5))
    for t in range(60):
        offer(selector, t, yawed(t, 0, 0), SHARP if t < 10 else texture(blur=2))
    assert selector.counts["blurred"] <= 31
    assert stamps(selector)[-5:] == [55, 56, 57, 58, 59]


def test_eviction_keeps_the_oldest_the_newest_and_the_spread():
    selector = KeyframeSelector(replace(OPTIONS, capacity=12, recent=4))
    for t in range(200):
        offer(selector, t, yawed(t, 0, 0))
        assert len(selector) <= 12
    found = stamps(selector)
    assert found[0] == 0
    assert found[-4:] == [196, 197, 198, 199]
    gaps = np.diff(found[:-3])
    assert gaps.max() <= 4 * gaps.min() + 32
    assert gaps.max() < 60
    assert [keyframe.payload for keyframe in selector.window(4)] == [196, 197, 198, 199]
    assert len(selector.window(99)) == 12
    assert selector.window(0) == ()
    assert selector.counts["evicted"] == 188


def test_what_lies_close_together_leaves_first():
    selector = KeyframeSelector(replace(OPTIONS, capacity=6, recent=1, translation_m=0.05))
    for t, x in enumerate([0, 4, 4.1, 8, 12, 16, 20]):
        offer(selector, t, yawed(x, 0, 0))
    assert stamps(selector) in ([0, 1, 3, 4, 5, 6], [0, 2, 3, 4, 5, 6])


def test_a_window_as_large_as_the_buffer_slides():
    selector = KeyframeSelector(replace(OPTIONS, capacity=3, recent=3))
    for t in range(6):
        offer(selector, t, image=texture(t))
    assert stamps(selector) == [3, 4, 5]


def test_time_that_begins_again_forgets_everything():
    selector = KeyframeSelector(OPTIONS)
    for t in range(100, 104):
        offer(selector, t, yawed(t, 0, 0))
    decision = offer(selector, 1, yawed(0, 0, 0))
    assert decision.restarted
    assert decision.verdict is Verdict.FIRST
    assert stamps(selector) == [1]
    assert selector.counts["restarts"] == 1
    assert not offer(selector, 2, yawed(1, 0, 0)).restarted


def test_bad_images_and_poses_change_nothing():
    selector = KeyframeSelector(OPTIONS)
    offer(selector, 0, yawed(0, 0, 0))
    with pytest.raises(InputError, match="take one channel"):
        offer(selector, 1, yawed(1, 0, 0), np.zeros((60, 80, 3), np.uint8))
    with pytest.raises(InputError, match="camera pose 0 is not a rigid transform"):
        offer(selector, 1, 2 * yawed(1, 0, 0))
    with pytest.raises(InputError, match="camera pose 0 contains NaN"):
        offer(selector, 1, np.full((4, 4), np.nan))
    assert offer(selector, 1, yawed(1, 0, 0)).verdict is Verdict.MOVED


@given(st.integers(0, 2**31))
@settings(deadline=None, max_examples=25)
def test_whatever_comes_the_rules_hold(seed):
    rng = np.random.default_rng(seed)
    options = KeyframeOptions(capacity=9, recent=3)
    selector, images = (
        KeyframeSelector(options),
        [texture(seed), texture(seed, 30), texture(seed, 30, 3), texture(seed, 5)],
    )
    t, x, offered, made = 0, 0.0, 0, []
    for _ in range(150):
        t += int(rng.integers(-20, 400)) * 1_000_000
        x += rng.uniform(-0.1, 0.3)
        pose = yawed(x, 0, 0) if rng.uniform() < 0.8 else None
        decision = selector.offer(t, t, images[rng.integers(4)], pose)
        offered += 1
        if decision.restarted:
            made.clear()
        if decision.keyframe is not None:
            made.append(decision.keyframe)
        kept = list(selector)
        assert len(kept) <= 9
        assert kept[-1] is made[-1]
        order = [keyframe.stamp_ns for keyframe in kept]
        assert order == sorted(order)
        assert all(keyframe.verdict.accepted for keyframe in kept)
    assert sum(selector.counts[verdict] for verdict in Verdict) == offered
    accepted = sum(count for name, count in selector.counts.items() if name in set(Verdict) and Verdict(name).accepted)
    assert accepted == len(made)
    intervals = np.diff([keyframe.stamp_ns for keyframe in made])
    assert (intervals >= ns(options.min_interval_s)).all()


def test_at_least_one_in_the_longest_interval():
    selector = KeyframeSelector(KeyframeOptions(max_interval_s=2.0))
    taken = [t for t in np.arange(0, 30, 0.1) if offer(selector, t, yawed(0, 0, 0)).keyframe is not None]
    assert np.diff(taken) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"translation_m": 0.0}, "translation_m must be a positive number, got 0.0"),
        ({"max_interval_s": float("nan")}, "max_interval_s must be a positive number"),
        ({"sharpness_wait_s": -1.0}, "sharpness_wait_s must be a number of 0 or more"),
        ({"sharpness": 1.0}, "share of the median"),
        ({"min_interval_s": 6.0}, "min_interval_s 6.0 is over max_interval_s 5.0; lower it"),
        ({"recent": 33}, "recent must be 1 to capacity, got recent 33 and capacity 32"),
        ({"recent": 0}, "recent must be 1 to capacity"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        KeyframeOptions(**options)


def test_a_decision_costs_less_than_a_millisecond():
    image, seconds = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8), []
    selector = KeyframeSelector()
    for t in range(300):
        start = time.perf_counter()
        offer(selector, 0.25 * t, yawed(0.3 * t, 0, 0) if t % 2 else None, image[..., 1])
        seconds.append(time.perf_counter() - start)
    print(f"a decision about a 640x480 image takes {1e3 * np.median(seconds):.2f} ms")
    assert np.median(seconds) < 0.001
