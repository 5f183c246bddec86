"""A long sequence as overlapping windows of a feed-forward model, each predicted once and kept on disk.

Images stream through: only the frames of one window are in memory. A window's file is written whole or not at all,
so that a run that was killed goes on where it stopped.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from gen3r_core.errors import InputError
from gen3r_core.geometry.pixels import points_of_pixels
from gen3r_core.geometry.poses import Array
from gen3r_core.io.atomic import atomic_path, output_error, write_json_atomic
from gen3r_core.progress import JobMonitor

__all__ = [
    "Prediction",
    "Predictor",
    "SequenceFrame",
    "Window",
    "WindowOptions",
    "WindowStore",
    "run_windows",
    "window_of",
]

_LARGEST_HALF = 65504.0
_IN_MEMORY = 4
_MANIFEST = "windows.json"
_FORMAT = 1


class SequenceFrame(NamedTuple):
    """A frame of the sequence.

    Attributes:
        stamp: nanoseconds; or any number that rises.
        image: ``[H, W, 3]`` uint8 RGB, the same size for all, as the model takes it.
    """

    stamp: int
    image: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model says about the frames of a window, in a world and units of its own.

    Attributes:
        depth: ``[n, H, W]`` float z-depth; not positive or not finite where nothing is known.
        confidence: ``[n, H, W]`` float, not negative; larger is surer.
        T_window_cam: ``[n, 4, 4]`` float64, camera to the window's world, OpenCV axes.
        intrinsics: ``[n, 3, 3]`` pixels, the first one's *centre* at (0, 0)
            (:func:`gen3r_core.geometry.unprojection.unproject_depth`).
        features: ``[n, D]`` float, what the frames look like; near each other where they show the same place.
    """

    depth: NDArray[np.floating[Any]]
    confidence: NDArray[np.floating[Any]]
    T_window_cam: Array
    intrinsics: Array
    features: NDArray[np.floating[Any]]


class Predictor(Protocol):
    """A feed-forward model."""

    @property
    def name(self) -> str:
        """Which model with which weights: what it predicted is not taken for what another one would."""

    def __call__(self, images: NDArray[np.uint8]) -> Prediction:
        """Predict from ``[n, H, W, 3]`` uint8 RGB."""


@dataclass(frozen=True)
class WindowOptions:
    """How a sequence is cut.

    Attributes:
        frames: of a window; what the model was trained for suits it best.
        overlap: frames that a window shares with the one before.

    Raises:
        InputError: windows would not overlap, or not get on.
    """

    frames: int = 17
    overlap: int = 4

    def __post_init__(self) -> None:
        if not 1 <= self.overlap < self.frames:
            raise InputError(
                f"windows of {self.frames} frames can share 1 to {self.frames - 1} with the one before, got "
                f"{self.overlap}"
            )


@dataclass(frozen=True, eq=False)
class Window:
    """Frames with what the model said about them.

    Attributes:
        frames: ``[n]`` int64, their numbers in the sequence, rising.
        stamps: ``[n]`` int64.
        colors: ``[n, H, W, 3]`` uint8 RGB.
        depth: ``[n, H, W]`` float16 z-depth, units of the window; 0 where nothing is known.
        confidence: ``[n, H, W]`` float16.
        T_window_cam: ``[n, 4, 4]`` float64, camera to the window's world.
        intrinsics: ``[n, 3, 3]`` float64, see :class:`Prediction`.
        features: ``[n, D]`` float32, of length 1.
    """

    frames: NDArray[np.int64]
    stamps: NDArray[np.int64]
    colors: NDArray[np.uint8]
    depth: NDArray[np.float16]
    confidence: NDArray[np.float16]
    T_window_cam: Array
    intrinsics: Array
    features: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.frames)

    def at(self, frame: int) -> int:
        """Where in the window a frame of the sequence is.

        Raises:
            InputError: it is not in it.
        """
        place = int(np.searchsorted(self.frames, frame))
        if place == len(self.frames) or self.frames[place] != frame:
            raise InputError(f"frame {frame} is not in the window of frames {self.frames[0]} to {self.frames[-1]}")
        return place

    def camera_points(self, place: int, step: int = 1) -> Array:
        """``[h, w, 3]`` every ``step``-th pixel's point in the camera's own frame, units of the window."""
        depth = self.depth[place, ::step, ::step].astype(np.float64)
        K = self.intrinsics[place]
        pixels = step * np.indices(depth.shape)
        return points_of_pixels(pixels[1], pixels[0], depth, K)


