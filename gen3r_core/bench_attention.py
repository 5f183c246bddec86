"""Attention kernels timed alone, at the sizes at which the full model spends its time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gen3r_core.errors import DeviceError
from gen3r_core.models.attention import AttentionKernel, attention, kernel_scope


@dataclass(frozen=True)
class AttentionSize:
    """One self-attention.

    Attributes:
        name: where it is found.
        batch, length, heads, channels: of the queries, ``[batch, heads, length, channels]``.
    """

    name: str
    batch: int
    length: int
    heads: int
    channels: int

    @property
    def operations(self) -> float:
        """Floating point operations: two products of ``length * length * channels``, two operations each."""
        return 4.0 * self.batch * self.heads * self.channels * self.length**2


FULL_SIZES = (
    AttentionSize("transformer, both branches, 49 x 560x560", 2, 31850, 12, 128),
    AttentionSize("VGGT across 49 x 560x560", 1, 49 * 1605, 16, 64),
    AttentionSize("VGGT across 8 x 560x560", 1, 8 * 1605, 16, 64),
    AttentionSize("VGGT within each of 49 x 560x560", 49, 1605, 16, 64),
)
SMALL_SIZES = (AttentionSize("gen3r-small's transformer, 17 x 224x224", 1, 1960, 5, 64),)


@dataclass(frozen=True)
class AttentionTime:
    """One kernel at one size.

    Attributes:
        size: of the tensors.
        kernel: by name.
        seconds: median; None where the kernel cannot run.
        difference: relative L2 distance of the result from that of the first kernel that ran; 0 for that one.
    """

    size: AttentionSize
    kernel: str
    seconds: float | None
    difference: float | None

    @property
    def tera(self) -> float | None:
        """Floating point operations a second, in units of 10**12."""
        return None if self.seconds is None else self.size.operations / self.seconds / 1e12


@torch.no_grad()
def time_attention(
    sizes: Sequence[AttentionSize],
    device: torch.device,
    dtype: torch.dtype,
    *,
    kernels: Sequence[AttentionKernel] = tuple(AttentionKernel),
    repeats: int = 5,
) -> list[AttentionTime]:
    """Time kernels on normally distributed queries, keys and values.

    Args:
        sizes: of the tensors.
        device: where.
        dtype: of the tensors.
        kernels: MATH is left out above 4096 tokens, whose scores would need more memory than there is.
        repeats: timed runs, of which the median counts; one more before them.
    """
    found: list[AttentionTime] = []
    for size in sizes:
        shape = (size.batch, size.length, size.heads, size.channels)
        inputs = [torch.randn(shape, device=device, dtype=dtype).transpose(1, 2) for _ in range(3)]
        first: torch.Tensor | None = None
        for kernel in kernels:
            if kernel is AttentionKernel.MATH and size.length > 4096:
                continue
            try:
                with kernel_scope(kernel):
                    result = attention(*inputs)
                    seconds = statistics.median(_timed(inputs, device) for _ in range(repeats))
            except DeviceError:
                found.append(AttentionTime(size, kernel.value, None, None))
                continue
            first = result if first is None else first
            difference = float((result.float() - first.float()).norm() / first.float().norm())
            found.append(AttentionTime(size, kernel.value, seconds, difference))
    return found


def _timed(inputs: Sequence[torch.Tensor], device: torch.device) -> float:
    start = time.perf_counter()
    attention(*inputs)
    if device.type == "cuda":  # pragma: gpu-only
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def format_attention(times: Sequence[AttentionTime]) -> str:
    """The times as a Markdown table; kernels that cannot run have dashes."""
    lines = ["| attention | kernel | ms | TFLOP/s | difference |", "| --- | --- | --- | --- | --- |"]
    for one in times:
        figures = ["-", "-", "-"]
        if one.seconds is not None:
            figures = [f"{1e3 * one.seconds:.2f}", f"{one.tera:.2f}", f"{one.difference:.1e}"]
        lines.append(f"| {one.size.name} | {one.kernel} | {' | '.join(figures)} |")
    return "\n".join(lines)
