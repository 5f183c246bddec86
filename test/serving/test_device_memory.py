"""What a GPU's memory is told with: the worker's signs of life."""

from gen3r_core.serving.events import EventQueue
from gen3r_core.serving.messages import Beat
from gen3r_core.serving.options import WorkerOptions
from gen3r_core.serving.supervisor import Supervisor
from gen3r_core.serving.worker import Worker


def test_signs_of_life_tell_the_memory_of_the_device():
    events = EventQueue()
    supervisor = Supervisor(events)
    assert supervisor.status.device_memory is None
    supervisor._hear(Beat((3, 8)), None)
    assert supervisor.status.device_memory == (3, 8)
    supervisor._hear(Beat(), None)
    assert supervisor.status.device_memory is None
    assert len(events) == 0  # nobody is woken by it


def test_without_a_gpu_there_is_none():
    assert Worker(None, WorkerOptions())._device_memory() is None
