"""One process or many: the accelerator, the network that it wraps, and whole states from sharded ones.

`accelerate launch` decides: one process, several with equal copies (DDP), or shards (FSDP); nothing here or in the
stages changes for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DistributedType
from torch import Tensor, nn
from torch.optim import Optimizer

__all__ = ["Network", "Shared", "make_accelerator"]

T = TypeVar("T")
_PREFIX = "network."


def make_accelerator(*, cpu: bool = False, accumulation: int = 1) -> Accelerator:
    """The accelerator of this process: bfloat16 autocast on CUDA, float32 elsewhere.

    Args:
        cpu: stay on the CPU even where there is a GPU.
        accumulation: batches whose gradients are averaged for one step.
    """
    cuda = torch.cuda.is_available() and not cpu
    return Accelerator(
        cpu=not cuda,
        mixed_precision="bf16" if cuda else "no",
        gradient_accumulation_steps=accumulation,
        # Single frames do not reach the convolutions over time, and a stage may leave out a head for a step.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )


class Network(nn.Module):
    """What DDP and FSDP wrap: a stage's network, whose forward pass is whatever a stage does with it.

    Wrappers prepare gradients and gather shards around `forward`; a stage that uses its network inside a call given to
    it needs to know nothing of them.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, call: Callable[[], T]) -> T:
        """The result of `call`."""
        return call()


class Shared:
    """A network and its optimiser, prepared for this process, with states that are whole in every case.

    Args:
        accelerator: see :func:`make_accelerator`.
        module: the network.
        optimizer: of its parameters.

    Attributes:
        model: the wrapped :class:`Network`; call it with what shall be done.
        plain: parameters are ordinary tensors, not shards.
    """

    def __init__(self, accelerator: Accelerator, module: nn.Module, optimizer: Optimizer) -> None:
        self.accelerator = accelerator
        self.optimizer = optimizer
        self._module = module
        self.plain = accelerator.distributed_type != DistributedType.FSDP
        self.model: nn.Module = accelerator.prepare(Network(module), optimizer)[0]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Those that are trained, as this process holds them."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def weights(self) -> dict[str, Tensor]:
        """All weights by the network's own keys; every process must call this."""
        if self.plain:
            return dict(self._module.state_dict())
        whole: dict[str, Tensor] = self.accelerator.get_state_dict(self.model)  # pragma: gpu-only
        return {key.removeprefix(_PREFIX): value for key, value in whole.items()}  # pragma: gpu-only

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """The inverse of :meth:`weights`."""
        if self.plain:
            self._module.load_state_dict(weights)
            return
        from torch.distributed.checkpoint import state_dict  # pragma: gpu-only

        whole: dict[str, Any] = {_PREFIX + key: value for key, value in weights.items()}  # pragma: gpu-only
        state_dict.set_model_state_dict(self.model, whole, options=_whole())  # pragma: gpu-only

    def optimizer_state(self) -> dict[str, Any]:
        """The optimiser's state; every process must call this."""
        if self.plain:
            return dict(self.optimizer.state_dict())
        from torch.distributed.checkpoint import state_dict  # pragma: gpu-only

        return state_dict.get_optimizer_state_dict(self.model, self.optimizer, options=_whole())  # pragma: gpu-only

    def load_optimizer_state(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`optimizer_state`."""
        if self.plain:
            self.optimizer.load_state_dict(state)
            return
        from torch.distributed.checkpoint import state_dict as states  # pragma: gpu-only

        states.set_optimizer_state_dict(self.model, self.optimizer, state, options=_whole())  # pragma: gpu-only

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes; does not wait."""
        if self.accelerator.num_processes == 1:
            return values
        summed: Tensor = self.accelerator.reduce(values, "sum")
        return summed

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all processes; does not wait."""
        average: Tensor = self.total(values) / self.accelerator.num_processes
        return average

    def agree(self, value: float) -> float:
        """The first process's value, on all; waits where there are several."""
        if self.accelerator.num_processes == 1:
            return value
        own = torch.tensor(value if self.accelerator.is_main_process else 0.0, device=self.accelerator.device)
        return float(self.total(own))


def _whole() -> Any:  # pragma: gpu-only
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    return StateDictOptions(full_state_dict=True, cpu_offload=True)
