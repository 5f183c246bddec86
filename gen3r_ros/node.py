"""The node of gen3r: camera images in; cloud, map, poses and predicted views out.

    ros2 run gen3r gen3r_node --ros-args -p checkpoint:=FOLDER -r image_raw:=/camera/image_raw

A managed node: ``configure`` begins to load the model in a process of its own, ``activate`` waits for it; with the
parameter ``autostart`` it does both by itself. Callbacks keep references and return; a thread of its own
(:mod:`gen3r_ros.scene_loop`) does the rest.
"""

from __future__ import annotations

import functools
import gc
import math
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.lifecycle import LifecycleNodeMixin, LifecycleState, TransitionCallbackReturn
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.parameter import Parameter

from gen3r_core.checkpoint.precheck import CheckpointFacts, check_checkpoint
from gen3r_core.errors import Gen3RError, InputError
from gen3r_core.serving.codes import ErrorCode
from gen3r_core.serving.status import WorkerState
from gen3r_ros.bonds import ManagerBond
from gen3r_ros.camera_settings import all_cameras
from gen3r_ros.cameras import RobotCameras
from gen3r_ros.diagnostics import Diagnostics
from gen3r_ros.executor import CallbackExecutor, PatientGroup
from gen3r_ros.goals import Goal, GoalEnd, Goals
from gen3r_ros.jobs import Sources
from gen3r_ros.map_service import MapService
from gen3r_ros.outputs import Outputs
from gen3r_ros.parameters import NodeParameters, check_change, declare, declare_cameras, read
from gen3r_ros.running import check_command_line, ros_context, spin_until_signal
from gen3r_ros.scene_loop import SceneLoop
from gen3r_ros.transforms import listen_to_transforms
from gen3r_ros.transport import use_large_message_profile

_RANDOM_STEPS = 4
_POLL_S = 0.05
_SOON_S = 0.001
_SWITCH_S = 0.001
"""Python's threads take turns; a callback shall not wait for the others 5 ms, the default, every time."""
_UNCONFIGURED = "unconfigured"
_SUCCESS, _FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


Transition = Callable[["Gen3RNode", LifecycleState], TransitionCallbackReturn]


