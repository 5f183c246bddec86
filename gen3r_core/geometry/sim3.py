"""Similarities in numpy: from a model's units and world to metres and the robot's world."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gen3r_core.errors import InputError
from gen3r_core.geometry.poses import ROTATION_TOLERANCE, Array, poses_from

__all__ = ["Sim3"]


@dataclass(frozen=True, eq=False)
class Sim3:
    """A similarity transform ``target = scale * rotation @ source + translation``.

    The numpy counterpart of :class:`gen3r_core.geometry.alignment.Similarity`, and for poses too.

    Attributes:
        scale: target units in one source unit; from a model to the world: metres per unit.
        rotation: ``[3, 3]`` float64, orthonormal with determinant +1.
        translation: ``[3]`` float64 in target units.
    """

    scale: float
    rotation: Array
    translation: Array

    def __post_init__(self) -> None:
        R, t = self.rotation, self.translation
        if R.shape != (3, 3) or t.shape != (3,):
            raise InputError(f"a similarity has a rotation [3, 3] and a translation [3], got {R.shape} and {t.shape}")
        if not (np.isfinite(self.scale) and self.scale > 0):
            raise InputError(f"the scale of a similarity must be positive, got {self.scale}")
        if not (np.isfinite(R).all() and np.isfinite(t).all()):
            raise InputError("a similarity contains NaN or infinite values")
        if np.abs(R @ R.T - np.eye(3)).max() > ROTATION_TOLERANCE or np.linalg.det(R) <= 0:
            raise InputError("the rotation of a similarity must be orthonormal with determinant +1")

    def apply(self, points: Array) -> Array:
        """Moves ``[..., 3]`` points of the source frame into the target frame."""
        moved: Array = self.scale * (points @ self.rotation.T) + self.translation
        return moved

    def apply_poses(self, T_source_cam: Array) -> Array:
        """Moves poses: ``T_source_cam`` ``[..., 4, 4]`` to ``T_target_cam``, rigid again.

        A camera keeps its own axes and units, so that its rotation has no scale: points in the camera
        frame have to be scaled apart (``scale`` times model depth is metres).
        """
        return poses_from(self.rotation @ T_source_cam[..., :3, :3], self.apply(T_source_cam[..., :3, 3]))

    def inverse(self) -> Sim3:
        """From target to source."""
        return Sim3(1 / self.scale, self.rotation.T, -(self.rotation.T @ self.translation) / self.scale)
