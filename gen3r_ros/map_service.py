"""The service SaveMap: the accumulated map to a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gen3r.srv import SaveMap
from rclpy.node import Node

from gen3r_core.errors import InputError, OutputError
from gen3r_core.io.ply import write_ply
from gen3r_core.serving.codes import ErrorCode
from gen3r_ros.executor import PatientGroup
from gen3r_ros.scene_loop import SceneLoop


class MapService:
    """Serves as long as the node is there.

    Args:
        node: that serves.
        loop: the present one; None where the node is not configured.
        folder: for relative paths.
    """

    def __init__(self, node: Node, loop: Callable[[], SceneLoop | None], folder: Callable[[], str]) -> None:
        self._loop, self._folder = loop, folder
        node.create_service(SaveMap, "save_map", self._save, callback_group=PatientGroup())

    def _save(self, request: Any, response: Any) -> Any:
        loop = self._loop()
        if loop is None:
            return _ended(response, ErrorCode.NOT_ACTIVE, "the node is not configured")
        try:
            cloud, metric, name = loop.map_points(include_generated=request.include_generated)
            if not len(cloud.points):
                return _ended(response, ErrorCode.NO_MAP, "the map is empty; nothing was reconstructed yet")
            path = map_path(request.path or f"{name}.ply", self._folder())
            write_ply(path, cloud)
        except InputError as error:
            return _ended(response, ErrorCode.INVALID_REQUEST, str(error))
        except (OutputError, OSError) as error:
            return _ended(response, ErrorCode.WRITE_FAILED, str(error))
        except TimeoutError:
            return _ended(response, ErrorCode.NOT_ACTIVE, "the map was not given out in time; is the node ending?")
        response.path, response.points, response.metric = str(path), len(cloud.points), metric
        return _ended(response, ErrorCode.OK, "")


def map_path(asked: str, folder: str) -> Path:
    """Where a map goes.

    Args:
        asked: path of the request.
        folder: for relative ones; made if it is not there.

    Returns:
        an absolute path in a folder that exists.

    Raises:
        InputError: another ending than .ply, a relative path that leaves the folder, or a folder that is not there.
        OSError: the node's folder cannot be made.
    """
    path = Path(asked)
    if path.suffix != ".ply" or "\0" in asked:
        raise InputError(f"a map is written to a .ply file, got {asked!r}")
    if not path.is_absolute():
        if ".." in path.parts:
            raise InputError(f"a relative path stays in the node's folder, got {asked!r}; give an absolute one")
        root = Path(folder).expanduser().absolute()
        root.mkdir(parents=True, exist_ok=True)
        path = root / path
    if not path.parent.is_dir():
        raise InputError(f"the folder {path.parent} does not exist; make it, or choose another")
    return path


def _ended(response: Any, code: ErrorCode, message: str) -> Any:
    response.code, response.message = int(code), message
    return response
