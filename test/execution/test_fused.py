"""Autoencoders on fused blocks, and compiled dense heads: the same results, from graphs that are compiled once."""

from __future__ import annotations

from dataclasses import replace

import golden
import published_kit
import pytest
import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanRMS_norm
from lively import assert_scenes_close, redraw
from scene_equality import identical
from torch import nn
from torch._inductor.utils import run_and_get_code

from gen3r_core.execution import fused_steps as steps
from gen3r_core.execution.compiled_heads import CompiledHeads
from gen3r_core.execution.fused_autoencoders import FusedGeometryAdapter, FusedVideoVAE
from gen3r_core.execution.fused_blocks import FusedBlocks
from gen3r_core.execution.graphs import RowFunctions, compiled_alone
from gen3r_core.execution.grid import speed_up
from gen3r_core.execution.layout import ChannelsLast
from gen3r_core.execution.levels import LEVELS
from gen3r_core.models.geometry_adapter import GeometryAdapter, GeometryAdapterConfig
from gen3r_core.models.video_vae import decode_video, encode_video


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


@pytest.fixture
def graphs():
    """Counts the graphs that are compiled, by a backend that runs them as they are."""
    found = []

    def backend(module, _inputs):
        found.append(module)
        return module.forward

    return found, backend


@pytest.fixture(scope="module")
def vae():
    network = AutoencoderKLWan(base_dim=4).eval()
    redraw(network)
    return network.requires_grad_(False)


@pytest.fixture(scope="module")
def adapter():
    network = GeometryAdapter(GeometryAdapterConfig(token_channels=40, hidden_dim=4)).eval()
    redraw(network)
    return network.requires_grad_(False)


def video(frames, size=(16, 24), batch=1):
    draw = torch.Generator().manual_seed(frames)
    return torch.rand(batch, 3, frames, *size, generator=draw) * 2 - 1


def latents(frames, size, batch=1):
    return torch.randn(batch, 16, frames, *size, generator=torch.Generator().manual_seed(frames))


