"""The page of a map: draws what the panel says, and says what a click on a camera shows."""

from __future__ import annotations

import html
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import viser
from numpy.typing import NDArray

from gen3r_core.errors import Gen3RError, InputError
from gen3r_core.viewer.content import Content, shuffled
from gen3r_core.viewer.controls import CHANGED, RELOAD, Start, build_controls, coloring_of
from gen3r_core.viewer.drawing import Drawing, path_segments
from gen3r_core.viewer.meshes import cut_mesh, lighter
from gen3r_core.viewer.opening import Revision
from gen3r_core.viewer.points import Chosen, Coloring, choose, colorings, colors_of, thresholds
from gen3r_core.viewer.summary import camera_text
from gen3r_core.viewer.views import (
    UPS,
    View,
    ceiling_cut,
    extent,
    heights_of,
    overview,
    point_size,
    up_direction,
)

__all__ = ["Page", "Source", "ViewOptions"]

_LOOK_S = 2.0
"""How often it is looked whether the map has changed."""

_PLAY_HZ = 8.0
_PLAY_STEPS = 240
"""Steps a second, and about how many there are at most: half a minute."""

_FIELD_OF_VIEW = math.radians(75)
_ROOMY = 1.2
"""Width over height of a window from which on all is in view at the usual distance."""

_CLEAR = 6
"""Sizes of a frustum around the eye in which there is none."""


@dataclass(frozen=True)
class ViewOptions:
    """What a page begins with.

    Attributes:
        coloring: of the points.
        cut: height above which nothing is shown (map units), "auto" for below the ceiling, "none".
        most: points at once.
        point_size: map units; None for one that fits.
        up: a name of :data:`~gen3r_core.viewer.views.UPS`, or "auto".
        mesh: show it.
    """

    coloring: Coloring = "image"
    cut: float | Literal["auto", "none"] = "auto"
    most: int = 500_000
    point_size: float | None = None
    up: str = "auto"
    mesh: bool = False


@dataclass(frozen=True, eq=False)
class Source:
    """Where a page has its map from.

    Attributes:
        read: reads it.
        revision: changes when it does, see :func:`~gen3r_core.viewer.opening.revision`.
    """

    read: Callable[[], Content]
    revision: Callable[[], Revision]


