"""The parts as upstream's trainers load them: Wan base folder, VGGT-1B, adapter file."""

from __future__ import annotations

import shutil

import pytest
import torch
from published_checkpoint import NUM_FRAMES, SIZE, tiny_configs
from safetensors.torch import load_file

from gen3r_core.checkpoint.components import SPECS
from gen3r_core.checkpoint.convert import convert_checkpoint
from gen3r_core.checkpoint.folder import WAN_PARTS, Checkpoint, open_checkpoint, open_parts
from gen3r_core.checkpoint.loading import build_empty, load_component
from gen3r_core.cli import main
from gen3r_core.conditioning import Task
from gen3r_core.errors import CheckpointError
from gen3r_core.pipeline import Gen3RPipeline, Job, Sampling


@pytest.fixture
def parts(wan_parts) -> Checkpoint:
    return open_parts(wan_parts.base, wan_parts.vggt_file, wan_parts.adapter_file, configs=wan_parts.configs)


def test_all_parts_together_generate(parts, wan_parts):
    assert parts.layout == "parts"
    assert set(parts.components) == set(SPECS)
    assert parts.tokenizer == wan_parts.base / WAN_PARTS["tokenizer"]
    pipeline = Gen3RPipeline.from_pretrained(parts)
    images = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    scene = pipeline.generate(
        Job(images, Task.ONE_VIEW, "a room"), Sampling(num_frames=NUM_FRAMES, size=SIZE, steps=1, guidance=1.0)
    )
    assert bool(scene.depth.isfinite().all())
    assert float(scene.depth.std()) > 1e-2


def test_the_four_mask_channels_are_added_behind_as_zeros(parts, wan_parts):
    stored = load_file(wan_parts.base / "diffusion_pytorch_model.safetensors")["patch_embedding.weight"]
    assert stored.shape[1] == 32
    module = load_component(parts.component("transformer"))
    weight = module.patch_embedding.weight
    assert module.config.in_channels == weight.shape[1] == 36
    assert torch.equal(weight[:, :32], stored)
    assert not bool(weight[:, 32:].any())


def test_a_published_transformer_is_not_padded(altered):
    def narrow(weights):
        weights["patch_embedding.weight"] = weights["patch_embedding.weight"][:, :32].contiguous()

    with pytest.raises(
        CheckpointError, match=r"patch_embedding\.weight \[24, 32, 1, 2, 2\] instead of \[24, 36, 1, 2, 2\]"
    ):
        load_component(altered("transformer", narrow))


def test_a_transformer_of_36_channels_serves_as_a_part_too(altered):
    files = altered("transformer")
    module = load_component(open_parts(files.path).component("transformer"))
    assert torch.equal(module.patch_embedding.weight, files.source.read("patch_embedding.weight"))


def test_a_misshaped_patch_embedding_of_a_base_is_named(altered):
    files = altered("transformer", lambda w: w.update({"patch_embedding.weight": torch.zeros(24, 32)}))
    with pytest.raises(CheckpointError, match=r"patch_embedding\.weight \[24, 32\] instead of \[24, 36, 1, 2, 2\]"):
        load_component(open_parts(files.path).component("transformer"))


@pytest.mark.parametrize("name", ["video_vae", "text_encoder", "image_encoder"])
def test_pickled_parts_have_no_prefix_and_stay_mapped(parts, name):
    files = parts.component(name)
    assert files.path.suffix == ".pth"
    assert not any(key.startswith("model.") for key in files.source.infos)
    stored = {key: files.source.read(key) for key in build_empty(files).plan.assignments}
    numbers = torch.cat([value.flatten() for value in stored.values()]).sort().values
    module = load_component(files)
    seen = {parameter.data_ptr(): parameter for parameter in module.parameters()}
    assert torch.equal(torch.cat([p.flatten() for p in seen.values()]).sort().values, numbers)


def test_vggt_as_a_folder_and_as_a_pickle_with_track_head(wan_parts):
    file = open_parts(vggt=wan_parts.vggt_file).component("vggt")
    assert {key: reason[:14] for key, reason in build_empty(file).plan.ignored.items()} == {
        "track_head.feature_extractor.norm.weight": "point tracking",
        "track_head.tracker.corr_mlp.fc1.weight": "point tracking",
    }
    folder = open_parts(vggt=str(wan_parts.vggt_folder)).component("vggt")
    a, b = (load_component(files).state_dict() for files in (file, folder))
    assert list(a) == list(b)
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_the_adapter_file_has_bare_keys_and_constants_that_are_ignored(wan_parts):
    files = open_parts(geo_adapter=wan_parts.adapter_file).component("geometry_adapter")
    plan = build_empty(files).plan
    assert set(plan.ignored) == {"mean", "std"}
    assert "encoder.init_block.resample.1.weight" in plan.assignments
    assert load_component(files)


