"""Networks of a training stage: from scratch or from disk, frozen or trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gen3r_core.checkpoint.components import SPECS
from gen3r_core.checkpoint.loading import load_component
from gen3r_core.checkpoint.parts import find_component
from gen3r_core.devices import memory_errors
from gen3r_core.errors import CheckpointError, InputError
from gen3r_core.sizes import named_config

__all__ = ["chosen_sizes", "complete_state", "find_component", "load_frozen", "trained_component"]


def load_frozen(
    name: str, path: Path | str, device: torch.device | str, dtype: torch.dtype = torch.float32
) -> nn.Module:
    """A network that stays as it is: evaluation mode, no gradients.

    Raises:
        CheckpointError: its files are missing, damaged or of another network.
        DeviceError: memory runs out.
    """
    with memory_errors():
        return load_component(find_component(name, path), device=device, dtype=dtype)


def chosen_sizes(
    name: str, size: str, config: Mapping[str, Any] | None, initial: Path | str | None
) -> dict[str, Any] | None:
    """Sizes of a network from scratch, as the options of a stage say them.

    Args:
        name: our name of the network.
        size: a row of :data:`gen3r_core.sizes.SIZES`, which ``config`` changes; "" where ``config`` says all.
        config: sizes (our configuration).
        initial: folder to start from instead.

    Returns:
        for :func:`trained_component`; None if there are no sizes.

    Raises:
        InputError: the size is unknown, or excluded by ``initial``.
    """
    if not size:
        return None if config is None else dict(config)
    if initial is not None:
        raise InputError(f"{name}: options 'size' and 'initial' exclude each other: sizes come with the weights")
    return named_config(size, name, config)


def trained_component(
    name: str,
    config: Mapping[str, Any] | None,
    initial: Path | str | None,
    device: torch.device | str,
    *,
    seed: int = 0,
) -> tuple[nn.Module, bool]:
    """A network to train, in float32 and training mode.

    Args:
        name: our name of the network.
        config: its sizes (our configuration), for a network from scratch with the random weights that its classes give.
        initial: folder to start from, in place of ``config``.
        device: where it goes.
        seed: of random weights; the global generators stay as they are.

    Returns:
        the network, and whether it is from scratch.

    Raises:
        InputError: both or none of ``config`` and ``initial`` are given.
        CheckpointError: the sizes or the files cannot be used.
        DeviceError: memory runs out.
    """
    if (config is None) == (initial is None):
        raise InputError(
            f"{name}: give either its sizes (to train it from scratch) or the folder of weights to start from"
        )
    with memory_errors():
        if initial is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                module = _build(name, dict(config or {}))
            return module.to(device).train(), True
        module = load_component(find_component(name, initial), device=device, dtype=torch.float32)
        for parameter in module.parameters():
            # Weights on a CPU are views of the file until now; tied ones stay tied.
            parameter.data = parameter.data.clone()
            parameter.requires_grad = True
    return module.train(), False


def complete_state(module: nn.Module, state: Mapping[str, Tensor] | None, prefix: str = "") -> dict[str, Tensor] | None:
    """A network's weights with those of a moving average in place of its own, as far as there are any.

    Averages hold what is trained; frozen tensors and second names of tied ones are the network's.

    Args:
        module: the network.
        state: averages by key, or None.
        prefix: what keys of this network begin with in ``state``.

    Returns:
        by the module's keys; None where ``state`` is None.
    """
    if state is None:
        return None
    own = dict(module.state_dict())
    given = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    places = {key: value.data_ptr() for key, value in own.items() if value.numel()}
    averages = {places[key]: value for key, value in given.items() if key in places}
    return {key: given.get(key, averages.get(places.get(key, 0), value)) for key, value in own.items()}


def _build(name: str, config: dict[str, Any]) -> nn.Module:
    try:
        return SPECS[name].build(config)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{name}: a network of these sizes cannot be built: {error}") from error