def vae_results(vae, frames, batch=1, size=(16, 24)):
    z = latents((frames + 3) // 4, (size[0] // 8, size[1] // 8), batch)
    return *encode_video(vae, video(frames, size, batch)), decode_video(vae, z)


def adapter_results(adapter, frames, batch=1, size=(4, 8)):
    tokens = torch.randn(batch, 40, frames, *size, generator=torch.Generator().manual_seed(frames))
    z = latents((frames + 3) // 4, (7 * size[0] // 4, 7 * size[1] // 4), batch)
    return *adapter.encode(tokens), adapter.decode(z)


def assert_near(found, expected, limit=1e-5):
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.shape == theirs.shape
        assert mine.dtype == theirs.dtype
        assert float((mine - theirs).abs().max()) <= limit * float(theirs.abs().max())
        assert float(theirs.std()) > 0.02


CASES = [(1, 1), (5, 1), (13, 1), (9, 2)]
"""Frames and batches: one chunk, the second (whose layers in time start), many, and more than one clip."""

NETWORKS = {"vae": (FusedVideoVAE, vae_results), "adapter": (FusedGeometryAdapter, adapter_results)}


@pytest.mark.parametrize("name", ["vae", pytest.param("adapter", marks=pytest.mark.slow)])
def test_results_are_those_of_the_plain_networks(request, graphs, name):
    """Once compiled, neither another job, other frames and sizes nor reordered and moved weights compile anything."""
    network, (hook, results) = request.getfixturevalue(name), NETWORKS[name]
    found, backend = graphs
    expected = [results(network, *case) for case in CASES]
    large = (24, 40) if name == "vae" else (8, 4)
    expected_large = results(network, 17, size=large)
    fused = hook(network, backend=backend)
    order = None
    try:
        for case, wanted in zip(CASES, expected, strict=True):
            assert_near(results(network, *case), wanted)
        count = len(found)
        assert count > 10
        assert_near(results(network, 17, size=large), expected_large)
        order = ChannelsLast([network])
        for case, wanted in zip(CASES, expected, strict=True):
            assert_near(results(network, *case), wanted)
        for parameter in network.parameters():  # as a placement does
            parameter.data = parameter.data.clone()
        bias = network.decoder.conv_out.bias
        before, bias.data = bias.data, bias.data + 0.5
        changed = results(network, *CASES[1])
        assert_near(changed[:2], expected[1][:2])
        assert float((changed[2] - expected[1][2]).abs().max()) > 0.1
        bias.data = before
        assert len(found) == count
    finally:
        fused.remove()
        if order is not None:
            order.remove()
    for case, wanted in zip(CASES, expected, strict=True):
        for mine, theirs in zip(results(network, *case), wanted, strict=True):
            assert torch.equal(mine, theirs)
    assert "forward" not in vars(network.decoder)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_16_bit_networks(request, graphs, name):
    """No farther from float32 than the plain networks are, and of the same types."""
    exact, (hook, results) = request.getfixturevalue(name), NETWORKS[name]
    wanted = results(exact, 9)
    narrow = AutoencoderKLWan(**exact.config) if name == "vae" else GeometryAdapter(exact.config)
    narrow.load_state_dict(exact.state_dict())
    narrow = narrow.eval().bfloat16()
    plain = results(narrow, 9)
    hook(narrow, backend=graphs[1])
    for mine, theirs, truth in zip(results(narrow, 9), plain, wanted, strict=True):
        assert mine.dtype == theirs.dtype
        assert float((mine - truth).norm()) < 1.05 * float((theirs - truth).norm())


def test_sizes_change_in_chunks_only():
    with pytest.raises(ValueError, match="layers that change the size know chunks only"):
        FusedBlocks().resample(None, None, None)


# --- compiled functions ----------------------------------------------------------------------------------


def test_copies_share_no_limit(graphs):
    def double(x):
        return 2 * x

    torch._dynamo.reset()
    many = [compiled_alone(double, graphs[1]) for _ in range(20)]
    for index, function in enumerate(many):
        assert function(torch.ones(index + 3)).sum() == 2 * (index + 3)
    assert len(graphs[0]) == 20


def test_one_graph_for_any_number_of_rows(graphs):
    def scaled(x, factors, *, twice):
        return x * factors * (2 if twice else 1)

    functions = RowFunctions(graphs[1])
    for rows in (3, 100, 7):
        for width in (2, 5):
            x = torch.randn(rows, width)
            torch.testing.assert_close(functions(scaled, x, x[0], twice=True), 2 * x * x[0])
    assert len(graphs[0]) == 2
    functions(scaled, x, x[0], twice=False)
    assert len(graphs[0]) == 3


def test_methods_are_compiled_with_what_they_belong_to(graphs):
    class Offset(nn.Module):
        def __init__(self):
            super().__init__()
            self.offset = nn.Parameter(torch.tensor(2.0))

        def add(self, x, *, times=1):
            return x + times * self.offset

    function = compiled_alone(Offset().add, graphs[1])
    assert function(torch.zeros(3), times=3).tolist() == [6.0] * 3
    assert function(torch.zeros(3)).tolist() == [2.0] * 3


# --- dense heads -----------------------------------------------------------------------------------------


def test_dense_heads(pipeline, graphs):
    found, backend = graphs
    vggt = pipeline.vggt
    draw = torch.Generator().manual_seed(0)
    tokens = [torch.randn(1, 7, vggt.special_tokens + 16, 32, generator=draw) for _ in vggt.config.layers]
    plain = vggt.decode(tokens, (56, 56), frames_per_chunk=3)
    hook = CompiledHeads([vggt.depth_head, vggt.point_head], backend=backend)
    try:
        for _ in range(2):
            compiled = vggt.decode(tokens, (56, 56), frames_per_chunk=3)
            assert len(found) == 2  # one a head, though seven frames are no multiple of three
            for name in ("depth", "depth_confidence", "points", "points_confidence"):
                assert_near([getattr(compiled, name)], [getattr(plain, name)])
        vggt.decode(tokens, (56, 56), frames_per_chunk=2)
        assert len(found) == 4
    finally:
        hook.remove()
    again = vggt.decode(tokens, (56, 56), frames_per_chunk=3)
    assert torch.equal(again.depth, plain.depth)
    assert "predict_chunk" not in vars(vggt.depth_head)


# --- whole jobs ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_whole_jobs(pipeline, job, sampling, plain):
    remove = speed_up(pipeline, channels_last=True, compiled=True, backend="eager")
    try:
        for level in (LEVELS[0], LEVELS[2], LEVELS[-1]):
            pipeline.placement.change(level)
            assert_scenes_close(pipeline.generate(job, replace(sampling, num_frames=1)), plain, 1e-3)
    finally:
        remove()
        pipeline.placement.change(LEVELS[0])
    assert identical(pipeline.generate(job, sampling), plain)


@pytest.mark.slow
def test_inductor_gives_the_same_numbers(vae, adapter):
    expected = vae_results(vae, 9), adapter_results(adapter, 9)
    order = ChannelsLast([vae, adapter])
    hooks = [FusedVideoVAE(vae), FusedGeometryAdapter(adapter)]
    try:
        assert_near(vae_results(vae, 9), expected[0])
        assert_near(adapter_results(adapter, 9), expected[1])
    finally:
        for hook in hooks:
            hook.remove()
        order.remove()


@pytest.mark.parametrize("terms", [(False, False), (True, False), (True, True)])
def test_steps_are_what_diffusers_does(terms):
    draw = torch.Generator().manual_seed(0)
    x, other = torch.randn(2, 6, 4, 5, 8, generator=draw)  # frames, rows, columns, channels
    bias = torch.randn(8, generator=draw) if terms[0] else None
    skip = other if terms[1] else None
    total = x + (0 if bias is None else bias) + (0 if skip is None else skip)
    assert torch.equal(steps.added(x, bias, skip), total)
    out = torch.empty_like(x)
    steps.add_into(x, bias, skip, out)
    assert torch.equal(out, total)
    norm = WanRMS_norm(8, images=False)
    norm.gamma.copy_(torch.rand(8, 1, 1, 1, generator=draw))
    expected = norm(total.permute(3, 0, 1, 2)[None])[0].permute(1, 2, 3, 0)
    assert steps.normalise_into(x, bias, skip, norm.gamma.view(-1), out, activate=False, keep=False) is None
    torch.testing.assert_close(out, expected)
    kept = steps.normalise_into(x, bias, skip, norm.gamma.view(-1), out, activate=True, keep=True)
    torch.testing.assert_close(out, nn.functional.silu(expected))
    assert torch.equal(kept, total)
    images = total.permute(0, 3, 1, 2)
    large = steps.enlarge(
        *(None if one is None else one.flatten(0, -3) if one.ndim > 1 else one for one in (x, bias, skip))
    )
    enlarged = nn.Upsample(scale_factor=2, mode="nearest-exact")(images)
    assert torch.equal(large.view(6, 8, 10, 8).permute(0, 3, 1, 2), enlarged)
    assert torch.equal(steps.border(x, bias, skip).permute(0, 3, 1, 2), nn.ZeroPad2d((0, 1, 0, 1))(images))


def test_pairs_of_frames():
    x, bias = torch.randn(3, 4, 5, 8), torch.randn(8)
    added = x + bias
    frames = torch.stack((added[..., :4], added[..., 4:]), 1).flatten(0, 1)
    out = torch.empty(6, 20, 4)
    steps.pairs_into(x.flatten(1, 2), bias, out)
    assert torch.equal(out, frames.flatten(1, 2))
    large = steps.enlarge_pairs(x, bias).view(6, 8, 10, 4).permute(0, 3, 1, 2)
    assert torch.equal(large, nn.Upsample(scale_factor=2, mode="nearest-exact")(frames.permute(0, 3, 1, 2)))


@pytest.mark.slow
def test_one_kernel_a_step():
    """In one pass, written to where it is wanted: a copy would be a kernel more."""
    rows, bias, gamma = torch.randn(2, 30, 32).bfloat16(), torch.randn(32).bfloat16(), torch.rand(32).bfloat16()
    x, skip = rows
    place = torch.zeros(40, 32).bfloat16()
    functions = RowFunctions()
    with torch._inductor.config.patch(force_disable_caches=True):
        total, (code,) = run_and_get_code(
            functions, steps.normalise_into, x, bias, skip, gamma, place[10:], activate=True, keep=True
        )
        large, (other,) = run_and_get_code(functions, steps.enlarge_pairs, x.view(2, 3, 5, 32), bias)
    assert code.count("async_compile.cpp_pybinding(") == other.count("async_compile.cpp_pybinding(") == 1
    exact = x.float() + bias + skip
    torch.testing.assert_close(total.float(), exact, rtol=0.01, atol=0.01)
    normed = nn.functional.normalize(exact, dim=-1) * 32**0.5 * gamma
    torch.testing.assert_close(place[10:].float(), nn.functional.silu(normed), rtol=0.01, atol=0.01)
    assert not place[:10].any()
    assert large.is_contiguous()
    frames = (x.float() + bias).view(2, 3, 5, 2, 16).movedim(3, 1)
    for row, column in ((0, 0), (1, 1)):
        torch.testing.assert_close(large[:, :, :, row, :, column].float(), frames, rtol=0.01, atol=0.01)


# --- golden data -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parity
@golden.requires_golden
@pytest.mark.parametrize("name", golden.cases("vae") or ["vae_absent"])
def test_golden_video_vae(name, tmp_path):
    case = golden.load(name)
    config = {**case.meta["constructor"], **case.meta["inner_network"]}
    network = published_kit.load("video_vae", tmp_path / "wan_vae", config, case.weights)
    FusedVideoVAE(network, backend="eager")
    for sub in case.meta["encode_cases"]:
        clip = case.inputs[f"{sub}/video"]
        mean, logvar = encode_video(network, clip[:, :, : (clip.shape[2] - 1) // 4 * 4 + 1])
        golden.assert_close(mean, case.outputs[f"{sub}/mean"], 1e-5)
        golden.assert_close(logvar, case.outputs[f"{sub}/logvar"], 1e-5)
    for sub in case.meta["decode_cases"]:
        golden.assert_close(decode_video(network, case.inputs[f"{sub}/z"]), case.outputs[f"{sub}/sample"], 1e-5)


@pytest.mark.slow
@pytest.mark.parity
@golden.requires_golden
@pytest.mark.parametrize("name", golden.cases("geo_adapter") or ["geo_adapter_absent"])
def test_golden_geometry_adapter(name, tmp_path):
    case = golden.load(name)
    network = published_kit.load("geometry_adapter", tmp_path / "geo", case.meta["constructor"], case.weights)
    FusedGeometryAdapter(network, backend="eager")
    for sub in case.meta["encode_cases"]:
        mean, logvar = network.encode(case.inputs[f"{sub}/tokens"])
        golden.assert_close(mean, case.outputs[f"{sub}/mean"], 1e-5)
        golden.assert_close(logvar, case.outputs[f"{sub}/logvar"], 1e-5)
    for sub in case.meta["decode_cases"]:
        expected = case.outputs[f"{sub}/sample"]
        golden.assert_close(network.decode(case.inputs[f"{sub}/z"], expected.shape[-2:]), expected, 1e-5)
