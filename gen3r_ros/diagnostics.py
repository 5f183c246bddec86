"""What the node says of itself on /diagnostics, and in one sentence why nothing is published."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Mapping

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node

from gen3r_core.checkpoint.precheck import CheckpointFacts
from gen3r_core.serving.status import WorkerState, WorkerStatus
from gen3r_ros.camera_input import CameraInput
from gen3r_ros.executor import CallbackExecutor
from gen3r_ros.parameters import NodeParameters
from gen3r_ros.scene_loop import SceneLoop

SILENCE_S = 5.0
"""Without an image for so long, something is wrong."""

_WORKING = (WorkerState.READY, WorkerState.BUSY)
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
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._images, self._results = Rate(), Rate()

    def publish(
        self,
        state: str,
        parameters: NodeParameters,
        facts: CheckpointFacts | None,
        loop: SceneLoop | None,
        camera: CameraInput | None,
        failure: str,
    ) -> None:
        """Say how things are.

        Args:
            state: of the life cycle.
            parameters: of the node.
            facts: of the checkpoint; None where the node is not configured.
            loop: the same.
            camera: None where the node is not active.
            failure: why the last transition failed; empty if it did not.
        """
        message = DiagnosticArray()
        message.header.stamp = self._node.get_clock().now().to_msg()
        message.status = [
            self._worker(facts, loop, failure),
            self._input(parameters, camera),
            self._output(state, loop, camera, failure),
        ]
        self._publisher.publish(message)

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
        }
        if status.model is not None:
            values.update({"device": status.model.device, "dtype": status.model.dtype,
                           "parameters": status.model.parameters})  # fmt: skip
        return self._status("worker", level, words, values)

    def _input(self, parameters: NodeParameters, camera: CameraInput | None) -> DiagnosticStatus:
        if camera is None:
            return self._status("input", DiagnosticStatus.OK, "not listening", {})
        trouble = input_trouble(camera)
        values: dict[str, object] = {
            "topic": camera.topic,
            "images": camera.images,
            "images per second": f"{self._images.per_second(camera.images):.2f}",
            "camera infos": camera.infos,
            "without pose": camera.without_pose,
            **self._callbacks(),
            "images, from arrival to end of callback, 99th percentile (ms)": f"{camera.served.milliseconds[0]:.1f}",
            "last problem": camera.last_problem,
            "fixed frame": parameters.fixed_frame,
            **_prefixed("dropped: ", camera.dropped),
            **_prefixed("keyframes: ", camera.counts),
        }
        return self._status("input", DiagnosticStatus.WARN if trouble else DiagnosticStatus.OK, trouble, values)

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

    def _output(self, state: str, loop: SceneLoop | None, camera: CameraInput | None, failure: str) -> DiagnosticStatus:
        silence = why_silent(state, loop, camera, failure)
        values: dict[str, object] = {"lifecycle": state}
        if loop is not None:
            results = sum(count for name, count in dict(loop.tally.counts).items() if name.endswith(" OK"))
            scene = loop.scene
            placement = scene.placement
            values.update({
                "scene": scene.name,
                "revision": scene.revision,
                "results per second": f"{self._results.per_second(results):.2f}",
                "metric": "" if placement is None else placement.metric,
                "not metric because": "" if placement is None else placement.reason,
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

    def _status(self, name: str, level: bytes, message: str, values: Mapping[str, object]) -> DiagnosticStatus:
        return DiagnosticStatus(
            level=level,
            name=f"{self._node.get_fully_qualified_name().lstrip('/')}: {name}",
            message=message,
            hardware_id="gen3r",
            values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
        )


def _prefixed(prefix: str, counts: Counter[str]) -> dict[str, object]:
    return {f"{prefix}{name}": count for name, count in sorted(dict(counts).items())}


def input_trouble(camera: CameraInput) -> str:
    """Why no image can be used, in one sentence; empty where some can."""
    since = None if camera.last_image is None else time.monotonic() - camera.last_image
    if since is None or since > SILENCE_S:
        how_long = "came yet" if since is None else f"for {since:.0f} s"
        if not camera.publishers:
            return f"no image {how_long} on {camera.topic}: nobody publishes it; is the name right, the camera on?"
        return (
            f"no image {how_long} on {camera.topic}, though somebody publishes it: messages larger than the transport "
            f"takes (see FASTDDS_DEFAULT_PROFILES_FILE in docs/ros.md), QoS, or a camera that stands still"
        )
    if not camera.infos:
        return f"images come on {camera.topic}, but no camera_info on {camera.info_topic}"
    counts = camera.counts
    if not sum(counts.values()):
        return f"no image could be used: {camera.last_problem}" if camera.dropped else ""
    return ""


def why_silent(state: str, loop: SceneLoop | None, camera: CameraInput | None, failure: str) -> str:
    """Why nothing is published, in one sentence; empty where something is."""
    if loop is None or state != "active" or camera is None:
        return failure or f"the node is {state}; results come when it is active"
    status = loop.worker.status
    if status.state not in _WORKING:
        return f"the model is not ready ({status.state}): {status.words or status.last_failure}"
    trouble = input_trouble(camera)
    if trouble:
        return trouble
    if loop.scene.revision == 0:
        taken = loop.tally.counts["keyframes"]
        return loop.tally.last_failure or f"{taken} keyframes were taken, no reconstruction is done yet"
    return ""
