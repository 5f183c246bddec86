"""Weight files on disk, read lazily: safetensors (single or sharded) and pickles without code."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gen3r_core.checkpoint.keymap import Shape
from gen3r_core.errors import CheckpointError

PICKLE_SUFFIXES = (".pth", ".pt", ".bin")
_SHARD = re.compile(r".+-\d{5}-of-(\d{5})\.safetensors")
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class TensorInfo:
    """Shape and dtype of a stored tensor."""

    shape: Shape
    dtype: torch.dtype


class TensorSource(Protocol):
    """Named tensors on disk; nothing is read before :meth:`read`."""

    @property
    def files(self) -> list[Path]:
        """The files behind it."""
        ...

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        """Keys with shape and dtype, in the files' order."""
        ...

    def read(self, key: str) -> Tensor:
        """The tensor, backed by the memory-mapped file."""
        ...


class SafetensorsSource:
    """One or several safetensors files."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self.infos: dict[str, TensorInfo] = {}
        self._file_of: dict[str, Any] = {}
        for path in files:
            try:
                handle = safe_open(str(path), framework="pt", device="cpu")
                for key in handle.offset_keys():
                    view = handle.get_slice(key)
                    info = TensorInfo(tuple(view.get_shape()), _DTYPES[view.get_dtype()])
                    if key in self.infos:
                        raise CheckpointError(f"tensor {key} is stored twice: in {path} and in another shard")
                    self.infos[key] = info
                    self._file_of[key] = handle
            except SafetensorError as error:
                raise CheckpointError(
                    f"{path} is truncated or not a safetensors file ({error}); it has {path.stat().st_size} bytes. "
                    f"Download or copy it again"
                ) from error
            except KeyError as error:
                raise CheckpointError(f"{path} stores tensors of type {error}, which is not supported") from error
            except OSError as error:
                raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error

    def read(self, key: str) -> Tensor:
        """The tensor, a view of the memory-mapped file."""
        tensor: Tensor = self._file_of[key].get_tensor(key)
        return tensor


class PickleSource:
    """A ``torch.save`` file, loaded with ``weights_only=True`` and memory-mapped where its format allows."""

    def __init__(self, path: Path) -> None:
        self.files = [path]
        self._tensors = self._load(path)
        self.infos = {key: TensorInfo(tuple(t.shape), t.dtype) for key, t in self._tensors.items()}

    @staticmethod
    def _load(path: Path) -> dict[str, Tensor]:
        try:
            try:
                content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
            except RuntimeError as error:
                if "mmap can only be used" not in str(error):
                    raise
                content = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise CheckpointError(
                f"{path} is a pickle that holds more than tensors and was refused: loading it could run code. "
                f"Get the weights as safetensors, or convert the file where you trust it"
            ) from error
        except (RuntimeError, EOFError, ValueError, KeyError) as error:
            raise CheckpointError(f"{path} is damaged or no torch file ({error}). Download or copy it again") from error
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
        for nested in ("state_dict", "model"):
            if isinstance(content, Mapping) and isinstance(content.get(nested), Mapping):
                content = content[nested]
        if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
            raise CheckpointError(f"{path} does not hold a state dict (a mapping from names to tensors)")
        return dict(content)

    def read(self, key: str) -> Tensor:
        """The tensor, a view of the memory-mapped file."""
        return self._tensors[key]


def _indexed(folder: Path, index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{index} is not a readable index of shards: {error!r}") from error
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
        raise CheckpointError(f"{index} names shards that are missing: {', '.join(absent)}. Download them again")
    return [folder / name for name in names]


def find_weight_files(folder: Path) -> list[Path]:
    """The weight files of a component's folder: an index's shards, one file, or a complete set of shards.

    Raises:
        CheckpointError: there are none, or which ones belong together cannot be told.
    """
    indices = sorted(folder.glob("*.safetensors.index.json"))
    if len(indices) == 1:
        return _indexed(folder, indices[0])
    files = sorted(folder.glob("*.safetensors"))
    shards = [path for path in files if _SHARD.fullmatch(path.name)]
    if shards and len(shards) == len(files):
        total = int(_SHARD.fullmatch(shards[0].name)[1])  # type: ignore[index]
        if len(shards) != total:
            raise CheckpointError(f"{folder} holds {len(shards)} of {total} shards. Download the missing ones")
        return shards
    if not files:
        files = sorted(path for path in folder.glob("*") if path.suffix in PICKLE_SUFFIXES)
    if len(files) == 1:
        return files
    if not files:
        raise CheckpointError(f"{folder} holds no weights (*.safetensors, *.pth, *.bin)")
    raise CheckpointError(
        f"{folder} holds several weight files and no index: {', '.join(path.name for path in files)}. "
        f"Leave only those that belong together"
    )


def open_weights(path: Path) -> TensorSource:
    """Open a weight file, or the weight files of a folder.

    Raises:
        CheckpointError: nothing there, damaged, or a pickle that holds code.
    """
    if not path.exists():
        raise CheckpointError(f"{path} does not exist")
    files = find_weight_files(path) if path.is_dir() else [path]
    if files[0].suffix in PICKLE_SUFFIXES:
        if len(files) > 1:
            raise CheckpointError(f"{path}: sharded pickles are not supported; use safetensors")
        return PickleSource(files[0])
    return SafetensorsSource(files)
