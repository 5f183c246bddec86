"""Golden weights written out as a published checkpoint, so that they load through the ordinary code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from gen3r_core.checkpoint.components import SPECS
from gen3r_core.checkpoint.folder import ComponentFiles
from gen3r_core.checkpoint.loading import load_component


def write_component(folder: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Write ``config.json`` and one safetensors file as the published layout has them."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"_class_name": "Reference", **config}))
    save_file(
        {key: value.contiguous() for key, value in weights.items()}, folder / "diffusion_pytorch_model.safetensors"
    )


def load(name: str, folder: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> nn.Module:
    """Write a golden network to disk and load it as component ``name``."""
    write_component(folder, config, weights)
    return load_component(ComponentFiles(SPECS[name], folder, "published", dict(config)))
