"""One parameter of a node: what it does, its range, and how it is declared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node

from gen3r_core.errors import InputError

Value = bool | int | float | str


@dataclass(frozen=True)
class Declared:
    """One parameter.

    Attributes:
        default: gives its type as well.
        text: what it does, with its unit.
        low: smallest value of a number.
        high: largest value of a number.
        values: of a text, where not all will do.
        runtime: whether the node takes it at any time; otherwise before ``configure`` only. The simulator's faults can
            be set at any time, its other parameters never.
    """

    default: Value
    text: str
    low: float = 0.0
    high: float = 0.0
    values: tuple[str, ...] = ()
    runtime: bool = False


def declare_parameter(node: Node, name: str, one: Declared, *, note: str = "", read_only: bool = False) -> Any:
    """Declare a parameter, and return what was given for it, or its default.

    Args:
        node: that gets it.
        name: of the parameter.
        one: the rest.
        note: follows the text in the description.
        read_only: it cannot be set later.

    Raises:
        InputError: the value has the wrong type or is out of its range.
    """
    descriptor = ParameterDescriptor(
        description=one.text + note,
        read_only=read_only,
        additional_constraints=", ".join(map(repr, one.values)),
    )
    if isinstance(one.default, float):
        descriptor.floating_point_range = [FloatingPointRange(from_value=one.low, to_value=one.high)]
    elif isinstance(one.default, int) and not isinstance(one.default, bool):
        descriptor.integer_range = [IntegerRange(from_value=int(one.low), to_value=int(one.high), step=1)]
    try:
        return node.declare_parameter(name, one.default, descriptor).value
    except (InvalidParameterTypeException, InvalidParameterValueException) as error:
        kind = type(one.default).__name__
        limits = f" from {one.low:g} to {one.high:g}" if one.high else ""
        raise InputError(f"the parameter {name} ({one.text}) takes a {kind}{limits}: {error}") from error
