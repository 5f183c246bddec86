"""The figures of one clip: predictions against the truth."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gen3r_core.conditioning import Task
from gen3r_core.evaluation.predictions import Geometry
from gen3r_core.evaluation.scenes import TrueScene
from gen3r_core.geometry.rigid import invert_rigid
from gen3r_core.metrics.cameras import area_under_curve, camera_errors, trajectory_error
from gen3r_core.metrics.cloud_distances import Cloud
from gen3r_core.metrics.clouds import aligned_points
from gen3r_core.metrics.depth import depth_errors
from gen3r_core.metrics.frames import frame_classes, measured_frames, middle_frames
from gen3r_core.metrics.images import frame_psnr, ssim
from gen3r_core.training.scene_units import clip_points

__all__ = ["FIGURES", "Figures", "class_figures", "geometry_figures", "image_figures", "predicted_clouds"]

FIGURES = (
    "psnr_middle",
    "psnr_unknown",
    "ssim_unknown",
    "absrel",
    "delta125",
    "auc30",
    "rotation_deg",
    "translation_deg",
    "ate",
    "accuracy",
    "completeness",
    "chamfer",
)
"""What is measured of a clip, as far as it makes sense."""

Figures = dict[str, float | None]
"""By name; None where a figure makes no sense or the truth is not known, NaN where a prediction is not finite."""


def image_figures(colors: Tensor, truth: Tensor, task: Task | None) -> Figures:
    """Pictures against the true ones: means over frames of the figure of each frame.

    Args:
        colors: ``[F, 3, H, W]`` RGB in [0, 1].
        truth: the same shape.
        task: says which frames count, see :func:`gen3r_core.metrics.frames.measured_frames`.

    Returns:
        "psnr_unknown" and "ssim_unknown" of all frames that count, "psnr_middle" of those of them that are
        :func:`gen3r_core.metrics.frames.middle_frames`.
    """
    unknown = measured_frames(task, len(truth))
    if not unknown:
        return {}
    decibels = frame_psnr(colors, truth)
    middle = sorted(set(middle_frames(len(truth))) & set(unknown))
    return {
        "psnr_middle": float(decibels[middle].mean()) if middle else None,
        "psnr_unknown": float(decibels[unknown].mean()),
        "ssim_unknown": float(ssim(colors[unknown], truth[unknown]).mean()),
    }


def class_figures(colors: Tensor, truth: Tensor) -> Figures:
    """PSNR of the video VAE's frames by their place in a latent frame.

    Args:
        colors: ``[F, 3, H, W]`` RGB in [0, 1].
        truth: the same shape.

    Returns:
        "psnr_" and the names of :func:`gen3r_core.metrics.frames.frame_classes`.
    """
    decibels = frame_psnr(colors, truth)
    return {f"psnr_{name}": float(decibels[frames].mean()) for name, frames in frame_classes(len(truth)).items()}


def geometry_figures(geometry: Geometry, scene: TrueScene) -> Figures:
    """Depth and cameras against the true ones, as far as the scene has them; clouds are compared elsewhere.

    Args:
        geometry: any unit and world frame.
        scene: the truth.
    """
    figures: Figures = {}
    if scene.depth is not None:
        known = _known(scene.depth)
        if bool(known.any()):
            figures["absrel"] = figures["delta125"] = math.nan
            if bool(torch.isfinite(geometry.depth).all()):
                absrel, within = depth_errors(geometry.depth[None], scene.depth[None], known[None])
                figures["absrel"], figures["delta125"] = float(absrel), float(within)
    if scene.T_world_cam is not None:
        figures |= _camera_figures(geometry.T_cam_world, invert_rigid(scene.T_world_cam))
        figures["ate"] = trajectory_error(geometry.T_world_cam, scene.T_world_cam)
    return figures


def predicted_clouds(geometries: list[Geometry], scene: TrueScene) -> tuple[list[Cloud], Cloud] | None:
    """What :func:`~gen3r_core.metrics.cloud_distances.cloud_errors` compares; None where no true point is known.

    Args:
        geometries: predictions for the same clip.
        scene: the truth.

    Returns:
        Each prediction's points aligned to the true ones, and these: metres, in the scene's world.
    """
    if scene.depth is None or scene.T_world_cam is None or scene.intrinsics is None:
        return None
    known = _known(scene.depth)
    if not bool(known.any()):
        return None
    truth = clip_points(scene.depth[None], invert_rigid(scene.T_world_cam)[None], scene.intrinsics[None])[0]
    pairs = [aligned_points(geometry.points, truth, known) for geometry in geometries]
    return [predicted for predicted, _ in pairs], pairs[0][1]


def _camera_figures(T_cam_world: Tensor, truth: Tensor) -> Figures:
    """Means over all pairs of frames."""
    if len(truth) < 2 or not bool(torch.isfinite(T_cam_world).all()):
        return dict.fromkeys(("auc30", "rotation_deg", "translation_deg"), None if len(truth) < 2 else math.nan)
    errors = camera_errors(T_cam_world[None], truth[None])
    return {
        "auc30": float(area_under_curve(errors)),
        "rotation_deg": float(errors.rotation.mean()),
        "translation_deg": float(errors.translation.mean()),
    }


def _known(depth: Tensor) -> Tensor:
    return (depth > 0) & torch.isfinite(depth)
