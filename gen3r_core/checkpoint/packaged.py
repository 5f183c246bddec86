"""The model that comes with this package: gen3r-small."""

from __future__ import annotations

from pathlib import Path

PACKAGED = "gen3r-small"
"""Its name wherever a checkpoint is named; naming none means the same."""


def packaged_folder() -> Path:
    """Its checkpoint folder in our layout; a copy of the project that holds no trained weights lacks it."""
    return Path(__file__).resolve().parents[1] / "small" / "weights"
