"""Clips of procedural worlds, rendered on the training's device while it trains.

Processes plan clips ahead; the device renders them, chunk by chunk, into a pool; batches are drawn from the pool, so
that each rendered clip is used several times: other frames, backwards, other colours, and whatever the trainer cuts
out. What the pool holds at a step is a function of the step, so that a resumed training fills it as it was.
"""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch

from gen3r_core.errors import InputError
from gen3r_core.training.augment import jitter_colors, mirror, on_device, reverse_time, stretches, swap_channels
from gen3r_core.training.batch import ClipBatch
from gen3r_core.training.options import check_range, choose, read_options
from gen3r_core.training.plan import mixed_seed
from gen3r_core.worlds.clips import ClipPlan, plan_clip, render_clips
from gen3r_core.worlds.packing import FULL_CAPACITY
from gen3r_core.worlds.rendering import compiled_trace
from gen3r_core.worlds.splits import SPLITS, Split

__all__ = ["WorldsOptions", "WorldsSource", "from_config"]

_WORLDS_PER_SEED = 2**28


@dataclass(frozen=True)
class WorldsOptions:
    """What `--config` and `--set` can say about worlds.

    Attributes:
        split: "train", "val" or "test".
        clip_frames: frames that are rendered; a batch takes some of them.
        pool: rendered clips kept on the device.
        chunk: clips rendered at once; `pool` is a multiple of it.
        fresh: new clips for each step, on average; 0 keeps the first pool and goes through it in order.
        max_interval: frames of a batch's clip are up to so many apart.
        reverse: share of clips that run backwards.
        mirror: share of clips whose left and right are swapped.
        swap_channels: share of clips whose red, green and blue change places (captions then name wrong colours).
        jitter: strength of colour changes; 0 changes nothing.
        samples: n x n rays a pixel.
        compile: compile the renderer; for GPUs.
        workers: processes that plan ahead; 0 plans in the training's own.
        seed: another number is other worlds of the split.
    """

    split: str = "train"
    clip_frames: int = 17
    pool: int = 256
    chunk: int = 8
    fresh: float = 1.0
    max_interval: int = 1
    reverse: float = 0.5
    mirror: float = 0.0
    swap_channels: float = 0.0
    jitter: float = 0.0
    samples: int = 2
    compile: bool = False
    workers: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        choose("split", self.split, SPLITS)
        for name in ("clip_frames", "pool", "chunk", "max_interval", "samples"):
            check_range(name, getattr(self, name), 1)
        for name in ("fresh", "jitter", "workers"):
            check_range(name, getattr(self, name), 0)
        for name in ("reverse", "mirror", "swap_channels"):
            check_range(name, getattr(self, name), 0, 1)
        check_range("seed", self.seed, 0, 2**10)
        if self.pool % self.chunk:
            raise InputError(f"option 'pool' must be a multiple of 'chunk', got {self.pool} and {self.chunk}")


