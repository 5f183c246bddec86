"""Which worlds are trained on and which are not: ranges of seeds that never overlap."""

from __future__ import annotations

from typing import Literal, get_args

from gen3r_core.errors import InputError

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
WORLDS_PER_SPLIT = 2**40
"""Each split has this many seeds, one range behind the other."""


def world_seed(split: Split, index: int) -> int:
    """The seed of a split's world.

    Args:
        split: "train", "val" or "test".
        index: 0 to :data:`WORLDS_PER_SPLIT` - 1.

    Raises:
        InputError: for another split or index.
    """
    if split not in SPLITS:
        raise InputError(f"worlds are split into {', '.join(SPLITS)}, got {split!r}")
    if not 0 <= index < WORLDS_PER_SPLIT:
        raise InputError(f"the index of a world lies between 0 and 2^40 - 1, got {index}")
    return SPLITS.index(split) * WORLDS_PER_SPLIT + index


def split_of(seed: int) -> Split:
    """The split that a seed belongs to.

    Raises:
        InputError: if it belongs to none.
    """
    if not 0 <= seed < len(SPLITS) * WORLDS_PER_SPLIT:
        raise InputError(f"seed {seed} belongs to no split of worlds")
    return SPLITS[seed // WORLDS_PER_SPLIT]
