"""The node with a camera that never stops, while a model infers: what it costs, and what is lost."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from gen3r.msg import Reconstruction
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import PointCloud2

from gen3r_core.errors import Gen3RError
from gen3r_ros.bench.camera import HZ
from gen3r_ros.demo.processes import Processes, graph_variables, own_domain
from gen3r_ros.memory import resident_mb
from gen3r_ros.qos import LATCHED, RESULT
from gen3r_ros.running import ros_context

START_S = 300.0
"""Longest time until the first reconstruction."""

_SPIN_S, _SAMPLE_S = 0.05, 1.0
_CALLBACKS = "callbacks, 99th percentile (ms)"
_OWN = "callbacks, 99th percentile but for waiting for a core (ms)"
_SERVED = "images, from arrival to end of callback, 99th percentile (ms)"


@dataclass
class Load:
    """What was measured, from the first reconstruction on.

    Attributes:
        seconds: that it lasted.
        cores: that the processes had.
        model: name of the weights.
        images: that arrived at the node, and that were due.
        due: the same.
        dropped: images by reason.
        keyframes: that were taken.
        reconstructions: that were published.
        callbacks_ms: 99th percentile of the time in callbacks, with what others took of the cores in between.
        own_ms: the same, of the callbacks alone.
        served_ms: 99th percentile from the arrival of an image to the end of its callback.
        node_mb: memory of the node's process, each second.
        worker_mb: of the process that infers.
    """

    seconds: float = 0.0
    cores: int = 0
    model: str = ""
    images: int = 0
    due: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    keyframes: int = 0
    reconstructions: int = 0
    callbacks_ms: float = 0.0
    own_ms: float = 0.0
    served_ms: float = 0.0
    node_mb: list[float] = field(default_factory=list)
    worker_mb: list[float] = field(default_factory=list)

    @property
    def grown_mb(self) -> float:
        """By how much the node's process grew from the third quarter of the time to the last.

        Before that it fills its buffer of keyframes, an image each.
        """
        quarter = len(self.node_mb) // 4
        if not quarter:
            return 0.0
        return (sum(self.node_mb[-quarter:]) - sum(self.node_mb[-2 * quarter : -quarter])) / quarter


class Listener:
    """Hears what the node says of itself."""

    def __init__(self, node: Node) -> None:
        self.values: dict[str, dict[str, str]] = {}
        self.scenes = 0
        node.create_subscription(DiagnosticArray, "/diagnostics", self._take, 10)
        node.create_subscription(Reconstruction, "reconstruction", self._count, LATCHED)
        for topic in ("points", "points/observed"):  # so that they are made
            node.create_subscription(PointCloud2, topic, lambda _cloud: None, RESULT)
        node.create_subscription(PointCloud2, "map", lambda _cloud: None, LATCHED)

    def number(self, part: str, name: str) -> float:
        """A value of a part; 0 where there is none yet."""
        text = self.values.get(part, {}).get(name, "")
        return float(text) if text else 0.0

    def counts(self, prefix: str) -> dict[str, int]:
        """Values of the input whose names begin so."""
        own = self.values.get("input", {})
        return {name.removeprefix(prefix): int(text) for name, text in own.items() if name.startswith(prefix)}

    def _take(self, message: DiagnosticArray) -> None:
        for one in message.status:
            self.values[one.name.partition(": ")[2]] = {value.key: value.value for value in one.values}

    def _count(self, _message: Reconstruction) -> None:
        self.scenes += 1


def measure(seconds: float, cores: int, parameters: dict[str, Any]) -> Load:
    """Run camera and node as processes of their own.

    Args:
        seconds: from the first reconstruction on.
        cores: of this machine that they and this process may use.
        parameters: of the node.

    Raises:
        Gen3RError: a process ended, or nothing was reconstructed in time; says where the logs are.
    """
    all_cores = os.sched_getaffinity(0)
    words = [word for name, value in parameters.items() for word in ("-p", f"{name}:={value}")]
    logs = Path(tempfile.mkdtemp(prefix="gen3r-bench-"))
    os.sched_setaffinity(0, set(sorted(all_cores)[:cores]))
    try:
        with own_domain() as domain:
            variables = graph_variables(domain, logs)
            os.environ.update(variables)
            with Processes(logs, variables) as processes, ros_context([]):
                processes.start("camera", "gen3r_ros.bench.camera", [])
                pid = processes.start("node", "gen3r_ros.node", ["--ros-args", "-p", "autostart:=true", *words])
                node = rclpy.create_node("bench")
                executor = SingleThreadedExecutor()
                executor.add_node(node)
                try:
                    return _watch(Listener(node), executor, processes, pid, seconds, len(os.sched_getaffinity(0)))
                finally:
                    executor.shutdown()
                    node.destroy_node()
    finally:
        os.sched_setaffinity(0, all_cores)


def _watch(
    heard: Listener, executor: SingleThreadedExecutor, processes: Processes, pid: int, seconds: float, cores: int
) -> Load:
    until = time.monotonic() + START_S
    while not heard.scenes:
        executor.spin_once(timeout_sec=_SPIN_S)
        processes.check()
        if time.monotonic() > until:
            raise Gen3RError(f"nothing was reconstructed in {START_S:.0f} s; see {processes.log('node')}")
    found = Load(cores=cores, model=heard.values.get("worker", {}).get("model", ""))
    before = {"images": heard.number("input", "images"), "scenes": heard.scenes}
    dropped, keyframes = heard.counts("dropped: "), heard.number("results", "keyframes")
    start = sampled = time.monotonic()
    while time.monotonic() < start + seconds:
        executor.spin_once(timeout_sec=_SPIN_S)
        if time.monotonic() >= sampled:
            sampled += _SAMPLE_S
            processes.check()
            found.node_mb.append(resident_mb(pid) or 0.0)
            worker = int(heard.number("worker", "pid"))
            found.worker_mb.append((resident_mb(worker) if worker else None) or 0.0)
    found.seconds = time.monotonic() - start
    found.due = round(found.seconds * HZ)
    found.images = int(heard.number("input", "images") - before["images"])
    found.dropped = {
        name: count - dropped.get(name, 0)
        for name, count in heard.counts("dropped: ").items()
        if count > dropped.get(name, 0)
    }
    found.keyframes = int(heard.number("results", "keyframes") - keyframes)
    found.reconstructions = heard.scenes - int(before["scenes"])
    found.callbacks_ms, found.own_ms, found.served_ms = (
        heard.number("input", name) for name in (_CALLBACKS, _OWN, _SERVED)
    )
    return found
