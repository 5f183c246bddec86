"""What a worker is asked for. Plain arrays of numpy: whoever asks needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen3r_core.errors import InputError
from gen3r_core.serving.shared import SharedArrays, Stack

Images = Sequence[NDArray[np.uint8]] | NDArray[np.uint8]
"""N RGB images ``[H, W, 3]`` uint8 of one size, or one array ``[N, H, W, 3]``."""

TASKS = {"1view": 1, "2view": 2, "allview": 1}
"""Names of :class:`gen3r_core.conditioning.Task`, and the fewest images each needs."""

PATH = "path"
"""Stands for any path of cameras where only the time counts that a job takes."""

MOST_PROMPT = 10_000
"""Characters; a model reads the first few hundred."""


class JobKind(StrEnum):
    """The two kinds of job, each with a slot of its own."""

    RECONSTRUCT = "reconstruct"
    PREDICT = "predict"


@dataclass(frozen=True)
class CloudOptions:
    """Which pixels become points.

    Attributes:
        max_points: at most so many, drawn at random (the same each time).
        drop_percent: the least certain percent of all valid pixels are left out, 0 to 100.
        min_confidence: VGGT's confidences are at least 1 and have no upper limit.

    Raises:
        InputError: out of range.
    """

    max_points: int = 200_000
    drop_percent: float = 30.0
    min_confidence: float = 1.0

    def __post_init__(self) -> None:
        if self.max_points < 1 or not 0 <= self.drop_percent <= 100 or not np.isfinite(self.min_confidence):
            raise InputError(
                f"a cloud needs at least 1 point, 0 to 100 percent to drop and a finite confidence, got "
                f"{self.max_points}, {self.drop_percent} and {self.min_confidence}"
            )


@dataclass(frozen=True, eq=False)
class Cameras:
    """A camera path, as :class:`gen3r_core.scene.CameraPath` but of numpy arrays.

    Attributes:
        T_world_cam: ``[F, 4, 4]`` float, rigid, OpenCV axes; only poses relative to the first matter. In scene
            units, or in metres when ``metres_per_unit`` is given.
        intrinsics: ``[F, 3, 3]`` float, pixels of ``image_size`` with centres at +0.5, zero skew.
        image_size: ``(height, width)``.
        metres_per_unit: metres in one scene unit, if translations are in metres.

    Raises:
        InputError: shapes do not fit, or numbers are not finite.
    """

    T_world_cam: NDArray[np.floating[Any]]
    intrinsics: NDArray[np.floating[Any]]
    image_size: tuple[int, int]
    metres_per_unit: float | None = None

    def __post_init__(self) -> None:
        count = len(self.T_world_cam)
        _check_matrices("camera poses", self.T_world_cam, (count, 4, 4))
        _check_matrices("intrinsics", self.intrinsics, (count, 3, 3))


@dataclass(frozen=True)
class PredictOptions:
    """How to generate: the fields and defaults of :class:`gen3r_core.jobs.Sampling`, which explains them.

    But for ``point_map``, which results do not have.
    """

    num_frames: int | None = None
    size: tuple[int, int] | None = None
    steps: int = 50
    guidance: float = 5.0
    negative_prompt: str = "bad detailed"
    scheduler: str = "euler"
    shift: float | None = None
    limit_depth: bool = True
    attention: str = "auto"
    guided_share: tuple[float, float] = (0.0, 1.0)
    geometry: str = "latents"


@dataclass(frozen=True, eq=False)
class ReconstructRequest:
    """Feed-forward reconstruction of images.

    Attributes:
        images: see :data:`Images`. They are read later, by reference: do not write to them afterwards.
        intrinsics: ``[N, 3, 3]`` float, pixels of the images with centres at +0.5. Where they are known, points
            lie on their rays; otherwise on those of the predicted cameras.
        longest: pixels that the longer side is scaled to; None takes that of the model's own images.
        limit_depth: only the middle of each frame's range of depths is valid.
        attention: kernel, see :class:`gen3r_core.models.attention.AttentionKernel`.
        cloud: which pixels become points.
        T_world_cam: ``[N, 4, 4]`` float, camera to world, metres, OpenCV axes, where the cameras are known to have
            been. With it and intrinsics the depth is fitted to these poses, if the images allow it
            (:mod:`gen3r_core.reconstruction.anchoring`); the result then has ``metres_per_unit``.

    Raises:
        InputError: images, intrinsics or poses have another shape or type.
    """

    images: Images
    intrinsics: NDArray[np.floating[Any]] | None = None
    longest: int | None = None
    limit_depth: bool = True
    attention: str = "auto"
    cloud: CloudOptions = field(default_factory=CloudOptions)
    T_world_cam: NDArray[np.floating[Any]] | None = None

    def __post_init__(self) -> None:
        _check_images(self.images)
        if self.intrinsics is not None:
            _check_matrices("intrinsics", self.intrinsics, (len(self.images), 3, 3))
        if self.T_world_cam is not None:
            _check_matrices("camera poses", self.T_world_cam, (len(self.images), 4, 4))

    @property
    def anchored(self) -> bool:
        """Whether the depth is to be fitted to known poses."""
        return self.T_world_cam is not None and self.intrinsics is not None

    @property
    def kind(self) -> JobKind:
        """Its slot."""
        return JobKind.RECONSTRUCT

    @property
    def pace_key(self) -> tuple[object, ...]:
        """Requests of equal keys take equally long."""
        return (self.kind, len(self.images), self.images[0].shape, self.longest, self.attention, self.anchored)


@dataclass(frozen=True, eq=False)
class PredictRequest:
    """Generation of views.

    Attributes:
        images: see :data:`Images`; the first ("1view"), first and last ("2view"), or all views ("allview"). They
            are read later, by reference: do not write to them afterwards.
        task: one of :data:`TASKS`.
        cameras: "free", the name of a built-in path, or a path with one camera a view.
        prompt: what the place is.
        seed: of the random draws, 0 or more.
        options: how to generate.
        cloud: which pixels become points.

    Raises:
        InputError: images have another shape or type, there are too few for the task, or the prompt is too long.
    """

    images: Images
    task: str = "1view"
    cameras: str | Cameras = "free"
    prompt: str = ""
    seed: int = 42
    options: PredictOptions = field(default_factory=PredictOptions)
    cloud: CloudOptions = field(default_factory=CloudOptions)

    def __post_init__(self) -> None:
        _check_images(self.images)
        if self.task not in TASKS:
            raise InputError(f"task {self.task!r} is unknown; choose one of: {', '.join(TASKS)}")
        if len(self.images) < TASKS[self.task]:
            raise InputError(f"task {self.task} needs {TASKS[self.task]} images, got {len(self.images)}")
        longest = max(len(self.prompt), len(self.options.negative_prompt))
        if longest > MOST_PROMPT:
            raise InputError(f"a prompt has at most {MOST_PROMPT} characters, got {longest}")

    @property
    def kind(self) -> JobKind:
        """Its slot."""
        return JobKind.PREDICT

    @property
    def pace_key(self) -> tuple[object, ...]:
        """Requests of equal keys take equally long, but for the number of steps."""
        path = self.cameras if isinstance(self.cameras, str) else PATH
        views = len(self.images) if self.task == "allview" else 0
        return predict_pace_key(self.task, views, path, self.options)


def predict_pace_key(task: str, views: int, path: str, options: PredictOptions) -> tuple[object, ...]:
    """Predictions of equal keys take equally long, but for the number of steps.

    Args:
        task: one of :data:`TASKS`.
        views: images of an allview prediction; 0 for others.
        path: "free", the name of a built-in path, or :data:`PATH`.
        options: of the prediction.
    """
    own = options
    guided = own.guidance > 1 and own.guided_share
    return (JobKind.PREDICT, task, views, own.num_frames, own.size, guided, own.attention, path, own.geometry)


Request = ReconstructRequest | PredictRequest


def pack(request: Request) -> tuple[dict[str, Any], dict[str, NDArray[Any] | Stack]]:
    """Part a request into what is pickled and the arrays that go over in shared memory."""
    plain = {own.name: getattr(request, own.name) for own in fields(request)}
    arrays: dict[str, NDArray[Any] | Stack] = {"images": plain.pop("images")}
    if isinstance(request, ReconstructRequest):
        for name in ("intrinsics", "T_world_cam"):
            if plain.pop(name) is not None:
                arrays[name] = np.asarray(getattr(request, name), np.float64)
    elif isinstance(request.cameras, Cameras):
        path = request.cameras
        arrays["T_world_cam"] = np.asarray(path.T_world_cam, np.float64)
        arrays["intrinsics"] = np.asarray(path.intrinsics, np.float64)
        plain["cameras"] = (tuple(path.image_size), path.metres_per_unit)
    return plain, arrays


def unpack(kind: JobKind, plain: Mapping[str, Any], arrays: SharedArrays) -> Request:
    """The inverse of :func:`pack`; arrays are views of the shared memory."""
    values: dict[str, Any] = {**plain, "images": arrays["images"]}
    if kind is JobKind.RECONSTRUCT:
        values.update({name: arrays[name] for name in ("intrinsics", "T_world_cam") if name in arrays})
        return ReconstructRequest(**values)
    if "T_world_cam" in arrays:
        values["cameras"] = Cameras(arrays["T_world_cam"], arrays["intrinsics"], *plain["cameras"])
    return PredictRequest(**values)


def _check_images(images: Images) -> None:
    if len(images) == 0:
        raise InputError("at least one image is needed, got none")
    first = images[0]
    for index, image in enumerate(images):
        dtype, rank, words = _describe(image)
        if dtype != np.uint8 or rank != 3 or image.shape[2] != 3:
            raise InputError(f"images must be uint8 RGB of shape [H, W, 3], image {index} is {words}")
        if image.shape != first.shape:
            raise InputError(
                f"images must have one size, image 0 has {first.shape[:2]} and image {index} {image.shape[:2]} "
                f"(height, width); scale them first"
            )
    if 0 in first.shape:
        raise InputError(f"images have no pixels: their shape is {first.shape}")


def _check_matrices(what: str, values: NDArray[Any], shape: tuple[int, ...]) -> None:
    dtype, _, words = _describe(values)
    if dtype is None or dtype.kind != "f" or values.shape != shape:
        raise InputError(f"{what} must be a floating point array of shape {list(shape)}, got {words}")
    if not np.isfinite(values).all():
        raise InputError(f"{what} contain NaN or infinite values")


def _describe(value: object) -> tuple[np.dtype[Any] | None, int, str]:
    """Type and rank of an array, and words for it; of anything else only the words."""
    if not isinstance(value, np.ndarray):
        return None, 0, type(value).__name__
    return value.dtype, value.ndim, f"{value.dtype} {value.shape}"
