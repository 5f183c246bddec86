"""Images in a folder as a recording of one camera, with or without poses."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gen3r_core.geometry.poses import Array
from gen3r_core.io.images import list_images
from gen3r_core.messages.cameras import CameraModel
from gen3r_core.recordings.losses import SECOND, Loss, Losses
from gen3r_core.recordings.pictures import FilePicture, Still
from gen3r_core.recordings.recording import Item, Recording, Stream

_TIME = re.compile(r"(?:^|[^0-9])(\d{9,19})(?:[._](\d{1,9}))?$")
_UNITS = {10: SECOND, 13: 1_000_000, 16: 1000, 19: 1}
"""Nanoseconds of a unit, by how many digits a time in our years has."""

_EARLIEST, _LATEST = 946_684_800, 4_102_444_800
"""Years 2000 and 2100, seconds."""


@dataclass(frozen=True, eq=False)
class PosedImage:
    """An image file.

    Attributes:
        path: of the file.
        T_world_cam: ``[4, 4]`` camera to world, OpenCV axes; None if not known.
        camera: intrinsics; None if not known.
        camera_name: which camera took it.
    """

    path: Path
    T_world_cam: Array | None = None
    camera: CameraModel | None = None
    camera_name: str = "images"


class ImageRecording(Recording):
    """Image files.

    Where every name holds a time they are stamped with it. Else they are stamped a second apart, and
    :attr:`Recording.timed` is False.

    Args:
        path: the folder, or the file that lists them.
        images: the files, in their order; None for those of the folder.
        format: what it is, in words.

    Raises:
        InputError: there is no image.
    """

    def __init__(self, path: Path, images: Sequence[PosedImage] | None = None, format: str = "image folder") -> None:  # noqa: A002 - as the attribute is called
        self.path, self.format, self.losses = path, format, Losses()
        if images is None:
            images = [PosedImage(file) for file in list_images(path)]
        stamps = [time_in_name(image.path.stem) for image in images]
        self.timed = len(images) > 1 and None not in stamps and len(set(stamps)) > 1
        times = [stamp or 0 for stamp in stamps] if self.timed else [number * SECOND for number in range(len(images))]
        self._images = sorted(zip(times, images, strict=True), key=lambda one: one[0])
        self.start_ns, self.end_ns = self._images[0][0], self._images[-1][0]
        names = [image.camera_name for image in images]
        self.streams = {}
        for name in dict.fromkeys(names):
            count = names.count(name)
            hz = (count - 1) / self.seconds if self.timed and count > 1 else None
            self.streams[name] = Stream(name, "images", "image", count, hz)
        for number, image in enumerate(images):
            if not image.path.is_file():
                self.losses.add(image.path.name, number, Loss("the file is missing", messages=1))

    def items(
        self, names: Collection[str] | None = None, start_ns: int | None = None, end_ns: int | None = None
    ) -> Iterator[Item]:
        """See :meth:`Recording.items`. Files that are missing are left out."""
        for stamp, image in self._images:
            name = image.camera_name
            if (start_ns is not None and stamp < start_ns) or (end_ns is not None and stamp >= end_ns):
                continue
            if (names is None or name in names) and image.path.is_file():
                picture = FilePicture(image.path, None if image.camera is None else image.camera.size)
                still = Still(stamp, name, picture, image.T_world_cam, image.camera)
                yield Item(self.streams[name], stamp, still)


def time_in_name(name: str) -> int | None:
    """The time that a file's name ends with, in integer nanoseconds.

    Seconds with up to nine decimals (``1305031102.175304``), milliseconds, microseconds or nanoseconds
    (``1403636579763555584``) since 1970. None if there is none.
    """
    match = _TIME.search(name)
    if match is None or len(match[1]) not in _UNITS or (match[2] and len(match[1]) != 10):
        return None
    nanoseconds = int(match[1]) * _UNITS[len(match[1])]
    if match[2]:
        nanoseconds += int(match[2].ljust(9, "0"))
    return nanoseconds if _EARLIEST * SECOND <= nanoseconds < _LATEST * SECOND else None
