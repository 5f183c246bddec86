"""Weights in 8 bits: rounding, the search for scales, and files that do not hold what they should."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import load_file, save_file

from gen3r_core.checkpoint import quantised
from gen3r_core.checkpoint.components import SPECS
from gen3r_core.checkpoint.folder import ComponentFiles, open_checkpoint
from gen3r_core.checkpoint.info import inspect_checkpoint
from gen3r_core.checkpoint.loading import load_component
from gen3r_core.checkpoint.quantised import (
    METADATA,
    QuantisedSource,
    dequantise_rows,
    dequantised,
    is_quantised,
    quantise_rows,
)
from gen3r_core.checkpoint.tensors import open_weights
from gen3r_core.errors import CheckpointError
from gen3r_core.models.image_encoder import ImageEncoder, ImageEncoderConfig

LARGEST_ONLY = (1.0,)
WIDE = 1e4


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def squared_error(weight: torch.Tensor, clips: tuple[float, ...]) -> torch.Tensor:
    """By row."""
    return (dequantise_rows(*quantise_rows(weight, clips)) - weight).square().flatten(1).sum(dim=1)


# --- rounding --------------------------------------------------------------------------------------------


def test_rounding_by_hand():
    numbers, scales = quantise_rows(torch.tensor([[127.0, -63.6, 0.4], [-2.54, 1.27, 0.0]]), LARGEST_ONLY)
    assert numbers.tolist() == [[127, -64, 0], [-127, 64, 0]]
    torch.testing.assert_close(scales, torch.tensor([1.0, 0.02]))


@settings(max_examples=200, deadline=None)
@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=1, max_dims=4, max_side=6),
        elements=st.floats(-WIDE, WIDE, width=32, allow_nan=False),
    )
)
def test_no_value_is_off_by_more_than_half_a_step(values):
    weight = torch.from_numpy(values)
    numbers, scales = quantise_rows(weight, LARGEST_ONLY)
    assert numbers.dtype == torch.int8
    assert numbers.shape == weight.shape
    assert scales.shape == weight.shape[:1]
    assert bool((scales > 0).all())
    assert int(numbers.abs().max()) <= 127
    step = scales.double().view(-1, *[1] * (weight.ndim - 1))
    error = (numbers.double() * step - weight.double()).abs()
    assert bool((error <= 0.5001 * step).all())


def test_rows_have_scales_of_their_own():
    """A small row beside a large one keeps its digits, as it would not with one scale for all."""
    weight = torch.randn(2, 300, generator=seeded()) * torch.tensor([[1e3], [1e-3]])
    back = dequantise_rows(*quantise_rows(weight))
    relative = (back - weight).norm(dim=1) / weight.norm(dim=1)
    assert bool((relative < 0.01).all())


@pytest.mark.parametrize("shape", [(8, 600), (8, 40, 3, 5), (8, 10, 3, 4, 5), (8,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_shapes_and_types(shape, dtype):
    weight = torch.randn(shape, generator=seeded()).to(dtype)
    back = dequantise_rows(*quantise_rows(weight))
    assert back.dtype == torch.float32
    assert back.shape == weight.shape
    assert float((back - weight.float()).norm() / weight.float().norm()) < 0.01


def test_blocks_give_what_the_whole_gives(monkeypatch):
    weight = torch.randn(37, 50, generator=seeded())
    whole = quantise_rows(weight)
    for block in (1, 49, 50, 51, 400):
        monkeypatch.setattr(quantised, "_BLOCK", block)
        assert all(torch.equal(a, b) for a, b in zip(quantise_rows(weight), whole, strict=True))


@pytest.mark.parametrize("value", [0.0, 1e-45, 1e-40])
def test_rows_of_nothing_or_nearly(value):
    numbers, scales = quantise_rows(torch.full((2, 20), value))
    assert bool((torch.isfinite(scales) & (scales > 0)).all())
    torch.testing.assert_close(dequantise_rows(numbers, scales), torch.full((2, 20), value), rtol=0.01, atol=1e-39)


def test_an_empty_weight():
    numbers, scales = quantise_rows(torch.zeros(0, 5))
    assert (numbers.shape, scales.shape) == ((0, 5), (0,))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_refused(value):
    weight = torch.ones(3, 20)
    weight[1, 2] = value
    with pytest.raises(CheckpointError, match="a weight is not finite and cannot be stored in 8 bits"):
        quantise_rows(weight)


# --- the search ------------------------------------------------------------------------------------------


def test_the_search_is_never_worse_than_the_largest_value_and_better_where_tails_are_heavy():
    """Measured against scaling by the largest value: rows of usual length, and long ones with a far value."""
    normal = torch.randn(64, 1152, generator=seeded(1))
    uniform = torch.rand(64, 1152, generator=seeded(2)) - 0.5
    laplacian = uniform.sign() * torch.log1p(-2 * uniform.abs().clamp(max=0.4999999))
    long = laplacian.reshape(8, -1).repeat(1, 5)
    long[:, 7] = 20.0
    gains = {}
    for name, weight in (("normal", normal), ("Laplacian", laplacian), ("long with outliers", long)):
        usual, searched = squared_error(weight, LARGEST_ONLY), squared_error(weight, quantised.CLIPS)
        assert bool((searched <= usual).all()), name
        gains[name] = float(searched.sum() / usual.sum())
    print({name: round(gain, 3) for name, gain in gains.items()})
    assert gains["normal"] < 0.99
    assert gains["Laplacian"] < 0.99
    assert gains["long with outliers"] < 0.85


def test_rounding_what_is_rounded_changes_nothing():
    weight = torch.randn(50, 300, generator=seeded()) ** 3
    numbers, scales = quantise_rows(weight)
    again, scales_again = quantise_rows(dequantise_rows(numbers, scales))
    assert torch.equal(again, numbers)
    torch.testing.assert_close(scales_again, scales, rtol=3e-7, atol=0)


@pytest.mark.parametrize(
    ("shape", "stored"),
    [
        ((320, 320), True),
        ((64, 32, 3, 3, 3), True),
        ((4096,), False),  # a vector
        ((1, 257, 192), False),  # one row: a position table
        ((4096, 2), False),  # a scale for two numbers saves nothing
        ((32, 4), False),
        ((64, 64), True),
        ((), False),
        ((0, 5), False),
    ],
)
def test_what_is_worth_it(shape, stored):
    assert is_quantised(shape) is stored


# --- files -----------------------------------------------------------------------------------------------


def contents() -> dict[str, torch.Tensor]:
    return {
        "a.weight": torch.tensor([[1, -2, 3], [127, 0, -127]], dtype=torch.int8),
        "a.weight.scale": torch.tensor([0.5, 2.0]),
        "a.bias": torch.tensor([1.0, -1.5], dtype=torch.float16),
        "steps": torch.tensor([3, 4]),
    }


def write(folder, metadata=METADATA, **changes):
    tensors = {key: value for key, value in (contents() | changes).items() if value is not None}
    save_file(tensors, folder / "model.safetensors", metadata)
    return open_weights(folder)


def test_a_file_reads_as_float32(tmp_path):
    source = dequantised(write(tmp_path))
    assert isinstance(source, QuantisedSource)
    assert {key: (info.shape, info.dtype, info.file_dtype, info.nbytes) for key, info in source.infos.items()} == {
        "a.weight": ((2, 3), torch.float32, torch.int8, 6),
        "a.bias": ((2,), torch.float32, torch.float16, 4),
        "steps": ((2,), torch.int64, torch.int64, 16),
    }
    assert source.files == [tmp_path / "model.safetensors"]
    for _ in range(2):
        assert torch.equal(source.read("a.weight"), torch.tensor([[0.5, -1, 1.5], [254, 0, -254]]))
        assert torch.equal(source.read("a.bias"), torch.tensor([1.0, -1.5]))
        assert source.read("a.bias").dtype == torch.float32
        assert torch.equal(source.read("steps"), torch.tensor([3, 4]))
        source.release("a.weight")


def test_a_file_of_floats_is_left_alone(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    source = open_weights(tmp_path)
    assert dequantised(source) is source
    torch.save({"a": torch.ones(2, dtype=torch.int8)}, tmp_path / "model.pth")
    pickled = open_weights(tmp_path / "model.pth")
    assert dequantised(pickled) is pickled


def test_scales_may_lie_in_another_shard(tmp_path):
    tensors = contents()
    for number, keys in ((1, ("a.weight", "a.bias")), (2, ("a.weight.scale", "steps"))):
        name = f"model-{number:05d}-of-00002.safetensors"
        save_file({key: tensors[key] for key in keys}, tmp_path / name, METADATA)
    assert torch.equal(dequantised(open_weights(tmp_path)).read("a.weight")[1], torch.tensor([254.0, 0, -254]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"a.weight.scale": None}, r"a\.weight is stored in 8 bits, but its scales a\.weight\.scale are missing\. Con"),
        ({"a.weight.scale": torch.ones(3)}, r"float32 of shape \[3\] instead of floats of shape \[2\], one for each r"),
        ({"a.weight.scale": torch.ones(2, 1)}, r"float32 of shape \[2, 1\] instead of floats"),
        ({"a.weight.scale": torch.ones(())}, r"float32 of shape \[\] instead of floats"),
        ({"a.weight.scale": torch.ones(2, dtype=torch.int32)}, r"int32 of shape \[2\] instead of floats"),
        ({"a.weight.scale": torch.ones(2, dtype=torch.int8)}, r"int8 of shape \[2\] instead of floats"),
        ({"a.weight.scale": torch.tensor([1.0, torch.nan])}, r"some scales in a\.weight\.scale are not finite and pos"),
        ({"a.weight.scale": torch.tensor([torch.inf, 1.0])}, "are not finite and positive"),
        ({"a.weight.scale": torch.tensor([0.0, 1.0])}, "are not finite and positive"),
        ({"a.weight.scale": torch.tensor([1.0, -1.0])}, "are not finite and positive"),
        ({"a.weight": torch.tensor(3, dtype=torch.int8)}, r"scales a\.weight\.scale are torch\.float32 of shape \[2\]"),
        ({"metadata": None}, r"model\.safetensors belongs to weights in 8 bits, but its metadata do not say how"),
        ({"metadata": {"gen3r_weights": "int4"}}, r"stores weights as 'int4'; this release reads 'int8, one scale a r"),
    ],
)
def test_damaged_files(tmp_path, changes, message):
    metadata = changes.pop("metadata", METADATA) if "metadata" in changes else METADATA
    source = write(tmp_path, metadata, **changes)
    with pytest.raises(CheckpointError, match=message):
        dequantised(source)


# --- components ------------------------------------------------------------------------------------------

CONFIG = {"image_size": 28, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2, "num_layers": 1}


@pytest.fixture
def component(tmp_path):
    """A component folder with quantised weights, written here and not by the converter; and its plain weights."""
    torch.manual_seed(0)
    plain = ImageEncoder(ImageEncoderConfig(**CONFIG)).state_dict()
    tensors = {}
    for key, value in plain.items():
        if value.ndim >= 2:
            tensors[key], tensors[f"{key}.scale"] = quantise_rows(value)
        else:
            tensors[key] = value.half()
    path = tmp_path / "image_encoder"
    path.mkdir()
    save_file(tensors, path / "model.safetensors", METADATA)
    return ComponentFiles(SPECS["image_encoder"], path, "gen3r", CONFIG), plain


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.bfloat16, torch.float64])
def test_a_component_loads_in_any_type(component, dtype):
    files, plain = component
    stored = load_file(files.path / "model.safetensors")
    module = load_component(files, dtype=dtype)
    for key, value in module.state_dict().items():
        assert value.dtype == (dtype or torch.float32)
        if f"{key}.scale" in stored:
            scale = stored[f"{key}.scale"].view(-1, *[1] * (value.ndim - 1))
            assert torch.equal(value, (stored[key].float() * scale).to(value.dtype)), key
        else:
            assert torch.equal(value, stored[key].to(value.dtype)), key
        assert float((value.float() - plain[key]).norm()) <= 0.012 * float(plain[key].norm())


def test_scales_without_their_weight_are_unexpected(component):
    files, _ = component
    tensors = load_file(files.path / "model.safetensors")
    key = "tower.encoder.layers.0.mlp.fc1.weight"
    tensors[key] = dequantise_rows(tensors[key], tensors[f"{key}.scale"])
    save_file(tensors, files.path / "model.safetensors", METADATA)
    with pytest.raises(CheckpointError, match=r"1 unexpected: tower\.encoder\.layers\.0\.mlp\.fc1\.weight\.scale\."):
        load_component(files)


def test_info_names_the_type_in_the_file_and_what_is_broken(component):
    files, _ = component
    (files.path / "config.json").write_text("{}")
    root = files.path.parent
    (root / "gen3r.json").write_text('{"format": "gen3r", "format_version": 1}')
    files.path.joinpath("config.json").write_text(str(CONFIG).replace("'", '"'))
    checkpoint = open_checkpoint(root)
    row = next(row for row in inspect_checkpoint(checkpoint)[1] if row.name == "image_encoder")
    assert row.state == "ok"
    assert row.dtype == "float16+int8"
    assert row.parameters == sum(p.numel() for p in ImageEncoder(ImageEncoderConfig(**CONFIG)).parameters())
    tensors = load_file(files.path / "model.safetensors")
    del tensors["tower.encoder.layers.0.mlp.fc1.weight.scale"]
    save_file(tensors, files.path / "model.safetensors", METADATA)
    row = next(row for row in inspect_checkpoint(root)[1] if row.name == "image_encoder")
    assert row.state == "broken"
    assert "its scales tower.encoder.layers.0.mlp.fc1.weight.scale are missing" in row.detail
