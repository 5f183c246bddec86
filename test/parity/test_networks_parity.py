"""Single networks against the golden kit: transformer, video VAE, geometry adapter, encoders, key manifests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import golden
import published_kit
import pytest
import torch

from gen3r_core.checkpoint.components import SPECS, Config
from gen3r_core.checkpoint.keymap import match_keys
from gen3r_core.checkpoint.loading import wanted_tensors
from gen3r_core.checkpoint.tensors import TensorInfo
from gen3r_core.errors import InputError
from gen3r_core.models.video_vae import decode_video, encode_video

pytestmark = [pytest.mark.parity, golden.requires_golden]
LIMIT = 1e-5
IMAGE_ENCODER_LIMIT = 3e-5


def _cases(prefix: str) -> list[str]:
    return golden.cases(prefix) or [f"{prefix}_absent"]


@pytest.mark.parametrize("name", _cases("dit"))
def test_transformer(name: str, tmp_path: Path) -> None:
    case = golden.load(name)
    model: Any = published_kit.load("transformer", tmp_path / "transformer", case.meta["constructor"], case.weights)
    captured: dict[str, torch.Tensor] = {}
    model.blocks[0].register_forward_hook(lambda _m, _i, out: captured.__setitem__("block0", out))
    model.blocks[0].attn1.register_forward_hook(lambda _m, _i, out: captured.__setitem__("block0_self_attn", out))
    for sub, settings in case.meta["subcases"].items():
        source = settings.get("like", sub)
        inputs = {key.partition("/")[2]: v for key, v in case.inputs.items() if key.startswith(f"{source}/")}
        lengths = inputs["context_lens"].tolist()
        text = model.pad_text([row[:length] for row, length in zip(inputs["context"], lengths, strict=True)])
        image = case.inputs["clip_fea"][: len(lengths)]
        cameras = None if settings.get("nocam") else inputs.get("y_camera")
        hidden = torch.cat((inputs["x"], inputs["y"]), dim=1)
        rows, columns = (hidden.shape[3] // model.config.patch_size[1], hidden.shape[4] // model.config.patch_size[2])
        with torch.no_grad():
            sample = model(hidden, inputs["t"], text, image, cameras, side_by_side=rows != columns)
            got = {
                **captured,
                "sample": sample,
                "time_projection": model.embed_time(inputs["t"])[1].flatten(1),
                "text_embedding": model.condition_embedder.text_embedder(text),
                "img_emb_tok0_3": model.condition_embedder.image_embedder(image)[:, :4],
            }
            if cameras is not None:
                got["control_adapter"] = model.embed_cameras(cameras)
        expected = {key.partition("/")[2]: v for key, v in case.outputs.items() if key.startswith(f"{sub}/")}
        assert expected, f"no outputs of sub-case {sub}"
        for key, value in expected.items():
            golden.assert_close(got[key], value, LIMIT)


@pytest.mark.parametrize("name", _cases("vae"))
def test_video_vae(name: str, tmp_path: Path) -> None:
    case = golden.load(name)
    config = {**case.meta["constructor"], **case.meta["inner_network"]}
    vae: Any = published_kit.load("video_vae", tmp_path / "wan_vae", config, case.weights)
    with torch.no_grad():
        for sub in case.meta["encode_cases"]:
            video = case.inputs[f"{sub}/video"]
            whole = (video.shape[2] - 1) // 4 * 4 + 1
            if whole != video.shape[2]:
                with pytest.raises(InputError, match="4k\\+1 frames"):
                    encode_video(vae, video)
            mean, logvar = encode_video(vae, video[:, :, :whole])
            golden.assert_close(mean, case.outputs[f"{sub}/mean"], LIMIT)
            golden.assert_close(logvar, case.outputs[f"{sub}/logvar"], LIMIT)
        for sub in case.meta["decode_cases"]:
            sample = decode_video(vae, case.inputs[f"{sub}/z"])
            golden.assert_close(sample, case.outputs[f"{sub}/sample"], LIMIT)
            if f"{sub}/raw" in case.outputs:
                golden.assert_close(sample, case.outputs[f"{sub}/raw"].clamp(-1, 1), LIMIT)


@pytest.mark.parametrize("name", _cases("geo_adapter"))
def test_geometry_adapter(name: str, tmp_path: Path) -> None:
    case = golden.load(name)
    adapter: Any = published_kit.load("geometry_adapter", tmp_path / "geo", case.meta["constructor"], case.weights)
    with torch.no_grad():
        for sub in case.meta["encode_cases"]:
            mean, logvar = adapter.encode(case.inputs[f"{sub}/tokens"])
            golden.assert_close(mean, case.outputs[f"{sub}/mean"], LIMIT)
            golden.assert_close(logvar, case.outputs[f"{sub}/logvar"], LIMIT)
        for sub in case.meta["decode_cases"]:
            expected = case.outputs[f"{sub}/sample"]
            golden.assert_close(adapter.decode(case.inputs[f"{sub}/z"], expected.shape[-2:]), expected, LIMIT)


@pytest.mark.parametrize("name", _cases("clip"))
def test_image_encoder(name: str, tmp_path: Path) -> None:
    case = golden.load(name)
    config = {**case.meta["constructor"], **case.meta["inner_network"]}
    encoder: Any = published_kit.load("image_encoder", tmp_path / "clip", config, case.weights)
    compared = 0
    with torch.no_grad():
        for key, image in case.inputs.items():
            images = image.transpose(0, 1)
            golden.assert_close(encoder.preprocess(images), case.outputs[f"{key}/pixels"], IMAGE_ENCODER_LIMIT)
            golden.assert_close(encoder(images), case.outputs[f"{key}/context"], IMAGE_ENCODER_LIMIT)
            compared += 1
        if "all_blocks" in case.outputs:
            # One block more than the file has is "the last one, never run": then every stored block runs.
            deeper = {**config, "vision_layers": config["vision_layers"] + 1}
            every: Any = published_kit.load("image_encoder", tmp_path / "all", deeper, case.weights)
            first = next(iter(case.inputs.values())).transpose(0, 1)
            golden.assert_close(every(first), case.outputs["all_blocks"], IMAGE_ENCODER_LIMIT)
    assert compared


@pytest.mark.parametrize("name", _cases("t5"))
def test_text_encoder(name: str, tmp_path: Path) -> None:
    case = golden.load(name)
    encoder: Any = published_kit.load("text_encoder", tmp_path / "t5", case.meta["constructor"], case.weights)
    ids, mask = case.inputs["input_ids"], case.inputs["attention_mask"]
    with torch.no_grad():
        golden.assert_close(encoder(ids, mask), case.outputs["last_hidden_state"], LIMIT)
        plain = case.outputs["no_mask"]
        golden.assert_close(encoder(ids[:1, : plain.shape[1]]), plain, LIMIT)
        attention = encoder.model.encoder.block[0].layer[0].SelfAttention
        length = ids.shape[1]
        bias = attention.compute_bias(length, length)[0]
        rows = [0, length // 2, length - 1]
        golden.assert_close(bias[:, rows], case.outputs["rel_bias_block0"], LIMIT)


@pytest.mark.parametrize("manifest", golden.manifests())
def test_full_size_manifest_maps_onto_our_module(manifest: str) -> None:
    """Every key is mapped or ignored by name, every parameter of ours is filled, shapes agree."""
    content = golden.load_manifest(manifest)
    spec = next((s for s in SPECS.values() if manifest.startswith(s.published)), None)
    assert spec is not None, f"no component for {manifest}"
    values: Config = {k: v for k, v in content["config"].items() if not isinstance(v, dict | str)}
    values |= {k: v for k, v in content["config"].items() if k == "model_type"}
    infos = {key: TensorInfo(tuple(shape), torch.float32) for key, (shape, _dtype) in content["keys"].items()}
    config = spec.config_from_published(values)
    with torch.device("meta"):
        module = spec.build(config)
    keymap = spec.published_keys(values, config, infos)
    plan = match_keys(spec.name, manifest, keymap, {k: i.shape for k, i in infos.items()}, wanted_tensors(module))
    assert len(plan.assignments) + len(plan.ignored) == len(infos)
    stored = sum(torch.Size(infos[key].shape).numel() for key in plan.assignments)
    assert stored == sum(p.numel() for p in module.parameters())
