"""Compiled transformer blocks: the same mathematics in fewer, fused kernels (rotary, norms, modulation).

All blocks of a network share one compiled graph for each shape, so compiling costs one block, and later jobs of the
same shape find it there.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from gen3r_core.execution.graphs import compiled_alone

OPTIONS: dict[str, str | int | bool | Any] = {"triton.multi_kernel": 1, "fx_graph_cache": False}
"""Norms over 1536 channels in one pass over memory where that is faster, which is tried. Graphs with such a choice
cannot be read back from torch's cache on disk (torch 2.11: a TypeError from ``load_cache``); their kernels can."""


class CompiledBlocks:
    """Compiles the forward of some blocks; :meth:`remove` undoes it exactly.

    The forward alone, not the call: hooks of the blocks (which bring weights, say) run outside of the compiled graph.

    Args:
        blocks: of one class.
        backend: torch's name of a compiler, or the compiler.
    """

    def __init__(self, blocks: Iterable[nn.Module], *, backend: str | Callable[..., Any] = "inductor") -> None:
        self._blocks = list(blocks)
        self._backend = backend
        # By the shapes of arguments: torch limits the graphs of one function's code.
        self._graphs: dict[Hashable, Callable[..., Any]] = {}
        for block in self._blocks:
            block.forward = partial(self._forward, block)

    def _forward(self, block: nn.Module, *args: Any, **kwargs: Any) -> Any:
        leaves, structure = tree_flatten((args, kwargs))
        key = (structure, *(leaf.shape if isinstance(leaf, Tensor) else leaf for leaf in leaves))
        if key not in self._graphs:
            options = OPTIONS if self._backend == "inductor" else None
            self._graphs[key] = compiled_alone(type(block).forward, self._backend, options)
        return self._graphs[key](block, *args, **kwargs)

    def remove(self) -> None:
        """Back to plain execution."""
        while self._blocks:
            del self._blocks.pop().forward
