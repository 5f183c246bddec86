"""The demonstration's figures: what came over the graph against what is true of the world."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gen3r_core.geometry.images import resize_and_crop
from gen3r_core.geometry.poses import rotation_angles
from gen3r_core.metrics.images import frame_psnr, ssim
from gen3r_core.worlds.camera import Picture
from gen3r_ros.demo.recording import Recording

Array = NDArray[np.float64]
Pictures = NDArray[np.uint8]
_LEVER_M = 1.0
"""Metres that a radian counts for where the nearest frame is looked for."""
_SAME_SURFACE = 1.25
_FEWEST = 100


@dataclass(frozen=True)
class Target:
    """What a figure should be.

    Attributes:
        name: of the figure.
        label: in words.
        limit: at most, or at least.
        unit: that it is shown in.
        scale: of the unit.
        digits: shown.
        at_least: whether more is better.
    """

    name: str
    label: str
    limit: float
    unit: str
    scale: float
    digits: int
    at_least: bool = False

    def met(self, value: float | None) -> bool:
        """Whether a value will do."""
        if value is None or not math.isfinite(value):
            return False
        return value >= self.limit if self.at_least else value <= self.limit

    def show(self, value: float | None) -> str:
        """A value with its unit."""
        if value is None or not math.isfinite(value):
            return "not known"
        return f"{value * self.scale:.{self.digits}f} {self.unit}"


TARGETS = (
    Target("scale_error", "scale error", 0.03, "%", 100.0, 2),
    Target("cloud_median_error_m", "median error of the cloud", 0.05, "cm", 100.0, 1),
    Target("path_error_m", "error of the keyframe path (from TF)", 0.05, "cm", 100.0, 1),
    Target("novel_view_gain_db", "predicted views over the nearest known frame", 2.0, "dB", 1.0, 2, at_least=True),
)


def path_error(recording: Recording) -> float | None:
    """Metres, root mean square, between keyframe cameras as published and where they were; None without any."""
    pairs = [
        (one.pose[:3, 3], true[:3, 3])
        for one in recording.keyframes.values()
        if (true := recording.camera_pose(one.stamp_ns)) is not None
    ]
    if not pairs:
        return None
    return float(np.sqrt(np.mean([np.square(a - b).sum() for a, b in pairs])))


def cloud_scale(points: NDArray[np.floating[Any]], recording: Recording) -> float | None:
    """How much too large the cloud's distances from the keyframes are: 1 where they are right; None if not known.

    The median, over the keyframes' true cameras, of the ratio between the depth of a point and that which the
    simulator's true depth has in its pixel; points that another surface hides do not count.

    Args:
        points: ``[N, 3]`` map, metres.
        recording: with true depths and poses.
    """
    if recording.intrinsics is None:
        return None
    ratios = []
    for stamp in recording.keyframes:
        true, pose = recording.true_depths.get(stamp), recording.camera_pose(stamp)
        if true is None or pose is None:
            continue
        seen = (points - pose[:3, 3]) @ pose[:3, :3]
        seen = seen[seen[:, 2] > 0.1]
        pixel = seen @ recording.intrinsics.T
        u, v = (np.floor(pixel[:, axis] / pixel[:, 2]).astype(np.int64) for axis in (0, 1))
        inside = (u >= 0) & (u < true.shape[1]) & (v >= 0) & (v < true.shape[0])
        ratio = seen[inside, 2] / true[v[inside], u[inside]]
        ratios.append(ratio[(ratio > 1 / _SAME_SURFACE) & (ratio < _SAME_SURFACE)])
    found = np.concatenate(ratios) if ratios else np.empty(0)
    return float(np.median(found)) if len(found) >= _FEWEST else None


def square(pictures: Sequence[Pictures] | Pictures, side: int) -> Pictures:
    """``[F, side, side, 3]``: the middle of pictures, as the model is given it."""
    images = torch.from_numpy(np.stack(list(pictures))).permute(0, 3, 1, 2).float() / 255
    cut = resize_and_crop(images, (side, side))[0]
    return np.asarray((cut * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy())


@dataclass(frozen=True, eq=False)
class ViewFigures:
    """Predicted views against the truth.

    Attributes:
        nearest: ``[F, S, S, 3]`` the known frame nearest to each view.
        crossfade: ``[F, S, S, 3]`` the two nearest, the nearer with more weight.
        psnr: ``[F]`` dB of the prediction.
        nearest_psnr: ``[F]`` of the nearest frame.
        crossfade_psnr: ``[F]``.
        figures: their means over the views that were generated, by name.
    """

    nearest: Pictures
    crossfade: Pictures
    psnr: Array
    nearest_psnr: Array
    crossfade_psnr: Array
    figures: dict[str, float]


def view_figures(recording: Recording, truth: Sequence[Picture], known_until: int) -> ViewFigures:
    """Measure the views.

    Args:
        recording: with the views, and the cameras that were asked for.
        truth: what is to be seen from those cameras.
        known_until: stamp of the newest keyframe that the prediction began at; later images were not known then.
    """
    views = recording.views
    side = views[0].colors.shape[0]
    true = np.stack([one.colors for one in truth])
    predicted = np.stack([one.colors for one in views])
    nearest, crossfade = _baselines(recording, known_until, side)
    made = np.array([not one.observed for one in views])
    psnr, near, fade = (_psnr(pictures, true) for pictures in (predicted, nearest, crossfade))
    figures = {
        "novel_view_psnr": float(psnr[made].mean()),
        "baseline_psnr": float(near[made].mean()),
        "crossfade_psnr": float(fade[made].mean()),
        "novel_view_ssim": _ssim(predicted[made], true[made]),
        "baseline_ssim": _ssim(nearest[made], true[made]),
    }
    figures["novel_view_gain_db"] = figures["novel_view_psnr"] - figures["baseline_psnr"]
    depth = np.stack([one.depth for one in views])[made]
    known = np.stack([one.depth for one in truth])[made]
    metric = np.array([one.metric for one in views])[made]
    both = np.isfinite(depth) & (known > 0) & metric[:, None, None]
    figures["novel_view_depth_absrel"] = (
        float((np.abs(depth - known)[both] / known[both]).mean()) if both.any() else math.nan
    )
    return ViewFigures(nearest, crossfade, psnr, near, fade, figures)


def _baselines(recording: Recording, known_until: int, side: int) -> tuple[Pictures, Pictures]:
    stamps = [
        stamp for stamp in sorted(recording.images) if stamp <= known_until and recording.camera_pose(stamp) is not None
    ]
    poses = np.stack([recording.camera_pose(stamp) for stamp in stamps])  # type: ignore[misc]
    metres = np.linalg.norm(poses[None, :, :3, 3] - recording.requested[:, None, :3, 3], axis=2)
    turned = recording.requested[:, None, :3, :3].swapaxes(2, 3) @ poses[None, :, :3, :3]
    away = metres + _LEVER_M * rotation_angles(turned)
    order = np.argsort(away, axis=1, kind="stable")
    frames = square([recording.images[stamp] for stamp in stamps], side)
    nearest = frames[order[:, 0]]
    second = order[:, min(1, len(stamps) - 1)]
    rows = np.arange(len(order))
    a, b = away[rows, order[:, 0]] + 1e-6, away[rows, second] + 1e-6
    weight = (b / (a + b))[:, None, None, None]
    crossfade = np.rint(weight * nearest + (1 - weight) * frames[second]).astype(np.uint8)
    return nearest, crossfade


def _floats(pictures: Pictures) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 255


def _psnr(pictures: Pictures, truth: Pictures) -> Array:
    return np.asarray(frame_psnr(_floats(pictures), _floats(truth)).double().numpy())


def _ssim(pictures: Pictures, truth: Pictures) -> float:
    return float(ssim(_floats(pictures), _floats(truth)).mean())
