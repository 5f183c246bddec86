"""Up and down again, many times: nothing is left behind."""

import time
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="ROS is not installed")

from managed_node import Manager, parameter_arguments
from ros_graph import children

from gen3r_ros.memory import resident_mb

ROUNDS = 200
WARM = 10
"""Rounds after which libraries have what they keep for good."""

MOST_MB = 10.0
"""By which the process may grow after that; a leak of 0.1 MB a round would be twice as much."""

SLACK = {"threads": 8, "descriptors": 12}
"""Threads of the executor start when they are needed, and pipes of a worker that has ended wait for the garbage
collector; a leak of one a round would be many times that."""


def holdings(pid):
    """What a process has of things that could be left behind."""
    folder = Path(f"/proc/{pid}")
    return {
        "threads": len(list((folder / "task").iterdir())),
        "descriptors": len(list((folder / "fd").iterdir())),
        "children": len(children(pid)),
        "mappings of shared memory": sum("/dev/shm" in line for line in (folder / "maps").read_text().splitlines()),
    }


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_hundred_rounds_leave_nothing_behind(start, shared_client):
    """Of the whole life cycle, with a camera that sends all the time, and a worker process each time."""
    client = shared_client
    start("camera_source.py", "10")
    node = start("gen3r_process.py", *parameter_arguments())
    manager = Manager(client)
    manager.wait()
    before, grown, begin = None, 0.0, time.monotonic()
    for number in range(1, ROUNDS + 1):
        for transition in ("configure", "activate", "deactivate", "cleanup"):
            assert manager.do(transition), (number, transition)
        if number == WARM:
            client.until(lambda: not children(node.pid), 10)
            before, megabytes = holdings(node.pid), resident_mb(node.pid)
        if number >= WARM:
            grown = resident_mb(node.pid) - megabytes
        if number % 20 == 0:
            seconds = time.monotonic() - begin
            print(f"{number} rounds, {seconds:.0f} s: {holdings(node.pid)}, {grown:+.1f} MB", flush=True)
    client.until(lambda: not children(node.pid), 10)
    after = holdings(node.pid)
    assert after["children"] == before["children"] == 0
    for name, count in after.items():
        assert count <= before[name] + SLACK.get(name, 0), name
    assert grown < MOST_MB
