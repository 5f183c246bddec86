"""Which kernels a job's seconds go to, stage by stage (torch's profiler)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile

from gen3r_core.progress import STAGE_MARK


@dataclass(frozen=True)
class KernelTime:
    """Time of one kernel (of one operator on a CPU) in one stage.

    Attributes:
        stage: of the job; "" outside of all.
        name: as the profiler gives it.
        calls: how often it ran.
        seconds: in all.
        share: of the stage's time in kernels.
    """

    stage: str
    name: str
    calls: int
    seconds: float
    share: float


def kernel_times(run: Callable[[], object], device: torch.device, *, count: int = 10) -> list[KernelTime]:
    """Run a job under the profiler.

    Args:
        run: the job; its stages are those of :class:`gen3r_core.progress.JobMonitor`, which end with a synchronisation.
        device: whose kernels count; on a CPU operators, without what they call.
        count: of the longest kernels of each stage.

    Returns:
        by stage in the order of time, the longest first.
    """
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if on_gpu else [])
    with profile(activities=activities) as profiler:
        run()
    wanted = "CUDA" if on_gpu else "CPU"
    stages: list[tuple[float, float, str]] = []
    kernels: list[tuple[float, str, float]] = []
    for event in profiler.events() or ():
        span = event.time_range
        if event.name.startswith(STAGE_MARK):
            if event.device_type.name == "CPU":
                stages.append((span.start, span.end, event.name.removeprefix(STAGE_MARK)))
        elif event.device_type.name == wanted:
            own = event.self_device_time_total if on_gpu else event.self_cpu_time_total
            kernels.append((span.start, event.name, own * 1e-6))
    totals: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for start, name, seconds in kernels:
        stage = next((stage for begin, end, stage in stages if begin <= start <= end), "")
        totals[stage][name].append(seconds)
    order = list(dict.fromkeys(stage for _, _, stage in sorted(stages)))
    found: list[KernelTime] = []
    for stage in [*order, *([""] if "" in totals else [])]:
        whole = sum(sum(one) for one in totals[stage].values()) or 1.0
        longest = sorted(totals[stage].items(), key=lambda item: -sum(item[1]))[:count]
        found += [KernelTime(stage, name, len(one), sum(one), sum(one) / whole) for name, one in longest]
    return found


def format_kernels(kernels: Sequence[KernelTime], *, width: int = 90) -> str:
    """The kernels as a Markdown table, long names cut to ``width`` characters."""
    lines = ["| stage | kernel | calls | ms | of the stage |", "| --- | --- | --- | --- | --- |"]
    for one in kernels:
        name = one.name.replace("|", "/")
        name = name if len(name) <= width else name[: width - 1] + "…"
        lines.append(
            f"| {one.stage or '-'} | {name} | {one.calls} | {1e3 * one.seconds:.2f} | {100 * one.share:.1f} % |"
        )
    return "\n".join(lines)
