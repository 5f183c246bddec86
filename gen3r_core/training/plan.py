"""How long a part is trained, on what, and at what rate: the typed plan of a training, checked as a whole."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from gen3r_core.errors import InputError
from gen3r_core.training.options import check_range, choose, read_options

__all__ = ["Phase", "Plan", "learning_rate", "mixed_seed"]


@dataclass(frozen=True)
class Phase:
    """A stretch of a training with its own clips and rate.

    Attributes:
        until: share of the whole training, (0, 1], at which it ends.
        num_frames: frames of a clip.
        size: (height, width) that the data source makes, in pixels.
        batch_size: clips of a step and process, before accumulation.
        crop: (height, width) cut out of each clip at random; None keeps all.
        picture_every: every so many steps take single frames instead of clips; 0 never.
        learning_rate: at its peak.
        warmup_steps: steps until the peak.
        warmup_from: share of the peak at the phase's first step.
        final: share of the peak at the phase's end; the way there is half a cosine.
        stage: settings for the stage, where it knows phases.
    """

    until: float = 1.0
    num_frames: int = 17
    size: tuple[int, int] = (224, 224)
    batch_size: int = 8
    crop: tuple[int, int] | None = None
    picture_every: int = 0
    learning_rate: float = 1e-4
    warmup_steps: int = 200
    warmup_from: float = 0.0
    final: float = 0.0
    stage: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("num_frames", "batch_size"):
            check_range(name, getattr(self, name), 1)
        for name in ("warmup_from", "final"):
            check_range(name, getattr(self, name), 0, 1)
        for name in ("picture_every", "warmup_steps"):
            check_range(name, getattr(self, name), 0)
        if not 0 < self.until <= 1:
            raise InputError(f"option 'until' is a share of the training above 0 and up to 1, got {self.until}")
        if not 0 < self.learning_rate < math.inf:
            raise InputError(f"option 'learning_rate' must be above 0, got {self.learning_rate}")
        if min(self.size) < 1 or (self.crop is not None and min(self.crop) < 1):
            raise InputError(f"option 'size' is (height, width) in pixels, got {self.size} with crop {self.crop}")
        if self.crop is not None and (self.crop[0] > self.size[0] or self.crop[1] > self.size[1]):
            raise InputError(f"option 'crop' {self.crop} is larger than 'size' {self.size} (height, width)")

    def frames_at(self, step: int) -> int:
        """Frames of the clips of a step."""
        return 1 if self.picture_every and step % self.picture_every == 0 else self.num_frames


@dataclass(frozen=True)
class Plan:
    """A training.

    Attributes:
        steps: updates of the weights at most.
        max_minutes: wall time at most, resumed runs counted together; None has no such limit.
        phases: see :class:`Phase`, in order; values that a phase does not give are as in the one before it.
        seed: of everything random.
        accumulation: batches whose gradients are averaged for one step.
        optimizer: "adamw", or "muon" for the matrices of linear layers (:mod:`gen3r_core.training.muon`); one
            process or copies (DDP), no shards.
        betas: of AdamW.
        weight_decay: of AdamW, for matrices and convolutions only.
        clip_norm: gradients are scaled down to this norm; 0 leaves them as they are.
        ema_decay: of the moving average of the weights, which is what is validated and exported; 0 has none.
        log_every: steps between figures.
        validate_every: steps between validations; 0 validates at the end only.
        validation_batches: batches of a validation.
        validation_batch_size: clips of each.
        checkpoint_every: steps between checkpoints; 0 goes by minutes.
        checkpoint_minutes: minutes between checkpoints, where `checkpoint_every` is 0.
        finish_batches: batches for what a stage measures at the end.
        tensorboard: write figures for TensorBoard too.
    """

    steps: int = 10_000
    max_minutes: float | None = None
    phases: tuple[dict[str, Any], ...] = ({},)
    seed: int = 0
    accumulation: int = 1
    optimizer: str = "adamw"
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    log_every: int = 20
    validate_every: int = 1000
    validation_batches: int = 4
    validation_batch_size: int = 8
    checkpoint_every: int = 0
    checkpoint_minutes: float = 3.0
    finish_batches: int = 16
    tensorboard: bool = True

    def __post_init__(self) -> None:
        for name in ("steps", "accumulation", "log_every", "validation_batches", "validation_batch_size"):
            check_range(name, getattr(self, name), 1)
        for name in ("clip_norm", "weight_decay", "validate_every", "checkpoint_every", "finish_batches", "seed"):
            check_range(name, getattr(self, name), 0)
        for name in ("max_minutes", "checkpoint_minutes"):
            check_range(name, getattr(self, name), 1e-3)
        if not 0 <= self.ema_decay < 1:
            raise InputError(f"option 'ema_decay' must be at least 0 and below 1, got {self.ema_decay}")
        choose("optimizer", self.optimizer, ("adamw", "muon"))
        if not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(f"option 'betas' must both be at least 0 and below 1, got {self.betas}")
        ends = [phase.until for phase in self.stretches]
        if not ends or ends != sorted(set(ends)) or ends[-1] != 1:
            raise InputError(f"phases must end one after the other, the last at 1, but 'until' is {ends}")

    @cached_property
    def stretches(self) -> tuple[Phase, ...]:
        """The phases, read."""
        values: dict[str, Any] = {}
        phases = []
        for number, own in enumerate(self.phases):
            values = {key: value for key, value in values.items() if key not in {"until", "stage"}} | own
            phases.append(read_options(Phase, values, f"phase {number}"))
        return tuple(phases)

    def share(self, step: int, elapsed: float) -> float:
        """How much of the training is done after `step` steps and `elapsed` seconds, 0 to 1."""
        by_time = elapsed / (60 * self.max_minutes) if self.max_minutes is not None else 0.0
        return min(1.0, max(step / self.steps, by_time))

    def phase_at(self, share: float) -> int:
        """The index of the phase for a share of the training."""
        return next((i for i, phase in enumerate(self.stretches) if share < phase.until), len(self.stretches) - 1)

    def phase_share(self, index: int, share: float) -> float:
        """How much of a phase is done, 0 to 1, at a share of the training."""
        begin = self.stretches[index - 1].until if index else 0.0
        return min(1.0, max(0.0, (share - begin) / (self.stretches[index].until - begin)))


def learning_rate(phase: Phase, steps_in_phase: int, share: float) -> float:
    """Linear warm-up by steps, times half a cosine by the share of the phase that is done."""
    warm = 1.0
    if steps_in_phase < phase.warmup_steps:
        warm = phase.warmup_from + (1 - phase.warmup_from) * (steps_in_phase + 1) / phase.warmup_steps
    fall = phase.final + (1 - phase.final) * 0.5 * (1 + math.cos(math.pi * share))
    return phase.learning_rate * warm * fall


def mixed_seed(*numbers: int) -> int:
    """A seed of 63 bits from several numbers, so that (1, 2) and (2, 1) have nothing in common."""
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