def _remembers_faults(transition: Transition) -> Transition:
    """What a transition raises is for ``on_error`` to tell: rclpy only says that there was something."""

    @functools.wraps(transition)
    def run(self: Gen3RNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(self, state)
        except Exception as error:
            self.fault = f"{type(error).__name__}: {error}"
            raise

    return run


class Gen3RNode(LifecycleNodeMixin, Node):
    """The managed node.

    Args:
        name: of the node.
        arguments: of :class:`rclpy.node.Node`.

    Attributes:
        fault: what a transition raised last, in words.

    Raises:
        InputError: a parameter has a value that cannot be.
    """

    def __init__(self, name: str = "gen3r", **arguments: Any) -> None:
        Node.__init__(self, name, **arguments)
        # Its state can be asked for while an activation waits for the model.
        LifecycleNodeMixin.__init__(self, callback_group=PatientGroup())
        self._now: NodeParameters = declare(self)
        self._facts: CheckpointFacts | None = None
        self._loop: SceneLoop | None = None
        self._outputs: Outputs | None = None
        self._sources: Sources | None = None
        self._bond: ManagerBond | None = None
        self._failure = self.fault = ""
        self._closing = threading.Event()
        self._bringing_up = threading.Lock()  # taken once
        self._by_itself = self._late = False  # brings itself up; an activation ended before the model was ready
        self._told = Diagnostics(self)
        self._goals = Goals(self, self._submit, self._cancel, lambda: self._now)
        self._maps = MapService(self, lambda: self._loop, lambda: self._now.map_folder)
        self.add_on_set_parameters_callback(self._check_parameters)
        self.add_post_set_parameters_callback(self._take_parameters)
        self._beat = self.create_timer(
            self._now.diagnostics_period_s,
            self._tell,
            callback_group=MutuallyExclusiveCallbackGroup(),
            clock=Clock(clock_type=ClockType.STEADY_TIME),
        )
        if self._now.autostart:  # in a callback: the node is served by then, and answers while it waits for the model
            group, clock = PatientGroup(), Clock(clock_type=ClockType.STEADY_TIME)
            self._once = self.create_timer(_SOON_S, self._bring_up, callback_group=group, clock=clock)

    @property
    def state(self) -> str:
        """Label of the lifecycle state."""
        return str(self._state_machine.current_state[1])

    def close(self) -> None:
        """End everything that was started; the node is of no use afterwards."""
        self._closing.set()
        self._free()

    # ------------------------------------------------------------------ transitions

    def _bring_up(self) -> None:
        """Configure and activate, once. What fails says so; whoever manages the node goes on from where it is."""
        self._once.cancel()
        first = self._bringing_up.acquire(blocking=False)  # the timer may have fired again meanwhile
        if first and self.state == _UNCONFIGURED and self.trigger_configure() is _SUCCESS:
            self._by_itself = True
            try:
                self.trigger_activate()
            finally:
                self._by_itself = False

    @_remembers_faults
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Begin to load the model."""
        del state
        self._free()
        self._failure, self._late = "", False
        self._beat.timer_period_ns = round(self._now.diagnostics_period_s * 1e9)
        try:
            self._facts = self._look_at_checkpoint()
            prefix = self._now.frame_prefix or self.get_fully_qualified_name()  # robots in one graph have one TF tree
            self._outputs = Outputs(self, self._now.fixed_frame, prefix)
        except Gen3RError as error:
            return self._failed(f"configuration failed: {error}")
        self._loop = SceneLoop(self, lambda: self._now, self._facts)
        self._loop.start()
        return _SUCCESS

    @_remembers_faults
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Wait for the model; then listen."""
        del state
        loop, outputs, facts = self._loop, self._outputs, self._facts
        if loop is None or outputs is None or facts is None:
            return self._failed("activation failed: the node is not configured")
        reason = self._wait_for_model(loop)
        if reason:
            return self._failed(f"activation failed: {reason}")
        self._failure = ""
        if facts.packaged:
            self.get_logger().warning(
                f"NO CHECKPOINT WAS NAMED: {facts.name}, the small model of this package, is in use. What it predicts "
                f"is coarse; set the parameter checkpoint to a folder of published weights for more"
            )
        transforms = listen_to_transforms(self, self._now.tf_history_s)
        try:
            self._bond = ManagerBond(self, wanted=self._now.bond)
            cameras = all_cameras(self, self._now)
            camera = RobotCameras(self, transforms, self._now, cameras, loop.keyframe, loop.restart)
        except InputError as error:
            transforms.close()
            self._break_bond()
            return self._failed(f"activation failed: {error}")
        self._sources = Sources(camera, transforms, outputs)
        loop.open(self._sources)
        return _SUCCESS

    @_remembers_faults
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Listen and publish no more; the model and the map stay."""
        del state
        self._silence()
        return _SUCCESS

    @_remembers_faults
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything."""
        del state
        self._free()
        return _SUCCESS

    @_remembers_faults
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """The same, for good."""
        del state
        self._free()
        return _SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """A transition raised: start over, unconfigured."""
        self._failed(f"a transition from the state {state.label} raised {self.fault}; the node is unconfigured again")
        self._free()
        return _SUCCESS

    def _look_at_checkpoint(self) -> CheckpointFacts:
        size = self._now.random_size
        if size is None:
            return check_checkpoint(self._now.checkpoint or None)
        self.get_logger().warning(f"the model has RANDOM WEIGHTS of the size {size}: for tests only, results are noise")
        return CheckpointFacts(f"random-{size}", packaged=False, steps=_RANDOM_STEPS, guidance=1.0)

    def _wait_for_model(self, loop: SceneLoop) -> str:
        """Why there is none; empty once it is there. Without a manager nobody would ask again: then there is no end."""
        until = time.monotonic() + (math.inf if self._by_itself else self._now.activation_timeout_s)
        self._late = False
        while True:
            status = loop.worker.status
            if status.state in (WorkerState.READY, WorkerState.BUSY):
                return ""
            if status.state is WorkerState.FAILED:
                return f"the model cannot be used: {status.words}"
            if self._closing.wait(_POLL_S):
                return "the node ends"
            if time.monotonic() >= until:
                self._late = True
                return (
                    f"the model was not ready within {self._now.activation_timeout_s:g} s ({status.state}, "
                    f"{100 * status.progress:.0f} %, {status.words}); activate again later"
                )

    def _failed(self, reason: str) -> TransitionCallbackReturn:
        self._failure = reason
        if self._closing.is_set():  # whoever ends the node knows
            self.get_logger().info(reason)
        else:
            self.get_logger().error(reason)
        return _FAILURE

    def _break_bond(self) -> None:
        bond, self._bond = self._bond, None
        if bond is not None:
            bond.close()

    def _silence(self) -> None:
        self._break_bond()
        sources, self._sources = self._sources, None
        if self._loop is not None and sources is not None:
            self._loop.shut()
        if sources is not None:
            sources.camera.close()
            sources.transforms.close()

    def _free(self) -> None:
        self._silence()
        loop, self._loop = self._loop, None
        if loop is not None and not loop.stop():
            self.get_logger().error("the inference process did not end in time")
        outputs, self._outputs = self._outputs, None
        if outputs is not None:
            outputs.close()
        self._facts = None

    # ------------------------------------------------------------------ callbacks

    def _submit(self, goal: Goal) -> None:
        loop = self._loop
        if loop is None:
            goal.finish(GoalEnd(ErrorCode.NOT_ACTIVE, f"the node is {self.state}; configure and activate it first"))
        else:
            loop.submit(goal)

    def _cancel(self, goal: Goal) -> None:
        loop = self._loop
        if loop is not None:
            loop.cancel(goal)

    def _check_parameters(self, changed: list[Parameter[Any]]) -> SetParametersResult:
        reason = check_change(self, changed, configured=self._loop is not None)
        return SetParametersResult(successful=not reason, reason=reason)

    def _take_parameters(self, changed: list[Parameter[Any]]) -> None:
        del changed
        self._now = read(self)
        declare_cameras(self, self._now)
        sources = self._sources
        if sources is not None:
            sources.camera.take(self._now)

    def _tell(self) -> None:
        loop = self._loop
        if self._late and loop is not None and loop.worker.status.state is WorkerState.READY:
            self._late, self._failure = False, ""
        self._told.publish(self.state, self._now, self._facts, self._loop, self._sources, self._failure)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the node until it is interrupted (SIGINT or SIGTERM).

    Args:
        arguments: of the command line, ROS's among them; None takes those of this process.

    Returns:
        0, or 1 where it cannot start.
    """
    check_command_line("gen3r_node", "The node of gen3r. Parameters: docs/parameters.md; use: docs/ros.md.", arguments)
    use_large_message_profile()
    sys.setswitchinterval(_SWITCH_S)
    with ros_context(arguments):
        try:
            node = Gen3RNode()
        except Gen3RError as error:
            get_logger("gen3r").fatal(str(error))
            return 1
        gc.collect()
        gc.freeze()  # the libraries' objects are no garbage; looking through them stops all threads
        executor = CallbackExecutor()
        executor.add_node(node)
        try:
            _serve(executor, node)
        finally:
            node.close()  # goals end, and with them the callbacks that wait for them
            executor.shutdown(timeout_sec=2.0)
            node.destroy_node()
    return 0


def _serve(executor: CallbackExecutor, node: Node) -> None:
    """Serve callbacks until a signal; one that raises is a fault, but no end."""
    while True:
        try:
            spin_until_signal(executor)
        except KeyboardInterrupt:
            return
        except Exception as error:  # noqa: BLE001 - whatever it was, the other callbacks go on
            node.get_logger().error(f"a callback failed: {type(error).__name__}: {error}")
        else:
            return


if __name__ == "__main__":
    sys.exit(main())
