"""Weight files on disk, read lazily: safetensors (single or sharded) and pickles without code."""

from __future__ import annotations

import io
import json
import math
import pickle
import pickletools
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gen3r_core.checkpoint.keymap import Shape
from gen3r_core.errors import CheckpointError

PICKLE_SUFFIXES = (".pth", ".pt", ".bin")
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors")
_OF_TENSORS = re.compile(
    r"torch\.(_utils\._\w+|_tensor\._\w+|\w*Storage|storage\.\w+|Size|device|dtype|Tensor|u?int\d+|b?float\w+|bool)"
    r"|torch\.nn\.parameter\.Parameter|collections\.OrderedDict"
)
"""Names that pickles of tensors ask for."""

_UNREADABLE = (
    RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, AssertionError, OverflowError,
    struct.error, pickle.UnpicklingError,
)  # fmt: skip
"""What torch.load raises on damaged files (each was seen when cutting or changing files at every byte)."""

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
    """Shape and dtype of a stored tensor.

    Attributes:
        shape: its shape.
        dtype: as it reads.
        stored: its type in the file where that is another one.
    """

    shape: Shape
    dtype: torch.dtype
    stored: torch.dtype | None = None

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self.file_dtype.itemsize * math.prod(self.shape)

    @property
    def file_dtype(self) -> torch.dtype:
        """Its type in the file."""
        return self.stored or self.dtype


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

    def release(self, key: str) -> None:
        """Say that a tensor will not be read again, so that its memory can go."""
        ...


class SafetensorsSource:
    """One or several safetensors files; ``metadata`` holds each file's texts about itself."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self.metadata: dict[Path, dict[str, str]] = {}
        self.infos: dict[str, TensorInfo] = {}
        self._file_of: dict[str, Any] = {}
        for path in files:
            try:
                handle = safe_open(str(path), framework="pt", device="cpu")
                self.metadata[path] = dict(handle.metadata() or {})
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

    def release(self, key: str) -> None:
        """Nothing to do: only the file's mapping is kept."""


class PickleSource:
    """A ``torch.save`` file, loaded with ``weights_only=True`` and memory-mapped where its format allows."""

    def __init__(self, path: Path) -> None:
        self.files = [path]
        self._tensors = self._load(path)
        self.infos = {key: TensorInfo(tuple(t.shape), t.dtype) for key, t in self._tensors.items()}

    @staticmethod
    def _load(path: Path) -> dict[str, Tensor]:
        try:
            content = _torch_load(path)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
        except _UNREADABLE as error:
            code = _asks_for_code(path)
            if code is not None:
                raise CheckpointError(
                    f"{path} is a pickle that holds more than tensors ({code}) and was refused: loading it could run "
                    f"code. Get the weights as safetensors, or convert the file where you trust it"
                ) from error
            raise CheckpointError(
                f"{path} is damaged or no file of weights ({type(error).__name__}: {_reason(error)}); it has "
                f"{path.stat().st_size} bytes. Download or copy it again"
            ) from error
        content = _state_dict(content)
        for key, value in content.items() if isinstance(content, Mapping) else [(None, None)]:
            if not isinstance(key, str) or not isinstance(value, Tensor) or value.layout != torch.strided:
                raise CheckpointError(
                    f"{path} does not hold a state dict (a mapping from names to dense tensors), but {key!r} of "
                    f"type {type(value if key is not None else content).__name__}"
                )
        return dict(content)

    def read(self, key: str) -> Tensor:
        """The tensor, a view of the memory-mapped file."""
        return self._tensors[key]

    def release(self, key: str) -> None:
        """Drop the tensor; where the file could not be mapped it takes memory."""
        del self._tensors[key]


def _torch_load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except RuntimeError as error:
        if "mmap can only be used" not in str(error):
            raise
    # Written before torch 1.6: no zip file, so the whole lies in memory.
    return torch.load(path, map_location="cpu", weights_only=True)


def _asks_for_code(path: Path) -> str | None:
    """A name beside those of tensors that a pickle asks for, without running it; None if there is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [name for name in archive.namelist() if name.endswith("data.pkl")]
            return _foreign_name(io.BytesIO(archive.read(pickles[0]))) if pickles else None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError, RuntimeError, ValueError):
        pass  # no zip, or a damaged one: look at it as the format before zip
    with path.open("rb") as file:
        for _ in range(5):  # the old format: magic number, version, system, state dict, keys; then data
            name = _foreign_name(file)
            if name is not None:
                return name
    return None


def _foreign_name(stream: IO[bytes]) -> str | None:
    texts: list[str] = []
    try:
        for operation, argument, _ in pickletools.genops(stream):
            name = None
            if operation.name in ("GLOBAL", "INST"):
                name = str(argument).replace(" ", ".")
            elif operation.name == "STACK_GLOBAL":
                name = ".".join(texts[-2:])
            elif isinstance(argument, str):
                texts.append(argument)
            if name is not None and not _OF_TENSORS.fullmatch(name):
                return name
    except (ValueError, LookupError, EOFError, OverflowError, struct.error):
        return None  # no pickle, or cut off
    return None


def _reason(error: BaseException) -> str:
    """What torch says, without its advice to switch the protection off."""
    text = " ".join(str(error).split())
    for mark in ("WeightsUnpickler error: ", "Weights only load failed. "):
        text = text.rpartition(mark)[2]
    return text.partition(" Check the documentation")[0][:120]


def _state_dict(content: Any) -> Any:
    """Trainers save the state dict beside other things, or one level deeper."""
    for _ in range(3):
        inner = [content[key] for key in ("state_dict", "model") if key in content] if _is_mapping(content) else []
        if not inner or not _is_mapping(inner[0]):
            break
        content = inner[0]
    return content


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _indexed(folder: Path, index: Path) -> list[Path]:
    try:
        names = sorted(
            {str(Path(name)) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
        )
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{index} is not a readable index of shards: {error!r}. Download it again") from error
    if not names:
        raise CheckpointError(f"{index} names no shards. Download it again")
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
    sets = {(m[1], int(m[3])) if (m := _SHARD.fullmatch(path.name)) else None for path in files}
    if len(sets) == 1 and not indices and (found := sets.pop()) is not None:
        stem, total = found
        expected = [f"{stem}-{number:05d}-of-{total:05d}.safetensors" for number in range(1, total + 1)]
        absent = sorted(set(expected) - {path.name for path in files})
        if absent:
            raise CheckpointError(
                f"{folder} holds {len(files)} of {total} shards. Download the missing ones: {', '.join(absent)}"
            )
        return files
    if not files:
        files = sorted(path for path in folder.glob("*") if path.suffix in PICKLE_SUFFIXES)
    if len(files) == 1:
        return files
    if not files:
        raise CheckpointError(f"{folder} holds no weights (*.safetensors, *.pth, *.bin)")
    raise CheckpointError(
        f"{folder} holds several weight files and {len(indices) or 'no'} index: "
        f"{', '.join(path.name for path in [*indices, *files])}. Leave only those that belong together"
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
        return PickleSource(files[0])
    return SafetensorsSource(files)
