"""A trained network as a component folder of our layout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from gen3r_core.checkpoint.components import SPECS
from gen3r_core.checkpoint.plan import secondary_names
from gen3r_core.errors import OutputError
from gen3r_core.io.atomic import OutputFolder
from gen3r_core.training.stage import TrainingError

__all__ = ["export_component"]


def export_component(
    folder: Path,
    name: str,
    module: nn.Module,
    state: Mapping[str, Tensor] | None = None,
    changes: Mapping[str, Any] | None = None,
) -> None:
    """Writes `config.json` and `model.safetensors`, both or neither.

    Args:
        folder: the component's folder; it is made if missing.
        name: our name of the component.
        module: the network; its configuration, and its weights unless others are given.
        state: weights to write instead, by the module's keys.
        changes: values of the configuration to replace.

    Raises:
        TrainingError: the weights are not the module's, or are not finite.
        OutputError: the files cannot be written.
    """
    own = module.state_dict()
    state = own if state is None else state
    if set(state) != set(own):
        raise TrainingError(f"{name}: weights to export differ from the network's in {sorted(set(state) ^ set(own))}")
    tensors = {key: value.detach().to("cpu", copy=True).contiguous() for key, value in state.items()}
    for key, value in tensors.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise TrainingError(f"{name}: {key} is not finite; go back to an earlier checkpoint and lower the rate")
    config = SPECS[name].config_of(module) | dict(changes or {})
    with OutputFolder(folder) as out:
        described, weights = out.path("config.json"), out.path("model.safetensors")
        described.write_text(json.dumps(config, indent=2), encoding="utf-8")
        try:
            second = secondary_names(SPECS[name].own_keys, tensors)
            save_file({key: value for key, value in tensors.items() if key not in second}, weights)
        except SafetensorError as error:
            raise OutputError(f"cannot write {folder / weights.name}: {error}; check the disk") from error
        weights.chmod(described.stat().st_mode)  # safetensors makes its files private
