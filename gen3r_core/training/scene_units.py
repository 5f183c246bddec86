"""Ground truth in scene units, as VGGT is trained (arXiv 2503.11651, "coordinate normalization").

The first view's camera is the world frame, and the unit of length is the mean distance of all known
points from that camera. Everything runs batched on the tensors' device and never waits for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gen3r_core.errors import InputError
from gen3r_core.geometry.cameras import encode_pose
from gen3r_core.geometry.rigid import compose, invert_rigid
from gen3r_core.geometry.unprojection import unproject_depth
from gen3r_core.training.batch import ClipBatch

__all__ = ["SceneTruth", "clip_points", "metres_per_unit", "normalised_truth", "relative_poses"]

SMALLEST_UNIT = 1e-4
"""Metres; keeps a clip without any known depth finite."""


@dataclass(frozen=True)
class SceneTruth:
    """What VGGT shall predict for B clips of S views; float32, lengths in scene units.

    Attributes:
        T_cam_world: ``[B, S, 4, 4]`` world (first camera) to camera.
        pose_encoding: ``[B, S, 9]`` the same and the fields of view.
        depth: ``[B, S, H, W]``, 0 where unknown.
        points: ``[B, S, H, W, 3]`` in the world frame; meaningless where depth is unknown.
        mask: ``[B, S, H, W]`` bool, where depth is known.
        metres_per_unit: ``[B]``.
    """

    T_cam_world: Tensor
    pose_encoding: Tensor
    depth: Tensor
    points: Tensor
    mask: Tensor
    metres_per_unit: Tensor


def normalised_truth(batch: ClipBatch, stage: str = "this stage") -> SceneTruth:
    """Ground truth of a batch in scene units.

    Args:
        batch: With depth and cameras; its first frame is the first view.
        stage: Name for messages.

    Raises:
        InputError: The batch has no depth or no cameras.
    """
    depth, intrinsics, T_world_cam = batch.depth, batch.intrinsics, batch.T_world_cam
    if depth is None or intrinsics is None or T_world_cam is None:
        raise InputError(f"{stage} needs clips with depth and cameras, and this source has none; train on worlds")
    mask = (depth > 0) & torch.isfinite(depth)
    depth = torch.where(mask, depth.float(), torch.zeros((), device=depth.device))
    T_cam_world = invert_rigid(relative_poses(T_world_cam))
    points = clip_points(depth, T_cam_world, intrinsics)
    distance = points.norm(dim=-1).mul(mask).sum(dim=(1, 2, 3))
    unit = (distance / mask.sum(dim=(1, 2, 3)).clamp(min=1)).clamp(min=SMALLEST_UNIT)
    poses = torch.cat((T_cam_world[..., :3, :3], T_cam_world[..., :3, 3:] / unit[:, None, None, None]), dim=-1)
    bottom = T_cam_world[..., 3:, :]
    return SceneTruth(
        T_cam_world=torch.cat((poses, bottom), dim=-2),
        pose_encoding=encode_pose(poses, intrinsics.float(), batch.size),
        depth=depth / unit[:, None, None, None],
        points=points / unit[:, None, None, None, None],
        mask=mask,
        metres_per_unit=unit,
    )


def relative_poses(T_world_cam: Tensor) -> Tensor:
    """Poses in the frame of each clip's first camera.

    Args:
        T_world_cam: ``[B, S, 4, 4]`` rigid.

    Returns:
        ``T_cam0_cam`` ``[B, S, 4, 4]`` float32; the first of every clip is the identity exactly.
    """
    poses = T_world_cam.float()
    others = compose(invert_rigid(poses[:, :1]), poses[:, 1:])
    first = torch.eye(4, device=poses.device).expand(len(poses), 1, 4, 4)
    return torch.cat((first, others), dim=1)


def clip_points(depth: Tensor, T_cam_world: Tensor, intrinsics: Tensor) -> Tensor:
    """World points of all pixels of B clips, on the rays through pixel centres (+0.5) as depth is rendered.

    Args:
        depth: ``[B, S, H, W]``.
        T_cam_world: ``[B, S, 4, 4]`` world to camera, in the depth's unit.
        intrinsics: ``[B, S, 3, 3]`` pixels of (H, W).

    Returns:
        ``[B, S, H, W, 3]`` float32.
    """
    K = intrinsics.float().flatten(0, 1)
    # The function counts pixels from whole numbers; a principal point half a pixel less makes up for it.
    half = torch.zeros_like(K[0])
    half[:2, 2].fill_(0.5)
    points = unproject_depth(depth.flatten(0, 1), T_cam_world.flatten(0, 1), K - half)
    clips: Tensor = points.unflatten(0, depth.shape[:2])
    return clips


def metres_per_unit(predicted_depth: Tensor, batch: ClipBatch, predicted_T_cam_world: Tensor) -> Tensor:
    """Metres in one unit of VGGT's prediction, clip by clip.

    With depth: the median over known pixels of ``true depth / predicted depth`` (every fourth pixel of every
    fourth row is looked at). Without: the ratio of the summed distances of the cameras from the first.

    Args:
        predicted_depth: ``[B, S, H, W]`` in scene units.
        batch: The clips, with cameras.
        predicted_T_cam_world: ``[B, S, 3, 4]`` or ``[B, S, 4, 4]``.

    Returns:
        ``[B]`` float32, positive; 1 where nothing tells.

    Raises:
        InputError: The batch has no cameras.
    """
    if batch.T_world_cam is None:
        raise InputError("the scale of a clip cannot be told without its cameras")
    one = torch.ones((), device=predicted_depth.device)
    if batch.depth is not None:
        true, predicted = batch.depth[..., ::4, ::4].float(), predicted_depth[..., ::4, ::4].float()
        known = (true > 0) & torch.isfinite(true) & (predicted > 0)
        ratio = torch.where(known, true / torch.where(known, predicted, one), one * float("nan"))
        scale = ratio.flatten(1).nanmedian(dim=1).values
    else:
        true_path = relative_poses(batch.T_world_cam)[..., :3, 3].norm(dim=-1).sum(dim=1)
        inverse = invert_rigid(predicted_T_cam_world)
        predicted_path = relative_poses(inverse)[..., :3, 3].norm(dim=-1).sum(dim=1)
        scale = torch.where(predicted_path > 0, true_path / predicted_path, one)
    return torch.where(torch.isfinite(scale) & (scale > 0), scale, one)
