"""Any readable checkpoint to our layout: one folder a component, safetensors, SHA-256 sums."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
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
_OS_ERROR = re.compile(r"\(os error (\d+)\)")


@dataclass(frozen=True)
class _Piece:
    """One tensor of ours, still on disk under another name and type."""

    name: str
    key: str
    target: Target
    dtype: torch.dtype
    nbytes: int


@dataclass(frozen=True)
class _Plan:
    """What our layout stores of a component.

    Attributes:
        pieces: in the order of the source, which reads best.
        nbytes: of all pieces.
        fingerprint: of the source's files (names, sizes, times), its configuration, and the type asked for:
            what an interrupted conversion has written is only taken over if it came from the same.
    """

    pieces: list[_Piece]
    nbytes: int
    fingerprint: str


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
    destination = destination.resolve()
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise OutputError(f"{destination} already holds something; name a folder that does not exist yet")
    work = destination.parent / f".partial-{destination.name}"
    plans = {name: _plan(files, dtype) for name, files in checkpoint.components.items()}
    try:
        work.mkdir(parents=True, exist_ok=True)
        _remove_others(work, plans)
        left = sum(plan.nbytes for name, plan in plans.items() if _finished(work / name, plan) is None)
        check_free_space(destination, left)
        sums: dict[str, dict[str, Any]] = {}
        for name, files in checkpoint.components.items():
            own = _finished(work / name, plans[name])
            if own is None:
                own = _write_component(files, plans[name], work / name, progress)
            sums.update({f"{name}/{file}": facts for file, facts in own.items()})
        if checkpoint.tokenizer is not None:
            shutil.copytree(checkpoint.tokenizer, work / "tokenizer")
        (work / "scheduler").mkdir()
        (work / "scheduler" / "scheduler_config.json").write_text(json.dumps(dict(checkpoint.scheduler), indent=2))
        for folder in ("tokenizer", "scheduler"):
            sums.update({f"{folder}/{file}": facts for file, facts in _sums(work / folder).items()})
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


def _remove_others(work: Path, plans: Mapping[str, _Plan]) -> None:
    """Clear what an interrupted conversion, perhaps of another source, left beside unfinished components."""
    for path in work.iterdir():
        if path.name not in plans:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _plan(files: ComponentFiles, dtype: torch.dtype | None) -> _Plan:
    try:
        pieces = _pieces(files, dtype)
        facts = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files.source.files]
    finally:
        files.close()
    origin = json.dumps([FORMAT_VERSION, str(dtype), _jsonable(files.config), facts], sort_keys=True)
    fingerprint = hashlib.sha256(origin.encode()).hexdigest()
    return _Plan(pieces, sum(piece.nbytes for piece in pieces), fingerprint)


def _secondary_names(keymap: KeyMap, names: list[str]) -> set[str]:
    """Names that our layout does not store because another name's tensor serves for them."""
    secondary: set[str] = set()
    for name in names:
        targets = keymap.lookup(name)
        if targets and not isinstance(targets, Ignored):
            secondary.update(target.name for target in targets[1:])
    return secondary


def _pieces(files: ComponentFiles, dtype: torch.dtype | None) -> list[_Piece]:
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
    files: ComponentFiles, plan: _Plan, folder: Path, progress: Progress | None
) -> dict[str, dict[str, Any]]:
    """Write configuration and weights; returns the files' sums."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(_jsonable(files.config), indent=2))
    shards = list(_shards(plan.pieces))
    done = 0
    last = {piece.key: piece for piece in plan.pieces}
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors: dict[str, Tensor] = {}
        for piece in shard:
            value = piece.target.apply(files.source.read(piece.key)).to(piece.dtype)
            tensors[piece.name] = value.contiguous()
            if last[piece.key] is piece:
                files.source.release(piece.key)
            done += piece.nbytes
            if progress is not None:
                progress(files.spec.name, done, plan.nbytes)
        _save(_apart(tensors), folder / name)
        weight_map.update(dict.fromkeys(tensors, name))
    files.close()
    if len(shards) > 1:
        index = {"metadata": {"total_size": plan.nbytes}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    sums = _sums(folder)
    (folder / _DONE).write_text(json.dumps({"source": plan.fingerprint, "files": sums}))
    return sums


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Safetensors refuses tensors that share memory: parts of one file tensor and tied ones are copied."""
    sharing = Counter(value.untyped_storage().data_ptr() for value in tensors.values())
    return {
        key: value.clone() if sharing[value.untyped_storage().data_ptr()] > 1 else value
        for key, value in tensors.items()
    }


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a weight file and bring it to the disk.

    Raises:
        OSError: also where safetensors hides it in an error of its own.
    """
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        number = _OS_ERROR.search(str(error))
        if number is None:
            raise OutputError(f"cannot write {path}: {error}") from error
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sums(folder: Path) -> dict[str, dict[str, Any]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in files
    }


def _jsonable(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in config.items()}


def _finished(folder: Path, plan: _Plan) -> dict[str, dict[str, Any]] | None:
    """Sums of a component that an earlier call has finished from the same source; None if it is to be written."""
    try:
        marker = json.loads((folder / _DONE).read_text())
        sums: dict[str, dict[str, Any]] = marker["files"]
        whole = all((folder / name).stat().st_size == facts["bytes"] for name, facts in sums.items())
        return sums if whole and marker["source"] == plan.fingerprint else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # not there, or cut off in the middle


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
