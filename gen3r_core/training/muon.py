"""Muon for the matrices inside a network, AdamW for the rest.

Muon (K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024) replaces the momentum of a
matrix by the nearest matrix whose singular values are all alike, so that rare directions are learnt as fast as common
ones. With the factor ``0.2 sqrt(max(rows, columns))`` (arXiv 2502.16982) its steps are as large as AdamW's and one
learning rate serves both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

__all__ = ["MuonAdamW", "hidden_matrices", "orthogonalised"]

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the odd polynomial of degree five that is applied five times; singular values end between about 0.7 and 1.2."""
_ROUNDS = 5
_RMS = 0.2
_SMALLEST = 32


def hidden_matrices(module: nn.Module) -> list[nn.Parameter]:
    """Trained weights of linear layers with at least 32 rows and columns: what Muon is for.

    First and last layers are not told apart by name; those that lead to few channels are left to AdamW by their size.
    """
    weights = [layer.get_parameter("weight") for layer in module.modules() if isinstance(layer, nn.Linear)]
    return [weight for weight in weights if weight.requires_grad and min(weight.shape) >= _SMALLEST]


def orthogonalised(matrices: Tensor) -> Tensor:
    """The nearest (half-)orthogonal matrices, roughly, by a Newton-Schulz iteration in bfloat16.

    Args:
        matrices: ``[N, rows, columns]`` float.

    Returns:
        ``[N, rows, columns]``, dtype of the input; 0 stays 0.
    """
    first, third, fifth = _COEFFICIENTS
    upright = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if upright else matrices).bfloat16()
    x = x / x.flatten(1).norm(dim=1)[:, None, None].clamp(min=1e-7)
    for _ in range(_ROUNDS):
        square = x @ x.mT
        x = first * x + (third * square + fifth * square @ square) @ x
    turned: Tensor = x.mT if upright else x
    return turned.to(matrices.dtype)


class MuonAdamW(AdamW):
    """One optimiser with two rules: groups with ``muon`` set are stepped by Muon, all others by fused AdamW.

    As in fused AdamW, a step with ``found_inf`` (an attribute that the trainer sets) above 0 changes nothing, and
    nobody waits for the device to learn of it.

    Args:
        groups: parameter groups, each with ``muon`` (bool) and ``weight_decay``; Muon's hold matrices only.
        betas: AdamW's; the first is Muon's momentum as well.
    """

    def __init__(self, groups: list[dict[str, Any]], betas: tuple[float, float]) -> None:
        super().__init__(groups, lr=0.0, betas=betas, fused=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of both rules."""
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group["muon"]]
        try:
            result = super().step(closure) if self.param_groups else None
        finally:
            self.param_groups = groups
        for group in groups:
            if group["muon"]:
                self._step_matrices(group)
        return result

    def _step_matrices(self, group: dict[str, Any]) -> None:
        skip = getattr(self, "found_inf", None)
        momentum = group["betas"][0]
        alike: dict[torch.Size, list[Tensor]] = {}
        for parameter in group["params"]:
            if parameter.grad is not None:
                alike.setdefault(parameter.shape, []).append(parameter)
        for shape, parameters in alike.items():
            for parameter in parameters:
                if "momentum" not in self.state[parameter]:
                    # The step is what AdamW looks for when a state is loaded.
                    self.state[parameter] = {"step": torch.zeros(()), "momentum": torch.zeros_like(parameter)}
            gradients = torch.stack([parameter.grad for parameter in parameters if parameter.grad is not None])
            held = [self.state[parameter]["momentum"] for parameter in parameters]
            before = torch.stack(held)
            after = torch.lerp(gradients, before, momentum)
            if skip is not None:
                after = torch.where(skip > 0, before, after)
            torch._foreach_copy_(held, list(after.unbind()))
            # Nesterov: look ahead along the new momentum.
            update = orthogonalised(torch.lerp(gradients, after, momentum)) * (_RMS * max(shape) ** 0.5)
            rate = group["lr"]
            if skip is not None:
                update = torch.where(skip > 0, torch.zeros_like(update), update)
                rate = rate * (1 - skip)
            torch._foreach_mul_(parameters, 1 - rate * group["weight_decay"])
            torch._foreach_add_(parameters, list(update.unbind()), alpha=-group["lr"])
