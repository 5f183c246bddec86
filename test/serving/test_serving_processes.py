"""Real worker processes: what they give back, how they are stopped, and what happens when one dies."""

import os
import re
import select
import signal
import statistics
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from serving_jobs import OPTIONS, QUICK, pictures, prediction, reconstruction, until

from gen3r_core.errors import InputError
from gen3r_core.geometry.images import fit_to_multiple
from gen3r_core.jobs import Job, Sampling
from gen3r_core.pipeline import Gen3RPipeline
from gen3r_core.scene import CameraPath
from gen3r_core.serving.client import InferenceWorker
from gen3r_core.serving.codes import ErrorCode
from gen3r_core.serving.events import EndedEvent, ProgressEvent, StatusEvent
from gen3r_core.serving.options import WorkerOptions
from gen3r_core.serving.requests import Cameras, CloudOptions
from gen3r_core.serving.status import WorkerState, WorkerStatus
from gen3r_core.serving.supervisor import Supervisor

ENDLESS = 100_000


def maps(pid="self"):
    """What a process has mapped."""
    return Path(f"/proc/{pid}/maps").read_text(encoding="utf-8")


def shared_blocks():
    """Memory files of ours that this process has mapped; none is open without."""
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    mapped = maps().count("memfd:gen3r")
    assert sum("memfd:gen3r" in str(link.readlink()) for link in links) == mapped
    return mapped


