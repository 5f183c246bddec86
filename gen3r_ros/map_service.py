"""The service SaveMap: the accumulated map to a file, or to a folder as ``gen3r reconstruct`` writes it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from gen3r.srv import SaveMap
from rclpy.node import Node

from gen3r_core.errors import InputError, OutputError
from gen3r_core.maps.folder import write_map
from gen3r_core.maps.ply_files import write_map_cloud
from gen3r_core.maps.scene_map import UNKNOWN_FRAME, MapCloud, MapFrame, SceneMap
from gen3r_core.messages.problems import MessageError
from gen3r_core.serving.codes import ErrorCode
from gen3r_ros.executor import PatientGroup
from gen3r_ros.scene import SavedMap
from gen3r_ros.scene_loop import SceneLoop

_LOG = logging.getLogger(__name__)


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
            saved = loop.saved_map(include_generated=request.include_generated)
            if not len(saved.points.points):
                return _ended(response, ErrorCode.NO_MAP, "the map is empty; nothing was reconstructed yet")
            path = map_path(request.path or f"{saved.name}.ply", self._folder())
            if path.suffix == ".ply":
                write_map_cloud(path, _cloud(saved), metric=saved.metric)
            else:
                write_map(scene_map(saved), path)
        except InputError as error:
            return _ended(response, ErrorCode.INVALID_REQUEST, str(error))
        except (OutputError, OSError) as error:
            return _ended(response, ErrorCode.WRITE_FAILED, str(error))
        except TimeoutError:
            return _ended(response, ErrorCode.NOT_ACTIVE, "the map was not given out in time; is the node ending?")
        response.path, response.points, response.metric = str(path), len(saved.points.points), saved.metric
        return _ended(response, ErrorCode.OK, "")


def scene_map(saved: SavedMap) -> SceneMap:
    """A node's map as what :func:`gen3r_core.maps.folder.write_map` writes.

    Keyframes have their whole pictures, rectified. Those that are damaged are left out, and counted as lost.
    """
    frames, broken = [], 0
    for keyframe, T_world_cam in saved.keyframes:
        payload = keyframe.payload
        try:
            image, K = payload.rgb(), payload.pinhole.intrinsics
        except MessageError as error:
            _LOG.warning("the image of %d is left out of the saved map: %s", keyframe.stamp_ns, error)
            broken += 1
            continue
        frames.append(MapFrame(image, T_world_cam, K, keyframe.stamp_ns, payload.source))
    run = {
        "source": f"the node's map, scene {saved.name}",
        "model": saved.model,
        "metric_reason": saved.reason,
        "gravity_known": True,  # of the robot's fixed frame; else the first camera is taken for level
        "keyframes": len(frames),
        "lost": {"damaged images": broken} if broken else {},
        "exit_code": 3 if broken else 0,
    }
    return SceneMap(frames, _cloud(saved), saved.metric, run)


def _cloud(saved: SavedMap) -> MapCloud:
    found = saved.points
    return MapCloud(
        found.points.astype(np.float32),
        found.colors,
        found.confidence.astype(np.float32),
        found.generated,
        np.full(len(found.points), UNKNOWN_FRAME, np.int32),
    )


def map_path(asked: str, folder: str) -> Path:
    """Where a map goes.

    Args:
        asked: path of the request: a .ply file, or a folder, whose name has no ending.
        folder: for relative ones; made if it is not there.

    Returns:
        an absolute path in a folder that exists.

    Raises:
        InputError: another ending than .ply, a relative path that leaves the folder, or a folder that is not there.
        OSError: the node's folder cannot be made.
    """
    path = Path(asked)
    if path.suffix not in {".ply", ""} or not path.name or "\0" in asked:
        raise InputError(f"a map is written to a .ply file, or to a folder whose name has no ending, got {asked!r}")
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
