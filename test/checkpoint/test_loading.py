"""From files to modules: equal whatever the layout, light, and where and how they are asked for."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from published_checkpoint import NUM_FRAMES, SHAPES, SIZE
from safetensors.torch import load_file, save_file

from gen3r_core.checkpoint.components import SPECS
from gen3r_core.checkpoint.convert import convert_checkpoint
from gen3r_core.checkpoint.folder import ComponentFiles, open_checkpoint
from gen3r_core.checkpoint.loading import load_component
from gen3r_core.conditioning import Task
from gen3r_core.pipeline import Gen3RPipeline, Job, Sampling
from gen3r_core.scene import Scene

TENSORS = ("colors", "depth", "depth_confidence", "points", "point_map", "point_map_confidence", "intrinsics")


def generate(pipeline: Gen3RPipeline) -> Scene:
    images = torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    return pipeline.generate(
        Job(images, Task.TWO_VIEW, "a small room", "zoom_in"),
        Sampling(num_frames=NUM_FRAMES, size=SIZE, steps=2, point_map=True),
    )


def assert_equal_scenes(a: Scene, b: Scene) -> None:
    for name in (*TENSORS, "valid", "T_cam_world", "observed"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name


def states(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return module.state_dict(keep_vars=True)


def test_the_published_checkpoint_generates_finite_scenes_that_vary(published, network_attempts):
    """It reaches for nothing beyond the folder, the tokenizer neither; the guard is the fixture's."""
    scene = generate(Gen3RPipeline.from_pretrained(published))
    for name in TENSORS:
        value = getattr(scene, name)
        assert bool(value.isfinite().all()), name
        assert float(value.std()) > 1e-2, name
    assert network_attempts == []


def test_both_layouts_give_the_same_scene_bit_for_bit(published, converted):
    assert_equal_scenes(
        generate(Gen3RPipeline.from_pretrained(published)), generate(Gen3RPipeline.from_pretrained(converted))
    )


def test_bf16_at_loading_and_at_conversion_are_the_same(published, converted, tmp_path):
    convert_checkpoint(open_checkpoint(published), tmp_path / "one", dtype=torch.bfloat16)
    convert_checkpoint(open_checkpoint(converted), tmp_path / "two", dtype=torch.bfloat16)
    for name, spec in SPECS.items():
        loaded = states(load_component(open_checkpoint(published).component(name), dtype=torch.bfloat16))
        for folder in ("one", "two"):
            own = states(load_component(open_checkpoint(tmp_path / folder).component(name)))
            assert list(own) == list(loaded)
            for key, value in loaded.items():
                assert own[key].dtype == value.dtype
                assert torch.equal(own[key], value)
        for key, value in loaded.items():
            kept = any(part in key for part in spec.keep_in_float32)
            assert value.dtype == (torch.float32 if kept else torch.bfloat16), key
    scene = generate(Gen3RPipeline.from_pretrained(tmp_path / "one"))
    assert bool(scene.depth.isfinite().all())


def test_the_transformer_keeps_some_weights_in_float32(published):
    assert SPECS["transformer"].keep_in_float32
    files = open_checkpoint(published).component("transformer")
    for dtype in (torch.float16, torch.bfloat16):
        kinds = {value.dtype for value in states(load_component(files, dtype=dtype)).values()}
        assert kinds == {dtype, torch.float32}
    assert {v.dtype for v in states(load_component(files, dtype=torch.float64)).values()} == {torch.float64}


