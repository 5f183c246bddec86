"""Which way of predicting is in time, going by jobs that were done."""

import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving_jobs import prediction

from gen3r_core.errors import InputError
from gen3r_core.execution.profiles import PROFILES
from gen3r_core.serving.hurry import EXACT, MARGIN, choose, ways
from gen3r_core.serving.pace import Pace, seconds_of
from gen3r_core.serving.requests import PATH, PredictOptions, predict_pace_key

OPTIONS = PredictOptions(num_frames=49, size=(560, 560), steps=50, guidance=5.0)
RUN = {"text": 1.0, "denoise": 2.0, "geometry": 4.0, "video_decode": 5.0}
"""110 s with all steps."""


def found(fastest="preview", fixed=(), options=OPTIONS):
    return ways(options, task="1view", fastest=fastest, fixed=fixed)


def only_exact(options):
    return RUN if options == OPTIONS else None


def test_there_is_a_way_for_each_profile():
    assert [way.profile for way in found()] == list(PROFILES) == ["exact", "balanced", "fast", "preview"]
    assert found()[0].options == OPTIONS
    last = found()[-1].options
    assert (last.steps, last.num_frames, last.size, last.scheduler) == (8, 17, (336, 336), "unipc")
    assert [way.profile for way in found("balanced")] == ["exact", "balanced"]
    assert [way.profile for way in found(EXACT)] == ["exact"]


def test_what_was_asked_for_stays():
    for way in found(fixed=("steps", "num_frames", "guided_share")):
        assert (way.options.steps, way.options.num_frames, way.options.guided_share) == (50, 49, (0.0, 1.0))
    assert found(fixed=("steps",))[-1].options.num_frames == 17


def test_profiles_that_change_nothing_are_no_ways():
    small = PredictOptions(num_frames=5, size=(112, 112), steps=4, guidance=1.0, scheduler="unipc")
    names = [way.profile for way in found(options=small, fixed=("guided_share",))]
    assert names == ["exact"]
    plain = PredictOptions(num_frames=5, size=(112, 112), steps=4, guidance=1.0)
    assert [way.profile for way in found(options=plain)] == ["exact"]  # another solver alone saves no time


def test_frames_and_size_have_to_be_known():
    with pytest.raises(InputError, match="give both"):
        found(options=PredictOptions(num_frames=5))


@pytest.mark.parametrize(
    ("left", "profile"),
    [
        (None, "exact"),
        (1000.0, "exact"),
        (110 * MARGIN, "exact"),
        (110 * MARGIN - 1, "balanced"),
        # 24 steps, guided for 80 %: 1 + 24 * 2 * 0.9 + 4 + 5
        ((10 + 24 * 1.8) * MARGIN + 0.1, "balanced"),
        ((10 + 24 * 1.8) * MARGIN - 0.1, "fast"),
        ((10 + 14 * 1.6) * MARGIN - 0.1, "preview"),
        (0.1, "preview"),
    ],
)
def test_the_first_that_is_in_time_is_taken(left, profile):
    assert choose(found(), left, only_exact).profile == profile


def test_where_nothing_is_known_the_exact_one_is_tried():
    assert choose(found(), 0.1, lambda _options: None).profile == EXACT


def test_what_was_measured_counts_more_than_what_is_reckoned():
    slow = {"text": 1.0, "denoise": 50.0}
    known = {way.options: (RUN if way.profile == EXACT else slow) for way in found()[:2]}
    assert choose(found(), 80.0, known.get).profile == "fast"


@given(
    left=st.floats(0.01, 1e4),
    step=st.floats(1e-3, 1e3),
    other=st.floats(0, 1e3),
    steps=st.integers(1, 100),
    guidance=st.sampled_from([1.0, 5.0]),
)
def test_less_time_never_means_a_slower_way(left, step, other, steps, guidance):
    options = PredictOptions(num_frames=49, size=(560, 560), steps=steps, guidance=guidance)
    all_ways = found(options=options)
    run = {"denoise": step, "video_decode": other}

    def known(asked):
        return run if asked == options else None

    chosen = choose(all_ways, left, known)
    later = choose(all_ways, left / 2, known)
    assert all_ways.index(later) >= all_ways.index(chosen)
    if chosen.profile == EXACT and chosen is not all_ways[-1]:
        assert seconds_of(run, steps) <= left


def test_a_job_that_was_stopped_tells_how_slow_its_steps_are():
    pace, asked = Pace(), prediction(8)
    key = asked.pace_key
    pace.glimpse(asked, 2.0)
    assert pace.fastest(key, 8) == {"denoise": 2.0}
    assert pace.least(asked) == 16
    pace.learn(asked, {"text": 1.0, "denoise": 8.0})  # a step of a second: that one was disturbed
    assert pace.least(asked) == pytest.approx(9)
    assert pace.fastest(predict_pace_key("2view", 0, PATH, asked.options), 8) is None
    for side in range(80):
        pace.glimpse(prediction(8, options=PredictOptions(num_frames=4 * side + 5)), 1.0)
    assert pace.fastest(prediction(8, options=PredictOptions(num_frames=5)).pace_key, 8) is None
    assert pace.fastest(prediction(8, options=PredictOptions(num_frames=321)).pace_key, 8) == {"denoise": 1.0}


def test_guided_steps_take_longer():
    first, second = (
        predict_pace_key("1view", 0, PATH, PredictOptions(guidance=guidance, guided_share=(0.0, share)))
        for guidance, share in ((5.0, 1.0), (5.0, 0.5))
    )
    assert first != second
    unguided = [
        predict_pace_key("1view", 0, PATH, PredictOptions(guidance=1.0, guided_share=(0.0, share)))
        for share in (1.0, 0.5)
    ]
    assert unguided[0] == unguided[1]


def test_choosing_needs_no_torch():
    done = subprocess.run(
        [sys.executable, "-c", "import sys, gen3r_core.serving.hurry; print('torch' in sys.modules)"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout == "False\n"
    assert math.isfinite(MARGIN)
