"""Tiny checkpoints that several tests read, and single components whose files a test has changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from published_checkpoint import OUR_NAMES, SHAPES, WanParts, random_weights, tiny_configs, write_json
from published_checkpoint import write_published as write_tiny
from published_checkpoint import write_wan_base as write_tiny_parts
from safetensors.torch import save_file

from gen3r_core.checkpoint.components import SPECS
from gen3r_core.checkpoint.convert import convert_checkpoint
from gen3r_core.checkpoint.folder import ComponentFiles, open_checkpoint


@pytest.fixture(scope="session")
def published(tmp_path_factory) -> Path:
    """A complete tiny checkpoint in the published layout; never changed."""
    return write_tiny(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="session")
def converted(published, tmp_path_factory) -> Path:
    """The same in our layout, float32; never changed."""
    folder = tmp_path_factory.mktemp("converted") / "own"
    convert_checkpoint(open_checkpoint(published), folder)
    return folder


@pytest.fixture(scope="session")
def wan_parts(tmp_path_factory) -> WanParts:
    """The parts of upstream's trainers; never changed."""
    return write_tiny_parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture
def altered(tmp_path) -> Callable[..., ComponentFiles]:
    """Write one published component after a test has changed its weights or configuration."""

    def write(
        name: str, edit: Callable[[dict[str, Any]], object] = lambda _weights: None, **config: Any
    ) -> ComponentFiles:
        values = tiny_configs()[name]
        weights = random_weights(SHAPES[name](values), torch.Generator().manual_seed(3))
        edit(weights)
        values |= config
        folder = tmp_path / name
        write_json(folder / "config.json", values)
        save_file(weights, folder / "diffusion_pytorch_model.safetensors")
        return ComponentFiles(SPECS[OUR_NAMES[name]], folder, "published", values)

    return write