class WorldsSource:
    """See the module's text.

    Args:
        options: see :class:`WorldsOptions`.
    """

    def __init__(self, options: WorldsOptions) -> None:
        self.options = options
        self._chunks = options.pool // options.chunk
        self._trace = compiled_trace() if options.compile else None
        self._planners: ProcessPoolExecutor | None = None
        self._planned: dict[tuple[int, tuple[int, int]], list[Future[ClipPlan]]] = {}
        self._shape: tuple[tuple[int, int], torch.device] | None = None
        self._held: list[int] = []  # which chunk each place of the pool holds
        self._colors = self._depth = self._intrinsics = self._poses = torch.empty(0)
        self._captions: list[str] = []

    def batch(
        self, step: int, batch_size: int, *, num_frames: int, size: tuple[int, int], device: torch.device
    ) -> ClipBatch:
        """See :class:`gen3r_core.training.batch.ClipSource`.

        Raises:
            InputError: more frames are wanted than are rendered.
        """
        options = self.options
        if num_frames > options.clip_frames:
            raise InputError(
                f"clips of {num_frames} frames are wanted but data option 'clip_frames' renders {options.clip_frames}"
            )
        first = math.floor(step * options.fresh / options.chunk)
        self._fill(first, size, device)
        rng = np.random.default_rng(mixed_seed(options.seed, step, 4))
        if options.fresh:
            slots = rng.choice(options.pool, batch_size, replace=batch_size > options.pool)
        else:
            slots = (step * batch_size + np.arange(batch_size)) % options.pool
        rows = on_device(torch.from_numpy(slots)[:, None], device)
        frames = stretches(batch_size, options.clip_frames, num_frames, options.max_interval, rng)
        picked = on_device(frames, device)
        batch = ClipBatch(
            colors=self._colors[rows, picked].float() / 255,
            depth=self._depth[rows, picked],
            intrinsics=self._intrinsics[rows, picked],
            T_world_cam=self._poses[rows, picked],
            captions=[self._captions[slot] for slot in slots.tolist()],
        )
        batch = reverse_time(batch, options.reverse, rng)
        if options.mirror:
            batch = mirror(batch, options.mirror, rng)
        if options.swap_channels:
            batch = swap_channels(batch, options.swap_channels, rng)
        return jitter_colors(batch, options.jitter, rng)

    def close(self) -> None:
        """Ends the planning processes."""
        if self._planners is not None:
            self._planners.shutdown(wait=True, cancel_futures=True)
            self._planners = None

    # --- pool ------------------------------------------------------------------------------------------

    def _fill(self, first: int, size: tuple[int, int], device: torch.device) -> None:
        """Renders what the pool lacks of the chunks from `first` on."""
        options = self.options
        if self._shape != (size, device):
            self._shape = (size, device)
            self._held = [-1] * self._chunks
            shape = (options.pool, options.clip_frames)
            self._colors = torch.empty(*shape, 3, *size, dtype=torch.uint8, device=device)
            self._depth = torch.empty(*shape, *size, device=device)
            self._intrinsics = torch.empty(*shape, 3, 3, device=device)
            self._poses = torch.empty(*shape, 4, 4, device=device)
            self._captions = [""] * options.pool
        wanted = range(first, first + self._chunks)
        lacking = [chunk for chunk in wanted if self._held[chunk % self._chunks] != chunk]
        for position, chunk in enumerate(lacking):
            ahead = [*lacking[position + 1 : position + 5], wanted.stop, wanted.stop + 1]
            self._store(chunk, self._plans(chunk, size, ahead), device)
            self._held[chunk % self._chunks] = chunk

    @torch.no_grad()
    def _store(self, chunk: int, plans: list[ClipPlan], device: torch.device) -> None:
        rendering = render_clips(plans, device=device, samples=self.options.samples, trace=self._trace)
        begin = chunk % self._chunks * self.options.chunk
        place = slice(begin, begin + self.options.chunk)
        bytes_ = rendering.colors.clamp(0, 1).mul(255).round()
        self._colors[place] = bytes_.permute(0, 1, 4, 2, 3).to(torch.uint8)
        self._depth[place] = rendering.depth
        self._intrinsics[place] = rendering.intrinsics
        self._poses[place] = rendering.T_world_cam
        self._captions[place] = [plan.caption for plan in plans]

    def _plans(self, chunk: int, size: tuple[int, int], ahead: list[int]) -> list[ClipPlan]:
        options = self.options
        if not options.workers:
            return [self._plan(number, size) for number in self._numbers(chunk)]
        if self._planners is None:
            self._planners = ProcessPoolExecutor(
                options.workers, mp_context=multiprocessing.get_context("spawn"), initializer=_prepare_worker
            )
        keep = {(each, size) for each in (chunk, *ahead)}
        for key in self._planned.keys() - keep:
            for future in self._planned.pop(key):
                future.cancel()
        for each in (chunk, *ahead):
            if (each, size) not in self._planned:
                self._planned[each, size] = [
                    self._planners.submit(_plan, options, number, size) for number in self._numbers(each)
                ]
        return [future.result() for future in self._planned.pop((chunk, size))]

    def _plan(self, number: int, size: tuple[int, int]) -> ClipPlan:
        return _plan(self.options, number, size)

    def _numbers(self, chunk: int) -> range:
        return range(chunk * self.options.chunk, (chunk + 1) * self.options.chunk)


def _plan(options: WorldsOptions, number: int, size: tuple[int, int]) -> ClipPlan:
    index = options.seed * _WORLDS_PER_SEED + number
    return plan_clip(cast(Split, options.split), index, options.clip_frames, size, capacities=[FULL_CAPACITY])


def _prepare_worker() -> None:
    torch.set_num_threads(1)


def from_config(values: Mapping[str, Any]) -> WorldsSource:
    """The source from the values of a configuration file; keys are the fields of :class:`WorldsOptions`.

    Raises:
        InputError: unknown keys or wrong values.
    """
    return WorldsSource(read_options(WorldsOptions, values, "data"))
