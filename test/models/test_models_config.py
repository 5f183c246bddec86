"""Configuration dataclasses from JSON values."""

from dataclasses import dataclass

import pytest

from gen3r_core.errors import CheckpointError
from gen3r_core.models.config import from_values


@dataclass(frozen=True)
class Sizes:
    width: int = 3
    layers: tuple[int, ...] = (1, 2)


def test_lists_become_tuples_and_what_is_left_out_keeps_its_default():
    assert from_values(Sizes, {"layers": [4, 5]}, "toy") == Sizes(3, (4, 5))
    assert from_values(Sizes, {}, "toy") == Sizes()


def test_unknown_keys_are_named():
    with pytest.raises(CheckpointError, match=r"^toy: config.json has unknown keys depth, name; known are .*'width'"):
        from_values(Sizes, {"name": 1, "width": 2, "depth": 3}, "toy")
