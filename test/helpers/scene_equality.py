"""Scenes that agree in every bit."""

import torch

NAMES = ("colors", "depth", "depth_confidence", "points", "point_map", "valid", "intrinsics", "T_cam_world")


def identical(a, b):
    """Whether all tensors of two scenes are equal bit by bit; what one lacks, the other lacks too."""
    return all(_equal(getattr(a, name), getattr(b, name)) for name in NAMES)


def _equal(x, y):
    return x is y if x is None or y is None else torch.equal(x, y)
