"""Parts of a training on disk: whatever folder holds them."""

import json

import pytest
import torch
from torch import nn

from gen3r_core.errors import CheckpointError
from gen3r_core.training.components import complete_state, find_component, load_frozen, trained_component
from gen3r_core.training.export import export_component

SIZES = {
    "vocab_size": 16,
    "hidden_size": 8,
    "attention_size": 8,
    "intermediate_size": 8,
    "num_heads": 2,
    "num_layers": 1,
}


@pytest.fixture
def folder(tmp_path):
    module, _ = trained_component("text_encoder", SIZES, None, "cpu")
    export_component(tmp_path / "text_encoder", "text_encoder", module)
    return tmp_path


def test_a_part_is_found_by_its_folder_or_the_one_above(folder):
    for path in (folder, folder / "text_encoder", str(folder)):
        files = find_component("text_encoder", path)
        assert files.path == folder / "text_encoder"
        assert files.config == SIZES | {"num_buckets": 32, "max_distance": 128}


def test_a_checkpoint_of_our_layout_is_one(folder):
    (folder / "gen3r.json").write_text(
        json.dumps({"format": "gen3r", "format_version": 1, "defaults": {"num_frames": 5, "image_size": [112, 112]}})
    )
    assert find_component("text_encoder", folder).path == folder / "text_encoder"
    assert find_component("text_encoder", folder / "text_encoder").layout == "gen3r"
    with pytest.raises(CheckpointError, match="has no vggt"):
        find_component("vggt", folder)


def test_a_published_checkpoint_is_one(folder):
    """Its folders may have our names, but their configurations are not ours."""
    (folder / "model_index.json").write_text("{}")
    (folder / "text_encoder" / "config.json").write_text(json.dumps({"vocab": 16, "dim": 8}))
    for path in (folder, folder / "text_encoder"):
        files = find_component("text_encoder", path)
        assert files.layout == "published"
        assert files.config["hidden_size"] == 8


def test_frozen_parts_have_no_gradients(folder):
    module = load_frozen("text_encoder", folder, "cpu", torch.bfloat16)
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert {parameter.dtype for parameter in module.parameters()} == {torch.bfloat16}


def test_nothing_there(tmp_path):
    with pytest.raises(CheckpointError, match=r"vggt: folder .*x does not exist; name the folder of a trained part"):
        find_component("vggt", tmp_path / "x")
    with pytest.raises(CheckpointError, match=r"vggt: .* is not a checkpoint"):
        find_component("vggt", tmp_path)


def test_sizes_that_cannot_be_built():
    with pytest.raises(CheckpointError, match="transformer: a network of these sizes cannot be built"):
        trained_component("transformer", {"num_attention_heads": 2, "attention_head_dim": None}, None, "cpu")


def test_complete_state():
    """Averages replace weights; frozen weights stay; a tied weight follows its other name."""
    module = nn.Module()
    module.a, module.b = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    module.c = nn.Linear(2, 2, bias=False).requires_grad_(False)
    module.b.weight = module.a.weight
    average = torch.full((2, 2), 7.0)
    state = complete_state(module, {"part.a.weight": average, "other.a.weight": -average}, "part.")
    assert torch.equal(state["a.weight"], average)
    assert torch.equal(state["b.weight"], average)
    assert torch.equal(state["c.weight"], module.c.weight)
    assert complete_state(module, None) is None
