"""One part of Gen3R that is trained: what the trainer asks of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from gen3r_core.errors import Gen3RError
from gen3r_core.training.batch import ClipBatch, ClipSource

__all__ = ["EncodingStage", "FinishingStage", "PhasedStage", "Stage", "TrainingError"]


class TrainingError(Gen3RError):
    """A training that cannot go on: losses that are not finite, or a checkpoint that does not belong to it."""


class Stage(Protocol):
    """A network with its loss, its measure and its place on disk.

    `module` holds what is trained: its parameters with `requires_grad`, float32. Frozen companions (a teacher, an
    encoder) are attributes of the stage and no part of the module.
    """

    name: str
    module: nn.Module

    def loss(self, batch: ClipBatch, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar loss of a batch, and detached scalar figures to log.

        Nothing inside waits for the device (no `.item()`), and all randomness comes from `generator`, which lies on
        the batch's device.
        """
        ...

    def validate(self, batch: ClipBatch) -> dict[str, float]:
        """Figures on a batch that is never trained on; called in evaluation mode without gradients."""
        ...

    def export(self, folder: Path, state: Mapping[str, Tensor] | None = None) -> None:
        """Writes the component folder of our layout (config.json, model.safetensors).

        Args:
            folder: The component's folder; it is made, and its files are replaced.
            state: Weights to write instead of the module's own, by its keys: the moving average's.
        """
        ...


@runtime_checkable
class FinishingStage(Protocol):
    """A stage that measures something when its training is done: the mean and deviation of its latents."""

    def finish(self, batches: Iterable[ClipBatch]) -> None:
        """Called once before the export, without gradients, with the averaged weights in the module.

        Args:
            batches: A few hundred training clips of the last phase, made one after the other.
        """
        ...


@runtime_checkable
class PhasedStage(Protocol):
    """A stage whose loss can differ between the phases of a training."""

    def configure(self, values: Mapping[str, Any]) -> None:
        """Called at the start of each phase (and after a resume) with the phase's `stage` settings, perhaps empty.

        Raises:
            InputError: A setting is unknown or cannot be used.
        """
        ...


@runtime_checkable
class EncodingStage(Protocol):
    """A stage that trains on what frozen parts make of clips, and keeps that for several steps."""

    def wrap_source(self, source: ClipSource) -> ClipSource:
        """The source to train from, made of another; called once before the training."""
        ...
