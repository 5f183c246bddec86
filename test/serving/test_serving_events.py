"""The queue of events, tickets, and what is learnt of the time that jobs take."""

import logging
import math
import select
import threading

import pytest
from serving_jobs import prediction, reconstruction

from gen3r_core.serving.codes import ErrorCode
from gen3r_core.serving.events import CAPACITY, EndedEvent, EventQueue, ProgressEvent, StatusEvent
from gen3r_core.serving.pace import Pace
from gen3r_core.serving.status import WorkerState, WorkerStatus
from gen3r_core.serving.tickets import Outcome, Ticket

STAGES = {"text": 0.5, "denoise": 8.0, "video_decode": 1.5}


def ticket(deadline_s=None):
    return Ticket(reconstruction(1), deadline_s, lambda _ticket: None)


def status(state, words=""):
    return StatusEvent(WorkerStatus(state, words))


def readable(events):
    return bool(select.select([events], [], [], 0)[0])


def test_events_come_in_order_and_the_descriptor_tells():
    events = EventQueue()
    assert not readable(events)
    assert events.get(0) is None
    assert events.get(0.01) is None
    one, two = EndedEvent(ticket(), Outcome(ErrorCode.OK)), EndedEvent(ticket(), Outcome(ErrorCode.CANCELED))
    events.put(one)
    events.put(two)
    assert readable(events)
    assert events.get(0) is one
    assert readable(events)
    assert events.drain() == [two]
    assert not readable(events)
    assert events.drain() == []


def test_of_progress_only_the_newest_is_kept():
    events, first, second = EventQueue(), ticket(), ticket()
    for step in range(3):
        events.put(ProgressEvent(first, "vggt", step, 3, math.nan))
        events.put(ProgressEvent(second, "vggt", step, 3, math.nan))
    assert [(event.ticket, event.step) for event in events.drain()] == [(first, 2), (second, 2)]
    events.put(ProgressEvent(first, "vggt", 3, 3, 0.0))
    assert len(events) == 1


def test_of_a_status_that_stays_only_the_newest_is_kept():
    events = EventQueue()
    loading = [status(WorkerState.LOADING, str(number)) for number in range(3)]
    for event in (loading[0], loading[1], status(WorkerState.READY), status(WorkerState.READY), loading[2]):
        events.put(event)
    assert events.drain() == [loading[1], status(WorkerState.READY), loading[2]]


def test_a_queue_that_nobody_reads_stays_small(caplog):
    events = EventQueue()
    ended = [EndedEvent(ticket(), Outcome(ErrorCode.OK)) for _ in range(CAPACITY + 10)]
    with caplog.at_level(logging.WARNING):
        for event in ended:
            events.put(event)
    assert events.drain() == ended[10:]
    assert events.lost == 10
    assert len(caplog.records) == 1


def test_waiting_and_waking():
    woken = []
    events = EventQueue(lambda: woken.append(1))
    event = EndedEvent(ticket(), Outcome(ErrorCode.OK))
    timer = threading.Timer(0.05, events.put, [event])
    timer.start()
    assert events.get() is event
    timer.join()
    assert woken == [1]


def test_a_wake_that_fails_stops_nobody(caplog):
    def wake():
        raise RuntimeError("the executor is gone")

    events = EventQueue(wake)
    events.put(status(WorkerState.READY))
    assert len(events) == 1
    assert "the executor is gone" in caplog.text


def test_a_ticket_ends_once_and_forgets_its_images():
    one = ticket(deadline_s=5)
    assert one.deadline == pytest.approx(one.submitted + 5)
    assert one.wait(0) is one.outcome is None
    assert not one.done
    assert "running or waiting" in repr(one)
    one.end(Outcome(ErrorCode.OK))
    assert one.wait().code is ErrorCode.OK
    assert one.done
    assert one.request is None
    assert repr(one).endswith("OK>")


def test_steps_are_counted():
    pace = Pace()
    assert pace.least(prediction(8)) is None
    pace.learn(prediction(8), STAGES)
    assert pace.least(prediction(8)) == pytest.approx(10)
    assert pace.least(prediction(2)) == pytest.approx(4)
    assert pace.least(reconstruction()) is None
    pace.learn(prediction(4), {"text": 0.1, "denoise": 4.0, "video_decode": 1.0})
    assert pace.least(prediction(8)) == pytest.approx(9.1)  # the fastest


def test_seconds_left():
    pace = Pace()
    asked = prediction(8)
    assert math.isnan(pace.left(asked, "text", 0, 1, 0.1))
    assert math.isnan(pace.left(asked, "text", 1, 1, 0.1))
    assert math.isnan(pace.left(asked, "denoise", 0, 8, 0.1))
    assert pace.left(asked, "denoise", 2, 8, 3.0) == pytest.approx(9)  # nothing is known of what follows
    pace.learn(asked, STAGES)
    assert pace.left(asked, "text", 0, 1, 0.1) == pytest.approx(9.9)
    assert pace.left(asked, "text", 0, 1, 9.0) == pytest.approx(9.5)
    assert pace.left(asked, "denoise", 0, 8, 0.5) == pytest.approx(9)
    assert pace.left(asked, "denoise", 2, 8, 3.0) == pytest.approx(10.5)
    assert pace.left(asked, "video_decode", 1, 1, 1.2) == 0
    assert math.isnan(pace.left(asked, "cameras", 0, 1, 0.1))
    assert pace.left(reconstruction(), "vggt", 5, 10, 1.0) == pytest.approx(1)


def test_kinds_of_jobs_are_not_remembered_for_ever():
    pace = Pace()
    asked = [reconstruction(1, longest=14 * side) for side in range(1, 80)]
    for one in asked:
        pace.learn(one, {"vggt": 1.0})
    assert pace.least(asked[0]) is None
    assert pace.least(asked[-1]) == 1
