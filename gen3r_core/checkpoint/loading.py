"""From files to modules: built on the meta device, filled tensor by tensor from memory-mapped files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from gen3r_core.checkpoint.folder import Checkpoint, ComponentFiles
from gen3r_core.checkpoint.keymap import Plan, Shape, match_keys
from gen3r_core.devices import memory_errors
from gen3r_core.execution.levels import NETWORKS

Progress = Callable[[str, int, int], None]
"""Called with a component's name, bytes done and bytes in all."""


@dataclass(frozen=True)
class EmptyComponent:
    """A component's module without weights, and how its files fill it."""

    module: nn.Module
    plan: Plan


def wanted_tensors(module: nn.Module) -> dict[str, Shape]:
    """Names and shapes a module needs, tied names included."""
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict(keep_vars=True).items()}


def build_empty(files: ComponentFiles) -> EmptyComponent:
    """Construct the module without memory for weights and check the files' keys against it.

    Raises:
        CheckpointError: the files do not fit (see :func:`match_keys`), or cannot be read.
    """
    found = {key: info.shape for key, info in files.source.infos.items()}
    with init_empty_weights(include_buffers=False):
        module = files.spec.build(files.config)
    plan = match_keys(files.spec.name, str(files.path), files.keymap, found, wanted_tensors(module))
    return EmptyComponent(module, plan)


def stored_dtype(files: ComponentFiles, name: str, dtype: torch.dtype | None, original: torch.dtype) -> torch.dtype:
    """The dtype a parameter gets: as asked, but float32 for those that must stay so, and integers unchanged."""
    if dtype is None or not original.is_floating_point:
        return original
    if dtype.itemsize < 4 and any(part in name for part in files.spec.keep_in_float32):
        return torch.float32
    return dtype


def _assign(module: nn.Module, name: str, value: Tensor) -> None:
    owner_name, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(owner_name), leaf, value)


def load_component(
    files: ComponentFiles,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
) -> nn.Module:
    """Load one component.

    Weights that need no conversion and stay on the host remain views of the memory-mapped file.

    Args:
        files: the component on disk.
        device: where its weights go.
        dtype: floating dtype of the weights; None keeps the file's.
        progress: called after each tensor.

    Returns:
        the module in evaluation mode, without gradients.

    Raises:
        CheckpointError: the files do not fit or cannot be read.
    """
    try:
        module = _fill(files, torch.device(device), dtype, progress)
    finally:
        files.close()  # what is not part of the module (a pickle's tensors of another type, say) shall not stay
    return module.to(device).eval()  # buffers are computed, not stored


def load_components(
    checkpoint: Checkpoint,
    device: torch.device | str,
    places: Mapping[str, torch.device | str],
    *,
    leave_out: Sequence[str] = (),
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Load all components of a checkpoint.

    Args:
        checkpoint: to load.
        device: where weights go.
        places: where those of some components go instead, by name.
        leave_out: names of components that are not needed.
        dtype: as in :func:`load_component`.
        progress: as in :func:`load_component`.

    Returns:
        modules by our names.

    Raises:
        CheckpointError: something is missing, damaged or does not fit.
        DeviceError: memory runs out.
    """
    files = {name: checkpoint.component(name) for name in NETWORKS if name not in leave_out}
    with memory_errors():
        return {
            name: load_component(part, device=places.get(name, device), dtype=dtype, progress=progress)
            for name, part in files.items()
        }


def _fill(
    files: ComponentFiles, device: torch.device, dtype: torch.dtype | None, progress: Progress | None
) -> nn.Module:
    empty = build_empty(files)
    infos = files.source.infos
    total = sum(infos[key].nbytes for key in empty.plan.assignments)
    done = 0
    for key, targets in empty.plan.assignments.items():
        tensor = files.source.read(key)
        shared: nn.Parameter | None = None
        for target in targets:
            if target.convert is None and shared is not None:
                _assign(empty.module, target.name, shared)
                continue
            kind = stored_dtype(files, target.name, dtype, tensor.dtype)
            value = target.apply(tensor).to(device=device).to(dtype=kind)
            parameter = nn.Parameter(value, requires_grad=False) if value.is_floating_point() else value
            _assign(empty.module, target.name, parameter)
            if target.convert is None and isinstance(parameter, nn.Parameter):
                shared = parameter
        files.source.release(key)
        del tensor  # before the next one is read
        done += infos[key].nbytes
        if progress is not None:
            progress(files.spec.name, done, total)
    return empty.module
