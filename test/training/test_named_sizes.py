"""Sizes of networks from the one table: the option ``size`` of every stage."""

import pytest
import torch
from room_clips import FLOW_TINY, write_parts

from gen3r_core.checkpoint.folder import scheduler_config
from gen3r_core.checkpoint.parts import gather_parts
from gen3r_core.errors import InputError
from gen3r_core.sizes import SIZES
from gen3r_core.training import geometry_adapter, transformer, vggt, video_vae
from gen3r_core.training.components import chosen_sizes
from gen3r_core.training.run import read_config

TINY = SIZES["tiny"].components
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return write_parts(tmp_path_factory.mktemp("parts"))


def test_sizes_from_the_table_with_changes():
    assert chosen_sizes("vggt", "", None, None) is None
    assert chosen_sizes("vggt", "", {"depth": 3}, "folder") == {"depth": 3}
    assert chosen_sizes("vggt", "tiny", None, None) == TINY["vggt"]
    changed = chosen_sizes("vggt", "tiny", {"camera_head": {"trunk_depth": 2}}, None)
    assert changed["camera_head"] == {"num_heads": 2, "trunk_depth": 2}
    with pytest.raises(InputError, match="vggt: options 'size' and 'initial' exclude each other"):
        chosen_sizes("vggt", "tiny", None, "folder")


def test_every_stage_takes_a_size(parts):
    vae = video_vae.from_config({"size": "tiny"}, CPU).module
    assert vae.config.base_dim == TINY["video_vae"]["base_dim"]
    small = video_vae.from_config({}, CPU).module
    assert small.config.base_dim == SIZES["small"].components["video_vae"]["base_dim"]
    network = vggt.from_config({"size": "tiny", "config": {"camera_head": {"trunk_depth": 2}}}, CPU).module
    assert network.config.embed_dim == 16
    assert len(network.camera_head.trunk) == 2
    adapter = geometry_adapter.from_config(
        {"size": "tiny", "config": {"token_channels": 160}, "vggt": str(parts), "video_vae": str(parts)}, CPU
    ).module
    assert adapter.config.hidden_dim == TINY["geometry_adapter"]["hidden_dim"]
    assert adapter.config.latents_mean == (0.0,) * 16  # not the published adapter's


def test_the_size_of_a_transformer_is_also_that_of_its_new_encoders(parts, tmp_path):
    given = {"checkpoint": str(parts), "captions": str(parts / "captions.txt"), "shift": 3.0}
    own = transformer.from_config(given | {"size": "tiny"}, CPU)
    networks = own.module
    assert networks.transformer.config.ffn_dim == TINY["transformer"]["ffn_dim"]
    assert networks.text_encoder.config.vocab_size == TINY["text_encoder"]["vocab_size"]
    assert networks.image_encoder.config.image_size == TINY["image_encoder"]["image_size"]
    own.export(tmp_path / "transformer")
    # The folder says all that a checkpoint of these parts needs.
    checkpoint = gather_parts([(None, tmp_path), (None, parts / "vggt")], {})
    assert checkpoint.scheduler == scheduler_config(tmp_path / "scheduler")
    assert checkpoint.scheduler["shift"] == 3.0
    assert checkpoint.tokenizer == tmp_path / "tokenizer"
    # Encoders with folders or sizes of their own keep these.
    changed = FLOW_TINY["image_encoder_config"]
    again = transformer.from_config(
        given | {"size": "tiny", "captions": "", "text_encoder": str(tmp_path / "text_encoder"),
                 "image_encoder_config": changed}, CPU,
    )  # fmt: skip
    assert torch.equal(again.module.text_encoder.model.shared.weight, networks.text_encoder.model.shared.weight)
    assert again.module.image_encoder.config.num_layers == changed["num_layers"]


@pytest.mark.parametrize("stage", [vggt, geometry_adapter])
def test_a_size_beside_weights_is_refused(stage, parts):
    values = {"size": "tiny", "initial": str(parts)}
    if stage is geometry_adapter:
        values |= {"vggt": str(parts), "video_vae": str(parts)}
    with pytest.raises(
        InputError, match="options 'size' and 'initial' exclude each other: sizes come with the weights"
    ):
        stage.from_config(values, CPU)


def test_the_size_can_be_said_on_the_command_line():
    config = read_config("vggt", None, ["model.size=small", "model.config.depth=4"])
    assert config.model == {"size": "small", "config": {"depth": 4}}
