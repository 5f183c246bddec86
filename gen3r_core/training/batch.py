"""What a training step is fed: a batch of clips on one device, and the protocol of whatever makes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from gen3r_core.errors import InputError

__all__ = ["ClipBatch", "ClipSource"]


@dataclass(frozen=True)
class ClipBatch:
    """B clips of F frames of H by W pixels, all on one device.

    Args:
        colors: `[B, F, 3, H, W]`, float32 in [0, 1].
        depth: `[B, F, H, W]`, float32 metres along the optical axis, 0 where unknown; None for sources without depth.
        intrinsics: `[B, F, 3, 3]`, float32, pixels of (H, W); None for sources without cameras.
        T_world_cam: `[B, F, 4, 4]`, float32 camera to world, OpenCV axes, metres; None for sources without cameras.
        captions: B texts, empty where there is none.

    Raises:
        InputError: The shapes do not belong together.
    """

    colors: Tensor
    depth: Tensor | None
    intrinsics: Tensor | None
    T_world_cam: Tensor | None
    captions: list[str]

    def __post_init__(self) -> None:
        if self.colors.ndim != 5 or self.colors.shape[2] != 3:
            raise InputError(f"colors of a clip batch must be [B, F, 3, H, W], not {list(self.colors.shape)}")
        clips, frames, _, height, width = self.colors.shape
        for name, value, tail in (
            ("depth", self.depth, (height, width)),
            ("intrinsics", self.intrinsics, (3, 3)),
            ("T_world_cam", self.T_world_cam, (4, 4)),
        ):
            if value is not None and tuple(value.shape) != (clips, frames, *tail):
                raise InputError(
                    f"{name} of a clip batch must be {[clips, frames, *tail]} beside colors "
                    f"{list(self.colors.shape)}, not {list(value.shape)}"
                )
        if len(self.captions) != clips:
            raise InputError(f"a clip batch of {clips} clips has {len(self.captions)} captions")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the frames."""
        return (self.colors.shape[-2], self.colors.shape[-1])

    @property
    def device(self) -> torch.device:
        """Where all tensors lie."""
        return self.colors.device

    def __len__(self) -> int:
        """The number of clips."""
        return self.colors.shape[0]

    def to(self, device: torch.device | str) -> ClipBatch:
        """The same batch on `device`; copies from pinned memory do not wait."""
        return self.map(lambda value: value.to(device, non_blocking=True))

    def pinned(self) -> ClipBatch:
        """The same batch in host memory that a GPU can read by itself."""
        return self.map(Tensor.pin_memory)  # pragma: gpu-only

    def map(self, change: Callable[[Tensor], Tensor]) -> ClipBatch:
        """The batch with `change` applied to each tensor that is there."""
        return replace(
            self,
            colors=change(self.colors),
            depth=None if self.depth is None else change(self.depth),
            intrinsics=None if self.intrinsics is None else change(self.intrinsics),
            T_world_cam=None if self.T_world_cam is None else change(self.T_world_cam),
        )


class ClipSource(Protocol):
    """Makes batches of clips, deterministically in (the source's seed, the step)."""

    def batch(
        self, step: int, batch_size: int, *, num_frames: int, size: tuple[int, int], device: torch.device
    ) -> ClipBatch:
        """The batch of one step: the same for the same step, so that a resumed run sees the same data."""
        ...
