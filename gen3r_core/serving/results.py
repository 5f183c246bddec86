"""What a worker gives back: a scene, in memory that it shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, cast

import numpy as np
from numpy.typing import NDArray

from gen3r_core.serving.shared import SharedArrays


@dataclass(frozen=True, eq=False)
class SceneResult:
    """F views with depth and cameras, and the points that were chosen of them.

    All arrays are read-only views of shared memory, made when they are asked for. :meth:`release` (or ``with``) gives
    the memory back; so does dropping the result and all views.

    The world is the camera of the first view, OpenCV axes, in scene units.

    Attributes:
        memory: where the arrays lie.
        model: name of the weights.
        metres_per_unit: metres in one scene unit, where the request told, or the poses that came with it; None
            otherwise.
        not_fitted: why the depth could not be fitted to the poses that came with the request; empty if it was, or
            none came.
    """

    memory: SharedArrays
    model: str
    metres_per_unit: float | None = None
    not_fitted: str = ""

    @property
    def images(self) -> NDArray[np.uint8]:
        """``[F, H, W, 3]`` RGB, in the size that the network saw or made."""
        return cast("NDArray[np.uint8]", self.memory["images"])

    @property
    def depth(self) -> NDArray[np.float32]:
        """``[F, H, W]`` z-depth in scene units."""
        return self._floats("depth")

    @property
    def depth_confidence(self) -> NDArray[np.float32]:
        """``[F, H, W]``, at least 1."""
        return self._floats("depth_confidence")

    @property
    def valid(self) -> NDArray[np.bool_]:
        """``[F, H, W]``, pixels whose depth is within the trusted range."""
        return cast("NDArray[np.bool_]", self.memory["valid"])

    @property
    def T_world_cam(self) -> NDArray[np.float32]:  # noqa: N802 - transforms are named by direction
        """``[F, 4, 4]`` camera-to-world poses; the first is the identity.

        As predicted, or, where depth was fitted to poses that came with the request, those.
        """
        return self._floats("T_world_cam")

    @property
    def predicted_T_world_cam(self) -> NDArray[np.float32]:  # noqa: N802 - the same
        """``[F, 4, 4]`` the model's, whether poses were given or not."""
        return self._floats("predicted_T_world_cam")

    @property
    def intrinsics(self) -> NDArray[np.float32]:
        """``[F, 3, 3]`` pixels of ``images`` with centres at +0.5: those given with the request, or as predicted."""
        return self._floats("intrinsics")

    @property
    def predicted_intrinsics(self) -> NDArray[np.float32]:
        """``[F, 3, 3]`` the model's, whether some were given or not."""
        return self._floats("predicted_intrinsics")

    @property
    def observed(self) -> NDArray[np.bool_]:
        """``[F]``, True where the view was given as an image, False where generated."""
        return cast("NDArray[np.bool_]", self.memory["observed"])

    @property
    def points(self) -> NDArray[np.float32]:
        """``[M, 3]`` in the world, scene units, view after view."""
        return self._floats("points")

    @property
    def point_colors(self) -> NDArray[np.uint8]:
        """``[M, 3]`` RGB."""
        return cast("NDArray[np.uint8]", self.memory["point_colors"])

    @property
    def point_confidence(self) -> NDArray[np.float32]:
        """``[M]``, at least 1."""
        return self._floats("point_confidence")

    @property
    def point_view(self) -> NDArray[np.int32]:
        """``[M]`` index of the view that a point is from; with :attr:`observed` it tells seen from made up."""
        return cast("NDArray[np.int32]", self.memory["point_view"])

    def _floats(self, name: str) -> NDArray[np.float32]:
        return cast("NDArray[np.float32]", self.memory[name])

    def release(self) -> None:
        """Give the memory back: at once, or with the last array of it that somebody still holds."""
        self.memory.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()
