"""One worker process for all tests that need one; it takes seconds to start."""

import shutil
from dataclasses import replace

import pytest
from published_checkpoint import write_published
from serving_jobs import OPTIONS, reconstruction, until

from gen3r_core.serving.client import InferenceWorker
from gen3r_core.serving.status import WorkerState


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    return write_published(tmp_path_factory.mktemp("serving") / "checkpoint")


@pytest.fixture(scope="session")
def broken(checkpoint):
    """A copy, a network of which was cut off."""
    folder = checkpoint.parent / "broken"
    shutil.copytree(checkpoint, folder)
    weights = next((folder / "vggt").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1000])
    return folder


@pytest.fixture(scope="session")
def begun(broken, checkpoint):
    """A worker that was given a broken checkpoint first and then the good one, and what it said all the while."""
    worker = InferenceWorker(replace(OPTIONS, checkpoint=broken))
    worker.start()
    events = []
    early = worker.reconstruct(reconstruction())
    until(lambda: worker.status.state is WorkerState.FAILED)
    late = worker.reconstruct(reconstruction())
    outcomes = [early.wait(5), late.wait(5)]
    failed = worker.status
    events += worker.events.drain()
    worker.configure(replace(OPTIONS, checkpoint=checkpoint))
    until(lambda: worker.status.state is not WorkerState.FAILED)
    while worker.status.state is not WorkerState.READY:
        if event := worker.events.get(60):
            events.append(event)
    yield worker, failed, outcomes, events
    worker.stop()
    assert worker.join(20)
    assert worker.status.state is WorkerState.STOPPED
    assert worker.status.pid is None


@pytest.fixture
def worker(begun):
    """Ready, and nothing in its queue; leave it idle."""
    worker = begun[0]
    until(lambda: worker.status.state is WorkerState.READY)
    worker.events.drain()
    return worker
