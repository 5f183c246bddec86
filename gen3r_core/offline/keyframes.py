"""Stage one: the keyframes of a recording, as the model will see them, on disk with all that is known of them."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from gen3r_core.errors import InputError
from gen3r_core.geometry.images import ImageResize, fit_to_multiple, resize_and_crop, stretch
from gen3r_core.geometry.poses import Array
from gen3r_core.geometry.rectification import Rectification, rectify
from gen3r_core.io.atomic import atomic_path, write_json_atomic
from gen3r_core.io.images import read_image, write_grey, write_image
from gen3r_core.mapping.windows import SequenceFrame
from gen3r_core.messages.cameras import CameraModel
from gen3r_core.messages.problems import MessageError
from gen3r_core.offline.options import OfflineOptions, keyframe_options
from gen3r_core.progress import JobMonitor
from gen3r_core.recordings.losses import SECOND
from gen3r_core.recordings.recording import Recording
from gen3r_core.recordings.selection import KeyframeSelection
from gen3r_core.recordings.shots import Shot, ShotReader

__all__ = ["Keyframe", "Keyframes", "Preparer", "Sight", "select_keyframes"]

_TABLE = "keyframes.json"
_FINE = 640
"""Pixels of the longer side of images in which features are looked for: their places are as exact as these are fine."""
_FINE_SUFFIX = ".jpg"
_LENSES = 16
"""Lenses that are kept, 23 MiB each for images of 2000x1500: COLMAP can have one for each image."""
_WORTH = 1.2
"""Times as fine as what the model sees is worth another file."""


@dataclass(frozen=True)
class Sight:
    """What the model wants to see.

    Attributes:
        longest: pixels of the longer side.
        multiple: sides are multiples of it, pixels.
    """

    longest: int
    multiple: int


class Keyframe(NamedTuple):
    """A keyframe.

    Attributes:
        camera: name of its camera.
        number: of the image among its camera's.
        stamp_ns: integer nanoseconds.
        T_world_cam: ``[4, 4]`` as the recording has it; None where it is not known.
        intrinsics: ``[3, 3]`` pixels of the prepared image, the first one's corner at (0, 0); None where not known.
        depth: whether a depth image was taken with it.
    """

    camera: str
    number: int
    stamp_ns: int
    T_world_cam: Array | None
    intrinsics: Array | None
    depth: bool


class Prepared(NamedTuple):
    """What :class:`Preparer` made of an image.

    Attributes:
        image: ``[H, W, 3]`` uint8 RGB.
        fine: ``[H', W', 3]`` uint8 RGB, the same in more pixels; None where the camera has no more.
        intrinsics: ``[3, 3]`` float64 of ``image``, the first pixel's corner at (0, 0), or None.
        depth: ``[H, W]`` float32 metres, 0 where unknown, or None.
    """

    image: NDArray[np.uint8]
    fine: NDArray[np.uint8] | None
    intrinsics: Array | None
    depth: NDArray[np.float32] | None


def _bytes(images: torch.Tensor) -> NDArray[np.uint8]:
    made: NDArray[np.uint8] = (images[0].permute(1, 2, 0) * 255).round().clamp(0, 255).byte().numpy()
    return made


def _fine(images: torch.Tensor, resized: ImageResize) -> NDArray[np.uint8] | None:
    own = max(resized.from_size) * max(resized.to_size) / max(resized.scaled_size)  # without what is cut off
    finer = min(_FINE, own) / max(resized.to_size)
    if finer < _WORTH:
        return None
    height, width = (round(side * finer) for side in resized.to_size)
    if resized.scaled_size == resized.to_size:
        return _bytes(stretch(images, (height, width)))
    return _bytes(resize_and_crop(images, (height, width))[0])


def _scaled(model: CameraModel, size: tuple[int, int]) -> CameraModel | None:
    """A camera's model for its images in another size; None where that has not the aspect of its own."""
    if model.size == size:
        return model
    (height, width), (rows, columns) = model.size, size
    if abs(height * columns - width * rows) > max(height, width, rows, columns):  # more than rounding to pixels
        return None
    K = model.intrinsics * np.array([[columns / width], [rows / height], [1.0]])
    return replace(model, intrinsics=K, size=size)


