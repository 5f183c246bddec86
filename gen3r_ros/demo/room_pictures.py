"""The room as it was reconstructed: from the side and from above, with the ways of the robot in it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from gen3r_core.reconstruction.cloud import PointCloud, filter_cloud, import_open3d
from gen3r_core.reconstruction.splats import look_at, perspective, render_cloud
from gen3r_core.worlds.world import World

Array = NDArray[np.float64]
Pictures = NDArray[np.uint8]
DRIVEN, PLANNED, PAPER = (30, 110, 220), (245, 130, 20), (255, 255, 255)
_NEIGHBOURS = 30
_CUT_M = 2.1
"""Above the floor: ceilings hide the rest."""
_BELOW_M = -0.15
_WALL_M, _LOW_M, _SIDEWAYS = 0.4, 0.12, 0.1
"""What is left out of a near wall: so thick, and so far above the floor; and from where on it is near."""
_VFOV = math.radians(34)
_FINER, _MARGIN = 2, 0.35
"""Of plans: pixels drawn for each, and metres around the rooms."""
_WALL, _FLOOR, _SKIRTING = (70, 74, 82), (241, 242, 244), (205, 209, 216)


@dataclass(frozen=True, eq=False)
class Room:
    """A cloud made ready to be drawn.

    Attributes:
        points: ``[N, 3]`` map, metres; strays and the ceiling are left out.
        colors: ``[N, 3]`` uint8.
        normals: ``[N, 3]`` towards the cameras that saw them.
        corner: ``[2]`` smallest x and y of the building.
        size: ``[2]`` metres.
        boxes: ``[R, 4]`` x0, y0, x1, y1 of the rooms.
        radius: metres, of a point as it is drawn.
    """

    points: Array
    colors: Pictures
    normals: Array
    corner: Array
    size: Array
    boxes: Array
    radius: float = 0.018

    def behind_near_walls(self, away: Array) -> Room:
        """Without the outer walls between the room and a viewer.

        Args:
            away: ``[3]`` from the room to the viewer.
        """
        kept = np.ones(len(self.points), dtype=bool)
        for axis in (0, 1):
            place = (self.points[:, axis] - self.corner[axis]) * np.sign(away[axis])
            edge = self.size[axis] if away[axis] > 0 else 0.0
            if abs(away[axis]) > _SIDEWAYS:
                kept &= (place < edge - _WALL_M) | (self.points[:, 2] < _LOW_M)
        return replace(self, points=self.points[kept], colors=self.colors[kept], normals=self.normals[kept])

    def thinned(self, every: int) -> Room:
        """Fewer and larger points, for quick pictures."""
        part = slice(None, None, every)
        return replace(self, points=self.points[part], colors=self.colors[part], normals=self.normals[part],
                       radius=self.radius * math.sqrt(every))  # fmt: skip


def prepare_room(cloud: PointCloud, cameras: Array, world: World) -> Room:
    """Leave out strays and the ceiling, and find out which way surfaces look.

    Args:
        cloud: of the node's map.
        cameras: ``[K, 3]`` where keyframes were taken.
        world: whose size pictures are made for.
    """
    from scipy.spatial import cKDTree

    boxes = np.array([room.inside for room in world.rooms])
    corner, far = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    kept = filter_cloud(cloud) if len(cloud) > _NEIGHBOURS else cloud
    o3d = import_open3d()
    own = o3d.geometry.PointCloud()
    own.points = o3d.utility.Vector3dVector(kept.points)
    own.estimate_normals(o3d.geometry.KDTreeSearchParamKNN(_NEIGHBOURS))
    normals = np.asarray(own.normals).copy().reshape(-1, 3)
    if len(kept):
        towards = cameras[cKDTree(cameras).query(kept.points)[1]] - kept.points
        normals[(normals * towards).sum(axis=1) < 0] *= -1
    shown = (kept.points[:, 2] < _CUT_M) & (kept.points[:, 2] > _BELOW_M)
    colors = np.rint(kept.colors[shown] * 255).astype(np.uint8)
    points = kept.points[shown].astype(np.float64)
    return Room(points, colors, normals[shown], corner, far - corner, boxes)


def oblique(room: Room, size: tuple[int, int], azimuth: float, ways: list[tuple[Array, tuple[int, int, int]]],
            *, elevation: float = 42.0, finer: int = 2) -> Pictures:  # fmt: skip
    """The room from the side, ways drawn on its floor.

    Args:
        room: to draw.
        size: ``(height, width)``, pixels.
        azimuth: degrees, where one looks from: 0 from x, 90 from y.
        ways: ``[N, 2]`` metres each, with a colour.
        elevation: degrees above the floor.
        finer: see :func:`~gen3r_core.reconstruction.splats.render_cloud`.
    """
    middle = np.array([*(room.corner + room.size / 2), 0.7])
    az, el = math.radians(azimuth), math.radians(elevation)
    away = np.array([math.cos(az) * math.cos(el), math.sin(az) * math.cos(el), math.sin(el)])
    K = perspective(size, _VFOV)
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0.0, 1.5)]) * [*room.size, 1] + [
        *room.corner, 0]  # fmt: skip
    metres = 2.0
    while metres < 60:  # as near as the whole room fits in
        T = look_at(middle + metres * away, middle)
        seen = (corners - T[:3, 3]) @ T[:3, :3]
        if seen[:, 2].min() > 0.5:
            pixels = seen @ K.T
            pixels = pixels[:, :2] / pixels[:, 2:]
            if (pixels > 0).all() and (pixels < [size[1], size[0]]).all():
                break
        metres *= 1.03

    def to_pixels(places: Array, times: int) -> list[tuple[float, float]]:
        pixels = ((places - T[:3, 3]) @ T[:3, :3]) @ K.T
        return [(times * x / z, times * y / z) for x, y, z in pixels.tolist()]

    ground = Image.new("RGB", (size[1] * 2, size[0] * 2), PAPER)
    pen = ImageDraw.Draw(ground)
    for x0, y0, x1, y1 in room.boxes.tolist():
        outline = np.array([[x0, y0, 0], [x1, y0, 0], [x1, y1, 0], [x0, y1, 0]])
        pen.polygon(to_pixels(outline, 2), fill=_FLOOR, outline=_SKIRTING, width=3)
    background = np.asarray(ground.resize((size[1], size[0]), Image.Resampling.LANCZOS))
    shown = room.behind_near_walls(away)
    drawn = render_cloud(
        shown.points,
        shown.colors,
        T,
        K,
        size,
        radius=room.radius,
        normals=shown.normals,
        finer=finer,
        background=background,
    )
    picture = Image.fromarray(drawn.colors).resize((size[1] * 2, size[0] * 2), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(picture)
    for way, color in ways:
        if len(way) < 2:
            continue
        line = to_pixels(np.column_stack([way, np.full(len(way), 0.03)]), 2)
        pen.line(line, fill=color, width=max(4, size[0] // 90), joint="curve")
        r = max(5, size[0] // 60)
        pen.ellipse([line[-1][0] - r, line[-1][1] - r, line[-1][0] + r, line[-1][1] + r], fill=color)
    return np.asarray(picture.resize((size[1], size[0]), Image.Resampling.LANCZOS))


class Plan:
    """The room from above: the cloud over the true walls. Drawn once; ways and cameras are added to copies.

    Args:
        room: to draw.
        world: whose walls are drawn below.
        size: ``(height, width)``, pixels; the plan fits in.
    """

    def __init__(self, room: Room, world: World, size: tuple[int, int]) -> None:
        self._size = size
        height, width = size[0] * _FINER, size[1] * _FINER
        self._scale = min(height / (room.size[1] + 2 * _MARGIN), width / (room.size[0] + 2 * _MARGIN))
        self._start = room.corner + room.size / 2 - np.array([width, height]) / self._scale / 2
        picture = Image.new("RGB", (width, height), PAPER)
        pen = ImageDraw.Draw(picture)
        for one in world.rooms:
            x0, y0, x1, y1 = one.inside
            (left, bottom), (right, top) = self._pixels(np.array([[x0, y0], [x1, y1]]))
            pen.rectangle([left, top, right, bottom], fill=_FLOOR, outline=_WALL, width=3 * _FINER)
        canvas = np.asarray(picture).copy()
        order = np.argsort(room.points[:, 2], kind="stable")  # what is higher is drawn over what is lower
        u, v = np.floor(np.array(self._pixels(room.points[order])).reshape(-1, 2)).astype(np.int64).T
        side = max(1, round(0.02 * self._scale))
        for dx in range(side):
            for dy in range(side):
                x, y = u + dx - side // 2, v + dy - side // 2
                inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
                canvas[y[inside], x[inside]] = room.colors[order][inside]
        self._base = Image.fromarray(canvas)

    def draw(self, ways: list[tuple[Array, tuple[int, int, int]]], cameras: Array) -> Pictures:
        """``[H, W, 3]`` with ways and cameras.

        Args:
            ways: ``[N, 2]`` metres each, with a colour.
            cameras: ``[K, 4, 4]`` camera to map, drawn as wedges that open where they look.
        """
        picture = self._base.copy()
        pen = ImageDraw.Draw(picture)
        for way, color in ways:
            if len(way) > 1:
                pen.line(self._pixels(way), fill=color, width=3 * _FINER, joint="curve")
        for pose in cameras:
            place, ahead, across = pose[:3, 3], pose[:3, 2] * 0.16, pose[:3, 0] * 0.07
            corners = self._pixels(np.stack([place, place + ahead - across, place + ahead + across]))
            pen.polygon(corners, fill=DRIVEN, outline=PAPER)
        return np.asarray(picture.resize((self._size[1], self._size[0]), Image.Resampling.BOX))

    def _pixels(self, points: Array) -> list[tuple[float, float]]:
        places = (np.asarray(points)[:, :2] - self._start) * self._scale
        return [(x, self._size[0] * _FINER - y) for x, y in places.tolist()]