_FIELDS = ("frames", "stamps", "colors", "depth", "confidence", "T_window_cam", "intrinsics", "features")


class WindowStore:
    """Windows on disk, a few of them in memory.

    Args:
        folder: where they are kept, for :func:`run_windows` to find again; None keeps them in a folder of the
            system's, until the end of the block.
        signature: what they depend on besides their images: the model, sizes. JSON values.

    Raises:
        InputError: the folder holds windows of another signature.
        OutputError: it cannot be written.
    """

    def __init__(self, folder: Path | None, signature: dict[str, Any]) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="gen3r-windows-") if folder is None else None
        self.folder = Path(self._temporary.name) if self._temporary is not None else Path(str(folder))
        self._recent: OrderedDict[str, Window] = OrderedDict()
        wanted = {"format": _FORMAT, **signature}
        manifest = self.folder / _MANIFEST
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            found = json.loads(manifest.read_text(encoding="utf-8")) if manifest.exists() else None
        except OSError as error:
            raise output_error(self.folder, error) from error
        except ValueError:
            found = None  # damaged: what the windows are of cannot be told
        if found is None:
            for path in self.folder.glob("*.npz"):
                path.unlink()
            write_json_atomic(manifest, wanted)
        elif found != json.loads(json.dumps(wanted)):  # tuples become lists
            raise InputError(
                f"{self.folder} holds windows of another run ({_told(found)}), this one has {_told(wanted)}: go on "
                f"with the same model and options, or choose another folder"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Forget what is in memory, and remove the folder if it was the system's."""
        self._recent.clear()
        if self._temporary is not None:
            self._temporary.cleanup()

    def put(self, name: str, window: Window) -> None:
        """Keep a window.

        Raises:
            OutputError: it cannot be written.
        """
        with atomic_path(self._path(name)) as partial, partial.open("wb") as file:
            np.savez(file, **{field: getattr(window, field) for field in _FIELDS})
        self._remember(name, window)

    def get(self, name: str) -> Window:
        """A window that was kept.

        Raises:
            InputError: there is none of this name that can be read.
        """
        window = self.find(name)
        if window is None:
            raise InputError(f"{self.folder} holds no readable window {name!r}; run the sequence again")
        return window

    def find(self, name: str) -> Window | None:
        """The same; None if there is none, or its file is damaged."""
        if name in self._recent:
            self._recent.move_to_end(name)
            return self._recent[name]
        try:
            with np.load(self._path(name), allow_pickle=False) as file:
                window = Window(**{field: file[field] for field in _FIELDS})
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        self._remember(name, window)
        return window

    def predict(
        self,
        name: str,
        predictor: Predictor,
        frames: Sequence[int],
        stamps: Sequence[int],
        colors: NDArray[np.uint8],
    ) -> Window:
        """The window of these frames: found here if it was kept from the same images, or else predicted and kept.

        Raises:
            InputError: the prediction has other shapes than its images, or cameras that are not rigid.
            OutputError: it cannot be written.
        """
        kept = self.find(name)
        if kept is not None and _same(kept, frames, stamps, colors):
            return kept
        window = window_of(
            predictor(colors), np.array(frames, dtype=np.int64), np.array(stamps, dtype=np.int64), colors
        )
        self.put(name, window)
        return window

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npz"

    def _remember(self, name: str, window: Window) -> None:
        self._recent[name] = window
        self._recent.move_to_end(name)
        while len(self._recent) > _IN_MEMORY:
            self._recent.popitem(last=False)


def run_windows(
    frames: Iterable[SequenceFrame],
    predictor: Predictor,
    store: WindowStore,
    options: WindowOptions | None = None,
    *,
    monitor: JobMonitor | None = None,
    count: int = 0,
) -> list[str]:
    """Predict a whole sequence, window by window.

    The last window is a whole one too, and shares as many more frames with the one before; only a sequence shorter
    than a window has a shorter one.

    Args:
        frames: the sequence, read once.
        predictor: the model.
        store: where windows go; those that it has from the same images are not predicted again.
        options: how to cut.
        monitor: told of stage "windows", in frames.
        count: frames there will be, for the monitor; 0 if that is not known.

    Returns:
        The windows' names in the store, in order.

    Raises:
        InputError: there is no frame, an image has another size, or a prediction cannot be used.
        OutputError: a window cannot be written.
        CancelledError: the monitor's callback asked for it.
    """
    options = options or WindowOptions()
    monitor = monitor or JobMonitor()
    names: list[str] = []
    held: list[tuple[int, SequenceFrame]] = []
    fresh = total = 0

    def run() -> None:
        name = f"window_{len(names):06d}"
        stamps, colors = [frame.stamp for _, frame in held], np.stack([frame.image for _, frame in held])
        store.predict(name, predictor, [number for number, _ in held], stamps, colors)
        names.append(name)
        monitor.report("windows", total, count)

    monitor.report("windows", 0, count)
    for frame in frames:
        if frame.image.ndim != 3 or frame.image.shape[2] != 3 or frame.image.dtype != np.uint8:
            raise InputError(
                f"frame {total} must be uint8 [H, W, 3], got {frame.image.dtype} {list(frame.image.shape)}"
            )
        if held and frame.image.shape != held[-1][1].image.shape:
            raise InputError(
                f"frame {total} has size {list(frame.image.shape[:2])}, those before have "
                f"{list(held[-1][1].image.shape[:2])}: bring all to one size"
            )
        held.append((total, frame))
        total, fresh = total + 1, fresh + 1
        del held[: -options.frames]
        if fresh == (options.frames if not names else options.frames - options.overlap):
            run()
            fresh = 0
    if total == 0:
        raise InputError("the sequence has no frame")
    if fresh:
        run()
    return names


def window_of(
    found: Prediction, frames: NDArray[np.int64], stamps: NDArray[np.int64], colors: NDArray[np.uint8]
) -> Window:
    """A prediction with the frames that it is of.

    Args:
        found: the prediction.
        frames: ``[n]`` int64, the frames' numbers in the sequence, rising.
        stamps: ``[n]`` int64.
        colors: ``[n, H, W, 3]`` uint8 RGB.

    Raises:
        InputError: shapes do not fit, or a camera is not finite.
    """
    from gen3r_core.geometry.poses import checked_poses

    count, size = len(frames), colors.shape[1:3]
    shapes = {"depth": (count, *size), "confidence": (count, *size), "intrinsics": (count, 3, 3)}
    for name, shape in shapes.items():
        if getattr(found, name).shape != shape:
            raise InputError(f"predicted {name} must be {list(shape)}, got {list(getattr(found, name).shape)}")
    poses = checked_poses(found.T_window_cam, "predicted camera pose")
    if len(poses) != count or found.features.shape[:1] != (count,) or not np.isfinite(found.intrinsics).all():
        raise InputError(f"{count} frames need as many predicted poses, features and finite intrinsics")
    depth = np.asarray(found.depth, dtype=np.float32)
    known = np.isfinite(depth) & (depth > 0) & (depth < _LARGEST_HALF)
    confidence = np.nan_to_num(np.asarray(found.confidence, dtype=np.float32), nan=0.0, posinf=_LARGEST_HALF)
    features = np.nan_to_num(np.asarray(found.features, dtype=np.float32))
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return Window(
        frames=frames,
        stamps=stamps,
        colors=colors,
        depth=np.where(known, depth, 0).astype(np.float16),
        confidence=confidence.clip(0, _LARGEST_HALF).astype(np.float16),
        T_window_cam=poses,
        intrinsics=np.asarray(found.intrinsics, dtype=np.float64),
        features=(features / np.where(length > 0, length, 1)).astype(np.float32),
    )


def _same(window: Window, frames: Sequence[int], stamps: Sequence[int], colors: NDArray[np.uint8]) -> bool:
    return (
        np.array_equal(window.frames, frames)
        and np.array_equal(window.stamps, stamps)
        and np.array_equal(window.colors, colors)
    )


def _told(values: Any) -> str:
    return (
        ", ".join(f"{key} {value}" for key, value in sorted(values.items())) if isinstance(values, dict) else "unknown"
    )
