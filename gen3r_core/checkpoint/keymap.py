"""From the keys of a weight file to the keys of our modules, strictly.

A key of the file is mapped (to one name, to several parts, or to several tied names), or it
stands in a list of ignored names with its reason. Whatever else is there, or is missing, or has
another shape is named in one error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gen3r_core.errors import CheckpointError

Shape = tuple[int, ...]
_SHOWN = 8


@dataclass(frozen=True)
class Target:
    """One parameter of ours that a file's tensor fills.

    Attributes:
        name: key in our module's state dict.
        convert: what to do with the file's tensor first; None takes it as it is.
    """

    name: str
    convert: Callable[[Tensor], Tensor] | None = None

    def apply(self, tensor: Tensor) -> Tensor:
        """The value for the parameter."""
        return tensor if self.convert is None else self.convert(tensor)


@dataclass(frozen=True)
class Ignored:
    """A key that has no use, and why."""

    reason: str


@dataclass(frozen=True)
class Rule:
    """Keys that match ``pattern`` as a whole go to ``targets`` (templates for ``re.Match.expand``) or are ignored.

    A template is a string, or a pair of a string and a conversion. With ``rename``, the string is
    given by a function of the match instead.
    """

    pattern: str
    targets: Sequence[str | tuple[str, Callable[[Tensor], Tensor]]] | Ignored = ()
    rename: Callable[[re.Match[str]], str | None] | None = None


@dataclass(frozen=True)
class KeyMap:
    """Rules in order of precedence; the first whole match decides.

    Attributes:
        rules: see :class:`Rule`.
        strip: a prefix that the file's keys may carry.
    """

    rules: Sequence[Rule]
    strip: str = ""
    _compiled: list[tuple[re.Pattern[str], Rule]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_compiled", [(re.compile(rule.pattern), rule) for rule in self.rules])

    def lookup(self, key: str) -> list[Target] | Ignored | None:
        """Where a file's key goes; None if no rule knows it."""
        name = key.removeprefix(self.strip)
        for pattern, rule in self._compiled:
            match = pattern.fullmatch(name)
            if match is None:
                continue
            if isinstance(rule.targets, Ignored):
                return rule.targets
            if rule.rename is not None:
                renamed = rule.rename(match)
                return None if renamed is None else [Target(renamed)]
            return [
                Target(match.expand(template))
                if isinstance(template, str)
                else Target(match.expand(template[0]), template[1])
                for template in rule.targets
            ]
        return None


IDENTITY = KeyMap((Rule(r"(.+)", (r"\1",)),))
"""Our own layout: keys are those of our modules."""


def part(index: int, count: int) -> Callable[[Tensor], Tensor]:
    """Conversion: the ``index``-th of ``count`` equal parts along the first dimension."""
    return lambda tensor: tensor.chunk(count, dim=0)[index]


def drop_front(count: int) -> Callable[[Tensor], Tensor]:
    """Conversion: without the first ``count`` dimensions, which must be of size one (others stay and are reported)."""

    def convert(tensor: Tensor) -> Tensor:
        for _ in range(count):
            tensor = tensor.squeeze(0)
        return tensor

    return convert


def pad_input_channels(extra: int) -> Callable[[Tensor], Tensor]:
    """Conversion: ``extra`` zero channels after the input channels (dimension 1)."""
    return lambda tensor: torch.cat(
        (tensor, torch.zeros((tensor.shape[0], extra, *tensor.shape[2:]), dtype=tensor.dtype, device=tensor.device)), 1
    )


@dataclass(frozen=True)
class Plan:
    """A checked assignment.

    Attributes:
        assignments: file key to targets, in the file's order.
        ignored: file key to the reason for which it is left out.
    """

    assignments: Mapping[str, list[Target]]
    ignored: Mapping[str, str]


def _listing(title: str, items: Iterable[str]) -> list[str]:
    items = list(items)
    if not items:
        return []
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return [f"{len(items)} {title}: {', '.join(items[:_SHOWN])}{more}"]


def match_keys(
    component: str, where: str, keymap: KeyMap, found: Mapping[str, Shape], wanted: Mapping[str, Shape]
) -> Plan:
    """Assign every key of a file to parameters, or say in one error all that does not fit.

    Args:
        component: name for messages.
        where: file or folder for messages.
        keymap: rules for the file's keys.
        found: keys and shapes in the file.
        wanted: keys and shapes of our module.

    Raises:
        CheckpointError: keys are missing, unexpected, given twice or of another shape.
    """
    assignments: dict[str, list[Target]] = {}
    ignored: dict[str, str] = {}
    unexpected: list[str] = []
    given_twice: list[str] = []
    wrong_shape: list[str] = []
    filled_by: dict[str, str] = {}
    for key, shape in found.items():
        targets = keymap.lookup(key)
        if isinstance(targets, Ignored):
            ignored[key] = targets.reason
            continue
        if targets is None or any(target.name not in wanted for target in targets):
            unexpected.append(key)
            continue
        assignments[key] = targets
        for target in targets:
            if target.name in filled_by:
                given_twice.append(f"{key} (as {filled_by[target.name]})")
            filled_by[target.name] = key
            try:
                actual = tuple(target.apply(torch.empty(shape, device="meta")).shape)
            except (RuntimeError, IndexError):
                actual = shape
            if actual != wanted[target.name]:
                wrong_shape.append(f"{key} {list(actual)} instead of {list(wanted[target.name])}")
    missing = [name for name in wanted if name not in filled_by]
    problems = [
        *_listing("missing", missing),
        *_listing("unexpected", unexpected),
        *_listing("given twice", given_twice),
        *_listing("of another shape", wrong_shape),
    ]
    if problems:
        hint = (
            "Is this a checkpoint of another size, or does its config.json belong to another one?"
            if wrong_shape
            else "Is this file really the component's weights, complete and of this version?"
        )
        listed = "; ".join(problems)
        raise CheckpointError(f"{component}: the weights in {where} do not fit the model. {listed}. {hint}")
    return Plan(assignments, ignored)
