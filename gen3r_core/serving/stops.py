"""Places within the networks where a job can stop: before every block, not only between denoising steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from gen3r_core.models.vggt import VGGT
from gen3r_core.pipeline import Gen3RPipeline

Passing = Callable[[nn.Module], None]
"""Called with a block that is about to run; what it raises ends the job."""

NETWORKS = ("transformer", "video_vae", "geometry_adapter", "vggt", "image_encoder", "text_encoder")


class StopPoints:
    """Hooks before the blocks of all networks: members of lists and sequences, and the fusion of VGGT's depth head.

    Args:
        pipeline: whose networks get them.
    """

    def __init__(self, pipeline: Gen3RPipeline) -> None:
        self._passing: Passing | None = None
        blocks: dict[nn.Module, None] = {}
        for name in NETWORKS:
            network = getattr(pipeline, name)
            if network is None:
                continue
            for module in network.modules():
                if isinstance(module, nn.ModuleList | nn.Sequential):
                    blocks.update(dict.fromkeys(module.children()))
        blocks.update(dict.fromkeys(vggt_blocks(pipeline.vggt)))
        self._handles = [block.register_forward_pre_hook(self._pass) for block in blocks]

    def __len__(self) -> int:
        return len(self._handles)

    @contextmanager
    def watch(self, passing: Passing) -> Iterator[None]:
        """Have ``passing`` called at every point inside the block."""
        self._passing = passing
        try:
            yield
        finally:
            self._passing = None

    def remove(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _pass(self, module: nn.Module, _arguments: Any) -> None:
        if self._passing is not None:
            self._passing(module)


def vggt_blocks(vggt: VGGT) -> set[nn.Module]:
    """The steps of a feed-forward pass: blocks of the image encoder and the aggregator, chunks of the depth head."""
    aggregator = vggt.aggregator
    used = max(vggt.config.layers) + 1
    blocks = [*aggregator.patch_embed.blocks, *aggregator.frame_blocks[:used], *aggregator.global_blocks[:used]]
    return {*blocks, vggt.depth_head.scratch}


def vggt_steps(vggt: VGGT, frames: int, frames_per_chunk: int) -> int:
    """How often a block of :func:`vggt_blocks` runs in a pass over so many frames.

    Args:
        vggt: the network.
        frames: of the pass.
        frames_per_chunk: those that go through a dense head at a time.
    """
    return len(vggt_blocks(vggt)) - 1 + -(-frames // frames_per_chunk)
