"""Attention across frames that looks at fewer keys: an approximation for VGGT on many views.

Its cost is the square of the number of tokens. FastVGGT (arXiv 2509.02560) merges tokens that are alike and keeps the
first frame whole, which defines the world. Here every query stays, and of the other frames' patches one in each square
of ``side * side`` is a key. On gen3r-small's validation worlds that loses less depth than averaging the keys of the
square, which blurs their rotary positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self, cast

import torch
from torch import Tensor

from gen3r_core.errors import InputError
from gen3r_core.models.vggt.blocks import Block
from gen3r_core.models.vggt.dinov2 import patch_grid
from gen3r_core.models.vggt.model import VGGT


def kept_tokens(frames: int, special: int, grid: tuple[int, int], side: int) -> list[int]:
    """Tokens that stay keys.

    Args:
        frames: of the scene, whose tokens lie one after the other.
        special: camera and register tokens before a frame's patches; they stay.
        grid: rows and columns of patches.
        side: of the squares that keep one patch.

    Returns:
        indices in ascending order: all of the first frame, of the others the special tokens and one patch of each
        square (the last rows and columns may lack squares).
    """
    rows, columns = grid
    own = list(range(special))
    own += [special + row * columns + column for row in range(side // 2, rows, side)
            for column in range(side // 2, columns, side)]  # fmt: skip
    count = special + rows * columns
    return list(range(count)) + [frame * count + token for frame in range(1, frames) for token in own]


class ThinnedKeys:
    """Thins the keys of VGGT's blocks across frames; :meth:`remove`, or leaving the context, undoes it exactly.

    Args:
        vggt: the network.
        side: see :func:`kept_tokens`; attention across many frames takes ``1 / side**2`` of its time.

    Raises:
        InputError: ``side`` is less than 2.
    """

    def __init__(self, vggt: VGGT, side: int) -> None:
        if side < 2:
            raise InputError(f"keys are thinned to one of 2 x 2 patches or fewer, got squares of {side}")
        self._side = side
        self._body = vggt.aggregator
        self._kept: dict[tuple[object, ...], Tensor] = {}
        self._index: Tensor | None = None
        self._handle = self._body.register_forward_pre_hook(self._before)
        for block in self._blocks():
            block.attn.merging = self._take

    def _before(self, _body: torch.nn.Module, args: tuple[Any, ...]) -> None:
        images = args[0]
        place = (images.device, *images.shape[1:])
        if place not in self._kept:
            config = self._body.config
            grid = patch_grid((images.shape[-2], images.shape[-1]), config.patch_size)
            kept = kept_tokens(images.shape[1], config.special_tokens, grid, self._side)
            self._kept = {place: torch.tensor(kept, device=images.device)}
        self._index = self._kept[place]

    def _take(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        if self._index is None:
            return key, value
        return key.index_select(2, self._index), value.index_select(2, self._index)

    def _blocks(self) -> Iterator[Block]:
        for block in self._body.global_blocks:
            yield cast(Block, block)

    def remove(self) -> None:
        """Back to all keys."""
        self._handle.remove()
        for block in self._blocks():
            block.attn.merging = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()
