"""Benchmarks over profiles, memory budgets and sizes, with the price of each profile in the latents."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from gen3r_core.bench import BenchResult, bench_images, bench_job, run_bench
from gen3r_core.conditioning import Task
from gen3r_core.execution.calibration import Calibration, calibrate
from gen3r_core.execution.compiled import CompiledBlocks
from gen3r_core.execution.compiled_heads import CompiledHeads
from gen3r_core.execution.fused_autoencoders import FusedGeometryAdapter, FusedVideoVAE
from gen3r_core.execution.layout import ChannelsLast
from gen3r_core.execution.levels import LEVELS, Level
from gen3r_core.execution.placement import blocks_of
from gen3r_core.execution.plan import MemoryPlan, limit_memory
from gen3r_core.execution.profiles import PROFILES, Profile
from gen3r_core.execution.stages import release_memory
from gen3r_core.execution.step_cache import ResidualCache
from gen3r_core.execution.trajectory import Trajectory, TrajectoryError, compare
from gen3r_core.jobs import Sampling
from gen3r_core.pipeline import Gen3RPipeline
from gen3r_core.progress import Callback

PipelineOf = Callable[[Level], Gen3RPipeline]


def speed_up(
    pipeline: Gen3RPipeline, *, channels_last: bool, compiled: bool, vggt: bool = True, backend: str = "inductor"
) -> Callable[[], None]:
    """Put exact speed-ups on a pipeline.

    Args:
        pipeline: changed until the result is called.
        channels_last: reorder the convolutions of video VAE and geometry adapter.
        compiled: compile the blocks of the transformer and of VGGT, of its image encoder and its heads, and run both
            autoencoders on fused blocks; all convolutions are reordered.
        vggt: compile its blocks and heads too, one graph for each number of views.
        backend: torch's name of a compiler.

    Returns:
        what takes them off again.
    """
    network, autoencoders = pipeline.vggt, [pipeline.video_vae, pipeline.geometry_adapter]
    heads = [network.depth_head, network.point_head] if compiled and vggt else []
    put_on: list[CompiledBlocks | CompiledHeads | ChannelsLast | FusedVideoVAE | FusedGeometryAdapter] = []
    if channels_last or compiled:
        put_on.append(ChannelsLast([*autoencoders, *heads]))
    if compiled:
        groups = [blocks_of(pipeline.transformer)]
        if vggt:
            groups += [blocks_of(network), [*network.aggregator.patch_embed.blocks], [*network.camera_head.trunk]]
        put_on += [CompiledBlocks(blocks, backend=backend) for blocks in groups]
        put_on.append(FusedVideoVAE(pipeline.video_vae, backend=backend))
        put_on.append(FusedGeometryAdapter(pipeline.geometry_adapter, backend=backend))
        put_on.append(CompiledHeads(heads, backend=backend))

    def remove() -> None:
        while put_on:
            put_on.pop().remove()

    return remove


def record(pipeline: Gen3RPipeline, task: Task, sampling: Sampling, callback: Callback | None = None) -> Trajectory:
    """The latents of one bench job on their way."""
    trajectory = Trajectory()
    before, pipeline.watch = pipeline.watch, trajectory
    try:
        pipeline.generate(bench_job(bench_images(pipeline, sampling), task), sampling, callback=callback)
    finally:
        pipeline.watch = before
    return trajectory


def profile_error(
    pipeline: Gen3RPipeline,
    profile: Profile,
    task: Task,
    sampling: Sampling,
    exact: Trajectory,
    calibration: Calibration | None,
) -> TrajectoryError | None:
    """The error of a profile's latents against the exact ones; None where sizes differ."""
    if not profile.comparable:
        return None
    with profile.apply(pipeline, calibration):
        return compare(record(pipeline, task, _under(profile, pipeline, sampling, task)), exact)


def bad_cache_error(pipeline: Gen3RPipeline, task: Task, sampling: Sampling, exact: Trajectory) -> TrajectoryError:
    """The error of reusing the first step's residual to the end. A measure of error that accepts this is none."""
    before, pipeline.cache = pipeline.cache, ResidualCache([False] + [True] * (sampling.steps - 1))
    try:
        return compare(record(pipeline, task, sampling), exact)
    finally:
        pipeline.cache = before


def _under(profile: Profile, pipeline: Gen3RPipeline, sampling: Sampling, task: Task) -> Sampling:
    return profile.sampling(sampling, task=task, num_frames=pipeline.num_frames, image_size=pipeline.image_size)


