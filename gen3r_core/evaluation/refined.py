"""VGGT on all frames, refined as ``gen3r reconstruct`` does it: cameras of matches, and depth that fits them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor

from gen3r_core.evaluation.predictions import Geometry, Prediction, Stopwatch
from gen3r_core.evaluation.scenes import TrueScene
from gen3r_core.execution.thinned_keys import ThinnedKeys
from gen3r_core.geometry.poses import invert_poses
from gen3r_core.geometry.unprojection import unproject_depth
from gen3r_core.mapping.features import FeatureBook
from gen3r_core.mapping.matched import MatchOptions
from gen3r_core.mapping.predictor import VggtPredictor
from gen3r_core.mapping.refining import RefineOptions, refine_window
from gen3r_core.mapping.windows import Window, window_of
from gen3r_core.models.vggt import VGGT
from gen3r_core.progress import Callback

__all__ = ["RefinedTask"]

_OPTIONS = RefineOptions(match=MatchOptions(calibrated=False))


class RefinedTask:
    """VGGT with its cameras and depth refined; and VGGT alone. Intrinsics are not known to it.

    Args:
        vggt: the network.
        attention: kernel.
        key_squares: see :class:`gen3r_core.execution.profiles.Profile`.
    """

    task = None

    def __init__(self, vggt: VGGT, attention: str = "auto", key_squares: int = 1) -> None:
        self._vggt, self._key_squares = vggt, key_squares
        self._predict = VggtPredictor(vggt, "", attention=attention)

    @torch.no_grad()
    def predict(
        self,
        scenes: Sequence[TrueScene],
        *,
        warm_up: bool = False,  # noqa: ARG002
        callback: Callback | None = None,  # noqa: ARG002
    ) -> list[Prediction]:
        """See :class:`gen3r_core.evaluation.tasks.Evaluated`; one clip after the other."""
        return [self._one(scene) for scene in scenes]

    def _one(self, scene: TrueScene) -> Prediction:
        device = scene.colors.device
        colors = scene.colors.movedim(1, -1).mul(255).round().byte().cpu().numpy()
        before, after = Stopwatch(device), Stopwatch(device)
        thinned = ThinnedKeys(self._vggt, self._key_squares) if self._key_squares > 1 else nullcontext()
        with thinned, before.running(), after.running():
            found = self._predict(colors)
        numbers = np.arange(len(colors))
        window = window_of(found, numbers, numbers, colors)
        plain = _geometry(window, torch.from_numpy(found.depth).float(), device)
        with after.running():
            made = refine_window(window, FeatureBook(lambda frame: colors[frame]), _OPTIONS, device).window
        # What a window cannot hold is unknown there, and nothing that may be left out of a figure.
        depth = torch.from_numpy(np.where(made.depth > 0, made.depth, found.depth)).float()
        refined = plain if made is window else _geometry(made, depth, device)
        return Prediction(None, refined, plain, after.seconds, before.seconds)


def _geometry(window: Window, depth: Tensor, device: torch.device) -> Geometry:
    poses = torch.from_numpy(invert_poses(window.T_window_cam)).float()
    points = unproject_depth(depth, poses[:, :3], torch.from_numpy(window.intrinsics).float())
    return Geometry(depth.to(device), points.to(device), poses.to(device))
