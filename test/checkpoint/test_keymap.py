"""Strictness of key maps: what is mapped, ignored by name, or named in the error."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from published_checkpoint import OUR_NAMES, SHAPES, tiny_configs

from gen3r_core.checkpoint.components import SPECS
from gen3r_core.checkpoint.keymap import (
    IDENTITY,
    Ignored,
    KeyMap,
    Rule,
    drop_front,
    match_keys,
    pad_input_channels,
    part,
)
from gen3r_core.checkpoint.loading import build_empty, load_component, wanted_tensors
from gen3r_core.checkpoint.tensors import TensorInfo
from gen3r_core.errors import CheckpointError

VAE_KEY = "model.decoder.middle.1.to_qkv.weight"


def test_a_missing_tensor_is_named_with_our_name(altered):
    files = altered("wan_vae", lambda w: w.pop("model.encoder.conv1.bias"))
    with pytest.raises(
        CheckpointError,
        match=r"video_vae: the weights in .*wan_vae do not fit the model\. 1 missing: encoder\.conv_in\.bias\. "
        r"Is this file really the component's weights, complete and of this version\?",
    ):
        load_component(files)


def test_an_unexpected_tensor_is_named(altered):
    files = altered("transformer", lambda w: w.update({"blocks.0.gate.weight": torch.zeros(2)}))
    with pytest.raises(CheckpointError, match=r"transformer: .* 1 unexpected: blocks\.0\.gate\.weight\. Is this file"):
        load_component(files)


def test_a_key_that_a_rule_maps_to_nothing_of_ours_is_unexpected(altered):
    """The rule for blocks knows the name, the module has no such block."""
    files = altered("text_encoder", lambda w: w.update({"blocks.7.norm1.weight": torch.zeros(32)}))
    with pytest.raises(CheckpointError, match=r"1 unexpected: blocks\.7\.norm1\.weight"):
        load_component(files)


def test_a_tensor_given_with_and_without_prefix_is_named(altered):
    files = altered("wan_vae", lambda w: w.update({VAE_KEY.removeprefix("model."): w[VAE_KEY].clone()}))
    with pytest.raises(
        CheckpointError, match=r"1 given twice: (model\.)?decoder\.middle\.1\.to_qkv\.weight \(as "
    ) as e:
        load_component(files)
    assert f"{VAE_KEY}" in str(e.value)


@pytest.mark.parametrize(
    ("name", "key", "shape", "message"),
    [
        ("wan_vae", VAE_KEY, (7, 32, 1, 1), r"model\.decoder\.middle\.1\.to_qkv\.weight \[7, 32, 1, 1\] instead of \["),
        ("vggt", "aggregator.camera_token", (1, 2, 16), r"aggregator\.camera_token \[1, 2, 16\] instead of \[1, 2, 1,"),
        # parts of a tensor that does not divide into equal ones
        (
            "clip_image_encoder",
            "model.visual.transformer.0.attn.to_qkv.bias",
            (95,),
            r"to_qkv\.bias \[31\] instead of \[32\]",
        ),
        ("clip_image_encoder", "model.visual.transformer.0.attn.to_qkv.bias", (1,), r"to_qkv\.bias \[1\] instead"),
        ("clip_image_encoder", "model.visual.transformer.0.attn.to_qkv.bias", (), r"to_qkv\.bias \[\] instead"),
        # as many elements in another order
        ("clip_image_encoder", "model.visual.pos_embedding", (1, 32, 5), r"\[32, 5\] instead of \[5, 32\]"),
        ("clip_image_encoder", "model.visual.cls_embedding", (2, 1, 16), r"\[2, 1, 16\] instead of \[32\]"),
    ],
)
def test_a_misshaped_tensor_is_named_with_both_shapes(altered, name, key, shape, message):
    files = altered(name, lambda w: w.update({key: torch.zeros(shape)}))
    with pytest.raises(CheckpointError, match=rf"of another shape: .*{message}") as error:
        load_component(files)
    assert str(error.value).endswith("of another size, or does its config.json belong to another one?")


def test_everything_that_does_not_fit_stands_in_one_error_and_long_lists_are_cut(altered):
    def edit(weights):
        for index in range(11):
            weights[f"extra.{index}"] = torch.zeros(1)
        del weights["norm.weight"]
        weights["blocks.1.norm2.weight"] = torch.zeros(3)

    with pytest.raises(CheckpointError) as error:
        load_component(altered("text_encoder", edit))
    text = str(error.value)
    assert "1 missing: model.encoder.final_layer_norm.weight" in text
    assert "11 unexpected: extra.0" in text
    assert "and 3 more" in text
    assert "blocks.1.norm2.weight [3] instead of [32]" in text


def test_a_checkpoint_of_another_size_says_so(altered):
    with pytest.raises(CheckpointError, match=r"of another shape: .* a checkpoint of another size"):
        load_component(altered("text_encoder", dim_ffn=96))
    with pytest.raises(CheckpointError, match=r"missing: model\.encoder\.block\.2\.layer\.0"):
        load_component(altered("text_encoder", num_layers=3))


IGNORED = {
    "vggt": {"track_head.tracker.fmap_norm.weight": "point tracking"},
    "geo_adapter": {"mean": "latent mean", "std": "latent mean", "model.mean": "latent", "model.std": "latent"},
    "clip_image_encoder": {
        "model.textual.blocks.0.attn.q.weight": "text tower",
        "model.log_scale": "temperature",
        "model.visual.transformer.1.norm1.weight": "never run",
        "model.visual.post_norm.weight": "never run",
        "model.visual.head": "joint space",
    },
    "transformer": {},
    "wan_vae": {},
    "text_encoder": {},
}


@pytest.mark.parametrize("name", SHAPES)
def test_only_named_keys_are_ignored_each_with_its_reason(altered, name):
    files = altered(name, lambda w: w.update({k: torch.zeros(1) for k in IGNORED[name] if k not in w}))
    plan = build_empty(files).plan
    for key, reason in IGNORED[name].items():
        assert reason in plan.ignored[key]
    allowed = {
        "vggt": r"track_head\..+",
        "geo_adapter": r"(model\.)?(mean|std)",
        "clip_image_encoder": r"model\.(textual\..+|log_scale|visual\.(transformer\.1\..+|post_norm\..+|head))",
    }.get(name, r"(?!)")
    assert {key for key in plan.ignored if not re.fullmatch(allowed, key)} == set()
    assert set(plan.ignored) | set(plan.assignments) == set(files.source.infos)
    assert not set(plan.ignored) & set(plan.assignments)


@pytest.mark.parametrize("name", SHAPES)
@given(data=st.data())
def test_a_misspelt_key_is_never_taken(name, data):
    """One letter of a mapped key changed: it becomes unexpected and its parameter missing."""
    values = tiny_configs()[name]
    spec = SPECS[OUR_NAMES[name]]
    found = {key: TensorInfo(shape, torch.float32) for key, shape in SHAPES[name](values).items()}
    config = spec.config_from_published(values)
    keymap = spec.published_keys(values, config, found)
    wanted = _wanted(name)
    used = sorted(key for key in found if not isinstance(keymap.lookup(key), Ignored))
    key = data.draw(st.sampled_from(used))
    place = data.draw(st.integers(0, len(key) - 1))
    letter = data.draw(st.sampled_from("XQ%"))
    changed = key[:place] + letter + key[place + 1 :]
    shapes = {changed if k == key else k: info.shape for k, info in found.items()}
    with pytest.raises(CheckpointError, match="missing") as error:
        match_keys(name, "here", keymap, shapes, wanted)
    assert f"1 unexpected: {changed}" in str(error.value)


_CACHE: dict[str, dict[str, tuple[int, ...]]] = {}


def _wanted(name):
    if name not in _CACHE:
        spec = SPECS[OUR_NAMES[name]]
        with torch.device("meta"):
            _CACHE[name] = wanted_tensors(spec.build(spec.config_from_published(tiny_configs()[name])))
    return _CACHE[name]


def test_conversions():
    rows = torch.arange(12.0).reshape(6, 2)
    assert torch.equal(part(1, 3)(rows), rows[2:4])
    assert drop_front(2)(rows.reshape(1, 1, 6, 2)).shape == (6, 2)
    assert drop_front(1)(rows).shape == (6, 2)
    padded = pad_input_channels(3)(torch.ones(2, 4, 1, 2, 2, dtype=torch.bfloat16))
    assert padded.shape == (2, 7, 1, 2, 2)
    assert padded.dtype == torch.bfloat16
    assert bool((padded[:, :4] == 1).all())
    assert bool((padded[:, 4:] == 0).all())


def test_the_first_rule_decides_and_unknown_keys_have_no_target():
    keymap = KeyMap((Rule(r"a", Ignored("why")), Rule(r"(a|b)", (r"x.\1",)), Rule(r"c", rename=lambda _m: None)))
    assert keymap.lookup("a") == Ignored("why")
    assert [target.name for target in keymap.lookup("b")] == ["x.b"]
    assert keymap.lookup("c") is None
    assert keymap.lookup("bb") is None
    assert [target.name for target in IDENTITY.lookup("any.key")] == ["any.key"]
