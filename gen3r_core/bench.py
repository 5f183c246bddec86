"""Timed jobs on a model of a named size with random weights."""

from __future__ import annotations

import gc
import platform
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import torch

from gen3r_core import __version__
from gen3r_core.conditioning import Task
from gen3r_core.jobs import Job, Sampling
from gen3r_core.pipeline import Gen3RPipeline
from gen3r_core.progress import Callback, JobMonitor
from gen3r_core.trace import KernelTime, kernel_times

GIB = 2**30
WARMUP_STEPS = 2
"""Denoising steps of an untimed job: all steps are alike."""


@dataclass(frozen=True)
class BenchResult:
    """Figures of one kind of job.

    Attributes:
        task: "1view", "2view", "allview", or "vggt" for feed-forward reconstruction.
        num_frames: frames (views for "vggt").
        size: ``(height, width)``.
        steps: denoising steps; 0 for "vggt".
        seconds: median seconds per stage.
        total: median seconds of the whole job.
        per_step: median seconds of a denoising step; None for "vggt".
        runs: seconds of each timed job.
        allocated_gib: peak of memory in use; on a GPU the allocator's, on a CPU the process's resident set.
        reserved_gib: peak of memory the GPU allocator held; None on a CPU.
        profile: name, see :data:`gen3r_core.execution.profiles.PROFILES`.
        budget_gib: memory budget; None without one.
        level: of memory use at the end of the timed jobs.
        predicted_gib: peak that was predicted for the level; None without a budget.
        host_gib: peak of the process's resident set.
        lowered: "stage: level" for each time that memory ran out.
        error: largest relative error of the latents against exact on the way; None where there is nothing to compare.
        accepted: whether that is within the profile's limit.
        kernels: the longest of each stage, of one more job with :data:`WARMUP_STEPS` steps; empty where not asked for.
    """

    task: str
    num_frames: int
    size: tuple[int, int]
    steps: int
    seconds: dict[str, float]
    total: float
    per_step: float | None
    runs: list[float]
    allocated_gib: float
    reserved_gib: float | None
    profile: str = "exact"
    budget_gib: float | None = None
    level: str = "resident"
    predicted_gib: float | None = None
    host_gib: float | None = None
    lowered: list[str] = field(default_factory=list)
    error: float | None = None
    accepted: bool | None = None
    kernels: list[KernelTime] = field(default_factory=list)


@dataclass(frozen=True)
class BenchReport:
    """All figures of a run, with where they were taken.

    Attributes:
        model: named size.
        machine: hardware and versions.
        options: how the jobs were run.
        results: one for each kind of job.
    """

    model: str
    machine: dict[str, str]
    options: dict[str, Any]
    results: list[BenchResult] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def describe_machine(device: torch.device) -> dict[str, str]:
    """Hardware and versions that figures depend on."""
    import diffusers
    import transformers

    if device.type == "cuda":  # pragma: gpu-only
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    return {
        "device": name,
        "gen3r": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
    }


class _PeakMemory:
    """Peak memory while a block runs, in GiB.

    Attributes:
        allocated: of the device's memory in use (of the process's on a CPU).
        reserved: of what the GPU allocator held; None on a CPU.
        host: of the process's resident set.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.allocated = 0.0
        self.host = 0.0
        self.reserved: float | None = None

    def _watch(self) -> None:
        while not self._stop.is_set():
            self.host = max(self.host, resident_bytes() / GIB)
            self._stop.wait(0.02)

    def __enter__(self) -> Self:
        if self._device.type == "cuda":  # pragma: gpu-only
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._device)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
        self.allocated = self.host = max(self.host, resident_bytes() / GIB)
        if self._device.type == "cuda":  # pragma: gpu-only
            self.allocated = torch.cuda.max_memory_allocated(self._device) / GIB
            self.reserved = torch.cuda.max_memory_reserved(self._device) / GIB


def resident_bytes() -> int:
    """Resident set of this process in bytes (Linux)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096


