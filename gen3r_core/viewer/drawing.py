"""A map's points, cameras, path and surface as nodes of a viser scene."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import viser
from numpy.typing import NDArray

from gen3r_core.geometry.poses import matrix_to_quaternion
from gen3r_core.maps.scene_map import MapMesh
from gen3r_core.viewer.content import Content, ViewCamera
from gen3r_core.viewer.meshes import glb
from gen3r_core.viewer.points import GENERATED, OBSERVED

__all__ = ["Drawing", "path_segments"]

CLOUD, CAMERAS, PATH, MESH = "/cloud", "/cameras", "/path", "/mesh"

_FRUSTUM_LINE = 2.0
_PATH_LINE = 3.0
"""Pixels."""


class Drawing:
    """What is in the scene of a server.

    Args:
        scene: of the server or of one client.
    """

    def __init__(self, scene: viser.SceneApi) -> None:
        self._scene = scene
        self._cloud: viser.PointCloudHandle | None = None
        self._frusta: dict[int, viser.CameraFrustumHandle] = {}
        self._mesh: viser.GlbHandle | None = None

    def clear(self, up: NDArray[np.float64]) -> None:
        """Begin anew, with this direction ``[3]`` up."""
        self._scene.reset()
        self._scene.set_up_direction(up)
        self._cloud, self._mesh = None, None
        self._frusta.clear()

    def draw_cloud(self, points: NDArray[np.float32], colors: NDArray[np.uint8], size: float) -> None:
        """Points ``[M, 3]`` with colours ``[M, 3]`` of a size in map units, in place of those that are there."""
        self._cloud = self._scene.add_point_cloud(
            CLOUD,
            points,
            colors,
            point_size=size,
            point_shape="circle",
            point_shading="flat",
            precision="float32",  # half precision is coarser than a voxel after ten metres
        )

    def resize_points(self, size: float) -> None:
        """Another size of the points, map units."""
        if self._cloud is not None:
            self._cloud.point_size = size

    def draw_cameras(self, cameras: tuple[ViewCamera, ...], size: float, clicked: Callable[[int, Any], None]) -> None:
        """The frusta of those cameras that are drawn.

        Args:
            cameras: all.
            size: of a frustum in map units.
            clicked: called with the number of a camera and the viewer's client that clicked on it.
        """
        for index, camera in enumerate(cameras):
            if not camera.drawn:
                continue
            frustum = self._scene.add_camera_frustum(
                f"{CAMERAS}/{index:06d}",
                fov=camera.fov_y,
                aspect=camera.aspect,
                scale=size,
                thickness=_FRUSTUM_LINE,
                thickness_units="screen",
                color=GENERATED if camera.generated else OBSERVED,
                image=camera.thumbnail,
                wxyz=np.roll(matrix_to_quaternion(camera.T_world_cam[:3, :3]), 1),
                position=camera.position,
                cast_shadow=False,
                receive_shadow=False,
            )
            frustum.on_click(_with_number(index, clicked))
            self._frusta[index] = frustum

    def show_cameras(self, shown: NDArray[np.bool_]) -> None:
        """Which frusta are seen, ``[F]`` by camera."""
        for index, frustum in self._frusta.items():
            visible = bool(shown[index])
            if frustum.visible != visible:
                frustum.visible = visible

    def resize_cameras(self, size: float) -> None:
        """Another size of the frusta, map units."""
        for frustum in self._frusta.values():
            frustum.scale = size

    def draw_path(self, segments: NDArray[np.float32], colors: NDArray[np.uint8]) -> None:
        """Lines ``[S, 2, 3]`` with colours ``[S, 2, 3]``; none at all removes them."""
        if not len(segments):
            self._scene.remove_by_name(PATH)
            return
        self._scene.add_line_segments(PATH, segments, colors, thickness=_PATH_LINE, thickness_units="screen")

    def draw_mesh(self, mesh: MapMesh | None) -> None:
        """A surface, or none."""
        if self._mesh is not None:
            self._mesh.remove()
            self._mesh = None
        if mesh is not None and len(mesh.triangles):
            self._mesh = self._scene.add_glb(MESH, glb(mesh), cast_shadow=False, receive_shadow=False)


def path_segments(content: Content, until: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """The ways of all cameras up to a frame.

    Frames of one camera that follow each other are joined, in the colour of generated frames where one end is.

    Args:
        content: with cameras.
        until: number of the last frame.

    Returns:
        ``[S, 2, 3]`` float32 ends in the world, map units, and ``[S, 2, 3]`` uint8 RGB.
    """
    last: dict[str, int] = {}
    pairs = []
    for index, camera in enumerate(content.cameras[: until + 1]):
        if camera.camera in last:
            pairs.append((last[camera.camera], index))
        last[camera.camera] = index
    ends = np.array(pairs, np.int64).reshape(-1, 2)
    made = np.array([camera.generated for camera in content.cameras], np.int64)
    color = np.array([OBSERVED, GENERATED], np.uint8)[made[ends].max(axis=1)]
    return content.positions[ends].astype(np.float32), np.repeat(color[:, None], 2, axis=1)


def _with_number(
    index: int, clicked: Callable[[int, Any], None]
) -> Callable[[viser.SceneNodePointerEvent[viser.CameraFrustumHandle]], None]:
    def handler(event: viser.SceneNodePointerEvent[viser.CameraFrustumHandle]) -> None:
        clicked(index, event.client)

    return handler
