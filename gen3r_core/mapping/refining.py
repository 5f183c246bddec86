"""A window's cameras from matches, and its depth corrected by what neighbouring images show."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch

from gen3r_core.mapping.features import FeatureBook
from gen3r_core.mapping.matched import MatchedWindow, MatchOptions, match_window
from gen3r_core.mapping.windows import Window
from gen3r_core.reconstruction.sweeping import SweepOptions, sweep_depth

__all__ = ["RefineOptions", "refine_window"]

_PIXEL_CENTRE = 0.5


@dataclass(frozen=True)
class RefineOptions:
    """How a window is refined.

    Attributes:
        match: cameras.
        sweep: depth.
    """

    match: MatchOptions = field(default_factory=MatchOptions)
    sweep: SweepOptions = field(default_factory=SweepOptions)


def refine_window(
    window: Window, book: FeatureBook, options: RefineOptions | None = None, device: torch.device | str = "cpu"
) -> MatchedWindow:
    """Give a window the cameras of matches, where they explain its images better, and depth that fits them.

    Args:
        window: as the network predicted it.
        book: finds features.
        options: what is believed.
        device: where images are compared.

    Returns:
        As :func:`~gen3r_core.mapping.matched.match_window`; depth is corrected where the cameras are those of matches.
    """
    options = options or RefineOptions()
    found = match_window(window, book, options.match)
    if found.reason:
        return found
    made = found.window
    K = made.intrinsics.copy()
    K[:, :2, 2] += _PIXEL_CENTRE
    images = torch.from_numpy(made.colors).to(device).permute(0, 3, 1, 2).float() / 255
    values = (made.depth.astype(np.float32), K, made.T_window_cam)
    depth, intrinsics, poses = (torch.from_numpy(np.ascontiguousarray(one)).to(device) for one in values)
    swept = sweep_depth(images, depth, intrinsics, poses, options.sweep).cpu().numpy()
    return replace(found, window=replace(made, depth=np.where(swept < 6e4, swept, 0).astype(np.float16)))
