"""How much exact speed-ups change the result, beside how much another attention kernel does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gen3r_core.conditioning import Task
from gen3r_core.execution.grid import record
from gen3r_core.jobs import Sampling
from gen3r_core.models.attention import AttentionKernel
from gen3r_core.pipeline import Gen3RPipeline
from gen3r_core.progress import Callback

_ON_A_GPU = (AttentionKernel.CUDNN, AttentionKernel.FLASH, AttentionKernel.EFFICIENT)
_ON_A_CPU = (AttentionKernel.FLASH, AttentionKernel.MATH)


@dataclass(frozen=True)
class Differences:
    """Relative L2 distances of a job's clean latents from those of the plain path with the first kernel.

    Attributes:
        kernels: of the plain path with each other kernel, by its name.
        optimised: of the path with every exact speed-up and the kernel that is chosen by itself.
    """

    kernels: dict[str, float]
    optimised: float

    @property
    def accepted(self) -> bool:
        """Whether the speed-ups change no more than a kernel does."""
        return self.optimised <= max(self.kernels.values())


def measure_differences(
    pipeline: Gen3RPipeline,
    task: Task,
    sampling: Sampling,
    speed_up: Callable[[], object],
    callback: Callback | None = None,
) -> Differences:
    """Denoise the same job plainly with each kernel, then with all speed-ups.

    Args:
        pipeline: with nothing put on it.
        task: of the job.
        sampling: of the job; its kernel is not looked at.
        speed_up: puts everything on the pipeline; it stays there.
        callback: told about progress.
    """

    def latents(kernel: AttentionKernel) -> Tensor:
        return record(pipeline, task, replace(sampling, attention=kernel), callback).latents[-1]

    first, *others = _ON_A_GPU if pipeline.device.type == "cuda" else _ON_A_CPU
    plain = latents(first)
    kernels = {kernel.value: _distance(latents(kernel), plain) for kernel in others}
    speed_up()
    return Differences(kernels, _distance(latents(AttentionKernel.AUTO), plain))


def _distance(found: Tensor, plain: Tensor) -> float:
    return float(torch.linalg.vector_norm(found - plain) / torch.linalg.vector_norm(plain))


def format_differences(found: Differences) -> str:
    """The distances as a Markdown table with a verdict under it."""
    rows = [f"| plain, attention {name} | {value:.3e} |" for name, value in found.kernels.items()]
    rows.append(f"| all exact speed-ups | {found.optimised:.3e} |")
    words = "no more than" if found.accepted else "MORE than"
    table = "\n".join(["| path | latents' distance from the plain path |", "| --- | --- |", *rows])
    return f"{table}\n\nThe speed-ups change the latents {words} another attention kernel does."
