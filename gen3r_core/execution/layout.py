"""Convolution weights in channels-last order, which the matrix units of GPUs read without reordering."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

_FORMATS: tuple[tuple[type[nn.Conv2d | nn.Conv3d], torch.memory_format], ...] = (
    (nn.Conv2d, torch.channels_last),
    (nn.Conv3d, torch.channels_last_3d),
)


class ChannelsLast:
    """Reorders the weights of convolutions in memory; :meth:`remove` undoes it exactly. Values do not change.

    What such a convolution returns has that order, too, so that whole networks follow.

    Args:
        networks: whose convolutions are reordered.
    """

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        self._changed: list[Tensor] = []
        for network in networks:
            for module in network.modules():
                for kind, order in _FORMATS:
                    if isinstance(module, kind):
                        weight = module.weight
                        weight.data = weight.data.contiguous(memory_format=order)
                        self._changed.append(weight)

    def remove(self) -> None:
        """Back to the usual order."""
        while self._changed:
            weight = self._changed.pop()
            weight.data = weight.data.contiguous()
