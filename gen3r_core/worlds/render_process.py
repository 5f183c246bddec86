"""A camera in a process of its own, so that whoever asks for pictures goes on meanwhile and can end it at once.

``python -m gen3r_core.worlds.render_process FD`` is that process; :class:`RenderProcess` starts it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen3r_core.errors import Gen3RError
from gen3r_core.worlds.camera import Picture, TrueCloud, WorldCamera
from gen3r_core.worlds.floorplan import WorldKind
from gen3r_core.worlds.world import make_world

_END_SECONDS = 5.0


@dataclass(frozen=True)
class CameraSettings:
    """What is rendered; see :class:`~gen3r_core.worlds.camera.WorldCamera`.

    Attributes:
        seed: of the world.
        kind: of the world; None draws it.
        size: ``(height, width)``, pixels.
        hfov: horizontal field of view, radians.
        samples: n x n a pixel.
        cache_folder: for pictures; None for none.
    """

    seed: int
    kind: WorldKind | None
    size: tuple[int, int]
    hfov: float
    samples: int = 2
    cache_folder: Path | None = None

    def camera(self) -> WorldCamera:
        """The camera itself, in this process."""
        world = make_world(self.seed, self.kind)
        return WorldCamera(world, self.size, self.hfov, samples=self.samples, cache_folder=self.cache_folder)


class RenderProcess:
    """Answers one request after the other, in their order.

    Args:
        settings: of the camera.
        threads: that it may take.

    Raises:
        Gen3RError: no process can be started.
    """

    def __init__(self, settings: CameraSettings, *, threads: int = 1) -> None:
        self._connection: Connection[Any, Any]
        self._connection, theirs = Pipe()
        variables = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "gen3r_core.worlds.render_process", str(theirs.fileno())],
                    env={**os.environ, **dict.fromkeys(variables, str(threads))},
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C is for the one who asks
                )
        except OSError as error:
            self._connection.close()
            raise Gen3RError(f"no process for rendering can be started: {error}") from error
        self._waiting = 0
        self._send(settings)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def ask_picture(self, T_world_cam: NDArray[np.float64]) -> None:
        """Ask for the picture from a pose ``[4, 4]``, camera to world, metres, OpenCV axes.

        Raises:
            Gen3RError: the process has ended.
        """
        self._send(("picture", T_world_cam))
        self._waiting += 1

    def ask_cloud(self, height: float, spacing: float) -> None:
        """Ask for the true cloud; arguments and errors as :meth:`WorldCamera.cloud` and :meth:`ask_picture`."""
        self._send(("cloud", height, spacing))
        self._waiting += 1

    def answer(self, timeout: float = 0.0) -> Picture | TrueCloud | None:
        """The answer to the oldest request that has none yet.

        Args:
            timeout: seconds to wait for it; 0 looks whether it is there.

        Returns:
            None where it is not there yet, or nothing was asked.

        Raises:
            Gen3RError: as in the process; or the process has ended.
        """
        if not self._waiting:
            return None
        try:
            if not self._connection.poll(timeout):
                return None
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._ended() from error
        self._waiting -= 1
        if isinstance(answer, Exception):
            raise answer
        if not isinstance(answer, Picture | TrueCloud):
            raise Gen3RError(f"the process for rendering answered with {type(answer).__name__}")
        return answer

    def close(self) -> None:
        """End it now, whatever it does."""
        self._connection.close()
        self._process.terminate()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _send(self, message: object) -> None:
        try:
            self._connection.send(message)
        except OSError as error:
            raise self._ended() from error

    def _ended(self) -> Gen3RError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        return Gen3RError(
            f"the process for rendering has ended (exit code {self._process.poll()}); its reason, if it gave one, "
            f"stands above in the terminal. Was it killed, or is memory short?"
        )


def serve(connection: Connection[Any, Any]) -> None:
    """Answer until the other side has gone."""
    settings: CameraSettings = connection.recv()
    camera: WorldCamera | Gen3RError
    try:
        camera = settings.camera()
        camera.prepare()
    except Gen3RError as error:  # told when something is asked
        camera = error
    while True:
        kind, *arguments = connection.recv()
        try:
            answer: object = camera
            if not isinstance(camera, Gen3RError):
                answer = camera.picture(*arguments) if kind == "picture" else camera.cloud(*arguments)
        except Gen3RError as error:
            answer = error
        connection.send(answer)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve on the file descriptor that is named; 0 when the other side has gone."""
    (descriptor,) = sys.argv[1:] if arguments is None else arguments
    with Connection(int(descriptor)) as connection, contextlib.suppress(EOFError, OSError):
        serve(connection)
    return 0


if __name__ == "__main__":
    sys.exit(main())
