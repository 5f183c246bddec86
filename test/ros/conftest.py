"""A graph for the tests of a worker, and a node in this process; processes of a test end with it.

Without ROS the tests are skipped: each file asks for rclpy first.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from ros_graph import GraphProcess, graph_environment, own_domain

# Message classes read it when they are imported. ROS 2 Jazzy checks always.
os.environ["ROS_PYTHON_CHECK_FIELDS"] = "1"

HERE = Path(__file__).resolve().parent
_AGAIN_S = 2.0


@pytest.fixture(scope="session")
def graph(tmp_path_factory):
    """The variables of a process on this worker's graph; this process has those of ROS among them too."""
    with own_domain() as domain, pytest.MonkeyPatch.context() as patch:
        environment = graph_environment(domain, tmp_path_factory.mktemp("ros_logs"))
        for name, value in environment.items():
            if name.startswith(("AMENT_", "FASTDDS_", "RMW_", "ROS_")):
                patch.setenv(name, value)
        yield environment


@pytest.fixture
def start(graph, tmp_path):
    """Starts a script of this folder on the graph: ``start("echo_peer.py", ...)``; all end by SIGINT, with code 0."""
    processes = []

    def start(script, *arguments, **variables):
        output = tmp_path / f"{len(processes)}-{script}.txt"
        process = GraphProcess(HERE / script, *map(str, arguments), environment={**graph, **variables}, output=output)
        processes.append(process)
        return process

    yield start
    ends = {process.output.name: process.stop() for process in processes}
    assert not any(ends.values()), "\n".join(
        [f"exit codes {ends}", *(process.output.read_text() for process in processes)]
    )


class Client:
    """A node in this process, spun while it waits."""

    def __init__(self) -> None:
        import rclpy.executors

        self.context = rclpy.Context()
        self.context.init()
        self.node = rclpy.create_node("test_client", context=self.context)
        self._executor = rclpy.executors.SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)

    def until(self, condition, timeout=20.0):
        """Spin until the condition holds; fails after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, f"not within {timeout} s"
            self._executor.spin_once(timeout_sec=0.05)

    def result(self, future, timeout=20.0):
        """Spin until the future is done; its result."""
        self.until(future.done, timeout)
        return future.result()

    def answer(self, service, request, timeout=20.0):
        """Ask, and ask again: a server that has not found this client yet drops its first answers."""
        self.until(service.service_is_ready, timeout)
        deadline = time.monotonic() + timeout
        while True:
            asked, answer = time.monotonic(), service.call_async(request)
            self.until(lambda: answer.done() or time.monotonic() > asked + _AGAIN_S, timeout)  # noqa: B023 - called here
            if answer.done():
                return answer.result()
            service.remove_pending_request(answer)
            assert time.monotonic() < deadline, f"no answer within {timeout} s"

    def close(self) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        self.context.shutdown()


@pytest.fixture
def client(graph):
    made = Client()
    yield made
    made.close()


@pytest.fixture(scope="module")
def shared_client(graph):
    """One for all tests of a file: finding each other takes a second every time."""
    made = Client()
    yield made
    made.close()
