"""Reports, cancellation, and seconds per stage."""

import time

import pytest

from gen3r_core.errors import CancelledError
from gen3r_core.progress import JobMonitor, Progress


def test_a_single_stage_reports_its_start_and_end():
    seen = []
    monitor = JobMonitor(seen.append)
    with monitor.stage("text"):
        assert seen == [Progress("text", 0, 1)]
    assert seen == [Progress("text", 0, 1), Progress("text", 1, 1)]


def test_a_stage_of_steps_reports_what_it_is_told():
    seen = []
    monitor = JobMonitor(seen.append)
    with monitor.stage("denoise", 2):
        for index in range(2):
            monitor.report("denoise", index + 1, 2)
    assert seen == [Progress("denoise", step, 2) for step in range(3)]


def test_seconds_are_summed_by_stage_in_their_order():
    monitor = JobMonitor()
    for name in ("b", "a", "b"):
        with monitor.stage(name):
            time.sleep(0.02)
    assert list(monitor.seconds) == ["b", "a"]
    assert 0.04 <= monitor.seconds["b"] < 1
    assert 0.02 <= monitor.seconds["a"] < 1


@pytest.mark.parametrize("answer", [None, True, 0])
def test_only_false_cancels(answer):
    JobMonitor(lambda _progress: answer).report("text", 0, 1)


def test_cancelling():
    monitor = JobMonitor(lambda progress: progress.step < 1)
    with pytest.raises(CancelledError, match="cancelled during text after step 1 of 1"), monitor.stage("text"):
        pass
    with pytest.raises(CancelledError, match="cancelled during denoise after step 3 of 9"):
        monitor.report("denoise", 3, 9)


def test_a_stage_that_fails_is_not_timed():
    monitor = JobMonitor()
    with pytest.raises(KeyError), monitor.stage("text"):
        raise KeyError
    assert monitor.seconds == {}
