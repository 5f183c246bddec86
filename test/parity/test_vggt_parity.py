"""VGGT against golden data: tokens, heads, image encoder, token packing, and the full-size keys."""

from __future__ import annotations

import json
import re
from typing import Any

import golden
import pytest
import torch

from gen3r_core.models.vggt import VGGT, DinoV2Config, VGGTConfig, pack_tokens, unpack_tokens
from gen3r_core.models.vggt.dinov2 import DinoV2

LIMIT = 1e-5

pytestmark = [pytest.mark.parity, golden.requires_golden]


def load_vggt(case: golden.GoldenCase, constructor: dict[str, Any], prefix: str = "") -> VGGT:
    model = VGGT(VGGTConfig.from_published(constructor)).eval()
    weights = {key.removeprefix(prefix): value for key, value in case.weights.items() if key.startswith(prefix)}
    model.load_state_dict(weights, strict=True)
    return model


def subcases(case: golden.GoldenCase) -> list[str]:
    return sorted({key.split("/")[0] for key in case.inputs})


@pytest.mark.parametrize("name", golden.cases("vggt"))
@torch.inference_mode()
def test_vggt(name):
    case = golden.load(name)
    model = load_vggt(case, case.meta["constructor"])
    checked = set()
    for sub in subcases(case):
        images = case.inputs[f"{sub}/images"]
        wanted = {key.removeprefix(f"{sub}/") for key in case.outputs if key.startswith(f"{sub}/")}
        found = (re.fullmatch(r"tokens_layer(\d+)", key) for key in wanted)
        layers = sorted({int(match[1]) for match in found if match} | set(model.config.layers))
        tokens = dict(zip(layers, model.aggregate(images, layers=layers), strict=True))
        predicted = model(images)
        actual = {f"tokens_layer{layer}": values for layer, values in tokens.items()} | {
            "depth": predicted.depth[..., None],
            "depth_conf": predicted.depth_confidence,
            "points": predicted.points,
            "points_conf": predicted.points_confidence,
        }
        steps = sum(key.startswith("pose_enc_iter") for key in wanted)
        poses = model.camera_head(tokens[model.config.layers[-1]], num_iterations=steps)
        actual |= {f"pose_enc_iter{index}": pose for index, pose in enumerate(poses)}
        for key in wanted & set(actual):
            golden.assert_close(actual[key], case.outputs[f"{sub}/{key}"], LIMIT)
            checked.add(f"{sub}/{key}")
        if steps == model.config.camera_head.num_iterations:
            assert torch.equal(predicted.pose_encoding, poses[-1])
    assert checked == set(case.outputs)


@pytest.mark.parametrize("name", golden.cases("dinov2"))
@torch.inference_mode()
def test_dinov2(name):
    case = golden.load(name)
    config = DinoV2Config.from_published(case.meta["constructor"])
    model = DinoV2(config).eval()
    model.load_state_dict(case.weights, strict=True)
    checked = set()
    for sub in subcases(case):
        images = case.inputs[f"{sub}/images"]
        features = model(images)
        grid = (images.shape[-2] // config.patch_size, images.shape[-1] // config.patch_size)
        actual = {
            "cls_token": features.cls_token,
            "register_tokens": features.register_tokens,
            "patch_tokens": features.patch_tokens,
            "pos_embed": model.position_embedding(grid),
        }
        for key, value in actual.items():
            golden.assert_close(value, case.outputs[f"{sub}/{key}"], LIMIT)
            checked.add(f"{sub}/{key}")
    assert checked == set(case.outputs)


def test_token_packing():
    case = golden.load("functions_geometry")
    kept, everything = case.meta["settings"]["idx"], case.inputs["aggregator_layers"]
    expected = case.outputs["adapter_input"]
    packed = pack_tokens(
        [everything[layer] for layer in kept],
        (expected.shape[-2], expected.shape[-1]),
        camera_tokens=everything[-1][:, :, 0],
    )
    golden.assert_close(packed, expected, LIMIT)


def test_token_unpacking():
    case = golden.load("functions_geometry")
    token_map, expected = case.inputs["token_map"], case.outputs["token_list"]
    patches = token_map.shape[2] * token_map.shape[3]
    unpacked = unpack_tokens(
        token_map.movedim(-1, 1), special_tokens=expected.shape[3] - patches, num_layers=expected.shape[0]
    )
    golden.assert_close(torch.stack(unpacked), expected, LIMIT)


def test_full_size_keys():
    path = golden.FOLDER / "manifests" / "vggt.json"
    if not path.is_file():
        pytest.skip(f"the golden kit at {golden.FOLDER} has no manifests/vggt.json")
    manifest = json.loads(path.read_text(encoding="utf-8"))
    config = VGGTConfig.from_published(manifest["config"])
    with torch.device("meta"):
        model = VGGT(config)
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == {
        key: shape for key, (shape, _) in manifest["keys"].items()
    }
    assert sum(value.numel() for value in model.parameters()) == manifest["total_parameters"]


def test_pipeline_network_loads():
    case = golden.load("pipeline_weights")
    model = load_vggt(case, case.meta["constructors"]["vggt"], prefix="vggt/")
    assert model.config.embed_dim * 2 == model.camera_head.embed_pose.out_features
