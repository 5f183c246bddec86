"""A checkpoint to evaluate: a whole one, or parts as trainings leave them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gen3r_core.checkpoint.folder import Checkpoint, open_checkpoint
from gen3r_core.checkpoint.packaged import PACKAGED
from gen3r_core.checkpoint.parts import gather_parts
from gen3r_core.errors import CheckpointError, InputError

__all__ = ["open_for_evaluation", "shape_of"]


def open_for_evaluation(root: Path | None, parts: Sequence[tuple[str, Path]] = ()) -> Checkpoint:
    """Open a checkpoint, or the folder of a training; other parts may take the place of its own.

    Args:
        root: checkpoint folder of any layout, or a folder that :func:`gen3r_core.checkpoint.parts.gather_parts` takes;
            None for the model in this package, or where parts are given, for nothing else.
        parts: our name of the network, or "tokenizer" or "scheduler", and its folder.

    Returns:
        With the components that were found; ``defaults`` is empty where nothing says what frames and size they are
        for.

    Raises:
        CheckpointError: a folder is missing or holds nothing that can be used.
        InputError: a part has an unknown name, or two have one.
    """
    base: Checkpoint | None = None
    if root is not None or not parts:
        base = _open(root)
    return gather_parts(parts, {}, base) if parts or base is None else base


def shape_of(
    checkpoint: Checkpoint, num_frames: int | None, size: tuple[int, int] | None
) -> tuple[int, tuple[int, int]]:
    """Frames and ``(height, width)`` as asked for, or as the checkpoint says it is for.

    Raises:
        InputError: neither says it.
    """
    if (num_frames is None or size is None) and "num_frames" not in checkpoint.defaults:
        raise InputError(
            "nothing says for how many frames and which size these parts are; give --num_frames and --size"
        )
    if size is None:
        height, width = checkpoint.defaults["image_size"]
        size = (height, width)
    return checkpoint.defaults["num_frames"] if num_frames is None else num_frames, size


def _open(root: Path | None) -> Checkpoint:
    try:
        return open_checkpoint(root)
    except CheckpointError as error:
        if root is None or not root.is_dir() or str(root) == PACKAGED:
            raise
        try:
            return gather_parts([(None, root)], {})
        except CheckpointError:
            raise error from None
