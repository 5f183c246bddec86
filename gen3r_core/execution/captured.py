"""VGGT on a few views as one CUDA graph: the same kernels, which the host launches with one call.

Compiled, its thousand kernels on two views of 560x560 take two thirds of the time that the host needs to launch them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from gen3r_core.execution.placement import Placement
from gen3r_core.models.attention import active_kernel
from gen3r_core.models.vggt.blocks import Block
from gen3r_core.models.vggt.model import VGGT, VGGTPrediction

MOST_PIXELS = 16 * 560 * 560
"""Pixels of all views together up to which launching counts; a graph holds the memory of its whole run."""

MOST_GRAPHS = 4
"""Graphs that are kept; they share their memory."""

_LOG = logging.getLogger(__name__)

Recorder = Callable[[Callable[[], VGGTPrediction]], tuple[Callable[[], None], VGGTPrediction]]
"""Records what a function does, as :meth:`GraphRecorder.__call__` does."""


class GraphRecorder:
    """Records functions as CUDA graphs that share one pool of memory."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(
        self, function: Callable[[], VGGTPrediction]
    ) -> tuple[Callable[[], None], VGGTPrediction]:  # pragma: gpu-only
        """Record one call.

        Args:
            function: reads and writes tensors that stay where they are.

        Returns:
            what does the same again, and the function's result, which that fills anew.

        Raises:
            RuntimeError: memory ran out, or something in it cannot be recorded.
        """
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        # Other threads (a node's) may use the GPU meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            found = function()
        return graph.replay, found


@dataclass(frozen=True, eq=False)
class _Graph:
    """Of one kind of call: what it reads, what does it, what that fills, and what has to live as long."""

    images: Tensor
    replay: Callable[[], None]
    found: VGGTPrediction
    alive: object


class CapturedVGGT:
    """Records VGGT's forward for each shape when it comes for the second time; :meth:`remove` undoes it.

    Left as they are: calls with gradients, calls on many pixels (:data:`MOST_PIXELS`), and all of them while the
    placement keeps the weights elsewhere. Weights that moved, another attention kernel and thinned keys are
    calls of another kind. Where recording fails, for want of memory say, nothing is recorded any more.

    Args:
        vggt: the network.
        placement: of its weights.
        record: records a call.
    """

    def __init__(self, vggt: VGGT, placement: Placement, *, record: Recorder | None = None) -> None:
        self._vggt = vggt
        self._placement = placement
        self._record = GraphRecorder() if record is None else record
        self._weights = list(vggt.parameters())  # asking a network for them takes milliseconds
        self._seen: Hashable = None
        self._graphs: dict[Hashable, _Graph] = {}
        self._failed = False
        vggt.forward = self._forward  # type: ignore[method-assign]

    @property
    def graphs(self) -> int:
        """How many are kept."""
        return len(self._graphs)

    def _forward(self, images: Tensor, *, frames_per_chunk: int = 8, points: bool = True) -> VGGTPrediction:
        plain = partial(VGGT.forward, self._vggt, frames_per_chunk=frames_per_chunk, points=points)
        if self._failed or "vggt" in self._placement.level.away:
            self._graphs.clear()  # their memory is wanted
            return plain(images)
        pixels = images.numel() // 3
        if torch.is_grad_enabled() or pixels > MOST_PIXELS:
            return plain(images)
        merging = cast(Block, self._vggt.aggregator.global_blocks[0]).attn.merging
        weights = tuple(weight.data_ptr() for weight in self._weights)
        key = (images.shape, images.dtype, images.device, frames_per_chunk, points, active_kernel(), merging, weights)
        if key not in self._graphs:
            if self._seen != key:
                self._seen = key  # what is compiled or chosen on a first call stays out of the graph
                return plain(images)
            graph = self._recorded(plain, images.clone(), merging)
            if graph is None:
                return plain(images)
            while len(self._graphs) >= MOST_GRAPHS:
                self._graphs.pop(next(iter(self._graphs)))
            self._graphs[key] = graph
        graph = self._graphs[key]
        graph.images.copy_(images)
        graph.replay()
        copied: VGGTPrediction = _copied(graph.found)
        return copied

    def _recorded(self, plain: Callable[[Tensor], VGGTPrediction], images: Tensor, alive: object) -> _Graph | None:
        try:
            replay, found = self._record(lambda: plain(images))
        except RuntimeError as error:
            self._failed = True
            self._graphs.clear()
            _LOG.warning("VGGT runs without CUDA graphs from now on: %s", str(error).partition("\n")[0])
            return None
        return _Graph(images, replay, found, alive)

    def remove(self) -> None:
        """Back to plain execution."""
        self._graphs.clear()
        if "forward" in vars(self._vggt):
            del self._vggt.forward


def _copied(found: VGGTPrediction) -> VGGTPrediction:
    """The next replay overwrites what a graph found."""
    copies: dict[str, Any] = tree_map_only(Tensor, Tensor.clone, vars(found))
    return VGGTPrediction(**copies)