def gone(pid):
    """Whether a process ended (one whose new parent does not care stays as a zombie)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def denoising(worker):
    """Wait for a step of denoising of the running job; the event."""
    while True:
        event = worker.events.get(60)
        assert event is not None
        if isinstance(event, ProgressEvent) and event.stage == "denoise" and event.step > 0:
            return event


@pytest.fixture(scope="module")
def pipeline(checkpoint):
    """The same model in this process."""
    return Gen3RPipeline.from_pretrained(checkpoint)


# --- models ----------------------------------------------------------------------------------------------


def test_a_broken_checkpoint_says_why_and_another_one_works(begun):
    worker, failed, outcomes, events = begun
    assert failed.state is WorkerState.FAILED
    assert "vggt" in failed.words
    assert failed.restarts == 0
    assert failed.pid is None
    for outcome in outcomes:
        assert outcome.code is ErrorCode.WORKER_FAILED
        assert outcome.message == f"there is no model: {failed.words}"
    states = [event.status.state for event in events if isinstance(event, StatusEvent)]
    in_order = [state for index, state in enumerate(states) if index == 0 or states[index - 1] is not state]
    start = [WorkerState.STARTING, WorkerState.LOADING]
    assert in_order == [*start, WorkerState.FAILED, *start, WorkerState.READY]
    until(lambda: worker.status.state is WorkerState.READY)
    facts = worker.status.model
    assert (facts.name, facts.device, facts.dtype, facts.num_frames) == ("checkpoint", "cpu", "float32", 49)
    assert facts.parameters > 1e5


def test_loading_is_reported_from_start_to_end(begun):
    loading = [event.status for event in begun[3] if isinstance(event, StatusEvent) and event.status.words]
    shares = [status.progress for status in loading if status.state is WorkerState.LOADING]
    assert all(0 <= share <= 1 for share in shares)
    assert any("import" in status.words for status in loading)


# --- results ---------------------------------------------------------------------------------------------


def test_a_reconstruction_is_that_of_the_pipeline(worker, pipeline):
    asked = reconstruction(3, cloud=CloudOptions(drop_percent=0))
    outcome = worker.reconstruct(asked).wait(60)
    assert outcome.code is ErrorCode.OK, outcome.message
    images = torch.from_numpy(asked.images).permute(0, 3, 1, 2).float() / 255
    fitted, _ = fit_to_multiple(images, 14, longest=112)
    scene = pipeline.reconstruct(fitted)
    with outcome.result as result:
        assert result.model == "checkpoint"
        assert result.images.shape == (3, 84, 112, 3)
        np.testing.assert_allclose(result.depth, scene.depth, rtol=1e-5)
        np.testing.assert_allclose(result.depth_confidence, scene.depth_confidence, rtol=1e-5)
        np.testing.assert_allclose(result.intrinsics, scene.intrinsics, rtol=1e-5)
        np.testing.assert_array_equal(result.predicted_intrinsics, result.intrinsics)
        np.testing.assert_array_equal(result.images, (fitted * 255).round().byte().permute(0, 2, 3, 1))
        np.testing.assert_array_equal(result.valid, scene.valid)
        np.testing.assert_array_equal(result.T_world_cam[0], np.eye(4))
        np.testing.assert_allclose(
            result.T_world_cam[1], torch.linalg.inv(scene.T_world_cam[0]) @ scene.T_world_cam[1], atol=1e-4
        )
        assert result.observed.all()
        assert len(result.points) == len(result.point_colors) == len(result.point_confidence) == scene.valid.sum()
        # A point, taken back into its own view: same colour, same depth.
        chosen = np.flatnonzero(result.point_view == 2)[100]
        local = np.linalg.inv(result.T_world_cam[2].astype(float)) @ [*result.points[chosen], 1]
        u, v = ((result.intrinsics[2] @ local[:3])[:2] / local[2]).round().astype(int)
        assert result.depth[2, v, u] == pytest.approx(local[2], rel=1e-3)
        np.testing.assert_array_equal(result.point_colors[chosen], result.images[2, v, u])
        assert result.point_confidence[chosen] == result.depth_confidence[2, v, u]
    assert outcome.message == ""
    assert outcome.seconds >= outcome.stages["vggt"] > 0
    with pytest.raises(InputError, match="depth was released with its result"):
        _ = result.depth


def test_a_prediction_is_that_of_the_pipeline(worker, pipeline):
    poses = np.tile(np.eye(4), (5, 1, 1))
    poses[:, 2, 3] = np.linspace(0, 1, 5)
    intrinsics = np.tile(np.array([[100.0, 0, 60], [0, 100.0, 45], [0, 0, 1]]), (5, 1, 1))
    asked = prediction(cameras=Cameras(poses, intrinsics, (90, 120), 2.0), cloud=CloudOptions(max_points=500))
    outcome = worker.predict(asked).wait(60)
    assert outcome.code is ErrorCode.OK, outcome.message
    images = torch.from_numpy(asked.images).permute(0, 3, 1, 2).float() / 255
    path = CameraPath(torch.from_numpy(poses), torch.from_numpy(intrinsics), (90, 120), 2.0)
    scene = pipeline.generate(
        Job(images, "2view", "a room", path), Sampling(num_frames=5, size=(112, 112), steps=QUICK.steps)
    )
    result = outcome.result
    np.testing.assert_allclose(result.depth, scene.depth, rtol=1e-4)
    assert np.abs(result.images - (scene.colors * 255).round().numpy()).max() <= 1
    assert result.observed.tolist() == [True, False, False, False, True]
    assert result.metres_per_unit == 2.0
    assert len(result.points) == 500
    assert set(result.point_view.tolist()) == set(range(5))
    assert list(outcome.stages) == [
        "prepare", "text", "image", "cameras", "video_encode", "denoise", "geometry", "video_decode", "gather", "share"
    ]  # fmt: skip
    result.release()


def test_progress_and_end_come_as_events_that_can_be_waited_for(worker):
    seen, ticket = [], worker.reconstruct(reconstruction())
    end = time.monotonic() + 60
    while not any(isinstance(event, EndedEvent) for event in seen):
        assert time.monotonic() < end
        if select.select([worker.events], [], [], 1)[0]:
            seen += worker.events.drain()
    progress = [event for event in seen if isinstance(event, ProgressEvent)]
    assert all(event.ticket is ticket and event.stage == "vggt" for event in progress)
    assert progress[-1].step == progress[-1].total
    assert {event.status.state for event in seen if isinstance(event, StatusEvent)} >= {WorkerState.BUSY}
    outcome = next(event.outcome for event in seen if isinstance(event, EndedEvent))
    assert outcome is ticket.outcome
    assert ticket.request is None
    outcome.result.release()


def test_seconds_left_are_known_from_jobs_before(worker):
    assert worker.predict(prediction()).wait(60).code is ErrorCode.OK
    worker.events.drain()
    ticket = worker.predict(prediction(200))
    event = denoising(worker)
    assert 0 < event.seconds_left < 60
    assert event.total == 200
    ticket.cancel()
    ticket.wait(30)


# --- what cannot be served -------------------------------------------------------------------------------


def test_errors_of_a_job_leave_the_worker_alone(worker):
    before = worker.status.pid
    cases = [
        (
            worker.predict,
            prediction(cameras="sideways"),
            ErrorCode.INVALID_REQUEST,
            "camera path 'sideways' is unknown",
        ),
        (worker.reconstruct, reconstruction(longest=5), ErrorCode.INVALID_REQUEST, "cannot be fitted"),
        # More than any address space holds.
        (worker.reconstruct, reconstruction(longest=14_000_000), ErrorCode.OUT_OF_MEMORY, "ran out of memory"),
        (worker.reconstruct, reconstruction(attention="cudnn"), ErrorCode.INFERENCE_FAILED, "cudnn"),
        (worker.reconstruct, reconstruction(longest="long"), ErrorCode.INFERENCE_FAILED, "TypeError"),
    ]
    for call, asked, code, words in cases:
        outcome = call(asked).wait(60)
        assert (outcome.code, outcome.result) == (code, None), outcome.message
        assert words in outcome.message
    assert worker.reconstruct(reconstruction()).wait(60).code is ErrorCode.OK
    assert worker.status.pid == before
    assert worker.status.restarts == 0


def test_a_deadline_must_lie_ahead(worker):
    with pytest.raises(InputError, match="a deadline is a positive number of seconds from now, got 0"):
        worker.reconstruct(reconstruction(), deadline_s=0)


# --- slots, cancelling, deadlines ------------------------------------------------------------------------


def test_the_newest_replaces_the_waiting_one_and_predictions_come_first(worker):
    running = worker.predict(prediction(ENDLESS))
    denoising(worker)
    waiting = [worker.reconstruct(reconstruction()) for _ in range(3)]
    older = worker.predict(prediction(ENDLESS))
    newer = worker.predict(prediction())
    assert older.wait(5).code is ErrorCode.SUPERSEDED
    assert [ticket.wait(5).code for ticket in waiting[:2]] == [ErrorCode.SUPERSEDED] * 2
    assert not running.done
    assert not newer.done
    running.cancel()
    assert running.wait(10).code is ErrorCode.CANCELED
    assert waiting[2].wait(60).code is newer.wait(60).code is ErrorCode.OK
    ended = [event.ticket for event in worker.events.drain() if isinstance(event, EndedEvent)]
    assert ended.index(newer) < ended.index(waiting[2])


def test_a_running_prediction_can_be_replaced_too(worker):
    running = worker.predict(prediction(ENDLESS))
    denoising(worker)
    newer = worker.predict(prediction(), replace_running=True)
    assert running.wait(10).code is ErrorCode.SUPERSEDED
    assert re.match(
        r"a newer predict job took its place; cancelled during denoise after step \d+ of 100000",
        running.outcome.message,
    )
    assert newer.wait(60).code is ErrorCode.OK


def test_a_waiting_job_is_cancelled_at_once_and_an_ended_one_stays(worker):
    running = worker.predict(prediction(ENDLESS))
    waiting = worker.reconstruct(reconstruction())
    waiting.cancel()
    assert waiting.wait(5).code is ErrorCode.CANCELED
    assert waiting.outcome.stages == {}
    denoising(worker)
    start = time.monotonic()
    running.cancel()
    running.cancel()
    assert running.wait(10).code is ErrorCode.CANCELED
    assert time.monotonic() - start < 2
    first = running.outcome
    running.cancel()
    assert running.outcome is first


def test_deadlines(worker):
    assert worker.predict(prediction()).wait(60).code is ErrorCode.OK
    start = time.monotonic()
    hopeless = worker.predict(prediction(ENDLESS), deadline_s=5)
    assert hopeless.wait(5).code is ErrorCode.DEADLINE_MISSED
    assert time.monotonic() - start < 2
    assert "such a job takes at least" in hopeless.outcome.message
    # No such job was done before: it is tried, and stopped in time.
    options = replace(QUICK, steps=ENDLESS, guidance=1.0)
    late = worker.predict(prediction(options=options), deadline_s=1.0)
    waiting = worker.reconstruct(reconstruction(1), deadline_s=0.5)
    assert waiting.wait(10).code is ErrorCode.DEADLINE_MISSED
    assert "while it waited" in waiting.outcome.message
    assert late.wait(10).code is ErrorCode.DEADLINE_MISSED
    assert late.outcome.seconds < 4
    assert late.outcome.message.startswith("its deadline passed; ")
    assert worker.predict(prediction(), deadline_s=120).wait(60).code is ErrorCode.OK


def test_calls_return_at_once_while_the_worker_is_busy(worker):
    """Callbacks stay quick: eight images of 640x480 are handed in, 100 times a second, while others are worked on."""
    asked = replace(reconstruction(), images=list(pictures(8, 480, 640)))
    percentiles, busy = [], []
    for _ in range(6):  # other programs may keep both cores for a while
        taken = []
        for _ in range(150):
            start = time.perf_counter()
            worker.reconstruct(asked)
            taken.append(time.perf_counter() - start)
            busy.append(worker.status.state is WorkerState.BUSY)
            time.sleep(0.005)
        percentiles.append(statistics.quantiles(taken, n=100)[98])
        if percentiles[-1] < 0.01:
            break
    assert min(percentiles) < 0.01
    assert sum(busy) > len(busy) / 2  # between two jobs it is ready for a moment
    until(lambda: worker.status.state is WorkerState.READY)


def test_many_threads_may_hand_in_jobs(worker):
    tickets = []

    def submit():
        tickets.extend(worker.reconstruct(reconstruction(1)) for _ in range(20))

    threads = [threading.Thread(target=submit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    codes = [ticket.wait(60).code for ticket in tickets]
    assert set(codes) <= {ErrorCode.OK, ErrorCode.SUPERSEDED}
    assert ErrorCode.OK in codes
    assert len({ticket.number for ticket in tickets}) == 80


def test_results_take_no_memory_once_they_are_released_or_dropped(worker):
    before = shared_blocks()
    kept = [worker.reconstruct(reconstruction()).wait(60).result for _ in range(2)]
    until(lambda: worker.status.state is WorkerState.READY)

    def blocks():
        worker.events.drain()  # the tickets' outcomes are in there, the last perhaps a little later
        return shared_blocks() - before

    assert blocks() == 2
    view = kept[0].points
    kept[0].release()
    kept.pop()
    until(lambda: blocks() == 1, timeout=5)  # the view's
    assert not view.flags.writeable
    assert np.isfinite(view).all()
    del view
    assert blocks() == 0


# --- death -----------------------------------------------------------------------------------------------


def test_a_killed_worker_is_replaced_and_says_so(worker):
    blocks = shared_blocks()
    before = worker.status.restarts
    running = worker.predict(prediction(ENDLESS))
    waiting = worker.reconstruct(reconstruction())
    denoising(worker)
    killed = worker.status.pid
    assert "/dev/shm" not in maps(killed)  # what has no name cannot stay behind
    os.kill(killed, signal.SIGKILL)
    start = time.monotonic()
    outcome = running.wait(10)
    assert time.monotonic() - start < 1
    assert outcome.code is ErrorCode.WORKER_FAILED
    assert "killed by signal 9 (SIGKILL; the kernel does so when memory runs out)" in outcome.message
    status = worker.status
    assert status.restarts == before + 1
    assert status.last_failure.startswith("killed by signal 9")
    assert waiting.wait(90).code is ErrorCode.OK  # by the next worker
    waiting.outcome.result.release()
    states = [event.status for event in worker.events.drain() if isinstance(event, StatusEvent)]
    assert any(s.state is WorkerState.RESTARTING and "another worker starts in 0.2 s" in s.words for s in states)
    assert worker.status.pid != killed
    assert shared_blocks() == blocks


PARENT = """
    import sys, time
    from serving_jobs import prediction, until
    from gen3r_core.serving.client import InferenceWorker
    from gen3r_core.serving.options import WorkerOptions

    worker = InferenceWorker(WorkerOptions(random_size="tiny", threads=1, niceness=0))
    worker.start()
    wanted = sys.argv[1]
    if wanted == "busy":
        ticket = worker.predict(prediction(100_000))
    until(lambda: worker.status.state == wanted)
    assert "torch" not in sys.modules
    print(worker.status.pid, flush=True)
    time.sleep(100)
