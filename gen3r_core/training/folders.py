"""Clips from scenes on disk, read ahead by threads."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gen3r_core.errors import InputError
from gen3r_core.training.augment import jitter_colors, join_clips, reverse_time
from gen3r_core.training.batch import ClipBatch, ClipSource
from gen3r_core.training.options import check_range, choose, read_options
from gen3r_core.training.plan import mixed_seed
from gen3r_core.training.scene_files import find_scenes, open_scene, read_clip

__all__ = ["FolderOptions", "FolderSource", "ReadAhead", "from_config"]

_ATTEMPTS = 10
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class FolderOptions:
    """What `--config` and `--set` can say about a data set on disk.

    Attributes:
        split: which lists: "train" or "test".
        max_interval: frames of a clip are up to so many apart in their scene.
        on_error: "stop" at a scene that cannot be read, or "skip" it with a warning.
        reverse: share of clips that run backwards.
        jitter: strength of colour changes; 0 changes nothing.
        seed: of what is drawn.
        workers: reading threads; 0 reads in the training's own.
        ahead: batches that are read ahead.
    """

    split: str = "train"
    max_interval: int = 1
    on_error: str = "stop"
    reverse: float = 0.0
    jitter: float = 0.0
    seed: int = 0
    workers: int = 4
    ahead: int = 4

    def __post_init__(self) -> None:
        choose("split", self.split, ("train", "test"))
        choose("on_error", self.on_error, ("stop", "skip"))
        check_range("max_interval", self.max_interval, 1)
        check_range("reverse", self.reverse, 0, 1)
        for name in ("jitter", "workers", "ahead", "seed"):
            check_range(name, getattr(self, name), 0)


class FolderSource:
    """Clips of scenes on disk; see :mod:`gen3r_core.training.scene_files` for their layout.

    Scenes are gone through in an order that is drawn anew for every round. What a clip is depends on the seed and the
    clip's number, `step * batch_size + i`, alone.

    Args:
        root: the data set.
        options: see :class:`FolderOptions`.

    Raises:
        InputError: there are no scenes, or the lists do not fit together.
    """

    def __init__(self, root: Path, options: FolderOptions) -> None:
        self.scenes = find_scenes(root, options.split)
        self.options = options
        self._open = lru_cache(maxsize=4096)(open_scene)

    def batch(
        self, step: int, batch_size: int, *, num_frames: int, size: tuple[int, int], device: torch.device
    ) -> ClipBatch:
        """See :class:`gen3r_core.training.batch.ClipSource`.

        Raises:
            InputError: a scene cannot be read and `on_error` is "stop", or ten in a row cannot.
        """
        clips = [self._clip(step * batch_size + index, num_frames, size) for index in range(batch_size)]
        batch = join_clips(clips)
        rng = np.random.default_rng(mixed_seed(self.options.seed, step, 2))
        batch = jitter_colors(reverse_time(batch, self.options.reverse, rng), self.options.jitter, rng)
        return batch.to(device)

    def _clip(self, number: int, num_frames: int, size: tuple[int, int]) -> ClipBatch:
        options = self.options
        for attempt in range(_ATTEMPTS):
            rng = np.random.default_rng(mixed_seed(options.seed, number, attempt))
            index = self._order(number) if attempt == 0 else int(rng.integers(len(self.scenes)))
            try:
                return read_clip(self._open(self.scenes[index]), num_frames, size, options.max_interval, rng)
            except InputError as error:
                if options.on_error == "stop":
                    raise InputError(
                        f"{error} (scene {index}; data option on_error=skip goes on without it)"
                    ) from error
                _LOG.warning("scene %d is skipped: %s", index, error)
        raise InputError(f"{_ATTEMPTS} scenes in a row cannot be read, the last being {self.scenes[index].images}")

    def _order(self, number: int) -> int:
        """Scene of a clip: each round is a permutation of all scenes."""
        turn, place = divmod(number, len(self.scenes))
        permutation = np.random.default_rng(mixed_seed(self.options.seed, turn, 3)).permutation(len(self.scenes))
        return int(permutation[place])


_Key = tuple[int, int, int, tuple[int, int]]


class ReadAhead:
    """Another source, whose next batches threads prepare on the host while the present one is trained on.

    Which steps come next is told from the last two; a batch that was not foreseen is made when it is asked for.

    Args:
        source: deterministic in the step, and safe to call from several threads.
        workers: threads.
        ahead: batches.
    """

    def __init__(self, source: ClipSource, workers: int, ahead: int) -> None:
        self._source = source
        self._ahead = ahead
        self._pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="clips")
        self._made: dict[_Key, Future[ClipBatch]] = {}
        self._last: int | None = None

    def batch(
        self, step: int, batch_size: int, *, num_frames: int, size: tuple[int, int], device: torch.device
    ) -> ClipBatch:
        """As the other source has it, errors included."""
        stride = step - self._last if self._last is not None and step > self._last else 1
        self._last = step
        wanted = [(step + stride * index, batch_size, num_frames, size) for index in range(self._ahead + 1)]
        for key in self._made.keys() - set(wanted):
            self._made.pop(key).cancel()
        for key in wanted:
            if key not in self._made:
                self._made[key] = self._pool.submit(self._make, key, device.type == "cuda")
        return self._made.pop(wanted[0]).result().to(device)

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _make(self, key: _Key, pinned: bool) -> ClipBatch:
        step, batch_size, num_frames, size = key
        batch = self._source.batch(step, batch_size, num_frames=num_frames, size=size, device=torch.device("cpu"))
        if pinned:  # pragma: gpu-only
            batch = batch.pinned()
        return batch


def from_config(root: Path, values: Mapping[str, Any]) -> ClipSource:
    """The source from the values of a configuration file; keys are the fields of :class:`FolderOptions`.

    Raises:
        InputError: unknown keys, wrong types, or a data set that cannot be used.
    """
    options = read_options(FolderOptions, values, "data")
    source = FolderSource(root, options)
    return ReadAhead(source, options.workers, options.ahead) if options.workers else source
