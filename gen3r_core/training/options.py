"""Options of a training stage: frozen dataclasses, read strictly from the values of a configuration file."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from gen3r_core.errors import InputError

__all__ = ["check_range", "choose", "read_options"]

T = TypeVar("T")


def read_options(cls: type[T], values: Mapping[str, Any], stage: str) -> T:
    """Construct an options dataclass from JSON values; lists become tuples, whole numbers pass as floats.

    Args:
        cls: A dataclass whose fields are bool, int, float, str, dicts, tuples or optional ones of these.
        values: By field name; what is left out keeps its default.
        stage: Name of the stage for messages.

    Raises:
        InputError: A key is unknown (the nearest known one is named), or a value has another type.
    """
    hints = get_type_hints(cls)
    known = [field.name for field in fields(cls) if field.init] if is_dataclass(cls) else []
    for key in values:
        if key not in known:
            close = get_close_matches(str(key), known, 1)
            advice = f"did you mean {close[0]!r}? " if close else ""
            raise InputError(f"{stage}: unknown option {key!r}; {advice}known are {', '.join(sorted(known))}")
    return cls(**{key: _convert(value, hints[key], f"{stage}: option {key!r}") for key, value in values.items()})


def choose(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a value that is none of ``choices``.

    Raises:
        InputError: It is not; the message lists them.
    """
    if value not in choices:
        raise InputError(f"option {name!r} is {value!r}; choose one of: {', '.join(choices)}")


def check_range(name: str, value: float | None, low: float, high: float = float("inf")) -> None:
    """Refuse a number outside of ``[low, high]``; None passes.

    Raises:
        InputError: It is outside, or not a number.
    """
    if value is not None and not low <= value <= high:
        bounds = f"at least {low:g}" if high == float("inf") else f"between {low:g} and {high:g}"
        raise InputError(f"option {name!r} must be {bounds}, got {value}")


def _convert(value: Any, hint: Any, what: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in {Union, types.UnionType}:
        if value is None and type(None) in arguments:
            return None
        return _convert(value, next(kind for kind in arguments if kind is not type(None)), what)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise InputError(f"{what} must be a list, got {value!r}")
        if arguments[-1] is not Ellipsis and len(value) != len(arguments):
            raise InputError(f"{what} must be a list of {len(arguments)} values, got {value!r}")
        return tuple(_convert(item, arguments[0], what) for item in value)
    if origin is dict or hint is dict:
        if not isinstance(value, Mapping):
            raise InputError(f"{what} must be a table of keys and values, got {value!r}")
        return dict(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    wrong_bool = isinstance(value, bool) and hint is not bool
    if wrong_bool or not isinstance(value, hint):
        names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
        raise InputError(f"{what} must be {names.get(hint, hint)}, got {value!r}")
    return value
