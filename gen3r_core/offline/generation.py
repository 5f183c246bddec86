"""Views and geometry that nobody took: Gen3R between two keyframes, or ahead of one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from gen3r_core.conditioning import Task
from gen3r_core.errors import InputError
from gen3r_core.geometry.images import ImageResize, resize_and_crop
from gen3r_core.geometry.poses import Array, interpolate_poses, rotation_angles
from gen3r_core.jobs import Job
from gen3r_core.mapping.fusion import PlacedView
from gen3r_core.offline.keyframes import Keyframes
from gen3r_core.offline.options import Stretch
from gen3r_core.progress import JobMonitor
from gen3r_core.reconstruction.metric import MetricOptions, scale_from_depth
from gen3r_core.scene import CameraPath

if TYPE_CHECKING:
    from gen3r_core.pipeline import Gen3RPipeline
    from gen3r_core.scene import Scene

__all__ = ["Ends", "find_stretch", "generate_views", "path_of"]

_PIXEL_CENTRE = 0.5
_METRES_OF_A_RADIAN = 1.0
"""How far turning counts, beside moving, when cameras are spread evenly over a way."""
_LEAST_SURE = 0.2
"""Share of a generated view's pixels, the least sure ones, that make no points."""
_SCALE = MetricOptions(min_pixels=100, max_depth_spread=0.6)
_TRUST = 0.5
"""What confidence of generated points is multiplied by."""


@dataclass(frozen=True, eq=False)
class Ends:
    """What is known where views are generated.

    Attributes:
        stretch: what was asked for.
        views: the keyframe at its beginning, and for a stretch between two the one at its end.
        T_way: ``[N, 4, 4]`` of the keyframes between, these included, in the world.
    """

    stretch: Stretch
    views: tuple[PlacedView, ...]
    T_way: Array

    @property
    def task(self) -> Task:
        """Which of Gen3R's."""
        return Task.ONE_VIEW if len(self.views) == 1 else Task.TWO_VIEW


def find_stretch(keyframes: Keyframes, stretch: Stretch, recording: Path) -> list[int]:
    """Numbers of the keyframes from a stretch's beginning to its end, of the first camera; one where it goes ahead.

    Args:
        keyframes: of the recording.
        stretch: where views shall be generated.
        recording: whose they are, for the error.

    Raises:
        InputError: no two keyframes are there.
    """
    numbers = keyframes.of(keyframes.cameras[0])
    seconds = np.array([keyframes.table[number].stamp_ns - keyframes.facts["start_ns"] for number in numbers]) / 1e9
    first = int(np.abs(seconds - stretch.start_s).argmin())
    last = first if stretch.end_s is None else int(np.abs(seconds - stretch.end_s).argmin())
    if stretch.end_s is not None and last <= first:
        raise InputError(
            f"{recording}: between {stretch.start_s:g} s and {stretch.end_s:g} s there are no two keyframes "
            f"to generate views between; they are at {seconds[0]:.1f} to {seconds[-1]:.1f} s"
        )
    return numbers[first : last + 1]


def path_of(ends: Ends, count: int) -> Array:
    """``[count, 4, 4]`` cameras: along the way of the keyframes between, or straight ahead.

    Args:
        ends: where.
        count: of the cameras, the ends included.
    """
    if len(ends.views) == 1:
        T = np.repeat(ends.views[0].T_world_cam[None], count, axis=0)
        T[:, :3, 3] += np.linspace(0, ends.stretch.ahead, count)[:, None] * T[0, :3, 2]
        return T
    T = ends.T_way
    steps = np.linalg.norm(np.diff(T[:, :3, 3], axis=0), axis=1)
    turns = rotation_angles(np.swapaxes(T[:-1, :3, :3], 1, 2) @ T[1:, :3, :3])
    along = np.concatenate([[0.0], np.cumsum(steps + _METRES_OF_A_RADIAN * turns)])
    return interpolate_poses(T, along, np.linspace(0, along[-1], count))


