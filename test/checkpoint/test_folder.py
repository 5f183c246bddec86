"""What a checkpoint folder holds: layouts, manifests, configurations."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from published_checkpoint import OUR_NAMES, SCHEDULER, tiny_configs

from gen3r_core.checkpoint.components import SPECS
from gen3r_core.checkpoint.folder import FORMAT_VERSION, MANIFEST, SCHEDULER_DEFAULTS, open_checkpoint, read_json
from gen3r_core.checkpoint.loading import build_empty, load_component
from gen3r_core.errors import CheckpointError
from gen3r_core.pipeline import Gen3RPipeline


@pytest.fixture
def own(converted, tmp_path) -> Path:
    """A copy of the checkpoint in our layout that a test may damage."""
    return shutil.copytree(converted, tmp_path / "own")


def edit_json(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_published_layout(published):
    checkpoint = open_checkpoint(str(published))
    assert checkpoint.layout == "published"
    assert set(checkpoint.components) == set(SPECS)
    assert checkpoint.tokenizer == published / "tokenizer"
    assert checkpoint.scheduler == {key: value for key, value in SCHEDULER.items() if not key.startswith("_")}
    usual = {"steps": 50, "guidance": 5.0, "geometry": "latents"}
    assert checkpoint.defaults == {"num_frames": 49, "image_size": [560, 560], **usual}
    for folder, name in OUR_NAMES.items():
        assert checkpoint.component(name).raw_config == tiny_configs()[folder]


def test_our_layout(converted, published):
    checkpoint = open_checkpoint(converted)
    assert checkpoint.layout == "gen3r"
    assert checkpoint.manifest["converted_from"] == "published"
    original = open_checkpoint(published)
    assert checkpoint.scheduler == original.scheduler
    for name in SPECS:
        config = original.component(name).config
        assert checkpoint.component(name).config == json.loads(json.dumps(config))


def test_a_checkpoint_without_tokenizer_and_scheduler(published, tmp_path):
    folder = tmp_path / "partial"
    folder.mkdir()
    shutil.copy(published / "model_index.json", folder)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.tokenizer is None
    assert checkpoint.scheduler == SCHEDULER_DEFAULTS
    with pytest.raises(CheckpointError, match=r"partial has no vggt \(folder 'vggt'\); 'gen3r info .*partial' lists"):
        checkpoint.component("vggt")


def test_the_missing_component_is_named_as_the_layout_calls_it(published, own):
    folder = shutil.copytree(published, own.parent / "published")
    shutil.rmtree(folder / "clip_image_encoder")
    with pytest.raises(CheckpointError, match=r"has no image_encoder \(folder 'clip_image_encoder'\)"):
        Gen3RPipeline.from_pretrained(folder)
    shutil.rmtree(own / "image_encoder")
    with pytest.raises(CheckpointError, match=r"has no image_encoder \(folder 'image_encoder'\)"):
        Gen3RPipeline.from_pretrained(own)


def test_folders_that_are_no_checkpoints(tmp_path):
    with pytest.raises(CheckpointError, match=r"checkpoint folder .*absent does not exist\. 'gen3r fetch REPO_ID"):
        open_checkpoint(tmp_path / "absent")
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match=r"file does not exist"):
        open_checkpoint(tmp_path / "file")
    with pytest.raises(
        CheckpointError,
        match=r"is not a checkpoint: it holds neither gen3r\.json \(our layout\), nor model_index\.json \(published "
        r"layout\), nor Wan2\.1_VAE\.pth",
    ):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", r"is not valid JSON: .*\. Copy or download it again"),
        (b"\xff\xff", r"is not valid JSON: 'utf-8'"),
        (b"[1]", r"must hold a JSON object, not a list"),
    ],
)
def test_bad_json(own, published, content, message):
    folder = shutil.copytree(published, own.parent / "published")
    for root, name in ((folder, "model_index.json"), (own, MANIFEST)):
        kept = (root / name).read_bytes()
        (root / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"{name} {message}"):
            open_checkpoint(root)
        (root / name).write_bytes(kept)
    (folder / "scheduler" / "scheduler_config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"scheduler_config\.json {message}"):
        open_checkpoint(folder)


def test_a_bad_config_concerns_its_own_component_only(published, tmp_path):
    folder = shutil.copytree(published, tmp_path / "published")
    (folder / "vggt" / "config.json").write_text("{")
    checkpoint = open_checkpoint(folder)
    with pytest.raises(CheckpointError, match=r"vggt.config\.json is not valid JSON"):
        load_component(checkpoint.component("vggt"))
    with pytest.raises(CheckpointError, match=r"vggt.config\.json is not valid JSON"):
        _ = checkpoint.component("vggt").config
    assert load_component(checkpoint.component("image_encoder"))


def test_a_json_file_that_cannot_be_read(tmp_path):
    with pytest.raises(CheckpointError, match=rf"{tmp_path.name} cannot be read: Is a directory"):
        read_json(tmp_path)


@pytest.mark.parametrize(
    "change", [{"format_version": FORMAT_VERSION + 1}, {"format_version": None}, {"format": "other"}]
)
def test_another_version_of_our_layout(own, change):
    edit_json(own / MANIFEST, **change)
    with pytest.raises(
        CheckpointError,
        match=rf"gen3r\.json has format '.*', version .*; this release reads version {FORMAT_VERSION}\. Convert the",
    ):
        open_checkpoint(own)


@pytest.mark.parametrize(
    "change",
    [
        {"files": [1]},
        {"files": {"vggt/config.json": 3}},
        {"files": {"vggt/config.json": {"bytes": "3", "sha256": ""}}},
        {"files": {"../outside": {"bytes": 3, "sha256": ""}}},
        {"files": {"/etc/hostname": {"bytes": 3, "sha256": ""}}},
        {"defaults": {"num_frames": "5"}},
        {"defaults": {"image_size": [560]}},
        {"defaults": {"image_size": 560}},
        {"defaults": {"steps": 0}},
        {"defaults": {"steps": 2.5}},
        {"defaults": {"guidance": -1}},
        {"defaults": {"guidance": "much"}},
        {"defaults": {"geometry": "pictures"}},
        {"defaults": None},
        {"licences": ["MIT"]},
        {"licences": {"vggt": 3}},
    ],
)
def test_a_damaged_manifest(own, change):
    edit_json(own / MANIFEST, **change)
    with pytest.raises(CheckpointError, match=r"gen3r\.json is damaged \(.*\)\. Convert the original checkpoint again"):
        open_checkpoint(own)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_of_another_size_or_missing(own, name):
    path = own / "vggt" / name
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        CheckpointError, match=rf"{name} has {size - 1} bytes instead of {size}: it is truncated or was changed"
    ):
        load_component(open_checkpoint(own).component("vggt"))
    path.unlink()
    with pytest.raises(CheckpointError, match=rf"{name} is missing, but gen3r\.json lists it\. Copy the checkpoint"):
        build_empty(open_checkpoint(own).component("vggt"))
    assert load_component(open_checkpoint(own).component("image_encoder"))


@pytest.mark.parametrize("name", ["tokenizer/tokenizer.json", "scheduler/scheduler_config.json"])
def test_small_parts_are_checked_at_once(own, name):
    (own / name).unlink()
    with pytest.raises(CheckpointError, match=rf"{name} is missing, but gen3r\.json lists it"):
        open_checkpoint(own)


def test_a_tokenizer_that_is_not_needed_may_be_absent(own):
    shutil.rmtree(own / "tokenizer")
    assert open_checkpoint(own).tokenizer is None


# --- configurations --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPECS)
def test_unknown_keys_of_our_config_are_named(own, name):
    path = own / name / "config.json"
    text = json.dumps(json.loads(path.read_text()) | {"colour": 3})
    path.write_text(text)
    manifest = json.loads((own / MANIFEST).read_text())
    manifest["files"][f"{name}/config.json"]["bytes"] = len(text)
    (own / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"unknown key.*colour.*known are"):
        build_empty(open_checkpoint(own).component(name))


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("transformer", {"model_type": "t2v"}, r"model_type = 't2v' in config\.json; only 'i2v' is supported"),
        ("transformer", {"qk_norm": False}, r"qk_norm = False in config\.json; only True is supported"),
        ("transformer", {"add_ref_conv": True}, r"add_ref_conv = True .* only False is supported"),
        ("transformer", {"window_size": (4, 4)}, r"window_size = \(4, 4\) .* only \[-1, -1\] is supported"),
        ("transformer", {"num_heads": 5}, r"dim 24 is not a multiple of num_heads 5"),
        ("wan_vae", {"spacial_compression_ratio": 16}, r"compression ratios \(4, 16\) are not the supported \(4, 8\)"),
        ("geo_adapter", {"output_dim": 80}, r"input_dim 160 and output_dim 80 differ"),
        ("geo_adapter", {"temporal_compression_ratio": 1}, r"compression ratios \(1, 8\) are not the supported"),
        ("vggt", {"colour": 3}, r"unknown key 'colour'"),
        ("vggt", {"aggregator": {"qk_norm": False}}, r"aggregator\.qk_norm is False, but only True is supported"),
        ("vggt", {"embed_dim": 18}, r"must be a multiple of 4"),
    ],
)
def test_published_configs_that_are_not_supported(altered, name, config, message):
    with pytest.raises(CheckpointError, match=message):
        build_empty(altered(name, **config))


def test_a_transformer_without_camera_adapter(altered):
    def drop(weights):
        for key in [key for key in weights if key.startswith("control_adapter.")]:
            del weights[key]

    module = load_component(altered("transformer", drop, add_control_adapter=False))
    assert module.camera_adapter is None
    with pytest.raises(CheckpointError, match=r"6 unexpected: control_adapter\.conv\.bias"):
        load_component(altered("transformer", add_control_adapter=False))
    with pytest.raises(CheckpointError, match=r"6 missing: camera_adapter\."):
        load_component(altered("transformer", drop))


@pytest.mark.parametrize("name", SPECS)
def test_a_module_says_the_configuration_it_was_built_from(converted, name):
    files = open_checkpoint(converted).component(name)
    assert json.loads(json.dumps(SPECS[name].config_of(load_component(files)))).items() >= files.config.items()