def calibrate_profile(
    pipeline: Gen3RPipeline, profile: Profile, task: Task, sampling: Sampling, callback: Callback | None = None
) -> Calibration | None:
    """Calibrate on a bench job for a profile's schedule; None where it spares no steps."""
    if profile.spared_error is None:
        return None
    own = _under(profile, pipeline, sampling, task)
    return calibrate(pipeline, [bench_job(bench_images(pipeline, own), task)], own, callback=callback)


@dataclass(frozen=True)
class GridResult:
    """Figures of all combinations.

    Attributes:
        results: of each.
        bad_caches: errors of the bad cache, one for each combination of task, size and budget that was measured.
    """

    results: list[BenchResult] = field(default_factory=list)
    bad_caches: list[TrajectoryError] = field(default_factory=list)

    def verdict(self) -> str | None:
        """Whether the measure of error is one, in words; None where nothing was measured."""
        if not self.bad_caches:
            return None
        limit = max(profile.limit for profile in PROFILES.values())
        least = min(error.worst for error in self.bad_caches)
        if any(error.accepted(limit) for error in self.bad_caches):
            return f"a deliberately bad cache has error {least:.4f} and is accepted: the errors here mean nothing"
        return f"a deliberately bad cache has error {least:.4f} and is rejected (limit {limit:g})"


def bench_grid(
    make: PipelineOf,
    plans: Sequence[tuple[float | None, MemoryPlan | None]],
    samplings: Sequence[Sampling],
    tasks: Sequence[str],
    profiles: Sequence[str],
    found: GridResult,
    *,
    device: torch.device,
    errors: bool = False,
    prepare: Callable[[Gen3RPipeline], object] | None = None,
    **options: Any,
) -> None:
    """Run all combinations.

    Args:
        make: a pipeline at a level; made anew for each budget, under it.
        plans: budgets in GiB with their plans; None for no budget.
        samplings: one for each size.
        tasks: of :class:`Task`, or "vggt".
        profiles: by name.
        found: where figures go as they come, so that those of the others are there when one fails.
        device: of the pipelines.
        errors: also measure the latents' errors, and that of a bad cache.
        prepare: puts speed-ups on a fresh pipeline.
        options: of :func:`gen3r_core.bench.run_bench`.
    """
    for budget, plan in plans:
        release_memory(device)  # of the pipeline before
        if budget is not None:
            limit_memory(device, budget)
        pipeline = make(LEVELS[0] if plan is None else plan.level)
        if prepare is not None:
            prepare(pipeline)
        marks: dict[str, Any] = {
            "budget_gib": budget,
            "predicted_gib": None if plan is None else plan.peak.total / 2**30,
        }
        for sampling in samplings:
            for task in tasks:
                if task == "vggt":
                    results = _feed_forward(pipeline, sampling, profiles, options)
                else:
                    results = _profiles(pipeline, Task(task), sampling, profiles, errors, options, found.bad_caches)
                for result in results:
                    found.results.append(replace(result, **marks))
        del pipeline, results


def _feed_forward(
    pipeline: Gen3RPipeline, sampling: Sampling, profiles: Sequence[str], options: dict[str, Any]
) -> Iterator[BenchResult]:
    """All views at their size whatever the profile."""
    for profile in (PROFILES[name] for name in profiles):
        with profile.apply(pipeline):
            result = run_bench(pipeline, ["vggt"], sampling, **options)[0]
        yield replace(result, profile=profile.name)


def _profiles(
    pipeline: Gen3RPipeline,
    task: Task,
    sampling: Sampling,
    profiles: Sequence[str],
    errors: bool,
    options: dict[str, Any],
    bad: list[TrajectoryError],
) -> Iterator[BenchResult]:
    callback = options.get("callback")
    exact = record(pipeline, task, sampling, callback) if errors else None
    for profile in (PROFILES[name] for name in profiles):
        calibration = calibrate_profile(pipeline, profile, task, sampling, callback)
        with profile.apply(pipeline, calibration):
            result = run_bench(pipeline, [task], _under(profile, pipeline, sampling, task), **options)[0]
        result = replace(result, profile=profile.name)
        if exact is not None:
            error = profile_error(pipeline, profile, task, sampling, exact, calibration)
            if error is not None:
                result = replace(result, error=error.worst, accepted=error.accepted(profile.limit))
        yield result
    if exact is not None:
        bad.append(bad_cache_error(pipeline, task, sampling, exact))
