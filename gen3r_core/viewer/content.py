"""What a viewer shows: points, cameras with small pictures, perhaps a mesh, and what is known about them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gen3r_core.errors import InputError
from gen3r_core.maps.facts import FrameFacts
from gen3r_core.maps.scene_map import MapMesh, SceneMap

__all__ = [
    "MOST_PICTURES",
    "Content",
    "Loaded",
    "Picture",
    "ViewCamera",
    "from_map",
    "if_it_varies",
    "shuffled",
    "view_cameras",
]

Picture = Callable[[int], NDArray[np.uint8]]
"""Reads the picture ``[H, W, 3]`` uint8 RGB of a frame by its index; raises InputError where it cannot."""

Loaded = Callable[[int, int], None]
"""Called while thumbnails are read: how many are, of how many."""

MOST_PICTURES = 200
"""Cameras that are drawn, with their pictures; of more, evenly spaced ones."""

THUMBNAIL = 192
"""Longest side in pixels of the picture in a frustum."""


@dataclass(frozen=True, eq=False)
class ViewCamera:
    """One frame of a map.

    Attributes:
        T_world_cam: ``[4, 4]`` float64, OpenCV axes, map units.
        fov_y: vertical field of view in radians.
        aspect: width over height of the picture.
        stamp_ns: nanoseconds, None where frames have no time.
        camera: name of the camera or topic, "" where there is one.
        generated: made by the model, not seen.
        drawn: it has a frustum; of very many cameras, only some do.
        thumbnail: ``[h, w, 3]`` uint8 RGB of one that is drawn; None where there is no picture.
    """

    T_world_cam: NDArray[np.float64]
    fov_y: float
    aspect: float
    stamp_ns: int | None
    camera: str
    generated: bool
    drawn: bool
    thumbnail: NDArray[np.uint8] | None

    @property
    def position(self) -> NDArray[np.float64]:
        """``[3]`` float64, map units."""
        return self.T_world_cam[:3, 3]


@dataclass(frozen=True, eq=False)
class Content:
    """A map as a viewer needs it. What a source does not say is None.

    Attributes:
        name: of the folder or file.
        points: ``[N, 3]`` float32, world frame, map units.
        colors: ``[N, 3]`` uint8 RGB.
        confidence: ``[N]`` float32, larger is surer.
        generated: ``[N]`` bool, from generated frames alone.
        frame: ``[N]`` int32 index of the camera that saw the point first, -1 where unknown.
        cameras: in the order of the recording.
        image: reads the picture of a camera.
        mesh: its surface.
        metric: the unit is the metre.
        up: ``[3]`` float64 unit vector against gravity, where the source knows it.
        run: what ``run.json`` says.
    """

    name: str
    points: NDArray[np.float32]
    colors: NDArray[np.uint8]
    confidence: NDArray[np.float32] | None = None
    generated: NDArray[np.bool_] | None = None
    frame: NDArray[np.int32] | None = None
    cameras: tuple[ViewCamera, ...] = ()
    image: Picture | None = None
    mesh: MapMesh | None = None
    metric: bool | None = None
    up: NDArray[np.float64] | None = None
    run: dict[str, Any] = field(default_factory=dict)

    @property
    def positions(self) -> NDArray[np.float64]:
        """``[F, 3]`` float64 positions of all cameras."""
        return np.array([camera.position for camera in self.cameras]).reshape(-1, 3)


def view_cameras(frames: Sequence[FrameFacts], image: Picture, loaded: Loaded | None = None) -> tuple[ViewCamera, ...]:
    """Frames as cameras of the viewer, some of them with a thumbnail.

    Args:
        frames: in order.
        image: reads a picture; where it cannot, the camera has no thumbnail.
        loaded: see :data:`Loaded`.
    """
    drawn = np.unique(np.linspace(0, len(frames) - 1, min(len(frames), MOST_PICTURES)).round().astype(int)).tolist()
    thumbnails: dict[int, NDArray[np.uint8]] = {}
    for count, index in enumerate(drawn):
        with contextlib.suppress(InputError):
            thumbnails[index] = _thumbnail(image(index))
        if loaded is not None:
            loaded(count + 1, len(drawn))
    return tuple(
        ViewCamera(
            T_world_cam=frame.T_world_cam,
            fov_y=2 * math.atan(frame.size[0] / 2 / float(frame.intrinsics[1, 1])),
            # Pixels need not be square.
            aspect=frame.size[1] / frame.size[0] * float(frame.intrinsics[1, 1] / frame.intrinsics[0, 0]),
            stamp_ns=frame.stamp_ns,
            camera=frame.camera,
            generated=frame.generated,
            drawn=index in drawn,
            thumbnail=thumbnails.get(index),
        )
        for index, frame in enumerate(frames)
    )


def from_map(
    scene_map: SceneMap, frames: Sequence[FrameFacts], image: Picture, name: str, loaded: Loaded | None = None
) -> Content:
    """A map as it is shown.

    Args:
        scene_map: its frames are not touched, as reading them takes long.
        frames: the same without pictures.
        image: reads their pictures.
        name: to show.
        loaded: see :data:`Loaded`.
    """
    cloud = scene_map.cloud
    return Content(
        name=name,
        points=cloud.points,
        colors=cloud.colors,
        confidence=if_it_varies(cloud.confidence),
        generated=cloud.generated,
        frame=cloud.frame,
        cameras=view_cameras(frames, image, loaded),
        image=image,
        mesh=scene_map.mesh,
        metric=scene_map.metric,
        # Where nothing is said: metres come from what mostly knows gravity too, TF or odometry.
        up=np.array([0.0, 0.0, 1.0]) if scene_map.run.get("gravity_known", scene_map.metric) else None,
        run=scene_map.run,
    )


def shuffled(content: Content) -> Content:
    """The same with its points in a random, but always the same order: the first M of any choice are a fair sample."""
    order = np.random.default_rng(0).permutation(len(content.points))

    def ordered(values: NDArray[Any] | None) -> NDArray[Any] | None:
        return None if values is None else values[order]

    return replace(
        content,
        points=content.points[order],
        colors=content.colors[order],
        confidence=ordered(content.confidence),
        generated=ordered(content.generated),
        frame=ordered(content.frame),
    )


def if_it_varies(values: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Confidence, or None where it says nothing."""
    return values if values.size and values.min() < values.max() else None


def _thumbnail(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    picture = Image.fromarray(image)
    picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return np.asarray(picture)
