"""All cameras of the robot as one input: keyframes of each, windows of all, and one time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rclpy.clock import JumpThreshold
from rclpy.duration import Duration
from rclpy.node import Node

from gen3r_ros.camera_image import ImageKeyframe
from gen3r_ros.camera_input import CameraInput
from gen3r_ros.camera_settings import CameraSettings
from gen3r_ros.parameters import NodeParameters
from gen3r_ros.stamps import RESTART_BACK_NS
from gen3r_ros.transforms import Transforms

JUMP_NS = 10_000_000_000
"""Simulated time that leaps forward so far is that of another part of a recording."""


class RobotCameras:
    """Subscribes while it lives; :meth:`close` ends it.

    Args:
        node: that subscribes.
        transforms: where the cameras are; forgotten when time is set back.
        parameters: of the node.
        cameras: at least one; predicted views begin at the first.
        on_keyframe: called in a callback when there is a new keyframe: return quickly.
        on_restart: called in a callback, with one sentence, when time was set back: everything before is of another
            scene.

    Attributes:
        inputs: of each camera.
        restarts: how often time was set back.
        last_restart: why the last time; empty before.

    Raises:
        InputError: parameters of quality of service make no sense.
    """

    def __init__(
        self,
        node: Node,
        transforms: Transforms,
        parameters: NodeParameters,
        cameras: Sequence[CameraSettings],
        on_keyframe: Callable[[], None],
        on_restart: Callable[[str], None],
    ) -> None:
        self._node, self._transforms, self._told = node, transforms, on_restart
        self.restarts, self.last_restart = 0, ""
        self.inputs: list[CameraInput] = []
        try:
            for settings in cameras:
                self.inputs.append(
                    CameraInput(node, transforms, parameters, lambda _taken: on_keyframe(), settings, self._restart)
                )
        except Exception:
            for camera in self.inputs:
                camera.close()
            raise
        threshold = JumpThreshold(
            min_forward=Duration(nanoseconds=JUMP_NS),
            min_backward=Duration(nanoseconds=-RESTART_BACK_NS),
            on_clock_change=True,
        )
        self._jumps = node.get_clock().create_jump_callback(threshold, post_callback=self._jumped)

    def close(self) -> None:
        """Stop listening, and let go of all images."""
        self._jumps.unregister()
        for camera in self.inputs:
            camera.close()

    # ------------------------------------------------------------------ facts, of all together

    @property
    def images(self) -> int:
        """Images that came."""
        return sum(camera.images for camera in self.inputs)

    @property
    def infos(self) -> int:
        """Camera infos that came."""
        return sum(camera.infos for camera in self.inputs)

    @property
    def topic(self) -> str:
        """Of images."""
        return ", ".join(camera.topic for camera in self.inputs)

    @property
    def info_topic(self) -> str:
        """Of camera infos."""
        return ", ".join(camera.info_topic for camera in self.inputs)

    @property
    def last_problem(self) -> str:
        """The last message of a camera that could not be used, in words; empty before."""
        return next((camera.last_problem for camera in self.inputs if camera.last_problem), "")

    @property
    def counts(self) -> Counter[str]:
        """What became of images, see :class:`~gen3r_core.reconstruction.keyframes.KeyframeSelector`."""
        return sum((camera.counts for camera in self.inputs), Counter[str]())

    # ------------------------------------------------------------------ keyframes

    def take(self, parameters: NodeParameters) -> None:
        """Go by other parameters from now on."""
        for camera in self.inputs:
            camera.parameters = parameters
            camera.options(parameters.keyframes)

    def clear(self) -> None:
        """Forget all keyframes."""
        for camera in self.inputs:
            camera.clear()

    def newest(self) -> ImageKeyframe | None:
        """The newest keyframe of the first camera that has one."""
        return next((keyframe for camera in self.inputs if (keyframe := camera.newest()) is not None), None)

    def window(self, count: int) -> tuple[ImageKeyframe, ...]:
        """The newest keyframes of all cameras, oldest first; each camera has its share, as far as it has so many."""
        kept = [list(camera.window(count)) for camera in self.inputs]
        chosen: list[ImageKeyframe] = []
        while len(chosen) < count and any(kept):
            for keyframes in kept:
                if keyframes and len(chosen) < count:
                    chosen.append(keyframes.pop())
        return tuple(sorted(chosen, key=lambda keyframe: keyframe.stamp_ns))

    # ------------------------------------------------------------------ time

    def _jumped(self, jump: Any) -> None:
        # A mapping, or a TimeJump with a Duration: rclpy's releases differ.
        delta = int(jump["delta"] if isinstance(jump, Mapping) else jump.delta.nanoseconds)
        if delta > 0 and self._node.get_clock().now().nanoseconds <= delta:
            return  # the first time that came on /clock
        way = "forward" if delta > 0 else "back"
        self._restart(
            f"the clock jumped {way} by {abs(delta) / 1e9:.3f} s" if delta else "time is that of another clock"
        )

    def _restart(self, words: str) -> None:
        self.restarts += 1
        self.last_restart = words
        self._node.get_logger().warning(f"{words}: images and transforms from before are forgotten, a new scene begins")
        self._transforms.clear()
        for camera in self.inputs:
            camera.restart()
        self._told(words)
