"""A tiny VGGT whose parameters are all drawn at random, so that no term is zero or one by chance."""

from __future__ import annotations

import pytest
import torch

from gen3r_core.models.vggt import VGGT, CameraHeadConfig, DenseHeadConfig, DinoV2Config, VGGTConfig


def redraw(module: torch.nn.Module, seed: int = 0) -> None:
    """Draw every parameter: norm weights and layer scales about one, matrices small enough to stay stable."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.1 * noise)
            elif name.endswith("gamma"):
                parameter.copy_(0.5 + 0.1 * noise)
            elif parameter.ndim >= 2 and name.endswith("weight"):
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(0.2 * noise)


@pytest.fixture(scope="session")
def config() -> VGGTConfig:
    return VGGTConfig(
        image_size=42,
        patch_size=14,
        embed_dim=16,
        depth=5,
        num_heads=2,
        num_register_tokens=3,
        layers=(0, 1, 3, 4),
        patch_embed=DinoV2Config(image_size=42, embed_dim=16, depth=1, num_heads=2, num_register_tokens=2),
        camera_head=CameraHeadConfig(num_heads=2, trunk_depth=1, num_iterations=3),
        dense_head=DenseHeadConfig(features=8, out_channels=(4, 4, 8, 8), hidden=4),
    )


@pytest.fixture(scope="session")
def model(config: VGGTConfig) -> VGGT:
    """Shared by tests: never changed in place."""
    network = VGGT(config).eval()
    redraw(network)
    return network.requires_grad_(False)


@pytest.fixture
def fresh_model(config: VGGTConfig) -> VGGT:
    """One that a test may change."""
    network = VGGT(config).eval()
    redraw(network)
    return network


@pytest.fixture
def images() -> torch.Tensor:
    """``[2, 4, 3, 28, 42]``: two scenes of four frames that are wider than high."""
    return torch.rand(2, 4, 3, 28, 42, generator=torch.Generator().manual_seed(1))
