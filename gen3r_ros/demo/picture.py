"""The demonstration on one page, for the README: the room, what was seen, what was predicted, and the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen3r_ros.demo.figures import TARGETS
from gen3r_ros.demo.layout import BAD, FAINT, GOOD, INK, Sheet, colored_depth, evenly
from gen3r_ros.demo.room_pictures import DRIVEN, PLANNED

Pictures = NDArray[np.uint8]
SIZE = (900, 1600)
_MARGIN, _GAP = 28, 8
_LEFT, _ROOM_HEIGHT = 900, 560
_COLUMNS = 4


@dataclass(frozen=True, eq=False)
class Shown:
    """What is on the page.

    Attributes:
        room: picture of the cloud.
        frames: of the camera, in order.
        truth: ``[F, S, S, 3]`` of the views.
        predicted: the same.
        true_depth: ``[F, S, S]``.
        predicted_depth: the same.
        depth_words: its caption.
    """

    room: Pictures
    frames: Sequence[Pictures]
    truth: Pictures
    predicted: Pictures
    true_depth: NDArray[np.float32]
    predicted_depth: NDArray[np.float32]
    depth_words: str = "Predicted depth"


def compose(shown: Shown, figures: Mapping[str, Any]) -> Pictures:
    """The page, ``[900, 1600, 3]``.

    Args:
        shown: pictures.
        figures: of the report.
    """
    height, width = SIZE
    sheet = Sheet(width, height)
    sheet.text((_MARGIN, 18), "Gen3R on a robot", 30, bold=True)
    sheet.text((_MARGIN, 58), "images and TF in; a metric cloud and the views along a path out, over ROS 2", 17, FAINT)
    sheet.picture((_MARGIN, 88), shown.room, (_ROOM_HEIGHT, _LEFT - _MARGIN))
    legend = 88 + _ROOM_HEIGHT - 20
    for x, color, words in (
        (_MARGIN + 8, DRIVEN, "driven before"),
        (_MARGIN + 150, PLANNED, "path that was predicted"),
    ):
        sheet.dot((x, legend + 8), color)
        sheet.text((x + 13, legend), words, 14, FAINT)
    _frames(sheet, shown.frames, 88 + _ROOM_HEIGHT + 22)
    _views(sheet, shown, _LEFT + 36, 24)
    _table(sheet, figures, _LEFT + 36, 715)
    return sheet.pixels


def _frames(sheet: Sheet, frames: Sequence[Pictures], top: int) -> None:
    sheet.text((_MARGIN, top), "What the camera saw", 17, bold=True)
    chosen = [frames[index] for index in evenly(len(frames), 5)]
    wide = (_LEFT - _MARGIN - (len(chosen) - 1) * _GAP) // max(1, len(chosen))
    for number, frame in enumerate(chosen):
        high = wide * frame.shape[0] // frame.shape[1]
        sheet.picture((_MARGIN + number * (wide + _GAP), top + 28), frame, (high, wide))


def _views(sheet: Sheet, shown: Shown, left: int, top: int) -> None:
    right = SIZE[1] - _MARGIN
    chosen = evenly(len(shown.predicted), _COLUMNS + 1)[1:] or [0]
    side = (right - left - (len(chosen) - 1) * _GAP) // len(chosen)
    depths = colored_depth([shown.true_depth[chosen], shown.predicted_depth[chosen]])
    rows = (
        ("Predicted from one image, along the path", shown.predicted[chosen]),
        ("What was to be seen there", shown.truth[chosen]),
        (shown.depth_words, depths[1]),
        ("True depth", depths[0]),
    )
    shrink = (0, 0, 26, 26)
    y = top
    for (words, pictures), less in zip(rows, shrink, strict=True):
        sheet.text((left, y), words, 16, bold=True)
        high = side - less
        for column, pixels in enumerate(pictures):
            cut = pixels[
                int(less / side * pixels.shape[0] / 2) : pixels.shape[0] - int(less / side * pixels.shape[0] / 2)
            ]
            sheet.picture((left + column * (side + _GAP), y + 24), cut, (high, side))
        y += high + 32


def _table(sheet: Sheet, figures: Mapping[str, Any], left: int, top: int) -> None:
    right = SIZE[1] - _MARGIN
    y = top
    for target in TARGETS:
        value = figures.get(target.name)
        sheet.rule(y, left, right)
        sheet.text((left, y + 7), target.label, 16, INK)
        sheet.text(
            (right - 130, y + 7), target.show(value), 16, GOOD if target.met(value) else BAD, bold=True, right=True
        )
        sign = "at least" if target.at_least else "at most"
        sheet.text((right, y + 7), f"{sign} {target.limit * target.scale:g} {target.unit}", 14, FAINT, right=True)
        y += 32
    sheet.rule(y, left, right)
    words = f"{figures['model']}, CPU, {figures['seconds']:.0f} s in all; {figures['cloud_points']:,} points"
    sheet.text((left, y + 8), words, 14, FAINT)