"""


@pytest.mark.parametrize("state", ["loading", pytest.param("busy", marks=pytest.mark.slow)])
def test_a_worker_goes_with_its_parent(state):
    helpers = str(Path(__file__).resolve().parents[1] / "helpers")
    environment = {**os.environ, "PYTHONPATH": helpers}
    command = [sys.executable, "-c", textwrap.dedent(PARENT), state]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        pid = int(parent.stdout.readline())
        assert not gone(pid)
        if state == "busy":
            time.sleep(1)
        assert "/dev/shm" not in maps(pid) + maps(parent.pid)
        parent.kill()
    until(lambda: gone(pid), timeout=2)


def test_a_worker_that_dies_while_it_loads_is_tried_again_and_again_but_not_for_ever():
    options = WorkerOptions(random_size="tiny", backoff_s=0.1, most_backoff_s=0.3)
    worker = InferenceWorker(options)
    ticket = worker.reconstruct(reconstruction())
    assert ticket.wait(1).code is ErrorCode.NOT_ACTIVE
    assert worker.status == WorkerStatus()
    with worker:
        ticket = worker.reconstruct(reconstruction())
        waits = []
        pid = None
        for number in [signal.SIGSEGV] * 4 + [signal.SIGRTMIN + 1]:
            pid = until(lambda last=pid: worker.status.pid if worker.status.pid != last else None)
            os.kill(pid, number)
            until(lambda: worker.status.pid is None)
            waits.append(worker.status.words)
        assert [words[-5:] for words in waits[:4]] == ["0.1 s", "0.2 s", "0.3 s", "0.3 s"]
        assert all("killed by signal 11 (SIGSEGV); another worker starts in" in words for words in waits[:4])
        assert worker.status.state is WorkerState.FAILED
        assert worker.status.restarts == 5
        assert ticket.wait(5).code is ErrorCode.WORKER_FAILED
        last = f"killed by signal {signal.SIGRTMIN + 1} (unknown)"
        assert f"5 workers in a row were lost while they loaded it, the last: {last}" in ticket.outcome.message
    assert worker.status.state is WorkerState.STOPPED


def test_a_silent_worker_is_killed_and_replaced():
    worker = InferenceWorker()
    worker.configure(WorkerOptions(random_size="tiny", heartbeat_s=0.1, load_silence_s=1.0))
    with worker:
        pid = until(lambda: worker.status.pid)
        os.kill(pid, signal.SIGSTOP)
        status = until(lambda: worker.status if worker.status.state is WorkerState.RESTARTING else None)
        assert status.last_failure == "it gave no sign of life for 1 s, and was killed"
        assert gone(pid)
        following = until(lambda: worker.status.pid)
        assert following != pid
        worker.stop()
        worker.start()  # waits for the last one to be gone
        until(lambda: worker.status.pid not in (None, following))
        assert gone(following)
    assert worker.join(0)


@pytest.mark.parametrize(
    ("executable", "reason"),
    [("/nowhere/python", "its process cannot be started: .*No such file"), ("/bin/false", "ended with exit code 1")],
)
def test_a_process_that_cannot_be_started(monkeypatch, executable, reason):
    monkeypatch.setattr(sys, "executable", executable)
    with InferenceWorker(WorkerOptions(backoff_s=0.01)) as worker:
        status = until(lambda: worker.status if worker.status.state is WorkerState.FAILED else None)
    assert re.search(f"5 workers in a row were lost while they loaded it, the last: {reason}", status.words)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_fault_of_the_supervisor_leaves_nobody_waiting(monkeypatch):
    worker = InferenceWorker(WorkerOptions(random_size="tiny"))
    worker.start()
    pid = until(lambda: worker.status.pid)
    ticket = worker.reconstruct(reconstruction())
    until(lambda: worker.status.state is WorkerState.LOADING)

    def fail(_supervisor, _ticket, **_values):
        raise RuntimeError("a fault")

    monkeypatch.setattr(Supervisor, "_submit", fail)
    newer = worker.reconstruct(reconstruction())
    assert worker.join(10)
    assert gone(pid)
    assert worker.status.state is WorkerState.FAILED
    assert "the thread that supervises the worker failed" in worker.status.words
    assert ticket.wait(1).code is newer.wait(1).code is ErrorCode.NOT_ACTIVE
    assert worker.reconstruct(reconstruction()).wait(1).code is ErrorCode.NOT_ACTIVE
    monkeypatch.undo()
    with worker:
        assert until(lambda: worker.status.pid) != pid


@pytest.mark.slow
def test_a_worker_that_hangs_while_busy():
    with InferenceWorker(replace(OPTIONS, random_size="tiny", silence_s=3.0, stop_s=1.0)) as worker:
        for why in ("it gave no sign of life for 3 s", "it did not stop its job for 1 s"):
            ticket = worker.predict(prediction(ENDLESS))
            denoising(worker)
            os.kill(worker.status.pid, signal.SIGSTOP)
            if "stop" in why:
                ticket.cancel()
            start = time.monotonic()
            outcome = ticket.wait(30)
            assert time.monotonic() - start < 6
            assert outcome.code is (ErrorCode.CANCELED if "stop" in why else ErrorCode.WORKER_FAILED)
            assert why in outcome.message
            until(lambda: worker.status.state is WorkerState.READY)
        assert worker.status.restarts == 2
        last = worker.status.pid
        os.kill(last, signal.SIGSTOP)
    assert gone(last)


@pytest.mark.slow
def test_a_busy_worker_is_stopped_and_started_again():
    with InferenceWorker(replace(OPTIONS, random_size="tiny")) as worker:
        running = worker.predict(prediction(ENDLESS))
        waiting = worker.reconstruct(reconstruction())
        denoising(worker)
        start = time.monotonic()
        worker.stop()
        assert time.monotonic() - start < 0.1
        assert worker.reconstruct(reconstruction()).wait(1).code is ErrorCode.NOT_ACTIVE
        assert worker.join(10)
        assert {running.wait(0).code, waiting.wait(0).code} == {ErrorCode.NOT_ACTIVE}
        worker.start()
        assert worker.reconstruct(reconstruction()).wait(90).code is ErrorCode.OK
        worker.configure(replace(OPTIONS, random_size="huge"))
        status = until(lambda: worker.status if worker.status.state is WorkerState.FAILED else None)
        assert "model size 'huge' is unknown" in status.words
