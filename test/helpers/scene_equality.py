"""Scenes that agree in every bit."""

import torch

NAMES = ("colors", "depth", "depth_confidence", "points", "point_map", "valid", "intrinsics", "T_cam_world")


def identical(a, b):
    """Whether all tensors of two scenes are equal bit by bit."""
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in NAMES)
