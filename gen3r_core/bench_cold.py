"""The cold start: seconds from the start of a process to its first result, and what they go into.

The process that measures is the one that is measured, so it must be fresh. Weights come from storage, while Python's
own libraries may lie in the page cache. Weights that a CPU uses as they stand in their files are read by the stage that
first needs them; what only some kernels import or compile counts in their stage too.
"""

from __future__ import annotations

import ctypes
import importlib
import mmap
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gen3r_core.bench import GIB, bench_images, run_job
from gen3r_core.checkpoint.folder import Checkpoint
from gen3r_core.checkpoint.loading import Progress as LoadingProgress
from gen3r_core.checkpoint.tensors import find_weight_files
from gen3r_core.errors import CheckpointError
from gen3r_core.execution.levels import NETWORKS
from gen3r_core.jobs import Sampling
from gen3r_core.pipeline import Gen3RPipeline
from gen3r_core.progress import Callback, JobMonitor


class Part(StrEnum):
    """What the time goes into; the stages of the job stand in place of the job.

    Attributes:
        STARTED: start of Python, and imports.
        DEVICE: torch's context on a GPU.
        PLAN: a level is found for a memory budget.
        LOAD: from weight files to networks on the device.
        JOB: the first one.
        REST: everything else.
    """

    STARTED = "start and imports"
    DEVICE = "device"
    PLAN = "plan"
    LOAD = "load"
    JOB = "job"
    REST = "rest"


@dataclass(frozen=True)
class ColdStart:
    """Where the time to the first result goes.

    Attributes:
        task: of the job: "1view", "2view", "allview", or "vggt" for feed-forward reconstruction.
        num_frames: frames (views for "vggt").
        size: ``(height, width)``.
        steps: denoising steps; 0 for "vggt".
        level: of memory use at the end of the job.
        seconds: of each part, in their order, the stages of the job among them; they add up to ``total``.
        loading: seconds of ``seconds["load"]`` for each component.
        total: seconds from the process's start to the result, but for ``left_out``.
        left_out: seconds that it took to drop the files from the page cache.
        weights_gib: size of the weight files.
        cached: share of the weight files that was in the page cache when loading began.
    """

    task: str
    num_frames: int
    size: tuple[int, int]
    steps: int
    level: str
    seconds: dict[str, float]
    loading: dict[str, float]
    total: float
    left_out: float
    weights_gib: float
    cached: float

    def share(self, seconds: float) -> float:
        """Seconds in % of the whole."""
        return 100 * seconds / self.total


@dataclass(frozen=True)
class ColdReport:
    """A cold start with where it was measured.

    Attributes:
        model: name of the checkpoint.
        machine: hardware and versions.
        options: how the job was run.
        result: the figures.
    """

    model: str
    machine: dict[str, str]
    options: dict[str, Any]
    result: ColdStart

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with the shares in % of the whole."""
        result = self.result
        return asdict(self) | {"percent": {part: result.share(value) for part, value in result.seconds.items()}}


def process_seconds() -> float:
    """Seconds since this process started, to 0.01 s (Linux)."""
    # After the name, which may hold spaces, the third field comes first; the start is the 22nd.
    fields = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[22 - 3]) / os.sysconf("SC_CLK_TCK")


class ColdWatch:
    """Cuts the time since the process's start into parts.

    Attributes:
        seconds: of each part so far.
        loading: seconds of each component that was loaded.
        left_out: seconds that count nowhere.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.loading: dict[str, float] = {}
        self.left_out = 0.0
        self._last = 0.0

    @property
    def total(self) -> float:
        """Seconds from the process's start to the last lap, but for what counts nowhere."""
        return self._last - self.left_out

    def lap(self, part: str) -> None:
        """Count what passed since the last lap towards a part."""
        now = process_seconds()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self._last
        self._last = now

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Count what passes within towards nothing."""
        start = process_seconds()
        yield
        passed = process_seconds() - start
        self._last += passed
        self.left_out += passed

    def loaded(self, name: str, done: int, total: int) -> None:
        """A :data:`gen3r_core.checkpoint.loading.Progress`: a component's time ends with its last byte."""
        if done >= total:
            self.loading[name] = process_seconds() - self._last - sum(self.loading.values())


def weight_files(checkpoint: Checkpoint) -> list[Path]:
    """The files with the weights of all networks.

    Raises:
        CheckpointError: some are missing.
    """
    paths = [checkpoint.component(name).path for name in NETWORKS]
    return [file for path in paths for file in (find_weight_files(path) if path.is_dir() else [path])]


def tokenizer_files(checkpoint: Checkpoint) -> list[Path]:
    """The tokenizer's files, if there is one."""
    return [] if checkpoint.tokenizer is None else [path for path in checkpoint.tokenizer.iterdir() if path.is_file()]


def drop_cached(files: Sequence[Path]) -> None:
    """Have the system forget its copies of files in memory; what other processes have mapped stays.

    Raises:
        CheckpointError: a file cannot be read.
    """
    for path in files:
        try:
            with path.open("rb") as file:
                with suppress(OSError):  # where nothing can be written
                    os.fsync(file)  # what is not on disk yet would stay
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error