def generate_views(
    pipeline: Gen3RPipeline, ends: Ends, prompt: str, seed: int, number: int, monitor: JobMonitor
) -> tuple[list[PlacedView], str]:
    """Views along a path, placed in the world.

    The scale of what is generated is that of the known views' depth in the map.

    Args:
        pipeline: Gen3R.
        ends: where.
        prompt: words for it.
        seed: of the draws.
        number: of the first view; the others count on.
        monitor: told of the pipeline's stages.

    Returns:
        The generated views, known ones left out; or none and one sentence why.

    Raises:
        InputError: the prompt or the cameras cannot be used.
        DeviceError: memory runs out.
        CancelledError: the monitor's callback asked for it.
    """
    images = torch.from_numpy(np.stack([view.colors for view in ends.views])).permute(0, 3, 1, 2).float() / 255
    unit = _scale_of_model(pipeline, images, ends.views, monitor)
    if unit is None:
        return [], "the depth of the keyframes there does not tell the scale of what would be generated"
    count = pipeline.num_frames
    T = path_of(ends, count)
    K = np.repeat(ends.views[0].intrinsics[None], count, axis=0)
    K[:, :2, 2] += _PIXEL_CENTRE
    size = (images.shape[2], images.shape[3])
    cameras = CameraPath(torch.from_numpy(T), torch.from_numpy(K), size, unit)
    scene = pipeline.generate(Job(images, ends.task, prompt, cameras, seed), monitor=monitor)
    _, resized = resize_and_crop(images[:1], scene.image_size)
    known = ends.task.known_frames(count)
    scale = _scale(scene.depth[known], scene.valid[known], ends.views, resized)
    if scale is None:
        return [], "what was generated does not fit the keyframes at its ends"
    intrinsics = resized.apply_to_intrinsics(torch.from_numpy(K)).numpy()
    intrinsics[:, :2, 2] -= _PIXEL_CENTRE
    new = [index for index in range(count) if not bool(scene.observed[index])]
    return [
        _view(scene, index, T[index], intrinsics[index], scale, number + place) for place, index in enumerate(new)
    ], ""


def _view(scene: Scene, index: int, T: Array, K: Array, scale: float, number: int) -> PlacedView:
    sure = scene.depth_confidence[index]
    valid = scene.valid[index] & torch.isfinite(scene.depth[index]) & (scene.depth[index] > 0)
    if bool(valid.any()):
        valid = valid & (sure >= sure[valid].quantile(_LEAST_SURE))
    depth = torch.where(valid, scene.depth[index] * scale, 0.0).float().cpu().numpy()
    typical = float(np.median(depth[depth > 0])) if (depth > 0).any() else 1.0
    far = np.maximum(depth / typical, 0.3)
    colors = (scene.colors[index] * 255).round().clamp(0, 255).byte().cpu().numpy()
    return PlacedView(number, T, K, depth, (_TRUST * sure.float().cpu().numpy() / far**2).astype(np.float32), colors)


def _scale_of_model(
    pipeline: Gen3RPipeline, images: torch.Tensor, views: Sequence[PlacedView], monitor: JobMonitor
) -> float | None:
    """World units in one of the model's, by what VGGT says of the known views alone."""
    scene = pipeline.reconstruct(images, monitor=monitor)
    return _scale(scene.depth, scene.valid, views, None)


def _scale(
    depth: torch.Tensor, valid: torch.Tensor, views: Sequence[PlacedView], resized: ImageResize | None
) -> float | None:
    known = np.stack([view.depth if resized is None else _cut(view.depth, resized) for view in views])
    found = scale_from_depth(depth.float().cpu().numpy(), known, valid.cpu().numpy(), _SCALE)
    return found.metres_per_unit if found.metric and math.isfinite(found.metres_per_unit) else None


def _cut(depth: NDArray[np.float32], resized: ImageResize) -> NDArray[np.float32]:
    """A depth map as its image was resized and cut, by nearest values."""
    places = []
    for side, length in enumerate(resized.to_size):
        at = (np.arange(length) + resized.corner[side] + 0.5) / resized.scaled_size[side] * depth.shape[side]
        places.append(at.astype(np.int64).clip(0, depth.shape[side] - 1))
    return np.asarray(depth[places[0]][:, places[1]])