class Preparer:
    """Makes images what the model wants: without distortion, of one size for each camera.

    Args:
        sight: what it wants.

    Attributes:
        foreign: images whose camera is said to have another aspect than they have: what is known of it was left out.
    """

    def __init__(self, sight: Sight) -> None:
        self.sight = sight
        self.foreign = 0
        self._sizes: dict[str, tuple[int, int]] = {}
        self._maps: dict[CameraModel, Rectification | None] = {}

    def prepare(self, shot: Shot) -> Prepared:
        """An image with what is known of it.

        Args:
            shot: of the recording.

        Raises:
            InputError: the picture is damaged.
        """
        pixels = np.asarray(shot.picture.rgb())
        model = None if shot.model is None else _scaled(shot.model, (pixels.shape[0], pixels.shape[1]))
        self.foreign += shot.model is not None and model is None
        lens = self._lens(model)
        if lens is not None:
            pixels = lens.picture(pixels)
        images = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].float() / 255
        made, resized = fit_to_multiple(images, self.sight.multiple, longest=self.sight.longest)
        wanted = self._sizes.setdefault(shot.camera, resized.to_size)
        if resized.to_size != wanted:  # another aspect than the first one's
            made, resized = resize_and_crop(images, wanted)
        K = None if model is None else (model.intrinsics if lens is None else lens.intrinsics)
        intrinsics = None if K is None else resized.apply_to_intrinsics(torch.from_numpy(K)).numpy()
        return Prepared(_bytes(made), _fine(images, resized), intrinsics, self._depth(shot, lens, resized))

    def _lens(self, model: CameraModel | None) -> Rectification | None:
        if model is None or not model.distortion_model:
            return None
        if model not in self._maps:
            if len(self._maps) >= _LENSES:
                del self._maps[next(iter(self._maps))]
            self._maps[model] = rectify(model.intrinsics, model.size, model.distortion_model, model.distortion)
        return self._maps[model]

    @staticmethod
    def _depth(shot: Shot, lens: Rectification | None, resized: ImageResize) -> NDArray[np.float32] | None:
        """Nearest values: between two things there is nothing."""
        if shot.depth is None:
            return None
        try:
            values = np.asarray(shot.depth.depth(), dtype=np.float32)
        except MessageError:
            return None
        if lens is not None:
            values = lens.depth(values)
        places = []
        for side, length in enumerate(resized.to_size):
            at = (np.arange(length) + resized.corner[side] + 0.5) / resized.scaled_size[side] * values.shape[side]
            places.append(at.astype(np.int64).clip(0, values.shape[side] - 1))
        found = values[places[0]][:, places[1]]
        return np.where(np.isfinite(found) & (found > 0), found, 0).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Keyframes:
    """Keyframes on disk.

    Attributes:
        folder: where they are.
        table: all of them, camera by camera, each in the order of time.
        facts: "counts" of images by what became of them, "cameras", "world" (frame of the poses, or None), "why_not"
            (why there are none), "metric" (poses are in metres), "lost" (sentences), "timed", "start_ns" and "seconds".
    """

    folder: Path
    table: list[Keyframe]
    facts: dict[str, Any]

    def __len__(self) -> int:
        return len(self.table)

    @property
    def cameras(self) -> list[str]:
        """Names, in the order of the table."""
        return list(dict.fromkeys(one.camera for one in self.table))

    def of(self, camera: str) -> list[int]:
        """Numbers of a camera's keyframes."""
        return [number for number, one in enumerate(self.table) if one.camera == camera]

    def image(self, number: int) -> NDArray[np.uint8]:
        """``[H, W, 3]`` uint8 RGB.

        Raises:
            InputError: the file is damaged.
        """
        return read_image(self.folder / f"{number:06d}.png")

    def fine(self, number: int) -> NDArray[np.uint8]:
        """``[H', W', 3]`` uint8 RGB, in as many pixels as there are.

        Raises:
            InputError: the file is damaged.
        """
        return read_image(self._fine(number)) if self.has_fine(number) else self.image(number)

    def has_fine(self, number: int) -> bool:
        """Whether there are more pixels of it than the model sees."""
        return self._fine(number).exists()

    def _fine(self, number: int) -> Path:
        return self.folder / f"{number:06d}{_FINE_SUFFIX}"

    def depth(self, number: int) -> NDArray[np.float32]:
        """``[H, W]`` float32 metres, 0 where unknown."""
        with np.load(self.folder / f"{number:06d}.npz") as file:
            return np.asarray(file["depth"], dtype=np.float32)

    def frames(self, numbers: Sequence[int]) -> Iterator[SequenceFrame]:
        """Keyframes as a sequence, read one by one."""
        for number in numbers:
            yield SequenceFrame(self.table[number].stamp_ns, self.image(number))

    def poses(self, numbers: Sequence[int]) -> Array:
        """``[N, 4, 4]``, NaN where they are not known."""
        found = np.full((len(numbers), 4, 4), np.nan)
        for place, number in enumerate(numbers):
            pose = self.table[number].T_world_cam
            if pose is not None:
                found[place] = pose
        return found

    @classmethod
    def load(cls, folder: Path, facts: dict[str, Any]) -> Keyframes:
        """What :func:`select_keyframes` left.

        Raises:
            InputError: it is damaged.
        """
        try:
            rows = json.loads((folder / _TABLE).read_text(encoding="utf-8"))
            table = [
                Keyframe(
                    row["camera"], row["number"], row["stamp_ns"],
                    None if row["pose"] is None else np.array(row["pose"]),
                    None if row["intrinsics"] is None else np.array(row["intrinsics"]), row["depth"],
                )
                for row in rows
            ]  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{folder}: the keyframes of the run before are damaged: {error}; remove it") from error
        return cls(folder, table, facts)


