"""Any readable checkpoint to our layout: one folder a component, safetensors, SHA-256 sums."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from gen3r_core.checkpoint.folder import FORMAT_VERSION, MANIFEST, Checkpoint, ComponentFiles
from gen3r_core.checkpoint.keymap import Ignored, KeyMap, Target
from gen3r_core.checkpoint.loading import Progress, build_empty, stored_dtype
from gen3r_core.errors import OutputError
from gen3r_core.io.atomic import check_free_space, output_error

SHARD_BYTES = 2 * 2**30
"""Largest weight file; also bounds the memory that converting takes."""

_DONE = "converted.json"


@dataclass(frozen=True)
class _Piece:
    """One tensor of ours, still on disk under another name and type."""

    name: str
    key: str
    target: Target
    dtype: torch.dtype
    nbytes: int


def convert_checkpoint(
    checkpoint: Checkpoint,
    destination: Path,
    *,
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
) -> None:
    """Write a checkpoint in our layout.

    Work goes on beside the destination, component by component; after an interruption the same
    call goes on with the components that are not finished.

    Args:
        checkpoint: of any layout.
        destination: folder that does not exist yet, or is empty.
        dtype: floating dtype of the weights; None keeps the files'.
        progress: told the bytes of each component.

    Raises:
        CheckpointError: the source is damaged or does not fit.
        OutputError: the destination is in use, or cannot be written.
    """
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise OutputError(f"{destination} already holds something; name a folder that does not exist yet")
    work = destination.parent / f".partial-{destination.name}"
    plans = {name: _pieces(files, dtype) for name, files in checkpoint.components.items()}
    try:
        work.mkdir(parents=True, exist_ok=True)
        left = sum(p.nbytes for name, pieces in plans.items() if not _finished(work, name, dtype) for p in pieces)
        check_free_space(destination, left)
        sums: dict[str, Any] = {}
        for name, files in checkpoint.components.items():
            if not _finished(work, name, dtype):
                _write_component(files, plans[name], work / name, dtype, progress)
        if checkpoint.tokenizer is not None:
            shutil.copytree(checkpoint.tokenizer, work / "tokenizer", dirs_exist_ok=True)
        (work / "scheduler").mkdir(exist_ok=True)
        (work / "scheduler" / "scheduler_config.json").write_text(json.dumps(dict(checkpoint.scheduler), indent=2))
        for path in sorted(p for p in work.rglob("*") if p.is_file() and p.name not in (_DONE, MANIFEST)):
            sums[path.relative_to(work).as_posix()] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
        manifest = {
            "format": "gen3r",
            "format_version": FORMAT_VERSION,
            "converted_from": checkpoint.layout,
            "dtype": "kept" if dtype is None else str(dtype).removeprefix("torch."),
            "defaults": dict(checkpoint.defaults),
            "files": sums,
        }
        (work / MANIFEST).write_text(json.dumps(manifest, indent=2))
        for marker in work.glob(f"*/{_DONE}"):
            marker.unlink()
        if destination.exists():
            destination.rmdir()
        os.replace(work, destination)  # noqa: PTH105 - an atomic rename
    except OSError as error:
        raise output_error(destination, error) from error


def _secondary_names(keymap: KeyMap, names: list[str]) -> set[str]:
    """Names that our layout does not store because another name's tensor serves for them."""
    secondary: set[str] = set()
    for name in names:
        targets = keymap.lookup(name)
        if targets and not isinstance(targets, Ignored):
            secondary.update(target.name for target in targets[1:])
    return secondary


def _pieces(files: ComponentFiles, dtype: torch.dtype | None) -> list[_Piece]:
    """What our layout stores of a component, in the order of the source (which reads best)."""
    empty = build_empty(files)
    wanted = {name: tensor.numel() for name, tensor in empty.module.state_dict(keep_vars=True).items()}
    left_out = _secondary_names(files.spec.own_keys, list(wanted))
    pieces = []
    for key, targets in empty.plan.assignments.items():
        original = files.source.infos[key].dtype
        for target in targets:
            if target.name not in left_out:
                kind = stored_dtype(files, target.name, dtype, original)
                pieces.append(_Piece(target.name, key, target, kind, wanted[target.name] * kind.itemsize))
    return pieces


def _shards(pieces: list[_Piece]) -> Iterator[list[_Piece]]:
    shard: list[_Piece] = []
    size = 0
    for piece in pieces:
        if shard and size + piece.nbytes > SHARD_BYTES:
            yield shard
            shard, size = [], 0
        shard.append(piece)
        size += piece.nbytes
    if shard:
        yield shard


def _write_component(
    files: ComponentFiles, pieces: list[_Piece], folder: Path, dtype: torch.dtype | None, progress: Progress | None
) -> None:
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(_jsonable(files.config), indent=2))
    shards = list(_shards(pieces))
    total, done = sum(piece.nbytes for piece in pieces), 0
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors: dict[str, Tensor] = {}
        for piece in shard:
            value = piece.target.apply(files.source.read(piece.key)).to(piece.dtype)
            tensors[piece.name] = value.contiguous()
            done += piece.nbytes
            if progress is not None:
                progress(files.spec.name, done, total)
        save_file({key: _own(value, tensors) for key, value in tensors.items()}, folder / name)
        weight_map.update(dict.fromkeys(tensors, name))
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    (folder / _DONE).write_text(json.dumps({"dtype": str(dtype)}))


def _own(value: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    """Safetensors refuses tensors that share memory: parts of one file tensor and tied ones are copied."""
    storage = value.untyped_storage().data_ptr()
    shared = sum(other.untyped_storage().data_ptr() == storage for other in tensors.values())
    return value.clone() if shared > 1 else value


def _jsonable(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in config.items()}


def _finished(work: Path, name: str, dtype: torch.dtype | None) -> bool:
    marker = work / name / _DONE
    return marker.is_file() and json.loads(marker.read_text()).get("dtype") == str(dtype)


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
