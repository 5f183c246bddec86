"""What is put on networks and taken off again: 8-bit weights, compiled blocks, the order of convolution weights."""

import pytest
import torch
import torch._dynamo
from lively import assert_scenes_close
from scene_equality import identical
from torch import nn

from gen3r_core.conditioning import Conditions
from gen3r_core.denoising import Guidance, denoise
from gen3r_core.errors import InputError
from gen3r_core.execution.compiled import CompiledBlocks
from gen3r_core.execution.grid import speed_up
from gen3r_core.execution.layout import ChannelsLast
from gen3r_core.execution.levels import LEVELS
from gen3r_core.execution.plan import empty_networks
from gen3r_core.execution.step_cache import ResidualCache
from gen3r_core.execution.weights import EightBitLinear, EightBitWeights, multiplies_fp8
from gen3r_core.models.attention import kernel_scope
from gen3r_core.models.vggt.blocks import Block
from gen3r_core.progress import JobMonitor
from gen3r_core.schedulers import SOLVERS, FlowSolver
from gen3r_core.sizes import SIZES

# --- 8-bit weights ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["int8", "fp8"])
@pytest.mark.parametrize("bias", [True, False])
def test_eight_bit_layers_are_as_close_as_eight_bits_can_be(kind, bias):
    torch.manual_seed(0)
    linear = nn.Linear(64, 32, bias=bias).requires_grad_(False)
    linear.weight[3] *= 100  # each row has its own scale
    linear.weight[4] = 0
    short = EightBitLinear(linear, kind)
    assert short.weight.element_size() == 1
    unpacked = short.weight.float() * short.scale[:, None]
    error = (unpacked - linear.weight).abs()
    largest = linear.weight.abs().amax(dim=1, keepdim=True)
    if kind == "int8":
        assert (error <= 0.501 * largest / 127).all()
        assert error.max() > 0.4 * largest.max() / 127
    else:  # three bits behind the point, and the least number of e4m3
        assert (error <= linear.weight.abs() / 16 + largest / 448 * 2**-9).all()
        assert error.max() > largest.max() / 100
    x = torch.randn(2, 5, 64)
    torch.testing.assert_close(short(x), nn.functional.linear(x, unpacked, linear.bias))
    if not bias:
        assert short(x.bfloat16()).dtype == torch.bfloat16


def scaled_mm(a, b, scale_a, scale_b, bias=None, out_dtype=None):
    """What the matrix product of float8 numbers is, in float32."""
    assert a.dtype == b.dtype == torch.float8_e4m3fn
    assert b.stride(0) == 1  # column by column, as the hardware wants it
    product = (a.float() @ b.float()) * scale_a * scale_b
    return (product if bias is None else product + bias.float()).to(out_dtype)


def test_float8_products(monkeypatch):
    """With torch's product written out: tokens and rows have scales of their own."""
    monkeypatch.setattr(torch, "_scaled_mm", scaled_mm)
    torch.manual_seed(0)
    linear = nn.Linear(64, 32).bfloat16().requires_grad_(False)
    short = EightBitLinear(linear, "fp8", scaled_product=True)
    x = torch.randn(2, 5, 64).bfloat16()
    x[0, 1] *= 1000
    x[0, 2] = 0
    found, expected = short(x), linear(x)
    assert found.shape == expected.shape
    assert found.dtype == torch.bfloat16
    error = (found - expected).float().norm(dim=-1) / expected.float().norm(dim=-1)
    assert 1e-3 < float(error.max()) < 0.06


def test_sizes_that_the_hardware_does_not_take_are_unpacked():
    assert not EightBitLinear(nn.Linear(40, 32), "fp8", scaled_product=True).scaled_product
    assert not EightBitLinear(nn.Linear(32, 32), "int8", scaled_product=True).scaled_product
    assert EightBitLinear(nn.Linear(48, 32), "fp8", scaled_product=True).scaled_product
    assert not multiplies_fp8(torch.device("cpu"))


@pytest.mark.parametrize("kind", ["int8", "fp8"])
@pytest.mark.parametrize("level", [LEVELS[0], LEVELS[-1]])
def test_eight_bit_weights_and_back(pipeline, job, sampling, plain, kind, level):
    pipeline.placement.change(level)
    hook = EightBitWeights(pipeline.transformer.blocks, kind)
    try:
        assert len(hook) == 2 * (4 + 6 + 2)
        assert not any(isinstance(m, nn.Linear) for m in pipeline.transformer.blocks.modules())
        scene = pipeline.generate(job, sampling)
    finally:
        hook.remove()
        pipeline.placement.forget(pipeline.transformer)
        pipeline.placement.change(LEVELS[0])
    assert float((scene.colors - plain.colors).abs().mean()) < 0.05
    assert not identical(scene, plain)
    assert identical(pipeline.generate(job, sampling), plain)


def test_no_such_kind():
    with pytest.raises(InputError, match="'int8' or 'fp8', got 'int4'"):
        EightBitWeights([], "int4")


# --- compiled blocks -------------------------------------------------------------------------------------


@pytest.fixture
def graphs():
    """Counts the graphs that are compiled, by a backend that runs them as they are."""
    torch._dynamo.reset()
    found = []

    def backend(module, _inputs):
        found.append(module)
        return module.forward

    yield found, backend
    torch._dynamo.reset()