class Page:
    """One map on a server.

    All drawing is done by the thread that calls :meth:`run`; callbacks only note what has to be drawn, so that a slider
    that moves faster than points can be sent is followed and not queued.

    Args:
        server: to draw on; what is on it is removed.
        source: of the map; it is read at once.
        options: to begin with.

    Raises:
        InputError: from reading, or for a colouring that the map has nothing for.
    """

    def __init__(self, server: viser.ViserServer, source: Source, options: ViewOptions) -> None:
        self._server, self._source, self._options = server, source, options
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._todo: set[str] = set()
        self._closed = False
        self._drawing = Drawing(server.scene)
        self._draw = {
            "reload": self._reload,
            "cloud": self._draw_cloud,
            "cameras": self._draw_cameras,
            "path": self._draw_path,
            "mesh": self._draw_mesh,
        }
        self._revision = source.revision()
        self._build(source.read())
        server.on_client_connect(self._arrive)

    def run(self) -> None:
        """Draw until :meth:`close`."""
        looked = played = time.monotonic()
        while True:
            playing = self._controls.play is not None and self._controls.play.value
            self._wake.wait(1 / _PLAY_HZ if playing else _LOOK_S)
            self._wake.clear()
            if self._closed:
                return
            with self._lock:
                todo, self._todo = self._todo, set()
            for part, draw in self._draw.items():
                if part in todo:
                    draw()
            if playing and time.monotonic() - played >= 1 / _PLAY_HZ:
                self._play()
                played = time.monotonic()
            if time.monotonic() - looked >= _LOOK_S:
                self._look()
                looked = time.monotonic()

    def close(self) -> None:
        """End :meth:`run`, from any thread."""
        self._closed = True
        self._wake.set()

    # --- building ----------------------------------------------------------------------------------------

    def _build(self, content: Content) -> None:
        options = self._options
        if options.coloring not in colorings(content):
            raise InputError(
                f"{content.name} has nothing to colour by {options.coloring!r}; it has {', '.join(colorings(content))}"
            )
        content = shuffled(content)
        if content.mesh is not None:
            content = replace(content, mesh=lighter(content.mesh))
        self._content = content
        self._up = up_direction(content) if options.up == "auto" else UPS[options.up]
        self._heights = heights_of(content.points, self._up)
        self._mesh_heights = None if content.mesh is None else heights_of(content.mesh.vertices, self._up)
        self._thresholds = thresholds(content)
        self._selected: int | None = None
        below = self._first_cut()
        kept = content.points[choose(content, self._heights, Chosen(below=below, most=options.most))]
        self._view = overview(kept, self._up, content.positions)
        radius = float(np.linalg.norm(self._view.position - self._view.look_at))
        start = Start(
            coloring=options.coloring,
            below=below,
            heights=extent(self._heights),
            point_size=point_size(kept) if options.point_size is None else options.point_size,
            camera_size=_camera_size(content.positions, radius),
            most=options.most,
            mesh=options.mesh,
        )
        with self._server.atomic():
            self._server.gui.reset()
            self._drawing.clear(self._up)
            self._server.gui.set_panel_label(f"gen3r: {content.name}")
            self._server.gui.main_panel.dock_right()
            self._controls = build_controls(self._server.gui, content, start)
            self._connect()
            first = self._server.initial_camera
            first.position, first.look_at, first.up = self._view.position, self._view.look_at, self._up
            first.near, first.far = radius / 2000, radius * 100
            self._drawing.draw_cameras(content.cameras, start.camera_size, self.select)
        self._ask("cloud", "cameras", "path", "mesh")

    def _first_cut(self) -> float | None:
        cut = self._options.cut
        if cut == "auto":
            return ceiling_cut(self._heights, self._content.positions @ self._up)
        return None if cut == "none" else float(cut)

    def _connect(self) -> None:
        controls = self._controls
        for handle, parts in (
            (controls.coloring, ("cloud",)),
            (controls.cut, ("cloud", "mesh")),
            (controls.most, ("cloud",)),
            (controls.least, ("cloud",)),
            (controls.points, ("cloud",)),
            (controls.mesh, ("mesh",)),
            (controls.cameras, ("cameras",)),
            (controls.path, ("path",)),
            (controls.time, ("cloud", "cameras", "path")),
            (controls.play, ()),
        ):
            if handle is not None:
                handle.on_update(self._asking(*parts))
        controls.reload.on_click(self._asking("reload"))
        controls.overview.on_click(lambda event: self._see_all(event.client))
        controls.point_size.on_update(lambda event: self._drawing.resize_points(event.target.value))
        if controls.camera_size is not None:
            controls.camera_size.on_update(lambda event: self._drawing.resize_cameras(event.target.value))
        if controls.step is not None:
            controls.step.on_click(lambda event: self._step(event.target.value, event.client))

    def _asking(self, *parts: str) -> Callable[[Any], None]:
        return lambda _event: self._ask(*parts)

    def _ask(self, *parts: str) -> None:
        with self._lock:
            self._todo.update(parts)
        self._wake.set()

    # --- drawing -----------------------------------------------------------------------------------------

    @property
    def _until(self) -> int:
        slider = self._controls.time
        return len(self._content.cameras) - 1 if slider is None else int(slider.value)

    def chosen(self) -> Chosen:
        """The points that the panel asks for."""
        controls = self._controls
        percent = 0 if controls.least is None else int(controls.least.value)
        complete = self._until >= len(self._content.cameras) - 1
        return Chosen(
            until=None if complete else self._until,
            below=controls.below,
            least=float(self._thresholds[percent]) if self._thresholds is not None and percent else None,
            most=int(controls.most.value) if controls.points.value else 0,
        )

    def _draw_cloud(self) -> None:
        index = choose(self._content, self._heights, self.chosen())
        colors = colors_of(self._content, index, coloring_of(self._controls.coloring.value))
        self._drawing.draw_cloud(self._content.points[index], colors, float(self._controls.point_size.value))

    def _draw_cameras(self) -> None:
        controls, positions = self._controls, self._content.positions
        shown = np.arange(len(positions)) <= self._until
        if controls.cameras is not None and not controls.cameras.value:
            shown[:] = False
        if self._selected is not None and controls.camera_size is not None:
            # Frusta around the eye would be in its way.
            away = np.linalg.norm(positions - positions[self._selected], axis=1)
            shown &= away > _CLEAR * controls.camera_size.value
        self._drawing.show_cameras(shown)

    def _draw_path(self) -> None:
        shown = self._controls.path is not None and self._controls.path.value
        self._drawing.draw_path(*path_segments(self._content, self._until if shown else -1))

    def _draw_mesh(self) -> None:
        mesh, heights = self._content.mesh, self._mesh_heights
        shown = self._controls.mesh is not None and self._controls.mesh.value
        if mesh is None or heights is None or not shown:
            self._drawing.draw_mesh(None)
        else:
            self._drawing.draw_mesh(cut_mesh(mesh, heights, self._controls.below))

    def _play(self) -> None:
        slider = self._controls.time
        if slider is not None:
            last = len(self._content.cameras) - 1
            following = 0 if self._until >= last else min(self._until + 1 + last // _PLAY_STEPS, last)
            slider.value = following  # type: ignore[misc]  # its setter is not next to its getter, which mypy wants
            self._ask("cloud", "cameras", "path")

    # --- pictures and places -----------------------------------------------------------------------------

    def select(self, index: int, client: viser.ClientHandle | None) -> None:
        """Show the picture of a frame, and put a client's eye where it was taken.

        Args:
            index: of the frame.
            client: None moves nobody.
        """
        controls, camera = self._controls, self._content.cameras[index]
        self._selected = index
        text = camera_text(self._content, index)
        if controls.caption is not None and controls.picture is not None:
            try:
                if self._content.image is None:
                    raise InputError("there are no pictures")
                controls.picture.image = self._content.image(index)
                controls.picture.visible = True
            except InputError as error:
                controls.picture.visible = False
                text += f": {error}"
            controls.caption.content = f'<div style="padding:0 0.8em;font-size:0.85em">{html.escape(text)}</div>'
        if client is not None:
            wide = max(1.0, camera.aspect / client.camera.aspect)
            forward = camera.T_world_cam[:3, 2] * float(np.linalg.norm(self._view.position - self._view.look_at)) / 4
            self._go(
                client,
                View(camera.position, camera.position + forward),
                2 * math.atan(math.tan(camera.fov_y / 2) * wide),
            )
        self._ask("cameras")

    def _step(self, which: str, client: viser.ClientHandle | None) -> None:
        count = len(self._content.cameras)
        step = 1 if which == "next" else -1
        self.select(0 if self._selected is None else (self._selected + step) % count, client)

    def _see_all(self, client: viser.ClientHandle | None) -> None:
        self._selected = None
        if client is not None:
            self._look_at_all(client)
        self._ask("cameras")

    def _arrive(self, client: viser.ClientHandle) -> None:
        client.camera.on_update(lambda _camera: self._stand_back(client))

    def _stand_back(self, client: viser.ClientHandle) -> None:
        """The first view is for windows that are wide enough; the panel makes one narrower after it has opened."""
        camera = client.camera
        unmoved = np.allclose(camera.position, self._view.position, rtol=1e-3)
        if not self._closed and unmoved and camera.aspect < _ROOMY:
            self._look_at_all(client)

    def _look_at_all(self, client: viser.ClientHandle) -> None:
        position, middle = self._view
        further = max(1.0, _ROOMY / client.camera.aspect)
        self._go(client, View(middle + further * (position - middle), middle), _FIELD_OF_VIEW)

    def _go(self, client: viser.ClientHandle, view: View, fov: float) -> None:
        with client.atomic():
            client.camera.position = view.position
            client.camera.look_at = view.look_at
            client.camera.up_direction = self._up
            client.camera.fov = fov

    # --- changes of the files ----------------------------------------------------------------------------

    def _look(self) -> None:
        now = self._source.revision()
        label = CHANGED if now and now != self._revision else RELOAD
        if self._controls.reload.label != label:
            self._controls.reload.label = label

    def _reload(self) -> None:
        """Reads again; where that fails, what is shown stays."""
        kept = self._options
        found = self._source.revision()
        try:
            content = self._source.read()
            coloring = coloring_of(self._controls.coloring.value)
            self._options = replace(
                kept,
                coloring=coloring if coloring in colorings(content) else "image",
                most=int(self._controls.most.value),
            )
            self._build(content)
        except Gen3RError as error:
            self._options = kept
            for client in self._server.get_clients().values():
                client.add_notification("The map could not be read again", str(error), color="red")
            return
        self._revision = found


def _camera_size(positions: NDArray[np.float64], radius: float) -> float:
    """Of a frustum: half of a usual step between frames, within bounds that the scene's size gives."""
    steps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    step = float(np.median(steps)) if len(steps) else radius
    return float(np.clip(0.5 * step, radius / 80, radius / 30))
