"""Devices: their numbers, and what torch says when their memory runs out, in our words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gen3r_core.errors import OutOfMemoryError


def numbered(device: torch.device | str) -> torch.device:
    """A device as tensors name it: "cuda" is the current GPU, with its number."""
    return torch.empty(0, device=device).device


@contextmanager
def memory_errors() -> Iterator[None]:
    """Translate torch's errors about memory, of a GPU and of the host.

    Raises:
        OutOfMemoryError: something inside the block asked for more memory than there is.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        out_of_memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not out_of_memory and "can't allocate memory" not in str(error):  # what torch says on a CPU
            raise
        reason = (str(error).splitlines() or ["no more memory"])[0]
        raise OutOfMemoryError(
            f"the device ran out of memory: {reason}; use fewer frames (--num_frames), smaller images (--size), "
            f"a 16-bit type (--dtype bf16), or one job at a time"
        ) from error
