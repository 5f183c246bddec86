"""What the node says of itself on /diagnostics, and in one sentence why nothing is published."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Mapping

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from rclpy.node import Node

from gen3r_core.checkpoint.precheck import CheckpointFacts
from gen3r_core.reconstruction.metric import DepthScale
from gen3r_core.serving.status import WorkerState, WorkerStatus
from gen3r_ros.camera_input import CameraInput
from gen3r_ros.diagnostic_sender import diagnostic_sender
from gen3r_ros.executor import CallbackExecutor
from gen3r_ros.jobs import Sources
from gen3r_ros.memory import available_mb, resident_mb
from gen3r_ros.parameters import NodeParameters
from gen3r_ros.scene_loop import SceneLoop
from gen3r_ros.silence import input_trouble, sim_time, why_silent

_RATE_S = 5.0


class Rate:
    """Events a second of a counter that is read from time to time."""

    def __init__(self) -> None:
        self._read: deque[tuple[float, int]] = deque()

    def per_second(self, count: int) -> float:
        """The rate over the last seconds, given the counter's present value."""
        now = time.monotonic()
        if self._read and count < self._read[-1][1]:
            self._read.clear()
        self._read.append((now, count))
        while now - self._read[0][0] > _RATE_S and len(self._read) > 2:
            self._read.popleft()
        (since, first), (until, last) = self._read[0], self._read[-1]
        return (last - first) / (until - since) if until > since else 0.0


