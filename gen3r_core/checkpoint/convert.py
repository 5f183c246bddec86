"""Any readable checkpoint to our layout: one folder a component, safetensors, SHA-256 sums."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from gen3r_core.checkpoint.folder import FORMAT_VERSION, MANIFEST, Checkpoint, ComponentFiles, open_checkpoint
from gen3r_core.checkpoint.loading import Progress
from gen3r_core.checkpoint.plan import ComponentPlan, Piece, plain_config, plan_component
from gen3r_core.checkpoint.quantised import METADATA, SCALE_SUFFIX, quantise_rows
from gen3r_core.errors import CheckpointError, InputError, OutputError
from gen3r_core.io.atomic import PARTIAL, check_free_space, output_error
from gen3r_core.io.replacing import is_movable, swap_entries

SHARD_BYTES = 2 * 2**30
"""Largest weight file; also bounds the memory that converting takes."""

Kinds = torch.dtype | None | Mapping[str, torch.dtype | None]
"""Type of the weights: of all components, or by component (the others keep theirs). None keeps the file's; int8 is
:mod:`gen3r_core.checkpoint.quantised`'s."""

_DONE = "converted.json"
_OS_ERROR = re.compile(r"\(os error (\d+)\)")


def convert_checkpoint(
    checkpoint: Checkpoint,
    destination: Path,
    *,
    dtype: Kinds = None,
    shard_bytes: int | None = None,
    replace: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write a checkpoint in our layout.

    Work goes on beside the destination, or within where that is a folder that stays (see :func:`_work_folder`),
    component by component; after an interruption the same call goes on with the components that are not finished.

    Args:
        checkpoint: of any layout.
        destination: folder that does not exist yet, or is empty.
        dtype: of the weights; see :data:`Kinds`.
        shard_bytes: largest weight file; None allows :data:`SHARD_BYTES`, and more for a single tensor.
        replace: the destination may also be a checkpoint of our layout and nothing else, which is replaced.
        progress: told the bytes of each component.

    Raises:
        CheckpointError: the source is damaged or does not fit.
        InputError: a type is for a component that is not there, or a tensor is larger than a file may be.
        OutputError: the destination is in use, or cannot be written.
    """
    destination = destination.resolve()
    try:
        work = _work_folder(destination)
        _check_destination(destination, work, replace=replace)
    except OSError as error:
        raise output_error(destination, error) from error
    kinds = _kinds(checkpoint, dtype)
    limit = SHARD_BYTES if shard_bytes is None else shard_bytes
    plans = {
        name: plan_component(files, kinds[name], limit, strict=shard_bytes is not None)
        for name, files in checkpoint.components.items()
    }
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
            "dtype": _describe(dtype),
            "defaults": dict(checkpoint.defaults),
            "files": sums,
        }
        if licences := checkpoint.manifest.get("licences"):
            manifest["licences"] = licences
        (work / MANIFEST).write_text(json.dumps(manifest, indent=2))
        for marker in work.glob(f"*/{_DONE}"):
            marker.unlink()
        _publish(work, destination)
    except OSError as error:
        raise output_error(destination, error) from error


def _work_folder(destination: Path) -> Path:
    """Where unfinished parts lie: on the destination's disk.

    An empty folder that is there already is filled: it may be mounted, or be the one that somebody works in. A
    checkpoint that is replaced is renamed, unless it is such a folder.
    """
    name = f"{PARTIAL}{destination.name}"
    if destination.is_dir():
        empty = all(path.name == name for path in destination.iterdir())
        if empty or not is_movable(destination) or destination.samefile("."):
            return destination / name
    return destination.parent / name


def _check_destination(destination: Path, work: Path, *, replace: bool) -> None:
    if not destination.exists() or (destination.is_dir() and all(path == work for path in destination.iterdir())):
        return
    if not replace:
        raise OutputError(f"{destination} already holds something; name a folder that does not exist yet")
    advice = "name another folder, or take away what else is there"
    try:
        known = {MANIFEST, *open_checkpoint(destination).manifest.get("files", {})}
    except CheckpointError as error:
        raise OutputError(f"{destination} holds no checkpoint that could be replaced ({error}); {advice}") from error
    files = [path for path in destination.rglob("*") if not (path.is_dir() or path.is_relative_to(work))]
    others = {path.relative_to(destination).as_posix() for path in files} - known
    if others:
        raise OutputError(f"{destination} would not be replaced alone: it also holds {min(others)}; {advice}")


def _publish(work: Path, destination: Path) -> None:
    """Give the finished folder its name; a checkpoint that was there goes only then."""
    if not destination.exists():
        os.replace(work, destination)  # noqa: PTH105 - an atomic rename
    elif work.parent == destination or not _rename_over(work, destination):
        swap_entries(work, destination)
        shutil.rmtree(work, ignore_errors=True)
    shutil.rmtree(_aside(destination), ignore_errors=True)  # also what a killed call has left


def _rename_over(work: Path, destination: Path) -> bool:
    """Put a folder in another one's place; False where that one cannot be renamed."""
    aside = _aside(destination)
    shutil.rmtree(aside, ignore_errors=True)
    try:
        os.replace(destination, aside)  # noqa: PTH105
    except OSError:
        return False
    try:
        os.replace(work, destination)  # noqa: PTH105
    except OSError:
        os.replace(aside, destination)  # noqa: PTH105
        raise
    return True


def _aside(destination: Path) -> Path:
    return destination.parent / f".replaced-{destination.name}"


def _kinds(checkpoint: Checkpoint, dtype: Kinds) -> dict[str, torch.dtype | None]:
    """The type for each component."""
    asked = dtype if isinstance(dtype, Mapping) else dict.fromkeys(checkpoint.components, dtype)
    if unknown := sorted(set(asked) - set(checkpoint.components)):
        raise InputError(
            f"a type of weights is given for {', '.join(unknown)}, which this checkpoint does not hold; it holds "
            f"{', '.join(checkpoint.components)}"
        )
    return {name: asked.get(name) for name in checkpoint.components}


def _describe(dtype: Kinds) -> Any:
    if isinstance(dtype, Mapping):
        return {name: _describe(kind) for name, kind in dtype.items()}
    return "kept" if dtype is None else str(dtype).removeprefix("torch.")


def _remove_others(work: Path, plans: Mapping[str, ComponentPlan]) -> None:
    """Clear what an interrupted conversion, perhaps of another source, left beside unfinished components."""
    for path in work.iterdir():
        if path.name not in plans:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _write_component(
    files: ComponentFiles, plan: ComponentPlan, folder: Path, progress: Progress | None
) -> dict[str, dict[str, Any]]:
    """Write configuration and weights; returns the files' sums."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(plain_config(files.config), indent=2))
    shards = plan.shards
    metadata = METADATA if plan.kind == torch.int8 else None
    done = 0
    last = {piece.key: piece for shard in shards for piece in shard}
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors: dict[str, Tensor] = {}
        for piece in shard:
            tensors |= _stored(files, piece, piece.target.apply(files.source.read(piece.key)))
            if last[piece.key] is piece:
                files.source.release(piece.key)
            done += piece.nbytes
            if progress is not None:
                progress(files.spec.name, done, plan.nbytes)
        _save(_apart(tensors), folder / name, metadata)
        (folder / name).chmod((folder / "config.json").stat().st_mode)  # safetensors makes its files private
        weight_map.update(dict.fromkeys(tensors, name))
    files.close()
    if len(shards) > 1:
        index = {"metadata": {"total_size": plan.nbytes}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    sums = _sums(folder)
    (folder / _DONE).write_text(json.dumps({"source": plan.fingerprint, "files": sums}))
    return sums


def _stored(files: ComponentFiles, piece: Piece, value: Tensor) -> dict[str, Tensor]:
    """What is written for a weight: itself in its type, and its scales where it is quantised.

    Raises:
        CheckpointError: it has values that the type cannot hold.
    """
    if piece.dtype != torch.int8 or not value.is_floating_point():
        converted = value.to(piece.dtype).contiguous()
        if piece.dtype == torch.float16 and value.dtype != torch.float16 and not bool(converted.isfinite().all()):
            raise CheckpointError(
                f"{files.spec.name}: {piece.key} has values beyond 65504, which float16 cannot hold, or that are not "
                f"finite; store this component as bfloat16"
            )
        return {piece.name: converted}
    try:
        numbers, scales = quantise_rows(value)
    except CheckpointError as error:
        raise CheckpointError(f"{files.spec.name}: {piece.key}: {error}") from error
    return {piece.name: numbers, piece.name + SCALE_SUFFIX: scales}


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Safetensors refuses tensors that share memory: parts of one file tensor and tied ones are copied."""
    sharing = Counter(value.untyped_storage().data_ptr() for value in tensors.values())
    return {
        key: value.clone() if sharing[value.untyped_storage().data_ptr()] > 1 else value
        for key, value in tensors.items()
    }


def _save(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None) -> None:
    """Write a weight file and bring it to the disk.

    Raises:
        OSError: also where safetensors hides it in an error of its own.
    """
    try:
        save_file(tensors, path, metadata)
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


def _finished(folder: Path, plan: ComponentPlan) -> dict[str, dict[str, Any]] | None:
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
