"""What our layout stores of a component: which tensors, in which types, in which files."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from gen3r_core.checkpoint.folder import FORMAT_VERSION, ComponentFiles
from gen3r_core.checkpoint.keymap import Ignored, KeyMap, Shape, Target
from gen3r_core.checkpoint.loading import build_empty, stored_dtype
from gen3r_core.checkpoint.quantised import OTHERS, is_quantised
from gen3r_core.errors import InputError

_HEADER, _HEADER_OF_TENSOR = 1024, 160
"""Bytes of a safetensors header, at most: in all, and for each tensor beside its name (up to five dimensions)."""


@dataclass(frozen=True)
class Piece:
    """One tensor of ours, still on disk under another name and type.

    Attributes:
        name: ours.
        key: the source's.
        target: what to do with the source's tensor.
        dtype: as it will be stored.
        nbytes: with its scales, if it gets any.
        header: bytes that the file's header takes for it, at most.
    """

    name: str
    key: str
    target: Target
    dtype: torch.dtype
    nbytes: int
    header: int


@dataclass(frozen=True)
class ComponentPlan:
    """What our layout stores of a component.

    Attributes:
        shards: the pieces of each file, in the order of the source, which reads best.
        nbytes: of all pieces.
        kind: type that was asked for, None for the source's.
        fingerprint: of the source's files (names, sizes, times), its configuration, and the type and the size of
            files asked for: what an interrupted conversion has written is only taken over if it came from the same.
    """

    shards: list[list[Piece]]
    nbytes: int
    kind: torch.dtype | None
    fingerprint: str


def plan_component(files: ComponentFiles, kind: torch.dtype | None, limit: int, *, strict: bool) -> ComponentPlan:
    """Decide how a component is stored; its keys are checked, and no weights are read.

    Args:
        files: the component, of any layout.
        kind: floating type of its weights; int8 quantises what is worth it, None keeps the file's types.
        limit: bytes of the largest file.
        strict: refuse a tensor that is larger on its own.

    Raises:
        CheckpointError: the files do not fit or cannot be read.
        InputError: a tensor is larger than a file may be.
    """
    try:
        if kind is None and any(info.file_dtype == torch.int8 for info in files.source.infos.values()):
            kind = torch.int8
        pieces = _pieces(files, kind)
        facts = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files.source.files]
    finally:
        files.close()
    shards = list(_shards(pieces, limit))
    for shard in shards if strict else []:
        if _file_bytes(shard) > limit:
            raise InputError(
                f"{files.spec.name}: {shard[0].name} alone makes a file of {_file_bytes(shard) / 2**20:.1f} MiB, but "
                f"files may have {limit / 2**20:.1f} MiB; allow larger ones"
            )
    origin = json.dumps([FORMAT_VERSION, str(kind), limit, plain_config(files.config), facts], sort_keys=True)
    fingerprint = hashlib.sha256(origin.encode()).hexdigest()
    return ComponentPlan(shards, sum(piece.nbytes for piece in pieces), kind, fingerprint)


def secondary_names(keymap: KeyMap, names: Iterable[str]) -> set[str]:
    """Names that our layout does not store because another name's tensor serves for them."""
    secondary: set[str] = set()
    for name in names:
        targets = keymap.lookup(name)
        if targets and not isinstance(targets, Ignored):
            secondary.update(target.name for target in targets[1:])
    return secondary


def _pieces(files: ComponentFiles, kind: torch.dtype | None) -> list[Piece]:
    empty = build_empty(files)
    wanted = {name: tuple(tensor.shape) for name, tensor in empty.module.state_dict(keep_vars=True).items()}
    left_out = secondary_names(files.spec.own_keys, wanted)
    pieces = []
    for key, targets in empty.plan.assignments.items():
        original = files.source.infos[key].dtype
        for target in targets:
            if target.name in left_out:
                continue
            shape = wanted[target.name]
            if kind == torch.int8:
                own = _quantised_dtype(files, target.name, shape, original)
            else:
                own = stored_dtype(files, target.name, kind, original)
            nbytes = math.prod(shape) * own.itemsize
            header = len(target.name.encode()) + _HEADER_OF_TENSOR
            if own == torch.int8 and original.is_floating_point:
                nbytes += shape[0] * torch.float32.itemsize
                header *= 2
            pieces.append(Piece(target.name, key, target, own, nbytes, header))
    return pieces


def _quantised_dtype(files: ComponentFiles, name: str, shape: Shape, original: torch.dtype) -> torch.dtype:
    if not original.is_floating_point:
        return original
    sensitive = any(part in name for part in files.spec.keep_in_float32)
    return torch.int8 if is_quantised(shape) and not sensitive else OTHERS


def _shards(pieces: list[Piece], limit: int) -> Iterator[list[Piece]]:
    shard: list[Piece] = []
    for piece in pieces:
        if shard and _file_bytes([*shard, piece]) > limit:
            yield shard
            shard = []
        shard.append(piece)
    if shard:
        yield shard


def _file_bytes(shard: list[Piece]) -> int:
    """Size of a weight file, at most."""
    return _HEADER + sum(piece.nbytes + piece.header for piece in shard)


def plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as JSON has it."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in config.items()}
