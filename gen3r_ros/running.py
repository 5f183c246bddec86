"""Running a process's node until it is told to end, so that it ends with code 0 whatever it is doing then.

rclpy's own handler for Ctrl-C takes the context away at once, and whatever a callback publishes after that raises.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import rclpy
from rclpy.executors import Executor
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args

from gen3r_ros.leftovers import remove_leftovers

_PATIENCE_SECONDS = 0.1
_TWICE_SECONDS = 1.0
"""One Ctrl-C may come twice: from the terminal, and from `ros2 launch`, which got it as well."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Told:
    """Handles signals: remembers the first; a SIGINT that is not the same again interrupts."""

    def __init__(self) -> None:
        self.when: float | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.when is None:
            self.when = now
        elif number == signal.SIGINT and now - self.when > _TWICE_SECONDS:
            signal.default_int_handler(number, frame)


def check_command_line(program: str, description: str, arguments: Sequence[str] | None = None) -> None:
    """Show help where it is asked for, and refuse what is no argument of ROS, as there is nothing else to say.

    Args:
        program: its name.
        description: what it is.
        arguments: of the command line, the program first; None takes those of this process.

    Raises:
        SystemExit: 0 after help, 2 after an argument that is unknown.
    """
    parser = argparse.ArgumentParser(
        prog=program,
        usage=f"{program} [--ros-args -p NAME:=VALUE ... -r TOPIC:=TOPIC ... --params-file FILE]",
        description=description,
    )
    parser.parse_args(remove_ros_args(list(sys.argv if arguments is None else arguments))[1:])


@contextmanager
def ros_context(arguments: Sequence[str] | None = None) -> Iterator[None]:
    """Initialise rclpy, without its signal handlers, and shut it down again; the signals' handlers are as before then.

    Shared memory that killed processes have left behind is given back first.

    Args:
        arguments: of the command line, ROS's among them; None takes those of this process.
    """
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    remove_leftovers()
    rclpy.init(args=None if arguments is None else list(arguments), signal_handler_options=SignalHandlerOptions.NO)
    try:
        yield
    finally:
        rclpy.try_shutdown()
        for number, handler in before.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)


def spin_until_signal(executor: Executor, done: Callable[[], bool] = lambda: False) -> None:
    """Spin until SIGINT or SIGTERM; a callback that runs then is left to end. A second SIGINT interrupts it.

    What follows until the end of :func:`ros_context` is interrupted by a second SIGINT only, too.

    Args:
        executor: with nodes in it. The caller shuts it down. Call this in the main thread, in :func:`ros_context`.
        done: asked after callbacks; True ends it as well.

    Raises:
        Exception: what a callback raised.
        KeyboardInterrupt: at the second SIGINT.
    """
    handler = signal.getsignal(signal.SIGINT)
    told = handler if isinstance(handler, _Told) else _Told()
    for number in _SIGNALS:
        signal.signal(number, told)
    while told.when is None and not done():
        executor.spin_once(timeout_sec=_PATIENCE_SECONDS)
