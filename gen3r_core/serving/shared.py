"""Arrays that two processes share without copies: anonymous memory files, handed over as descriptors.

They have no name. Whatever is killed, and in whatever order, the kernel frees them with the last process that has them
open, and the size of ``/dev/shm`` (64 MB in most containers) does not matter.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen3r_core.errors import InputError

ALIGNMENT = 64
"""Bytes; arrays begin at multiples of it."""

MEMORY_NAME = "gen3r"
"""What ``/proc/PID/maps`` calls these memory files."""


@dataclass(frozen=True)
class Place:
    """Where an array lies in a block.

    Attributes:
        dtype: as numpy writes it, ``"<f4"``.
        shape: of the array.
        offset: bytes from the start of the block.
    """

    dtype: str
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class Layout:
    """What is in a block.

    Attributes:
        places: of the arrays, by name.
        nbytes: length of the block, at least 1.
    """

    places: Mapping[str, Place]
    nbytes: int


Stack = Sequence[NDArray[Any]]
"""Arrays of one shape and dtype that lie in a block as one array with a new first axis."""


def write_block(arrays: Mapping[str, NDArray[Any] | Stack]) -> tuple[int, Layout]:
    """Copy arrays into a new block.

    The copy goes through a system call that lets other threads run.

    Args:
        arrays: by name, numbers of any dtype.

    Returns:
        a file descriptor, which the caller closes, and what is where.

    Raises:
        OSError: there is not enough memory.
    """
    places: dict[str, Place] = {}
    end = 0
    parts: list[tuple[int, NDArray[Any]]] = []
    for name, value in arrays.items():
        offset = -(-end // ALIGNMENT) * ALIGNMENT
        stack = [value] if isinstance(value, np.ndarray) else list(value)
        shape = stack[0].shape if isinstance(value, np.ndarray) else (len(stack), *stack[0].shape)
        places[name] = Place(stack[0].dtype.str, shape, offset)
        end = offset
        for part in stack:
            parts.append((end, part))
            end += part.nbytes
    layout = Layout(places, max(end, 1))
    descriptor = os.memfd_create(MEMORY_NAME)
    try:
        os.ftruncate(descriptor, layout.nbytes)
        for offset, part in parts:
            _write(descriptor, offset, part)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, layout


def _write(descriptor: int, offset: int, part: NDArray[Any]) -> None:
    data = np.ascontiguousarray(part).reshape(-1).view(np.uint8).data
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


class SharedArrays:
    """The arrays of a block, without a copy.

    Args:
        descriptor: of the block; taken over and closed.
        layout: what is where.
        private: give writable arrays, whose changes nobody else sees; otherwise they are read-only.

    Raises:
        OSError: the block cannot be mapped.
    """

    def __init__(self, descriptor: int, layout: Layout, *, private: bool = False) -> None:
        access = mmap.ACCESS_COPY if private else mmap.ACCESS_READ
        self._layout = layout
        try:
            self._map: mmap.mmap | None = mmap.mmap(descriptor, layout.nbytes, access=access)
        finally:
            os.close(descriptor)

    def __contains__(self, name: object) -> bool:
        return name in self._layout.places

    def __getitem__(self, name: str) -> NDArray[Any]:
        """An array, a view of the block.

        Raises:
            InputError: the block was released.
        """
        if self._map is None:
            raise InputError(f"{name} was released with its result; copy what is needed for longer")
        place = self._layout.places[name]
        dtype = np.dtype(place.dtype)
        count = int(np.prod(place.shape, dtype=np.int64))
        if count == 0:
            return np.empty(place.shape, dtype)
        return np.frombuffer(self._map, dtype, count, place.offset).reshape(place.shape)

    @property
    def released(self) -> bool:
        """Whether :meth:`release` was called."""
        return self._map is None

    def release(self) -> None:
        """Give the memory back: at once, or with the last array of it that somebody still holds."""
        mapped, self._map = self._map, None
        if mapped is not None:
            try:
                mapped.close()
            except BufferError:
                return  # those arrays keep the mapping alive, and nothing else does
