"""Compiled dense heads: ReLU, additions and bilinear enlargement in fewer kernels between the convolutions."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import partial
from types import MethodType
from typing import Any

from torch import Tensor

from gen3r_core.execution.graphs import compiled_alone
from gen3r_core.models.vggt.dense_head import DenseHead


class CompiledHeads:
    """Compiles what dense heads do with a chunk of frames; :meth:`remove` undoes it exactly.

    All chunks of a job have one shape. There is one graph for each head and shape.

    Args:
        heads: whose weights may lie anywhere and move.
        backend: torch's name of a compiler, or the compiler.
    """

    def __init__(self, heads: Iterable[DenseHead], *, backend: str | Callable[..., Any] = "inductor") -> None:
        self._backend = backend
        self._graphs: dict[Hashable, Callable[..., tuple[Tensor, Tensor]]] = {}
        self._heads = list(heads)
        for head in self._heads:
            head.predict_chunk = partial(self._predict, head)  # type: ignore[method-assign]
            head.one_shape = True

    def _predict(
        self, head: DenseHead, patches: Sequence[Tensor], positions: Sequence[Tensor], *sizes: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        # Each shape has a copy of the code: torch limits the graphs of one.
        key = (id(head), patches[0].shape, sizes)
        if key not in self._graphs:
            plain = MethodType(DenseHead.predict_chunk, head)
            self._graphs[key] = compiled_alone(plain, self._backend)
        return self._graphs[key](patches, positions, *sizes)

    def remove(self) -> None:
        """Back to plain execution."""
        while self._heads:
            head = self._heads.pop()
            del head.predict_chunk
            head.one_shape = False
