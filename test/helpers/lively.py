"""Networks whose random weights are large enough that every input shows in the output."""

from __future__ import annotations

import torch
from torch import nn

from gen3r_core.pipeline import Gen3RPipeline
from gen3r_core.sizes import random_pipeline


def redraw(module: nn.Module, seed: int = 0) -> None:
    """Draw every parameter: norm weights and scales about one, matrices by fan-in, small biases."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            leaf = name.rpartition(".")[2]
            if leaf == "gamma" or ("norm" in name and leaf == "weight"):
                parameter.copy_(1 + 0.1 * noise)
            elif parameter.squeeze().ndim >= 2:
                fan_in = parameter[0].numel() if parameter.shape[0] > 1 else parameter.shape[-1]
                parameter.copy_(noise / fan_in**0.5)
            else:
                parameter.copy_(0.1 * noise)


def lively_pipeline(seed: int = 0) -> Gen3RPipeline:
    """The tiny pipeline in float32 with redrawn weights and cameras that see about one radian."""
    pipeline = random_pipeline("tiny")
    parts = ("transformer", "video_vae", "geometry_adapter", "vggt", "image_encoder", "text_encoder")
    for index, name in enumerate(parts):
        redraw(getattr(pipeline, name), 100 * seed + index)
    with torch.no_grad():
        pipeline.vggt.camera_head.pose_branch.fc2.weight.mul_(0.05)
        pipeline.vggt.camera_head.pose_branch.fc2.bias.copy_(torch.tensor([0, 0, 0, 0, 0, 0, 0.25, 0.25, 0.25]))
    return pipeline


def assert_scenes_close(a, b, limit: float = 1e-5) -> None:
    """All tensors of two scenes agree relative to their largest value; masks in all but a few pixels.

    What one lacks, the other lacks too.
    """
    for name in ("colors", "depth", "depth_confidence", "points", "point_map", "point_map_confidence", "intrinsics"):
        x, y = getattr(a, name), getattr(b, name)
        if x is None or y is None:
            assert x is y, name
            continue
        assert x.shape == y.shape
        assert float((x - y).abs().max()) <= limit * float(y.abs().max()), name
    assert float((a.T_cam_world - b.T_cam_world).abs().max()) <= limit
    assert float((a.valid != b.valid).float().mean()) < 1e-3
    assert torch.equal(a.observed, b.observed)
