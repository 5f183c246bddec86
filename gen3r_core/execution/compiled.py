"""Compiled transformer blocks: the same mathematics in fewer, fused kernels (rotary, norms, modulation).

All blocks of a network share one compiled graph for each shape, so compiling costs one block, and later jobs of the
same shape find it there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

OPTIONS: dict[str, str | int | bool | Any] = {"triton.multi_kernel": 1, "fx_graph_cache": False}
"""Norms over 1536 channels in one pass over memory where that is faster, which is tried: 3 % of a block on an H100.
Graphs with such a choice cannot be read back from torch's cache on disk (torch 2.11: a TypeError from ``load_cache``);
their kernels can."""


class CompiledBlocks:
    """Compiles the forward of some blocks; :meth:`remove` undoes it exactly.

    The forward alone, not the call: hooks of the blocks (which bring weights, say) run outside of the compiled graph.

    Args:
        blocks: of one class.
        backend: torch's name of a compiler.
    """

    def __init__(self, blocks: Iterable[nn.Module], *, backend: str = "inductor") -> None:
        self._blocks = list(blocks)
        options = OPTIONS if backend == "inductor" else None
        for block in self._blocks:
            compiled: Any = torch.compile(
                block.forward, fullgraph=True, dynamic=False, backend=backend, options=options
            )
            block.forward = compiled

    def remove(self) -> None:
        """Back to plain execution."""
        while self._blocks:
            del self._blocks.pop().forward
