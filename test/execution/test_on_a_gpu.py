"""What only a GPU can show: streams, caps, float8 products, and a loop that never waits."""

import gc
from dataclasses import replace

import pytest
import torch
from lively import assert_scenes_close, lively_pipeline
from scene_equality import identical

from gen3r_core.errors import Gen3RError
from gen3r_core.execution.grid import speed_up
from gen3r_core.execution.levels import LEVELS, NETWORKS
from gen3r_core.execution.placement import Placement
from gen3r_core.execution.plan import GIB, limit_memory, plan_model
from gen3r_core.execution.weights import EightBitLinear, multiplies_fp8
from gen3r_core.jobs import Sampling
from gen3r_core.progress import JobMonitor
from gen3r_core.sizes import named_config, random_component, random_pipeline

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda")


@pytest.fixture(scope="module")
def on_gpu():
    pipeline = lively_pipeline()
    networks = {name: getattr(pipeline, name) for name in NETWORKS}
    for network in networks.values():
        network.to(CUDA)
    pipeline.placement = Placement(CUDA, LEVELS[0], networks)
    return pipeline


@pytest.fixture(scope="module")
def expected(on_gpu, job, sampling):
    return on_gpu.generate(job, sampling)


def test_short_prompts_are_as_long_ones():
    """In float32, 24 layers of a quarter of the full width: what is left out by the mask changes nothing."""
    widths = {"hidden_size": 1024, "intermediate_size": 2560, "num_heads": 16, "attention_size": 1024}
    draw = torch.Generator(device=CUDA).manual_seed(0)
    config = named_config("full", "text_encoder", widths)
    encoder = random_component("text_encoder", config, device=CUDA, dtype=torch.float32, generator=draw)
    prompts = [[5, 900, 17, 1], [30, 4, 1]]
    padded = torch.zeros(2, 512, dtype=torch.int64, device=CUDA)
    mask = torch.zeros_like(padded)
    for row, ids in enumerate(prompts):
        padded[row, : len(ids)] = torch.tensor(ids, device=CUDA)
        mask[row, : len(ids)] = 1
    with torch.no_grad():
        long = encoder(padded, mask)
        for row, short in enumerate(encoder.embed(prompts, text_len=512)):
            expected = long[row, : len(prompts[row])]
            assert float((short - expected).norm() / expected.norm()) < 1e-3


@pytest.mark.parametrize("index", [1, 2])
def test_moved_weights_change_no_bit(on_gpu, job, sampling, expected, index):
    on_gpu.placement.change(LEVELS[index])
    try:
        for _ in range(2):
            assert identical(on_gpu.generate(job, sampling), expected)
        assert next(on_gpu.text_encoder.parameters()).device.type == "cpu"
    finally:
        on_gpu.placement.change(LEVELS[0])
    assert identical(on_gpu.generate(job, sampling), expected)


def test_streamed_blocks(on_gpu, job, sampling, expected):
    on_gpu.placement.change(LEVELS[-1])
    try:
        found = [on_gpu.generate(job, sampling) for _ in range(3)]
    finally:
        on_gpu.placement.change(LEVELS[0])
    assert identical(found[0], found[1])
    assert identical(found[0], found[2])
    assert_scenes_close(found[0], expected, 1e-3)


def test_exact_speed_ups(on_gpu, job, sampling, expected):
    remove = speed_up(on_gpu, channels_last=True, compiled=True)
    try:
        assert_scenes_close(on_gpu.generate(job, sampling), expected, 1e-3)
    finally:
        remove()
    assert identical(on_gpu.generate(job, sampling), expected)


@pytest.mark.parametrize("scheduler", ["euler", "unipc", "dpm++"])
def test_the_loop_never_waits(on_gpu, job, sampling, scheduler):
    """torch raises where the host would wait for the device; checked from the first step's report to the last's."""

    def watch(report):
        if report.stage == "denoise":
            mode = "error" if 0 < report.step < report.total else "default"
            torch.cuda.set_sync_debug_mode(mode)

    try:
        on_gpu.generate(job, replace(sampling, steps=6, scheduler=scheduler), callback=watch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_float8_products():
    if not multiplies_fp8(CUDA):
        pytest.skip("this GPU does not multiply float8")
    torch.manual_seed(0)
    linear = torch.nn.Linear(1536, 8960).to(CUDA, torch.bfloat16).requires_grad_(False)
    x = torch.randn(2, 300, 1536, device=CUDA, dtype=torch.bfloat16)
    found = EightBitLinear(linear, "fp8", scaled_product=True)(x)
    exact = linear(x)
    error = float((found - exact).float().norm() / exact.float().norm())
    assert 0.005 < error < 0.06


@pytest.mark.slow
@pytest.mark.parametrize("budget", [7.0, 10.0])
def test_full_size_within_a_cap(job, budget):
    """The published size under a hard cap, with two steps: it ends at the planned level, or lower, but it ends."""
    sampling = Sampling(steps=2)
    plan = plan_model("full", job.task, sampling, torch.bfloat16, budget)
    torch.cuda.empty_cache()
    limit_memory(CUDA, budget)
    torch.cuda.reset_peak_memory_stats()
    try:
        pipeline = random_pipeline("full", device=CUDA, dtype=torch.bfloat16, level=plan.level)
        scene = pipeline.generate(job, sampling)
    except Gen3RError as error:  # pragma: no cover
        pytest.fail(str(error))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert len(scene) == 49
    assert torch.cuda.max_memory_reserved() <= budget * GIB


@pytest.mark.slow
def test_a_real_shortage_ends_one_level_lower(job):
    """Weights of the published size fill the card but for half a GiB, less than denoising needs."""
    sampling = Sampling(steps=2)
    pipeline = random_pipeline("full", device=CUDA, dtype=torch.bfloat16)
    gc.collect()
    torch.cuda.empty_cache()
    limit_memory(CUDA, torch.cuda.memory_reserved() / GIB + 0.5)
    try:
        first, second = JobMonitor(device=CUDA), JobMonitor(device=CUDA)
        scene = pipeline.generate(job, sampling, monitor=first)
        pipeline.generate(job, sampling, monitor=second)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert [words.partition(": ")[2] for words in first.lowered] == ["prompts"]
    assert second.lowered == []
    assert len(scene) == 49
    assert bool(torch.isfinite(scene.depth).all())