def select_keyframes(
    recording: Recording, options: OfflineOptions, sight: Sight, folder: Path, monitor: JobMonitor
) -> dict[str, Any]:
    """Choose and prepare keyframes; one image is in memory.

    Args:
        recording: open.
        options: what to read, and when an image becomes a keyframe.
        sight: what the model wants to see.
        folder: gets them; what was in it goes.
        monitor: told of stage "select", in seconds of the recording.

    Returns:
        Facts, see :class:`Keyframes`.

    Raises:
        InputError: no image can be used.
        OutputError: the folder cannot be written.
        CancelledError: the monitor's callback asked for it.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shots = ShotReader(recording, options.shots)
    chosen = keyframe_options(options)
    if not shots.metric:
        # A robot that turns before a white wall shows nothing sharp; what it showed there holds the sequence together.
        chosen = replace(chosen, sharpness_wait_s=0.0)
    matched = options.matches and not shots.metric
    selection = KeyframeSelection(shots, chosen)
    preparer = Preparer(sight)
    rows: list[dict[str, Any]] = []
    broken: Counter[str] = Counter()
    first, total = recording.start_ns or 0, max(1, round(recording.seconds))
    monitor.report("select", 0, total)
    for shot in selection:
        try:
            image, fine, intrinsics, depth = preparer.prepare(shot)
        except InputError as error:
            broken["keyframes that cannot be decoded"] += 1
            selection.broken = selection.broken or f"image {shot.number} of {shot.camera}: {error}"
            continue
        number = len(rows)
        write_image(folder / f"{number:06d}.png", image)
        if fine is not None and matched:
            write_grey(folder / f"{number:06d}{_FINE_SUFFIX}", fine)
        if depth is not None:
            with atomic_path(folder / f"{number:06d}.npz") as partial:
                np.savez_compressed(partial, depth=depth.astype(np.float16))
        rows.append({
            "file": number, "camera": shot.camera, "number": shot.number, "stamp_ns": shot.stamp_ns,
            "pose": None if shot.T_world_cam is None else shot.T_world_cam.tolist(),
            "intrinsics": None if intrinsics is None else intrinsics.tolist(), "depth": depth is not None,
        })  # fmt: skip
        monitor.report("select", min(total, max(0, (shot.stamp_ns - first) // SECOND)), total)
    if not rows:
        reason = f"; the first is broken: {selection.broken}" if selection.broken else ""
        raise InputError(f"{recording.path}: none of its {shots.counts['images']} images can be used{reason}")
    monitor.report("select", total, total)
    _by_camera(folder, rows)
    write_json_atomic(folder / _TABLE, rows)
    return {
        "counts": {**shots.counts, **selection.counts, **broken},
        "cameras": [camera.name for camera in shots.cameras],
        "world": shots.placing.world,
        "why_not": shots.placing.why_not,
        "metric": shots.metric,
        "posed": sum(row["pose"] is not None for row in rows),
        "timed": recording.timed,
        "start_ns": recording.start_ns or 0,
        "length_s": recording.seconds,
        **_lost(recording, shots, selection, broken, preparer.foreign),
    }


def _by_camera(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Each camera's keyframes one behind the other: that is the order that all later stages count in."""
    cameras = list(dict.fromkeys(row["camera"] for row in rows))
    rows.sort(key=lambda row: cameras.index(row["camera"]))
    if len(cameras) == 1:
        return
    for name in (".png", ".npz", _FINE_SUFFIX):
        for row in rows:
            path = folder / f"{row['file']:06d}{name}"
            if path.exists():
                path.rename(folder / f"moved{row['file']:06d}{name}")
        for number, row in enumerate(rows):
            path = folder / f"moved{row['file']:06d}{name}"
            if path.exists():
                path.rename(folder / f"{number:06d}{name}")
    for number, row in enumerate(rows):
        row["file"] = number


def _lost(
    recording: Recording, shots: ShotReader, selection: KeyframeSelection, broken: Counter[str], foreign: int
) -> dict[str, Any]:
    """What is missing, by reason, and in sentences."""
    losses = recording.losses
    lost: dict[str, float] = {}
    if losses.anything:
        lost = {name: value for name, value in (
            ("bytes", losses.bytes), ("messages", losses.messages), ("seconds", round(losses.seconds, 3)),
        ) if value}  # fmt: skip
        lost["damaged places"] = sum(not loss.harmless for loss in losses.found.values())
    for name, count in (("broken images", selection.counts["broken"] + sum(broken.values())),
                        ("damaged headers", shots.counts["damaged headers"]), ("intrinsics", foreign)):  # fmt: skip
        if count:
            lost[name] = count
    sentences = losses.sentences()
    if selection.broken:
        sentences.append(selection.broken)
    if foreign:
        sentences.append(f"{foreign} keyframes have another aspect than their camera is said to have: it was not used")
    return {"lost": lost, "losses": sentences}
