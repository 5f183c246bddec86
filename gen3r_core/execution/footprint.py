"""Memory that a computation will need, found by running it on tensors without data.

On torch's meta device every operation has shapes and types but no numbers, so a full-size network runs there in seconds
and takes no memory. What its tensors would occupy is added up as they come and go; the largest sum is the peak.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ROUNDING = 512
"""Bytes to which torch's allocators round a tensor's size up."""


class _FusedAttention(TorchFunctionMode):
    """Attention as fused kernels do it: only its result is stored, never the scores."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            query, _, value = args[:3]
            return query.new_empty(*query.shape[:-1], value.shape[-1])
        return func(*args, **(kwargs or {}))


class _LiveBytes(TorchDispatchMode):
    """Bytes of all storages on the meta device that were made inside the block and are still referred to."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.peak = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def ignore(self, tensors: list[Tensor]) -> None:
        """Count these as existing before."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._known[storage._cdata] = weakref.ref(storage)  # noqa: SLF001 - the one identity a storage has

    def _gone(self, key: int, size: int) -> None:
        self.now -= size
        self._known.pop(key, None)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.device.type == "meta":
                self._count(leaf)
        return result

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata  # noqa: SLF001
        known = self._known.get(key)
        if known is not None and known() is not None:
            return
        size = -(-storage.nbytes() // ROUNDING) * ROUNDING
        self._known[key] = weakref.ref(storage, lambda _, key=key, size=size: self._gone(key, size))  # type: ignore[misc]
        self.now += size
        self.peak = max(self.peak, self.now)


def measure_footprint(function: Callable[[], object], *networks: nn.Module | None) -> tuple[int, int]:
    """Memory in use while a function runs, beyond the weights it uses.

    Args:
        function: does its work on meta tensors, and makes them itself.
        networks: whose weights do not count.

    Returns:
        bytes at the peak, and bytes that its result occupies afterwards.
    """
    live = _LiveBytes()
    for network in networks:
        if network is not None:
            live.ignore([*network.parameters(), *network.buffers()])
    with torch.no_grad(), _FusedAttention(), live:
        result = function()
    left = live.now
    del result
    return live.peak, left


def weight_bytes(network: nn.Module | None) -> int:
    """Bytes of a network's parameters and buffers."""
    if network is None:
        return 0
    return sum(tensor.numel() * tensor.element_size() for tensor in (*network.parameters(), *network.buffers()))
