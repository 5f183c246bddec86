"""Memory that runs out, injected at each stage: the job is finished at a lower level, or says why not."""

import gc
import logging
import weakref

import pytest
import torch
from lively import assert_scenes_close
from scene_equality import identical

from gen3r_core.errors import OutOfMemoryError
from gen3r_core.execution.levels import LEVELS
from gen3r_core.execution.placement import Placement
from gen3r_core.execution.stages import run_stage
from gen3r_core.progress import JobMonitor

STAGES = {
    "text": "text_encoder",
    "image": "image_encoder",
    "cameras": "vggt.aggregator",
    "video_encode": "video_vae.encoder",
    "denoise": "transformer",
    "geometry": "geometry_adapter.decoder",
    "video_decode": "video_vae.decoder",
}


class Full:
    """A hook that runs out of memory for some calls."""

    def __init__(self, module, times, first=0):
        self.calls = 0
        self._times = range(first, first + times)
        self.handle = module.register_forward_pre_hook(self)

    def __call__(self, *_):
        self.calls += 1
        if self.calls - 1 in self._times:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.fixture
def full(pipeline):
    hooks = []

    def add(stage, times, first=0):
        network, _, part = STAGES[stage].partition(".")
        hooks.append(Full(getattr(pipeline, network).get_submodule(part), times, first))
        return hooks[-1]

    yield add
    for hook in hooks:
        hook.handle.remove()
    pipeline.placement.change(LEVELS[0])


@pytest.fixture
def fresh_prompts(pipeline):
    pipeline.prompts = type(pipeline.prompts)()


@pytest.mark.parametrize("stage", STAGES)
def test_the_job_is_finished_one_level_lower(pipeline, job, sampling, plain, full, fresh_prompts, caplog, stage):
    full(stage, 1)
    monitor = JobMonitor()
    with caplog.at_level(logging.WARNING):
        scene = pipeline.generate(job, sampling, monitor=monitor)
    assert identical(scene, plain)  # this level only moves weights
    assert monitor.lowered == [f"{stage}: prompts"]
    assert f"the device ran out of memory: CUDA out of memory. Tried to allocate 2.00 GiB. in stage '{stage}'" in (
        caplog.text
    )
    assert "the text encoder comes block by block" in caplog.text
    again = JobMonitor()
    assert identical(pipeline.generate(job, sampling, monitor=again), plain)
    assert again.lowered == []
    assert pipeline.placement.level.name == "prompts"


@pytest.mark.parametrize(
    "stage", [pytest.param(stage, marks=[] if stage == "denoise" else [pytest.mark.slow]) for stage in STAGES]
)
def test_at_the_last_level_there_is_one_message(pipeline, job, sampling, plain, full, fresh_prompts, stage):
    hook = full(stage, 99)
    monitor = JobMonitor()
    with pytest.raises(OutOfMemoryError, match=r"ran out of memory: .*; use fewer frames \(--num_frames\)"):
        pipeline.generate(job, sampling, monitor=monitor)
    assert monitor.lowered == [f"{stage}: {level.name}" for level in LEVELS[1:]]
    assert hook.calls == len(LEVELS)
    hook.handle.remove()
    assert_scenes_close(pipeline.generate(job, sampling), plain, 1e-3)


def test_denoising_begins_anew(pipeline, job, sampling, plain, full):
    """Memory that runs out at the second step: no step of the first try is in the result."""
    hook = full("denoise", 1, first=1)
    assert identical(pipeline.generate(job, sampling), plain)
    assert hook.calls == 2 + 3


def test_feed_forward_jobs_go_on_too(pipeline, job, full):
    expected = pipeline.reconstruct(job.images, point_map=True)
    full("cameras", 1)
    monitor = JobMonitor()
    assert identical(pipeline.reconstruct(job.images, point_map=True, monitor=monitor), expected)
    assert monitor.lowered == ["vggt: prompts"]


def test_what_the_first_try_made_is_freed_before_the_second():
    placement, alive = Placement(torch.device("cpu")), []

    def work():
        gc.collect()
        alive.append([reference() is not None for reference in made])
        large = torch.ones(1000)
        made.append(weakref.ref(large))
        if len(made) < 3:
            raise torch.OutOfMemoryError("no more")
        return 5

    made = []
    assert run_stage(placement, JobMonitor(), "test", work) == 5
    assert alive == [[], [False], [False, False]]


def test_other_errors_are_no_reason_to_go_on():
    def work():
        raise RuntimeError("shapes")

    placement = Placement(torch.device("cpu"))
    with pytest.raises(RuntimeError, match="shapes"):
        run_stage(placement, JobMonitor(), "test", work)
    assert placement.level is LEVELS[0]
