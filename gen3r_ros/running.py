"""Running a process's node until it is told to end, so that it ends with code 0 whatever it is doing then.

rclpy's own handler for Ctrl-C takes the context away at once, and whatever a callback publishes after that raises.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import rclpy
from rclpy.executors import Executor
from rclpy.signals import SignalHandlerOptions

_PATIENCE_SECONDS = 0.1


@contextmanager
def ros_context(arguments: Sequence[str] | None = None) -> Iterator[None]:
    """Initialise rclpy, without its signal handlers, and shut it down again.

    Args:
        arguments: of the command line, ROS's among them; None takes those of this process.
    """
    rclpy.init(args=None if arguments is None else list(arguments), signal_handler_options=SignalHandlerOptions.NO)
    try:
        yield
    finally:
        rclpy.try_shutdown()


def spin_until_signal(executor: Executor) -> None:
    """Spin until SIGINT or SIGTERM; a callback that runs then is left to end. A second SIGINT interrupts it.

    Args:
        executor: with nodes in it. The caller shuts it down. Call this in the main thread.

    Raises:
        Exception: what a callback raised.
        KeyboardInterrupt: at the second SIGINT.
    """
    told = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal told
        if told and number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        told = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while not told:
            executor.spin_once(timeout_sec=_PATIENCE_SECONDS)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
