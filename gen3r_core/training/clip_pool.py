"""A pool of encoded clips on the device, so that a step of the transformer does not run VGGT and the VAE."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gen3r_core.errors import InputError
from gen3r_core.training.batch import ClipBatch, ClipSource
from gen3r_core.training.flow_clips import ClipEncoder, EncodedClips

__all__ = ["EncodedBatch", "PooledClips"]


@dataclass(frozen=True)
class EncodedBatch(ClipBatch):
    """A batch that is already encoded; its colours are a placeholder of the right shape.

    Attributes:
        clips: what it is trained on.
    """

    clips: EncodedClips | None = None


class PooledClips:
    """A clip source that draws from a pool of encoded clips, which is renewed bit by bit.

    The pool of step ``s`` holds the source's batches ``n`` to ``n + k - 1`` with ``n = s // every``: what it
    holds follows from the step alone, so that a resumed run goes on as if it had never stopped (after filling the
    pool anew). Each call draws distinct clips.

    Args:
        source: of clips.
        encoder: what encodes them.
        clips: size of the pool.
        batch: clips that are asked from the source at a time.
        every: steps after which the oldest batch makes room for a new one.
        seed: of the draws.

    Raises:
        InputError: the pool is no multiple of the batch.
    """

    def __init__(
        self, source: ClipSource, encoder: ClipEncoder, *, clips: int, batch: int, every: int = 1, seed: int = 0
    ) -> None:
        if clips < batch or clips % batch:
            raise InputError(f"the pool's {clips} clips must be a multiple of the {batch} that are encoded at a time")
        self.source, self.encoder = source, encoder
        self.clips, self.chunk, self.every, self.seed = clips, batch, every, seed
        self._pool: EncodedClips | None = None
        self._shape: tuple[object, ...] = ()
        self._held: list[int | None] = []

    def batch(
        self, step: int, batch_size: int, *, num_frames: int, size: tuple[int, int], device: torch.device
    ) -> EncodedBatch:
        """Clips of a step; see :class:`gen3r_core.training.batch.ClipSource`.

        Raises:
            InputError: the pool is smaller than the batch.
        """
        if batch_size > self.clips:
            raise InputError(f"a batch of {batch_size} clips cannot be drawn from a pool of {self.clips}")
        pool = self._renewed(step, num_frames, size, device)
        generator = torch.Generator(device=device).manual_seed(self.seed * 1_000_003 + step)
        chosen = torch.rand(self.clips, generator=generator, device=device).argsort()[:batch_size]
        placeholder = torch.zeros(1, device=device).expand(batch_size, num_frames, 3, *size)
        clips = pool.map(lambda values: values[chosen])
        return EncodedBatch(placeholder, None, None, None, [""] * batch_size, clips)

    def _renewed(self, step: int, num_frames: int, size: tuple[int, int], device: torch.device) -> EncodedClips:
        shape = (num_frames, size, device)
        slots = self.clips // self.chunk
        if shape != self._shape:
            self._pool, self._shape, self._held = None, shape, [None] * slots
        first = step // self.every
        for index in range(first, first + slots):
            slot = index % slots
            if self._held[slot] == index:
                continue
            batch = self.source.batch(index, self.chunk, num_frames=num_frames, size=size, device=device)
            new = self.encoder.encode(batch)
            if self._pool is None:
                self._pool = new.map(self._room)
            self._pool.write(slice(slot * self.chunk, (slot + 1) * self.chunk), new)
            self._held[slot] = index
        if self._pool is None:
            raise InputError("the pool of clips is empty")
        return self._pool

    def _room(self, values: Tensor) -> Tensor:
        return torch.zeros((self.clips, *values.shape[1:]), dtype=values.dtype, device=values.device)
