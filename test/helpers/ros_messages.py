"""Messages of any type with random content, made from the fields that the type itself declares."""

from __future__ import annotations

import array
import importlib

import numpy as np
from rosidl_parser import definition

_BITS = {"int8": 8, "int16": 16, "int32": 32, "int64": 64}


def random_message(kind, rng: np.random.Generator):
    """A message of class ``kind``, every field of it filled at random: sequences with up to four entries."""
    message = kind()
    for name, slot in zip(kind.get_fields_and_field_types(), kind.SLOT_TYPES, strict=True):
        setattr(message, name, _value(slot, rng))
    return message


def _value(slot, rng):
    if isinstance(slot, definition.NamespacedType):
        module = importlib.import_module(".".join(slot.namespaces))
        return random_message(getattr(module, slot.name), rng)
    if isinstance(slot, definition.AbstractString):
        return "".join(rng.choice(list("abc xyz_/é木"), size=rng.integers(1, 12)))
    if isinstance(slot, definition.Array):
        numbers = [_value(slot.value_type, rng) for _ in range(slot.size)]
        return np.array(numbers, dtype=_numpy_type(slot.value_type)) if _is_number(slot.value_type) else numbers
    if isinstance(slot, definition.AbstractSequence):
        entries = [_value(slot.value_type, rng) for _ in range(rng.integers(1, 5))]
        return array.array(_numpy_type(slot.value_type).char, entries) if _is_number(slot.value_type) else entries
    return _number(slot.typename, rng)


def _is_number(slot) -> bool:
    return isinstance(slot, definition.BasicType) and slot.typename not in {"boolean", "octet"}


def _numpy_type(slot):
    return np.dtype({"float": "f", "double": "d"}.get(slot.typename, slot.typename))


def _number(name, rng):
    if name == "boolean":
        return bool(rng.integers(2))
    if name in {"float", "double"}:
        return float(np.float32(rng.normal()))
    bits = _BITS[name.removeprefix("u")]
    low, high = (0, 2**bits) if name.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1))
    return int(rng.integers(low, high - 1, dtype=np.uint64 if name == "uint64" else np.int64, endpoint=True))