@pytest.mark.parametrize("name", SPECS)
def test_modules_are_ready_for_inference(published, name):
    module = load_component(open_checkpoint(published).component(name))
    assert not any(part.training for part in module.modules())
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert {value.device.type for value in [*module.parameters(), *module.buffers()]} == {"cpu"}
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", SPECS)
def test_weights_go_to_the_device_asked_for(published, name):
    """The meta device stands for any other: everything, buffers included, must have moved."""
    module = load_component(open_checkpoint(published).component(name), device="meta", dtype=torch.bfloat16)
    assert {value.device.type for value in [*module.parameters(), *module.buffers()]} == {"meta"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_pipeline_on_a_gpu(published):
    pipeline = Gen3RPipeline.from_pretrained(published, device="cuda", dtype=torch.bfloat16)
    assert pipeline.device.type == "cuda"
    assert {value.device.type for value in states(pipeline.text_encoder).values()} == {"cuda"}


def test_every_stored_number_arrives(published):
    """Independently of the key maps: the values in the files and in the modules are the same multiset."""
    checkpoint = open_checkpoint(published)
    for folder, name in zip(SHAPES, ("transformer", "video_vae", "geometry_adapter", "vggt"), strict=False):
        path = next((published / folder).glob("*.safetensors"))
        stored = torch.cat([value.flatten() for value in load_file(path).values()]).sort().values
        module = load_component(checkpoint.component(name))
        assert torch.equal(torch.cat([p.flatten() for p in module.parameters()]).sort().values, stored)


def test_the_clip_tower_gets_its_third_of_the_joint_projection(published):
    stored = load_file(published / "clip_image_encoder" / "diffusion_pytorch_model.safetensors")
    module = load_component(open_checkpoint(published).component("image_encoder"))
    attention = module.tower.encoder.layers[0].self_attn
    joint = stored["model.visual.transformer.0.attn.to_qkv.weight"]
    for index, projection in enumerate((attention.q_proj, attention.k_proj, attention.v_proj)):
        assert torch.equal(projection.weight, joint[32 * index : 32 * index + 32])
    assert len(module.tower.encoder.layers) == 1


def test_the_text_embedding_serves_under_both_names(published, converted):
    for folder in (published, converted):
        model = load_component(open_checkpoint(folder).component("text_encoder"), dtype=torch.bfloat16).model
        assert model.shared.weight.data_ptr() == model.encoder.embed_tokens.weight.data_ptr()


def test_one_position_table_for_all_blocks(altered, tmp_path):
    def share(weights):
        table = weights.pop("blocks.0.pos_embedding.embedding.weight")
        del weights["blocks.1.pos_embedding.embedding.weight"]
        weights["pos_embedding.embedding.weight"] = table

    files = altered("text_encoder", share, shared_pos=True)
    table = load_file(files.path / "diffusion_pytorch_model.safetensors")["pos_embedding.embedding.weight"]
    blocks = load_component(files).model.encoder.block
    tables = [block.layer[0].SelfAttention.relative_attention_bias.weight for block in blocks]
    assert len(tables) == 2
    assert all(torch.equal(own, table) for own in tables)
    assert tables[0].data_ptr() == tables[1].data_ptr()


def test_weights_stay_views_of_the_file_and_the_file_stays_as_it_is(converted):
    files = open_checkpoint(converted).component("vggt")
    path = converted / "vggt" / "model.safetensors"
    before = path.read_bytes()
    module = load_component(files)
    spans = _mapped_spans(path)
    for key, value in states(module).items():
        start, end = value.data_ptr(), value.data_ptr() + value.nbytes
        assert any(low <= start and end <= high for low, high in spans), f"{key} is a copy"
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    assert path.read_bytes() == before
    assert bool(states(load_component(files))["aggregator.camera_token"].any())


def _mapped_spans(path) -> list[tuple[int, int]]:
    with open("/proc/self/maps") as file:  # noqa: PTH123
        lines = [line.split() for line in file if line.rstrip().endswith(str(path))]
    return [tuple(int(side, 16) for side in line[0].split("-")) for line in lines]


def test_loading_again_from_an_open_checkpoint(published):
    checkpoint = open_checkpoint(published)
    first, second = (load_component(checkpoint.component("vggt")) for _ in range(2))
    for key, value in states(first).items():
        assert torch.equal(value, states(second)[key])


def test_progress_counts_the_bytes_of_the_file(published):
    calls: list[tuple[str, int, int]] = []
    files = open_checkpoint(published).component("text_encoder")
    load_component(files, progress=lambda *call: calls.append(call))
    total = 4 * sum(math.prod(info.shape) for info in files.source.infos.values())
    assert {name for name, _, _ in calls} == {"text_encoder"}
    assert {call[2] for call in calls} == {total}
    assert [call[1] for call in calls] == sorted({call[1] for call in calls})
    assert calls[-1][1] == total


def test_cancelling_leaves_nothing_open(published):
    files = open_checkpoint(published).component("vggt")

    def stop(*_call):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_component(files, progress=stop)
    assert "source" not in vars(files)
    assert load_component(files)


def test_sharded_components_load(published, altered: Callable[..., ComponentFiles]):
    files = altered("text_encoder")
    path = files.path / "diffusion_pytorch_model.safetensors"
    whole = states(load_component(files))
    weights = load_file(path)
    keys = sorted(weights)
    path.unlink()
    weight_map = {}
    for number in (1, 2, 3):
        name = f"diffusion_pytorch_model-{number:05d}-of-00003.safetensors"
        chosen = keys[number - 1 :: 3]
        save_file({key: weights[key] for key in chosen}, files.path / name)
        weight_map |= dict.fromkeys(chosen, name)
    index = files.path / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    for _ in range(2):
        loaded = states(load_component(files))
        assert all(torch.equal(loaded[key], value) for key, value in whole.items())
        index.unlink(missing_ok=True)


@pytest.mark.slow
def test_nothing_reaches_for_the_network_without_the_hub_being_told_to_stay_offline(published):
    """A fresh process with a guard of its own and no offline variables: what a user has."""
    script = f"""
import sys
def audit(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        raise SystemExit(f"reached for the network: {{event}} {{args[1:]}}")
sys.addaudithook(audit)
from gen3r_core.pipeline import Gen3RPipeline
pipeline = Gen3RPipeline.from_pretrained({str(published)!r})
print(pipeline.embed(["a room"])[0].shape)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "torch.Size([7, 32])\n"