class Diagnostics:
    """Publishes on /diagnostics as long as the node is there.

    Args:
        node: that publishes.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._sender = diagnostic_sender(node)
        self._rates: dict[str, Rate] = {}

    def publish(
        self,
        state: str,
        parameters: NodeParameters,
        facts: CheckpointFacts | None,
        loop: SceneLoop | None,
        sources: Sources | None,
        failure: str,
    ) -> None:
        """Say how things are.

        Args:
            state: of the life cycle.
            parameters: of the node.
            facts: of the checkpoint; None where the node is not configured.
            loop: the same.
            sources: None where the node is not active.
            failure: why the last transition failed; empty if it did not.
        """
        self._sender.send(
            [
                self._worker(facts, loop, failure),
                *self._inputs(parameters, sources),
                self._output(state, loop, sources, failure),
            ]
        )

    def _worker(self, facts: CheckpointFacts | None, loop: SceneLoop | None, failure: str) -> DiagnosticStatus:
        status = WorkerStatus() if loop is None else loop.worker.status
        level, words = DiagnosticStatus.OK, f"{status.state}{f': {status.words}' if status.words else ''}"
        if failure or status.state is WorkerState.FAILED:
            level, words = DiagnosticStatus.ERROR, failure or words
        elif status.state is WorkerState.RESTARTING:
            level = DiagnosticStatus.ERROR
        elif facts is not None and facts.packaged:
            level, words = DiagnosticStatus.WARN, f"{words}; no checkpoint was named: {facts.name} is in use"
        values: dict[str, object] = {
            "state": status.state,
            "load progress": f"{100 * status.progress:.0f} %",
            "restarts": status.restarts,
            "last failure": status.last_failure,
            "pid": "" if status.pid is None else status.pid,
            "model": "" if status.model is None else status.model.name,
            "memory of the node (MB)": _rounded(resident_mb()),
            "memory of the worker (MB)": _rounded(None if status.pid is None else resident_mb(status.pid)),
            "memory available on this machine (MB)": _rounded(available_mb()),
        }
        if status.device_memory is not None:
            used, total = status.device_memory
            values["memory of the device in use (MB)"] = _rounded(used / 1e6)
            values["memory of the device (MB)"] = _rounded(total / 1e6)
        if status.model is not None:
            values.update({"device": status.model.device, "dtype": status.model.dtype,
                           "parameters": status.model.parameters})  # fmt: skip
        return self._status("worker", level, words, values)

    def _inputs(self, parameters: NodeParameters, sources: Sources | None) -> list[DiagnosticStatus]:
        """One of each camera; that of the only one is called "input", others have their names."""
        if sources is None:
            return [self._status("input", DiagnosticStatus.OK, "not listening", {})]
        return [self._input(parameters, sources, camera) for camera in sources.camera.inputs]

    def _input(self, parameters: NodeParameters, sources: Sources, camera: CameraInput) -> DiagnosticStatus:
        name, now, depth = f"input {camera.settings.name}".strip(), time.monotonic(), camera.depth
        trouble = input_trouble(camera)
        waiting, looked_at = camera.queues
        values: dict[str, object] = {
            "topic": camera.topic,
            "images": camera.images,
            "images per second": self._rate(f"{name} images", camera.images),
            "seconds since the last image": _seconds(None if camera.last_image is None else now - camera.last_image),
            "seconds since the last that was used": _seconds(
                None if camera.last_used is None else now - camera.last_used
            ),
            "seconds that stamps are behind the clock": _seconds(camera.behind_s),
            "camera infos": camera.infos,
            "camera infos per second": self._rate(f"{name} infos", camera.infos),
            "without pose": camera.without_pose,
        }
        if depth is not None:
            values.update({
                "depth topic": depth.topic,
                "depth images": depth.images,
                "depth images per second": self._rate(f"{name} depth", depth.images),
                "without depth": camera.without_depth,
            })  # fmt: skip
        values.update({
            "images that wait for camera_info, depth or TF": waiting,
            "images that wait to be looked at": looked_at,
            **self._callbacks(),
            "images, from arrival to end of callback, 99th percentile (ms)": f"{camera.served.milliseconds[0]:.1f}",
            "last problem": camera.last_problem,
            "fixed frame": parameters.fixed_frame,
            "use_sim_time": sim_time(self._node),
            "transforms that make no sense": getattr(sources.transforms, "refused", 0),
            "restarts of time": sources.camera.restarts,
            "last restart of time": sources.camera.last_restart,
            **_prefixed("dropped: ", camera.dropped),
            **_prefixed("keyframes: ", camera.counts),
        })  # fmt: skip
        return self._status(name, DiagnosticStatus.WARN if trouble else DiagnosticStatus.OK, trouble, values)

    def _rate(self, name: str, count: int) -> str:
        return f"{self._rates.setdefault(name, Rate()).per_second(count):.2f}"

    def _callbacks(self) -> dict[str, object]:
        """How long the thread that serves them is busy with one, at the worst kind of them."""
        executor = self._node.executor
        if not isinstance(executor, CallbackExecutor):
            return {}
        (slowest, most), (last, longest) = executor.times.slowest(), executor.times.longest()
        return {
            "callbacks, 99th percentile (ms)": f"{most:.1f}",
            "callbacks, slowest": slowest,
            "callbacks, 99th percentile but for waiting for a core (ms)": f"{executor.own_times.slowest()[1]:.1f}",
            "callbacks, longest (ms)": f"{longest:.1f}",
            "callbacks, longest of": last,
        }

    def _output(self, state: str, loop: SceneLoop | None, sources: Sources | None, failure: str) -> DiagnosticStatus:
        silence = why_silent(state, loop, None if sources is None else sources.camera, failure)
        if sources is not None and not silence:
            silence = "; ".join(sources.outputs.ends.troubles())
        values: dict[str, object] = {"lifecycle": state}
        if loop is not None:
            results = sum(count for name, count in dict(loop.tally.counts).items() if name.endswith(" OK"))
            scene = loop.scene
            placement = scene.placement
            values.update({
                "scene": scene.name,
                "revision": scene.revision,
                "results per second": self._rate("results", results),
                "jobs waiting or running": loop.jobs,
                "goal that waits for images or scale": loop.goal_waits,
                "metric": "" if placement is None else placement.metric,
                "not metric because": "" if placement is None else placement.reason,
                "scale from": "" if placement is None else placement.scale_from,
                **_depth_values(scene.depth_scale),
                "map points": len(scene.map),
                "last failure": loop.tally.last_failure,
                **_prefixed("", loop.tally.counts),
            })  # fmt: skip
            for kind, stages in dict(loop.tally.seconds).items():
                values.update({f"seconds of {kind}: {stage}": f"{spent:.3f}" for stage, spent in stages.items()})
        level = DiagnosticStatus.OK
        if silence and state == "active":
            level = DiagnosticStatus.WARN
        return self._status("results", level, silence or "publishing", values)

    @staticmethod
    def _status(name: str, level: bytes, message: str, values: Mapping[str, object]) -> DiagnosticStatus:
        return DiagnosticStatus(
            level=level,
            name=name,
            message=message,
            hardware_id="gen3r",
            values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
        )


def _prefixed(prefix: str, counts: Counter[str]) -> dict[str, object]:
    return {f"{prefix}{name}": count for name, count in sorted(dict(counts).items())}


def _depth_values(found: DepthScale | None) -> dict[str, object]:
    if found is None:
        return {}
    return {"depth: metres per unit": f"{found.metres_per_unit:.4f}", "depth: spread": f"{found.spread:.4f}",
            "depth: why no scale": found.reason}  # fmt: skip


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _rounded(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"