def cached_share(files: Sequence[Path]) -> float:
    """The share of files that lies in the page cache, 0 to 1; where the system does not tell, all of them.

    Raises:
        OSError: a file cannot be read.
    """
    pages = [_resident_pages(path) for path in files if path.stat().st_size]
    return float(np.concatenate(pages).mean()) if pages else 0.0


def _resident_pages(path: Path) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """For each page of a file whether it lies in memory."""
    size = path.stat().st_size
    found = np.ones(-(-size // mmap.PAGESIZE), dtype=np.uint8)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        address = np.frombuffer(mapped, np.uint8).ctypes.data
        ctypes.CDLL(None).mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), ctypes.c_void_p(found.ctypes.data))
    return (found & 1).astype(bool)  # the other bits are reserved


def start_device(device: torch.device) -> None:
    """Have torch make its context on a GPU, which would otherwise count as loading."""
    torch.empty(1, device=device)


def import_compiler() -> dict[str, str]:
    """Import torch's compiler, which otherwise the first stage would do.

    Returns:
        as facts, whether it finds kernels of earlier processes on disk.
    """
    importlib.import_module("torch._inductor.compile_fx")
    folder = importlib.import_module("torch._inductor.runtime.cache_dir_utils").cache_dir()
    return {"compiler's cache": "filled" if any(Path(folder).iterdir()) else "empty"}


def cold_start(
    watch: ColdWatch,
    checkpoint: Checkpoint,
    load: Callable[[LoadingProgress], Gen3RPipeline],
    task: str,
    sampling: Sampling,
    *,
    prepare: Callable[[Gen3RPipeline], object],
    callback: Callback | None = None,
) -> ColdStart:
    """Load a model whose files are not in the page cache, and run its first job, on noise images.

    Args:
        watch: has counted what came before; what it has not counted yet becomes "rest".
        checkpoint: what is loaded.
        load: makes the pipeline; its argument is told how many bytes of each component are loaded.
        task: of :class:`gen3r_core.conditioning.Task`, or "vggt".
        sampling: of a generated job.
        prepare: puts speed-ups on the pipeline.
        callback: told about the job's progress.

    Raises:
        CheckpointError: weights are missing, damaged or do not fit.
    """
    files = weight_files(checkpoint)
    with watch.pause():
        drop_cached([*files, *tokenizer_files(checkpoint)])
        cached = cached_share(files)
    watch.lap(Part.REST)
    pipeline = load(watch.loaded)
    watch.lap(Part.LOAD)
    prepare(pipeline)
    images = bench_images(pipeline, sampling)
    watch.lap(Part.REST)
    monitor = JobMonitor(callback, pipeline.device)
    run_job(pipeline, task, images, sampling, monitor)
    if pipeline.device.type == "cuda":  # pragma: gpu-only
        torch.cuda.synchronize(pipeline.device)
    watch.lap(Part.JOB)
    return ColdStart(
        task=task,
        num_frames=sampling.num_frames or pipeline.num_frames,
        size=sampling.size or pipeline.image_size,
        steps=0 if task == "vggt" else sampling.steps,
        level=pipeline.placement.level.name,
        seconds=_with_stages(watch.seconds, monitor.seconds),
        loading=dict(watch.loading),
        total=watch.total,
        left_out=watch.left_out,
        weights_gib=sum(path.stat().st_size for path in files) / GIB,
        cached=cached,
    )


def _with_stages(laps: dict[str, float], stages: dict[str, float]) -> dict[str, float]:
    """The parts with the job's stages in its place; what the job does between them is "rest"."""
    parts = {part: value for part, value in laps.items() if part not in {Part.JOB, Part.REST}}
    return parts | stages | {Part.REST: laps[Part.REST] + laps[Part.JOB] - sum(stages.values())}


def format_cold(report: ColdReport) -> str:
    """The report as a Markdown table, a part in each row."""
    result = report.result
    rows = [["", f"{result.task}, {result.num_frames} x {result.size[0]}x{result.size[1]}", "%"], ["---"] * 3]
    for part, value in result.seconds.items():
        rows.append(_row(f"{part} s", value, result))
        if part == Part.LOAD:
            rows += [_row(f"- {name} s", seconds, result) for name, seconds in result.loading.items()]
    rows.append(["**whole s**", f"**{result.total:.2f}**", "100"])
    facts = {**report.machine, **report.options, "level": result.level, "weights": _weights(result)}
    line = ", ".join(f"{key} {value}" for key, value in facts.items())
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return f"Cold start of {report.model}; {line}.\n\n{table}"


def _row(name: str, seconds: float, result: ColdStart) -> list[str]:
    return [name, f"{seconds:.3f}", f"{result.share(seconds):.1f}"]


def _weights(result: ColdStart) -> str:
    """How much is read, and whether from storage."""
    dropped = "dropped from the page cache"
    if result.cached > 0:
        dropped = f"of which {100 * result.cached:.0f} % could not be dropped from the page cache"
    return f"{result.weights_gib:.3f} GiB, {dropped}"
