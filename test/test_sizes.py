"""Models of named sizes: the table of the small one, and configurations made from it."""

import json

import pytest
import torch

from gen3r_core.checkpoint.components import SPECS
from gen3r_core.errors import InputError
from gen3r_core.fit import check_fit
from gen3r_core.models.video_vae import encode_video
from gen3r_core.sizes import SIZES, character_tokenizer, named_config

MILLIONS = {
    "transformer": 14.5, "video_vae": 7.1, "geometry_adapter": 4.8, "vggt": 10.2, "text_encoder": 0.6,
    "image_encoder": 0.7,
}  # fmt: skip


@pytest.fixture(scope="module")
def small():
    with torch.device("meta"):
        return {name: spec.build(dict(SIZES["small"].components[name])) for name, spec in SPECS.items()}


def test_the_small_model_is_as_large_as_its_table_says(small):
    counts = {name: sum(p.numel() for p in module.parameters()) / 1e6 for name, module in small.items()}
    assert {name: round(count, 1) for name, count in counts.items()} == MILLIONS
    assert sum(counts.values()) <= 38


def test_the_small_networks_belong_together(small):
    check_fit(**small)
    assert SIZES["small"].num_frames == 17
    assert SIZES["small"].image_size == (224, 224)
    mean, _ = encode_video(small["video_vae"], torch.zeros(1, 3, 17, 224, 224, device="meta"))
    assert mean.shape == (1, 16, 5, 28, 28)  # the full model's compression
    assert small["text_encoder"].config.vocab_size >= character_tokenizer().vocab_size


@pytest.mark.parametrize("size", SIZES)
def test_every_size_is_plain_json_for_all_networks(size):
    components = SIZES[size].components
    assert set(components) == set(SPECS)
    assert json.loads(json.dumps(components)) == components


def test_a_configuration_with_changes():
    before = json.dumps(SIZES["small"].components)
    plain = named_config("small", "vggt")
    assert plain == SIZES["small"].components["vggt"]
    changed = named_config(
        "small", "vggt", {"depth": 4, "layers": [0, 1, 2, 3], "camera_head": {"trunk_depth": 2}, "rope_base": 10.0}
    )
    assert changed == plain | {
        "depth": 4,
        "layers": [0, 1, 2, 3],
        "rope_base": 10.0,
        "camera_head": plain["camera_head"] | {"trunk_depth": 2},
    }
    changed["camera_head"]["num_heads"] = 1
    changed["layers"].append(9)
    assert json.dumps(SIZES["small"].components) == before
    assert named_config("full", "vggt", {"camera_head": {"trunk_depth": 2}}) == {"camera_head": {"trunk_depth": 2}}


def test_an_unknown_size():
    with pytest.raises(InputError, match="model size 'huge' is unknown; choose one of: tiny, small, full"):
        named_config("huge", "vggt")
