from __future__ import annotations

import dataclasses
import json

import pytest

from gen3r_core.errors import CheckpointError
from gen3r_core.models.vggt import CameraHeadConfig, DenseHeadConfig, DinoV2Config, VGGTConfig

REDUCED = {
    "aggregator": {"img_size": 70, "patch_size": 14, "embed_dim": 48, "depth": 6, "num_heads": 4},
    "patch_embed": {"img_size": 70, "patch_size": 14, "embed_dim": 48, "depth": 2, "num_heads": 3},
    "camera_head": {"num_heads": 4, "trunk_depth": 2},
    "dpt_head": {"features": 16, "out_channels": [8, 12, 16, 20], "intermediate_layer_idx": [1, 2, 4, 5]},
}


def test_defaults_are_full_size():
    config = VGGTConfig()
    assert config.special_tokens == 5
    assert config.patch_embed.native_grid == (37, 37)
    assert config == VGGTConfig.from_published({"img_size": 518, "patch_size": 14, "embed_dim": 1024})
    assert config == VGGTConfig.from_published({}) == VGGTConfig.from_dict({})


def test_is_frozen_and_hashable(config):
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.depth = 3
    assert hash(config) == hash(dataclasses.replace(config))


def test_round_trip_through_json(config):
    assert VGGTConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_published_sections():
    config = VGGTConfig.from_published(REDUCED)
    assert (config.image_size, config.embed_dim, config.depth, config.num_heads) == (70, 48, 6, 4)
    assert config.layers == (1, 2, 4, 5)
    assert config.num_register_tokens == 4
    assert config.patch_embed == DinoV2Config(image_size=70, embed_dim=48, depth=2, num_heads=3)
    assert config.camera_head == CameraHeadConfig(num_heads=4, trunk_depth=2)
    assert config.dense_head == DenseHeadConfig(features=16, out_channels=(8, 12, 16, 20))


def test_published_patch_embedding_follows_the_aggregator():
    config = VGGTConfig.from_published({"aggregator": {"img_size": 112, "embed_dim": 512, "rope_freq": 50}})
    assert (config.patch_embed.image_size, config.patch_embed.embed_dim, config.rope_base) == (112, 512, 50)


def test_published_sizes_may_stand_in_the_patch_embedding_alone():
    config = VGGTConfig.from_published({"patch_embed": {"img_size": 224, "embed_dim": 512}, "img_size": 518})
    assert (config.image_size, config.embed_dim) == (224, 512)


def test_published_remarks_and_supported_settings_are_passed_over():
    extra = {"_class_name": "VGGT", "enable_track": True, "enable_depth": True}
    encoder = {"interpolate_antialias": True, "interpolate_offset": 0.0, "block_chunks": 0, "init_values": 1.0}
    assert VGGTConfig.from_published(extra | {"patch_embed": encoder}) == VGGTConfig()
    assert DinoV2Config.from_published(encoder) == DinoV2Config()


@pytest.mark.parametrize(
    ("published", "message"),
    [
        ({"depth": 3}, "unknown key 'depth'"),
        ({"aggregator": {"colour": 1}}, "unknown key 'aggregator.colour'"),
        ({"dpt_head": {"layers": [0]}}, "unknown key 'dpt_head.layers'"),
        ({"dpt_head": 3}, "dpt_head must be a table"),
        ({"patch_embed": {"interpolate_offset": 0.1}}, "patch_embed.interpolate_offset is 0.1, but only 0.0"),
        ({"patch_embed": {"init_values": None}}, "patch_embed.init_values must be a positive number"),
        ({"aggregator": {"qk_norm": False}}, "aggregator.qk_norm is False, but only True"),
        ({"aggregator": {"rope_freq": -1}}, "rope_base must be a positive number, got -1"),
        ({"aggregator": {"embed_dim": 64}, "patch_embed": {"embed_dim": 32}}, "embed_dim is 64 but patch_embed"),
        ([], "must be a table"),
    ],
)
def test_published_errors(published, message):
    with pytest.raises(CheckpointError, match=message):
        VGGTConfig.from_published(published)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": 1}, "unknown key 'colour'"),
        ({"camera_head": {"depth": 1}}, "unknown key 'camera_head.depth'"),
        ({"camera_head": []}, "camera_head must be a table"),
        ({"depth": 0}, "depth must be a positive whole number, got 0"),
        ({"num_heads": True}, "num_heads must be a positive whole number, got True"),
        ({"embed_dim": 16.0}, r"embed_dim must be a positive whole number, got 16\.0"),
        ({"embed_dim": 24}, "embed_dim is 24 but patch_embed.embed_dim is 16"),
        ({"patch_size": 7}, "patch_size is 7 but patch_embed.patch_size is 14"),
        ({"mlp_ratio": float("nan")}, "mlp_ratio must be a positive number, got nan"),
        ({"rope_base": "100"}, "rope_base must be a positive number, got '100'"),
        ({"num_heads": 3}, "embed_dim = 16 must be a multiple of num_heads = 3"),
        ({"num_heads": 8}, "embed_dim / num_heads = 2 must be a multiple of 4"),
        ({"layers": [0, 1, 3]}, r"layers must hold one block .* got \[0, 1, 3\]"),
        ({"layers": [0, 1, 3, 5]}, r"layers must be ascending and between 0 and depth - 1 = 4, got \[0, 1, 3, 5\]"),
        ({"layers": [0, 3, 1, 4]}, "layers must be ascending"),
        ({"layers": [0, 1, 1, 4]}, "layers must be ascending"),
        ({"layers": "0134"}, "layers must be a list of whole numbers"),
        ({"camera_head": {"num_heads": 5}}, "2 [*] embed_dim = 32 must be a multiple of camera_head.num_heads = 5"),
        ({"camera_head": {"num_heads": 2, "num_iterations": -1}}, "camera_head.num_iterations must be a positive"),
        ({"camera_head": {"mlp_ratio": 0}}, "camera_head.mlp_ratio must be a positive number"),
        ({"dense_head": {"features": 12}}, "dense_head.features = 12 must be a multiple of 8"),
        ({"dense_head": {"hidden": 0}}, "dense_head.hidden must be a positive"),
        ({"dense_head": {"out_channels": [4, 4, 4]}}, r"dense_head.out_channels must hold 4 numbers, got \[4, 4, 4\]"),
        ({"dense_head": {"out_channels": [4, 4, 4, 6]}}, "dense_head.out_channels = 6 must be a multiple of 4"),
        ({"dense_head": {"out_channels": [4, 4, 4, 0]}}, "dense_head.out_channels must be a positive"),
        (
            {"patch_embed": {"image_size": 43}},
            "patch_embed.image_size = 43 must be a multiple of patch_embed.patch_size",
        ),
        ({"patch_embed": {"embed_dim": 16, "num_heads": 3}}, "patch_embed.embed_dim = 16 must be a multiple"),
        ({"patch_embed": {"num_register_tokens": 0}}, "patch_embed.num_register_tokens must be a positive"),
        ({"patch_embed": {"mlp_ratio": float("inf")}}, "patch_embed.mlp_ratio must be a positive number, got inf"),
    ],
)
def test_impossible_values_are_named(config, changes, message):
    with pytest.raises(CheckpointError, match=message):
        VGGTConfig.from_dict(config.to_dict() | changes)
