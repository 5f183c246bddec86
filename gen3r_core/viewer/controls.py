"""The panel beside the scene: what can be chosen, and between which bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import viser

from gen3r_core.viewer.content import Content
from gen3r_core.viewer.points import Coloring, colorings
from gen3r_core.viewer.summary import summary_html

__all__ = ["LABELS", "Bounds", "Controls", "bounds_of", "build_controls", "coloring_of"]

LABELS: dict[Coloring, str] = {"image": "image", "source": "observed / generated", "confidence": "confidence"}

_STEPS = 200
_MOST = 5_000_000
RELOAD = "Reload"
CHANGED = "Reload: the map has changed"


@dataclass(frozen=True)
class Bounds:
    """Of a slider: round numbers, so that a label is short.

    Attributes:
        low: first value.
        high: last value.
        step: between two.
    """

    low: float
    high: float
    step: float

    def nearest(self, value: float) -> float:
        """The value of the slider that is nearest."""
        low, digits = self.low, _digits(self.step)
        return round(min(max(low + round((value - low) / self.step) * self.step, low), self.high), digits)


def bounds_of(low: float, high: float) -> Bounds:
    """Bounds around two numbers with about 200 steps between them."""
    width = max(high - low, 1e-6, 1e-6 * max(abs(low), abs(high)))
    exponent = math.floor(math.log10(width / _STEPS))
    step = next(step for step in (1, 2, 5, 10) if step * 10.0**exponent * _STEPS >= width) * 10.0**exponent
    digits = _digits(step)
    first, last = math.floor(low / step), math.ceil(high / step)
    last = max(last, first + 2)  # of a floor alone
    return Bounds(round(first * step, digits), round(last * step, digits), round(step, digits))


def _digits(step: float) -> int:
    return max(0, -math.floor(math.log10(step) + 1e-9))


@dataclass(frozen=True, eq=False)
class Start:
    """What the controls begin with.

    Attributes:
        coloring: of the points.
        below: height of the cut, None for none.
        heights: lowest and highest point, map units.
        point_size: map units.
        camera_size: map units.
        most: points at once.
        mesh: shown.
    """

    coloring: Coloring
    below: float | None
    heights: tuple[float, float]
    point_size: float
    camera_size: float
    most: int
    mesh: bool


@dataclass(frozen=True, eq=False)
class Controls:
    """Handles of the panel; None where the map has nothing for one."""

    summary: viser.GuiHtmlHandle
    reload: viser.GuiButtonHandle
    overview: viser.GuiButtonHandle
    coloring: viser.GuiDropdownHandle[str]
    cut: viser.GuiSliderHandle[float]
    cut_bounds: Bounds
    point_size: viser.GuiSliderHandle[float]
    most: viser.GuiNumberHandle[int]
    least: viser.GuiSliderHandle[int] | None
    mesh: viser.GuiCheckboxHandle | None
    points: viser.GuiCheckboxHandle
    cameras: viser.GuiCheckboxHandle | None
    camera_size: viser.GuiSliderHandle[float] | None
    path: viser.GuiCheckboxHandle | None
    time: viser.GuiSliderHandle[int] | None
    play: viser.GuiCheckboxHandle | None
    caption: viser.GuiHtmlHandle | None
    picture: viser.GuiImageHandle | None
    step: viser.GuiButtonGroupHandle | None

    @property
    def below(self) -> float | None:
        """Height of the cut; None where the slider is at its end."""
        return None if self.cut.value >= self.cut_bounds.high - self.cut_bounds.step / 2 else float(self.cut.value)


def build_controls(gui: viser.GuiApi, content: Content, start: Start) -> Controls:
    """Builds the panel; what it does is up to the page."""
    heights, sizes = bounds_of(*start.heights), bounds_of(0.0, 5 * start.point_size)
    sizes = Bounds(sizes.step, sizes.high, sizes.step)
    frames = len(content.cameras)
    summary = gui.add_html(summary_html(content))
    overview = gui.add_button("See all", hint="look at the whole map from above")
    reload = gui.add_button(RELOAD, hint="read the files again")
    time = play = caption = picture = step = None
    if frames > 1:
        with gui.add_folder("Time"):
            time = gui.add_slider(
                "until frame", 0, frames - 1, 1, frames - 1, hint="points and cameras as they were known then"
            )
            play = gui.add_checkbox("play", initial_value=False)
    if frames:
        with gui.add_folder("Picture"):
            step = gui.add_button_group("frame", ("previous", "next"))
            caption = gui.add_html('<div style="padding:0 0.8em;font-size:0.85em;opacity:0.7">Click on a camera</div>')
            picture = gui.add_image(np.zeros((1, 1, 3), np.uint8), visible=False)
    with gui.add_folder("Show"):
        there = [LABELS[name] for name in colorings(content)]
        coloring = gui.add_dropdown("colours", there, initial_value=LABELS[start.coloring])
        cut = gui.add_slider(
            "cut above",
            heights.low,
            heights.high,
            heights.step,
            heights.high if start.below is None else heights.nearest(start.below),
            hint="height above which nothing is shown, along gravity; at the end of the slider everything is",
        )
        size = gui.add_slider("point size", sizes.low, sizes.high, sizes.step, sizes.nearest(start.point_size))
        least = None
        if content.confidence is not None:
            least = gui.add_slider("hide unsure, %", 0, 99, 1, 0, hint="leave out the points with least confidence")
        most = gui.add_number("most points", start.most, min=1000, max=_MOST, step=1000, hint="of more, an even choice")
        points = gui.add_checkbox("points", initial_value=True)
        mesh = cameras = camera_size = path = None
        if content.mesh is not None:
            mesh = gui.add_checkbox("mesh", initial_value=start.mesh)
        if frames:
            cameras = gui.add_checkbox("cameras", initial_value=True)
            path = gui.add_checkbox("path", initial_value=True)
            wide = bounds_of(0.0, 5 * start.camera_size)
            camera_size = gui.add_slider(
                "camera size", wide.step, wide.high, wide.step, wide.nearest(start.camera_size)
            )
    return Controls(
        summary=summary,
        reload=reload,
        overview=overview,
        coloring=coloring,
        cut=cut,
        cut_bounds=heights,
        point_size=size,
        most=most,
        least=least,
        mesh=mesh,
        points=points,
        cameras=cameras,
        camera_size=camera_size,
        path=path,
        time=time,
        play=play,
        caption=caption,
        picture=picture,
        step=step,
    )


def coloring_of(label: str) -> Coloring:
    """The colouring that has a label."""
    return next(name for name, text in LABELS.items() if text == label)
