"""The optimiser, the moving average of the weights, and the watch over losses that are not finite.

All three work on the device: a step with a loss or gradients that are not finite changes nothing, and nobody waits
for the device to learn of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from gen3r_core.errors import InputError
from gen3r_core.training.muon import MuonAdamW, hidden_matrices
from gen3r_core.training.plan import Plan

__all__ = ["FiniteWatch", "MovingAverage", "make_optimizer", "trained_parameters"]


def trained_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Those with `requires_grad`.

    Raises:
        InputError: there is none, or one is not float32.
    """
    found = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            if parameter.dtype != torch.float32:
                raise InputError(f"parameter {name} is {parameter.dtype}; weights are trained in float32")
            found.append(parameter)
    if not found:
        raise InputError("the network has no parameter that requires a gradient; nothing can be trained")
    return found


def make_optimizer(module: nn.Module, plan: Plan) -> AdamW:
    """AdamW (arXiv 1711.05101) in one fused kernel; weight decay on what has at least two dimensions above one.

    With the plan's ``optimizer`` "muon", matrices of linear layers go by :class:`~gen3r_core.training.muon.MuonAdamW`.
    """
    muon = {id(weight) for weight in hidden_matrices(module)} if plan.optimizer == "muon" else set()
    hidden: list[nn.Parameter] = []
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for parameter in trained_parameters(module):
        kind = hidden if id(parameter) in muon else matrices if parameter.squeeze().ndim > 1 else rest
        kind.append(parameter)
    groups = [
        {"params": hidden, "weight_decay": plan.weight_decay, "muon": True},
        {"params": matrices, "weight_decay": plan.weight_decay, "muon": False},
        {"params": rest, "weight_decay": 0.0, "muon": False},
    ]
    groups = [group for group in groups if group["params"]]
    if hidden:
        return MuonAdamW(groups, plan.betas)
    return AdamW(groups, lr=0.0, betas=plan.betas, fused=True)


class MovingAverage:
    """An exponential moving average of parameters, in float32 beside them.

    Args:
        parameters: those to average; the average begins as their values.
        decay: per step. Early on it is less, (1 + steps) / (10 + steps), so that the first weights are soon forgotten;
            0 makes the average the parameters themselves.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self._parameters = list(parameters)
        self._decay = decay
        self._values = [parameter.detach().clone() for parameter in self._parameters] if decay else []

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After the optimiser's step number `step`, from 0."""
        if self._decay:
            decay = min(self._decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(self._values, list(self._parameters), 1 - decay)

    @torch.no_grad()
    def take(self) -> None:
        """Begins anew from the parameters' present values."""
        for value, parameter in zip(self._values, self._parameters, strict=bool(self._decay)):
            value.copy_(parameter)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the parameters hold the average."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for value, parameter in zip(self._values, self._parameters, strict=bool(self._decay)):
            kept = parameter.clone()
            parameter.copy_(value)
            value.copy_(kept)


class FiniteWatch:
    """Counts, on the device, steps that were left out because something was not finite.

    Args:
        device: where losses and gradients are.
    """

    def __init__(self, device: torch.device) -> None:
        self.skip = torch.zeros((), device=device)
        """1 where the present step shall be left out: what the fused optimiser reads as `found_inf`."""
        self._counts = torch.zeros(4, device=device)  # in all, in a row, most in a row, first of the row

    def look(self, bad: Tensor, step: int) -> None:
        """Takes note whether a step is bad (a scalar above 0)."""
        now = (bad > 0).to(self.skip.dtype)
        self.skip.copy_(now)
        total, row, most, first = self._counts
        first = torch.where((row == 0) & (now > 0), step, first)
        row = (row + 1) * now
        self._counts = torch.stack([total + now, row, torch.maximum(most, row), first])

    @property
    def counts(self) -> Tensor:
        """Steps left out in all, in a row until now, most in a row since the last `forget`, first of the last row."""
        return self._counts

    def forget(self) -> None:
        """Begins the longest row anew."""
        self._counts = torch.stack([self._counts[0], self._counts[1], self._counts[1], self._counts[3]])

    def restore(self, total: float, row: float, first: float) -> None:
        """As a checkpoint had it."""
        self._counts = torch.tensor([total, row, row, first], device=self.skip.device)