@pytest.mark.slow
def test_one_graph_serves_all_blocks_and_jobs(pipeline, job, sampling, plain, graphs):
    """Full graphs (a break is an error), and none is compiled again for the next job."""
    found, backend = graphs
    compiled = CompiledBlocks(pipeline.transformer.blocks, backend=backend)
    try:
        assert identical(pipeline.generate(job, sampling), plain)
        assert len(found) == 2  # the first block's self-attention serves both branches of guidance
        assert identical(pipeline.generate(job, sampling), plain)
        assert len(found) == 2
        with kernel_scope("math"):
            pass
        pipeline.generate(job, sampling.__class__(**{**vars(sampling), "attention": "math"}))
        assert len(found) == 4  # compiled code is bound to a kernel
        pipeline.placement.change(LEVELS[2])  # moved, their weights are no others
        assert identical(pipeline.generate(job, sampling), plain)
        pipeline.placement.change(LEVELS[-1])
        assert_scenes_close(pipeline.generate(job, sampling), plain, 1e-3)
    finally:
        compiled.remove()
        pipeline.placement.change(LEVELS[0])
    assert "forward" not in vars(pipeline.transformer.blocks[0])
    assert identical(pipeline.generate(job, sampling), plain)


def test_vggt_compiles_to_few_graphs(pipeline, job, graphs):
    found, backend = graphs
    expected = pipeline.reconstruct(job.images, point_map=True)
    body = pipeline.vggt.aggregator
    compiled = CompiledBlocks([*body.frame_blocks, *body.global_blocks], backend=backend)
    try:
        for _ in range(2):
            assert identical(pipeline.reconstruct(job.images, point_map=True), expected)
            assert len(found) == 2  # within frames, and across them
    finally:
        compiled.remove()


def test_any_number_of_shapes(graphs):
    """torch refuses the ninth graph of one function's code; a robot's windows are of many lengths."""
    found, backend = graphs
    blocks = [Block(16, 2) for _ in range(2)]
    compiled = CompiledBlocks(blocks, backend=backend)
    with torch.no_grad():
        for length in range(2, 14):
            for block in blocks:
                block(torch.zeros(1, length, 16))
    assert len(found) == 12
    compiled.remove()


def test_a_graph_break_is_an_error(graphs):
    class Breaks(nn.Module):
        def forward(self, x):
            torch._dynamo.graph_break()
            return 2 * x

    compiled = CompiledBlocks([block := Breaks()], backend=graphs[1])
    with pytest.raises(torch._dynamo.exc.Unsupported):
        block(torch.ones(2))
    compiled.remove()
    assert block(torch.ones(2)).tolist() == [2.0, 2.0]


@pytest.mark.slow
def test_inductor_gives_the_same_numbers(pipeline, job, sampling, plain):
    remove = speed_up(pipeline, channels_last=True, compiled=True)
    try:
        assert_scenes_close(pipeline.generate(job, sampling), plain, 1e-3)
    finally:
        remove()
    assert identical(pipeline.generate(job, sampling), plain)


# --- the order of convolution weights --------------------------------------------------------------------


def test_channels_last_and_back(pipeline, job, sampling, plain):
    hook = ChannelsLast([pipeline.video_vae, pipeline.geometry_adapter])
    try:
        weight = pipeline.video_vae.decoder.conv_in.weight
        assert weight.is_contiguous(memory_format=torch.channels_last_3d)
        assert pipeline.geometry_adapter.encoder.reduce.weight.is_contiguous(memory_format=torch.channels_last)
        assert_scenes_close(pipeline.generate(job, sampling), plain, 1e-3)
    finally:
        hook.remove()
    assert weight.is_contiguous()
    assert identical(pipeline.generate(job, sampling), plain)


# --- the loop never waits --------------------------------------------------------------------------------


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("name", SOLVERS)
def test_nothing_in_the_loop_looks_at_a_number(name, cached):
    """On the meta device there are no numbers: whatever would make the host wait for a GPU fails there."""
    transformer = empty_networks({"transformer": SIZES["tiny"].components["transformer"]}, torch.bfloat16)[
        "transformer"
    ]
    config = transformer.config

    def empty(*shape, dtype=torch.bfloat16):
        return torch.empty(shape, dtype=dtype, device="meta")

    text = empty(1, config.text_len, config.text_dim)
    conditions = Conditions(
        text, text, empty(1, 5, config.image_dim), empty(1, 20, 2, 14, 28, dtype=torch.float32), empty(1, 24, 2, 7, 14)
    )
    latents = empty(1, 16, 2, 14, 28, dtype=torch.float32)
    cache = ResidualCache([False, False, True, False], 1) if cached else None
    found = denoise(
        transformer, latents, conditions, FlowSolver(name, 4), Guidance(5.0, 0, 0.5), JobMonitor(), cache=cache
    )
    assert found.shape == latents.shape
    with pytest.raises(RuntimeError, match="cannot be called on meta tensors"):
        float(found.sum())


def test_the_prompts_and_images_are_embedded_once_a_job(pipeline, job, sampling):
    calls = []
    embedder = pipeline.transformer.condition_embedder
    hooks = [
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
        for name, module in (
            ("text", embedder.text_embedder),
            ("image", embedder.image_embedder),
            ("cameras", pipeline.transformer.camera_adapter),
            ("positions", pipeline.transformer.rope),
        )
    ]
    try:
        pipeline.generate(job, sampling)
    finally:
        for hook in hooks:
            hook.remove()
    assert sorted(calls) == ["cameras", "image", "image", "positions", "text", "text"]
