"""Blocks of a network brought to the device one after the other, the next while one computes."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gen3r_core.errors import DeviceError

ALIGNMENT = 256
"""Bytes; where a tensor begins in the buffer of its block (what the widest loads of a GPU need)."""


def _tensors(block: nn.Module) -> list[Tensor]:
    return [*block.parameters(), *block.buffers()]


def _views(buffer: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Tensors of the same shapes and types, one after the other in a buffer of bytes."""
    views, start = [], 0
    for tensor in like:
        size = tensor.numel() * tensor.element_size()
        flat = buffer[start : start + size].view(tensor.dtype)
        views.append(flat.as_strided(tensor.shape, _dense_strides(tensor)))
        start += -(-size // ALIGNMENT) * ALIGNMENT
    return views


def _dense_strides(tensor: Tensor) -> tuple[int, ...]:
    """Strides of a copy of the tensor that keeps its order of dimensions."""
    return torch.empty_like(tensor, device="meta").stride()


def _buffer_bytes(tensors: Sequence[Tensor]) -> int:
    return sum(-(-t.numel() * t.element_size() // ALIGNMENT) * ALIGNMENT for t in tensors)


def pin(buffer: Tensor) -> None:  # pragma: gpu-only
    """Lock a buffer of the host in memory, in place: from there a GPU copies while it computes.

    In place because torch's own pinned allocations are rounded up to powers of two.
    """
    code = int(torch.cuda.cudart().cudaHostRegister(buffer.data_ptr(), buffer.numel(), 0))
    if code:
        raise DeviceError(
            f"{buffer.numel() / 2**20:.0f} MiB of host memory cannot be locked for copying to the GPU (CUDA error "
            f"{code}); free host memory, or give a larger memory budget"
        )


def unpin(buffer: Tensor) -> None:  # pragma: gpu-only
    """Undo :func:`pin`."""
    torch.cuda.cudart().cudaHostUnregister(buffer.data_ptr())


class BlockStream:
    """A context in which a network's blocks find their weights on the device when they are called.

    Two buffers on the device take turns: while a block computes from one, the next block's weights are copied to the
    other on a stream of their own. Blocks may be called in any order; in the order given, nobody waits.

    Args:
        blocks: in the order of their calls, their weights anywhere. They lie in host memory from then on; those that
            do already stay where they are, which may be a file that is mapped, unless they are locked.
        device: where they compute.
        pinned: whether they are copied to memory that is locked, without which copying holds up computing.
    """

    def __init__(self, blocks: Sequence[nn.Module], device: torch.device, *, pinned: bool = True) -> None:
        self._blocks = list(blocks)
        self._device = device
        self._tensors = [_tensors(block) for block in self._blocks]
        self._sizes = [_buffer_bytes(tensors) for tensors in self._tensors]
        self._pinned: list[Tensor] = []
        for tensors, size in zip(self._tensors, self._sizes, strict=True):
            if pinned and device.type == "cuda":  # pragma: gpu-only
                home = torch.empty(size, dtype=torch.uint8)
                pin(home)
                self._pinned.append(home)
                for tensor, view in zip(tensors, _views(home, tensors), strict=True):
                    tensor.data = view.copy_(tensor.data)
            for tensor in tensors:
                tensor.data = tensor.data.cpu()
        self._at_home = [[tensor.data for tensor in tensors] for tensors in self._tensors]
        self._handles: list[RemovableHandle] = []
        self._buffers: list[Tensor] = []
        self._there: list[int | None] = [None, None]
        self._turn = 0
        self._copying: Any = None
        self._ready: list[Any] = [None, None]
        self._free: list[Any] = [None, None]

    @property
    def device_bytes(self) -> int:
        """Bytes of both buffers on the device."""
        return 2 * max(self._sizes)

    def close(self) -> None:
        """Unlock the host's memory; the weights stay in it."""
        while self._pinned:  # pragma: gpu-only
            unpin(self._pinned.pop())

    def __enter__(self) -> Self:
        self._buffers = [torch.empty(max(self._sizes), dtype=torch.uint8, device=self._device) for _ in range(2)]
        self._there = [None, None]
        self._turn = 0
        if self._device.type == "cuda":  # pragma: gpu-only
            self._copying = torch.cuda.Stream(self._device)
            # The buffers may be memory that work still in flight uses.
            self._copying.wait_stream(torch.cuda.current_stream(self._device))
            self._free = [None, None]
        for index, block in enumerate(self._blocks):
            self._handles.append(block.register_forward_pre_hook(self._before(index)))
            self._handles.append(block.register_forward_hook(self._after(index), always_call=True))
        self._fetch(0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._handles:
            self._handles.pop().remove()
        for index in range(len(self._blocks)):
            self._point(index, self._at_home[index])
        if self._copying is not None:  # pragma: gpu-only
            torch.cuda.current_stream(self._device).wait_stream(self._copying)
            self._copying = None
        self._buffers = []

    def _point(self, index: int, values: Sequence[Tensor]) -> None:
        for tensor, value in zip(self._tensors[index], values, strict=True):
            tensor.data = value

    def _fetch(self, index: int) -> None:
        """Start copying a block's weights to the buffer whose turn it is."""
        place = self._turn
        self._turn = 1 - place
        self._there[place] = index
        if self._copying is None:
            self._copy(index, place)
            return
        with torch.cuda.stream(self._copying):  # pragma: gpu-only
            if self._free[place] is not None:
                self._copying.wait_event(self._free[place])
            self._copy(index, place)
            self._ready[place] = self._copying.record_event()

    def _copy(self, index: int, place: int) -> None:
        values = self._at_home[index]
        for view, value in zip(_views(self._buffers[place], values), values, strict=True):
            view.copy_(value, non_blocking=True)

    def _before(self, index: int) -> Any:
        def hook(_module: nn.Module, _args: object) -> None:
            if index not in self._there:
                self._fetch(index)
            place = self._there.index(index)
            if self._copying is not None:  # pragma: gpu-only
                torch.cuda.current_stream(self._device).wait_event(self._ready[place])
            self._point(index, _views(self._buffers[place], self._at_home[index]))
            self._turn = 1 - place
            following = (index + 1) % len(self._blocks)
            if following not in self._there:
                self._fetch(following)

        return hook

    def _after(self, index: int) -> Any:
        def hook(_module: nn.Module, _args: object, _output: object) -> None:
            if self._copying is not None:  # pragma: gpu-only
                place = self._there.index(index)
                self._free[place] = torch.cuda.current_stream(self._device).record_event()
            self._point(index, self._at_home[index])

        return hook