def run_bench(
    pipeline: Gen3RPipeline,
    tasks: Sequence[str],
    sampling: Sampling,
    *,
    warmup: int = 1,
    repeats: int = 3,
    trace: int = 0,
    callback: Callback | None = None,
) -> list[BenchResult]:
    """Run warm-up and timed jobs of each task on noise images.

    Args:
        pipeline: the model.
        tasks: of :class:`Task`, or "vggt".
        sampling: of the generated jobs.
        warmup: untimed jobs before each task's timed ones, with :data:`WARMUP_STEPS` steps.
        repeats: timed jobs.
        trace: how many of the longest kernels of each stage to report, of one more job under the profiler.
        callback: told about progress.
    """
    results = []
    for task in tasks:
        runs: list[tuple[float, dict[str, float]]] = []
        lowered: list[str] = []
        images = bench_images(pipeline, sampling)
        with _PeakMemory(pipeline.device) as memory:
            for run in range(warmup + repeats):
                monitor = JobMonitor(callback, pipeline.device)
                start = time.perf_counter()
                # A step cache belongs to one schedule.
                short = run < warmup and pipeline.cache is None
                steps = min(sampling.steps, WARMUP_STEPS) if short else sampling.steps
                run_job(pipeline, task, images, replace(sampling, steps=steps), monitor)
                if pipeline.device.type == "cuda":  # pragma: gpu-only
                    torch.cuda.synchronize(pipeline.device)
                lowered += monitor.lowered
                if run >= warmup:
                    runs.append((time.perf_counter() - start, monitor.seconds))
        stages = {stage: statistics.median(seconds[stage] for _, seconds in runs) for stage in runs[0][1]}
        generated = task != "vggt"
        kernels = _trace(pipeline, task, images, sampling, trace) if trace else []
        results.append(
            BenchResult(
                task=task,
                num_frames=sampling.num_frames or pipeline.num_frames,
                size=sampling.size or pipeline.image_size,
                steps=sampling.steps if generated else 0,
                seconds=stages,
                total=statistics.median(total for total, _ in runs),
                per_step=stages["denoise"] / sampling.steps if generated else None,
                runs=[total for total, _ in runs],
                allocated_gib=memory.allocated,
                reserved_gib=memory.reserved,
                level=pipeline.placement.level.name,
                host_gib=memory.host,
                lowered=lowered,
                kernels=kernels,
            )
        )
    return results


def bench_images(pipeline: Gen3RPipeline, sampling: Sampling) -> torch.Tensor:
    """``[F, 3, H, W]`` noise on the host, as many and as large as a job's frames."""
    frames = sampling.num_frames or pipeline.num_frames
    size = sampling.size or pipeline.image_size
    return torch.rand(frames, 3, *size, generator=torch.Generator().manual_seed(0))


def bench_job(images: torch.Tensor, task: Task) -> Job:
    """The job that is timed."""
    return Job(images, task, prompt="a room with a table and a lamp", cameras="zoom_in")


def run_job(pipeline: Gen3RPipeline, task: str, images: torch.Tensor, sampling: Sampling, monitor: JobMonitor) -> None:
    """Run the job that is timed, its text encoded anew.

    Args:
        pipeline: the model.
        task: of :class:`Task`, or "vggt".
        images: of :func:`bench_images`.
        sampling: of a generated job.
        monitor: measures its stages.
    """
    if task == "vggt":
        pipeline.reconstruct(images, attention=sampling.attention, monitor=monitor)
        return
    job = bench_job(images, Task(task))
    pipeline.prompts = type(pipeline.prompts)()  # the text is encoded in every job
    pipeline.generate(job, sampling, monitor=monitor)


def _trace(
    pipeline: Gen3RPipeline, task: str, images: torch.Tensor, sampling: Sampling, count: int
) -> list[KernelTime]:
    steps = sampling.steps if pipeline.cache is not None else min(sampling.steps, WARMUP_STEPS)
    monitor = JobMonitor(device=pipeline.device)
    job = replace(sampling, steps=steps)
    return kernel_times(lambda: run_job(pipeline, task, images, job, monitor), pipeline.device, count=count)


def format_table(report: BenchReport) -> str:
    """The report as a Markdown table, seconds per stage in rows."""
    header = ["", *(heading(result) for result in report.results)]
    stages: list[str] = []
    for result in report.results:
        stages += [stage for stage in result.seconds if stage not in stages]
    rows = [[f"{stage} s", *(_cell(r.seconds.get(stage), 3) for r in report.results)] for stage in stages]
    rows.append(["per step s", *(_cell(r.per_step, 3) for r in report.results)])
    rows.append(["**whole job s**", *(f"**{r.total:.2f}**" for r in report.results)])
    rows.append(["peak memory allocated GiB", *(_cell(r.allocated_gib, 2) for r in report.results)])
    rows.append(["peak memory reserved GiB", *(_cell(r.reserved_gib, 2) for r in report.results)])
    if any(r.budget_gib is not None or r.lowered for r in report.results):
        rows.append(["peak predicted GiB", *(_cell(r.predicted_gib, 2) for r in report.results)])
        rows.append(["peak host memory GiB", *(_cell(r.host_gib, 2) for r in report.results)])
        rows.append(["level", *(r.level + (" (lowered)" if r.lowered else "") for r in report.results)])
    if any(r.error is not None for r in report.results):
        rows.append(["latents' error", *(_cell(r.error, 4) for r in report.results)])
        words = {None: "-", True: "yes", False: "no"}
        rows.append(["accepted", *(words[r.accepted] for r in report.results)])
    lines = [header, ["---"] * len(header), *rows]
    facts = ", ".join(f"{key} {value}" for key, value in report.machine.items())
    options = ", ".join(f"{key} {value}" for key, value in report.options.items())
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"Model size {report.model}; {facts}; {options}.\n\n{table}"


def heading(result: BenchResult) -> str:
    """What a result is of, in words."""
    words = f"{result.task}, {result.num_frames} x {result.size[0]}x{result.size[1]}"
    if result.profile != "exact":
        words += f", {result.profile}"
    return words if result.budget_gib is None else f"{words}, {result.budget_gib:g} GiB"


def _cell(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
