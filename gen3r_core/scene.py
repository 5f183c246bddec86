"""The nouns that flow through the library: a camera path goes in, a scene comes out.

Conventions, stated once. Cameras use OpenCV axes (x right, y down, z forward). A transform
is named by its direction: ``T_world_cam`` takes points from camera to world coordinates
(camera-to-world), ``T_cam_world`` the other way. *Scene units* are the units of VGGT's
predictions; ``metres_per_unit`` converts them where it is known. Intrinsics are in pixels
of the image they belong to, pixel centres at +0.5 for rays (as Gen3R's Plücker embedding
uses them), image size always as ``(height, width)``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gen3r_core.errors import InputError


@dataclass(frozen=True)
class CameraPath:
    """Where the cameras of a video stand.

    Attributes:
        T_world_cam: ``[F, 4, 4]`` float, rigid, OpenCV axes, any world frame (only poses
            relative to the first camera matter). Translations in scene units, or in
            metres when ``metres_per_unit`` is given.
        intrinsics: ``[F, 3, 3]`` float, pixels of ``image_size``, zero skew.
        image_size: ``(height, width)`` that the intrinsics refer to.
        metres_per_unit: metres in one scene unit, if translations are in metres; None when
            they already are in scene units.
    """

    T_world_cam: Tensor
    intrinsics: Tensor
    image_size: tuple[int, int]
    metres_per_unit: float | None = None

    def __post_init__(self) -> None:
        poses, intrinsics = self.T_world_cam, self.intrinsics
        if poses.ndim != 3 or poses.shape[1:] != (4, 4):
            raise InputError(f"camera poses must have shape [F, 4, 4], got {tuple(poses.shape)}")
        if intrinsics.shape != (poses.shape[0], 3, 3):
            raise InputError(
                f"intrinsics must have shape [{poses.shape[0]}, 3, 3] to match the poses, got {tuple(intrinsics.shape)}"
            )
        for name, values in (("pose", poses), ("intrinsic matrix", intrinsics)):
            bad = (~torch.isfinite(values).flatten(1).all(dim=1)).nonzero().flatten().tolist()
            if bad:
                raise InputError(f"camera {name} of frame {bad[0]} contains NaN or infinite values")
        rotation = poses[:, :3, :3].double()
        identity = torch.eye(3, dtype=torch.float64, device=rotation.device)
        error = (rotation @ rotation.transpose(1, 2) - identity).abs().amax(dim=(1, 2))
        flipped = torch.linalg.det(rotation) <= 0
        bad = ((error > 1e-2) | flipped).nonzero().flatten().tolist()
        if bad:
            raise InputError(
                f"camera pose of frame {bad[0]} is singular or not a rotation (its 3x3 part must be orthonormal "
                f"with determinant +1)"
            )
        focal = intrinsics[:, (0, 1), (0, 1)]
        bad = (focal <= 0).any(dim=1).nonzero().flatten().tolist()
        if bad:
            raise InputError(f"intrinsic matrix of frame {bad[0]} is singular: focal lengths must be positive")
        if self.metres_per_unit is not None and not 0 < self.metres_per_unit < float("inf"):
            raise InputError(f"metres_per_unit must be positive, got {self.metres_per_unit}")

    def __len__(self) -> int:
        return int(self.T_world_cam.shape[0])


@dataclass(frozen=True)
class Scene:
    """What Gen3R or VGGT makes of a video: appearance, geometry and cameras of F frames.

    All tensors are float32 unless said otherwise and live on one device. The world frame is
    the camera frame of the first image as VGGT predicts it (approximately the identity pose).

    Attributes:
        colors: ``[F, H, W, 3]`` RGB in [0, 1].
        depth: ``[F, H, W]`` z-depth in scene units.
        depth_confidence: ``[F, H, W]``, at least 1 (larger is surer).
        points: ``[F, H, W, 3]`` depth unprojected into the world frame, scene units.
        point_map: ``[F, H, W, 3]`` direct prediction of the point head, world frame, scene units; None unless it was
            asked for.
        point_map_confidence: ``[F, H, W]``, at least 1; None with ``point_map``.
        valid: ``[F, H, W]`` bool, pixels whose depth is within the trusted range.
        intrinsics: ``[F, 3, 3]`` pixels of ``(H, W)``.
        T_cam_world: ``[F, 4, 4]`` world-to-camera poses as predicted.
        observed: ``[F]`` bool, True where the frame was given as an image, False where generated.
        metres_per_unit: metres in one scene unit, None when unknown.
    """

    colors: Tensor
    depth: Tensor
    depth_confidence: Tensor
    points: Tensor
    point_map: Tensor | None
    point_map_confidence: Tensor | None
    valid: Tensor
    intrinsics: Tensor
    T_cam_world: Tensor
    observed: Tensor
    metres_per_unit: float | None = None

    def __len__(self) -> int:
        return int(self.colors.shape[0])

    @property
    def image_size(self) -> tuple[int, int]:
        """``(height, width)`` in pixels."""
        return int(self.colors.shape[1]), int(self.colors.shape[2])

    @property
    def T_world_cam(self) -> Tensor:  # noqa: N802 - transforms are named by direction
        """``[F, 4, 4]`` camera-to-world poses, the closed-form inverse of ``T_cam_world``."""
        from gen3r_core.geometry.rigid import invert_rigid

        return invert_rigid(self.T_cam_world)
