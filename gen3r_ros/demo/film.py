"""The demonstration as a short video: the drive, the prediction beside the truth, and a turn around the room."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from gen3r_core.worlds.world import World
from gen3r_ros.demo.layout import FAINT, Sheet
from gen3r_ros.demo.room_pictures import DRIVEN, PLANNED, Plan, Room, oblique

Array = NDArray[np.float64]
Pictures = NDArray[np.uint8]
FPS = 8
_SIZE = (408, 896)
_HEIGHT, _TOP = 360, 36
_TURN_FRAMES, _EVERY = 20, 4


def film(
    room: Room,
    world: World,
    frames: Sequence[tuple[Pictures, Array]],
    path: Array,
    predicted: Pictures,
    truth: Pictures,
) -> Iterator[Pictures]:
    """Frames of the video, ``[408, 896, 3]`` each.

    Args:
        room: that was reconstructed.
        world: that it is in.
        frames: images of the camera, and its poses ``[4, 4]``, in order.
        path: ``[M, 2]`` metres, that was predicted.
        predicted: ``[F, S, S, 3]``.
        truth: ``[F, S, S, 3]``.
    """
    positions = np.stack([pose[:2, 3] for _, pose in frames])
    wide = _HEIGHT * frames[0][0].shape[1] // frames[0][0].shape[0]
    above = Plan(room, world, (_HEIGHT, _SIZE[1] - wide - 8))
    for number, (image, pose) in enumerate(frames):
        sheet = _titled("The robot drives: what its camera sees, and where it is in what was reconstructed")
        sheet.picture((0, _TOP), image, (_HEIGHT, wide))
        sheet.picture((wide + 8, _TOP), above.draw([(positions[: number + 1], DRIVEN)], pose[None]))
        yield sheet.pixels
    for own, true in zip(predicted, truth, strict=True):
        sheet = _titled("Views along the path, predicted from one image (left), and what was to be seen there (right)")
        for x, pixels in ((60, own), (60 + _HEIGHT + 40, true)):
            sheet.picture((x, _TOP), pixels, (_HEIGHT, _HEIGHT))
        yield sheet.pixels
        yield sheet.pixels
    thin = room.thinned(_EVERY)
    for azimuth in np.linspace(-90, 270, _TURN_FRAMES, endpoint=False).tolist():
        sheet = _titled("The map that the node made of it")
        ways = [(positions, DRIVEN), (path, PLANNED)]
        sheet.picture((0, _TOP), oblique(thin, (_HEIGHT, _SIZE[1]), azimuth, ways, finer=1))
        yield sheet.pixels


def _titled(words: str) -> Sheet:
    sheet = Sheet(_SIZE[1], _SIZE[0])
    sheet.text((8, 8), words, 16, FAINT)
    return sheet
