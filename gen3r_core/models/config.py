"""Reading the configuration dataclasses of networks from JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from gen3r_core.errors import CheckpointError

T = TypeVar("T")


def from_values(cls: type[T], values: Mapping[str, Any], component: str) -> T:
    """Construct a flat configuration dataclass, lists becoming tuples.

    Args:
        cls: a dataclass.
        values: content of our ``config.json``.
        component: name for messages.

    Raises:
        CheckpointError: a key is unknown.
    """
    known = sorted(field.name for field in fields(cls))  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise CheckpointError(f"{component}: config.json has unknown keys {', '.join(unknown)}; known are {known}")
    return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