def test_converted_parts_equal_the_parts(parts, tmp_path):
    convert_checkpoint(parts, tmp_path / "own")
    own = open_checkpoint(tmp_path / "own")
    assert own.manifest["converted_from"] == "parts"
    assert own.tokenizer is not None
    for name in SPECS:
        a, b = (load_component(checkpoint.component(name)).state_dict() for checkpoint in (parts, own))
        assert list(a) == list(b)
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_a_base_folder_is_recognised_and_says_what_it_lacks(wan_parts):
    checkpoint = open_checkpoint(wan_parts.base)
    assert checkpoint.layout == "parts"
    with pytest.raises(
        CheckpointError, match=r"the parts around .*base lack the vggt; it is expected at a path of its"
    ):
        checkpoint.component("vggt")


def test_a_base_folder_without_one_of_its_files(wan_parts, tmp_path):
    base = shutil.copytree(wan_parts.base, tmp_path / "base")
    (base / WAN_PARTS["text_encoder"]).unlink()
    shutil.rmtree(base / "google")
    checkpoint = open_parts(base, configs=wan_parts.configs)
    assert checkpoint.tokenizer is None
    with pytest.raises(CheckpointError, match=r"lack the text_encoder; it is expected at models_t5_umt5-xxl-enc-bf16"):
        checkpoint.component("text_encoder")
    assert load_component(checkpoint.component("video_vae"))


def test_paths_that_do_not_exist_are_named(wan_parts, tmp_path):
    with pytest.raises(CheckpointError, match=r"Wan base folder .*absent does not exist"):
        open_parts(tmp_path / "absent")
    with pytest.raises(CheckpointError, match=r"vggt: .*absent\.pt does not exist"):
        open_parts(wan_parts.base, tmp_path / "absent.pt")
    with pytest.raises(CheckpointError, match=r"geometry_adapter: .*absent does not exist"):
        open_parts(wan_parts.base, geo_adapter=tmp_path / "absent")


def test_without_configurations_the_pickles_are_of_another_size(wan_parts):
    """No file of this layout states their sizes: they are taken for the full model's."""
    checkpoint = open_parts(wan_parts.base)
    assert checkpoint.component("text_encoder").config["hidden_size"] == 4096
    with pytest.raises(
        CheckpointError, match=r"video_vae: .*Wan2\.1_VAE\.pth do not fit .* checkpoint of another size"
    ):
        load_component(checkpoint.component("video_vae"))


def test_a_bad_config_beside_a_part(wan_parts, tmp_path):
    folder = shutil.copytree(wan_parts.vggt_folder, tmp_path / "vggt")
    (folder / "config.json").write_text("[")
    with pytest.raises(CheckpointError, match=r"config\.json is not valid JSON"):
        load_component(open_parts(vggt=folder).component("vggt"))
    given = open_parts(vggt=wan_parts.vggt_file, configs={"vggt": tiny_configs()["vggt"] | {"img_size": 70}})
    with pytest.raises(CheckpointError, match=r"pos_embed \[1, 17, 16\] instead of \[1, 26, 16\]"):
        load_component(given.component("vggt"))


def test_the_command_takes_the_parts(wan_parts, tmp_path, capsys):
    """A base folder that holds the transformer only, whose size its config.json states."""
    base = tmp_path / "base"
    base.mkdir()
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        shutil.copy(wan_parts.base / name, base)
    options = ["--vggt", str(wan_parts.vggt_file), "--geo_adapter", str(wan_parts.adapter_file)]
    assert main(["convert", str(base), str(tmp_path / "own"), *options]) == 0
    assert capsys.readouterr().out.count(" ok ") == 3
    own = open_checkpoint(tmp_path / "own")
    assert set(own.components) == {"transformer", "vggt", "geometry_adapter"}
    assert own.component("transformer").config["in_channels"] == 36
    assert main(["convert", str(wan_parts.base), str(tmp_path / "other"), *options]) == 1
    captured = capsys.readouterr()
    assert "checkpoint of another size" in captured.err
    assert "Traceback" not in captured.err
    assert not (tmp_path / "other").exists()
