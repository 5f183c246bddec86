"""The helper that reads golden data, on a kit made here."""

import json

import golden
import pytest
import torch
from safetensors.torch import save_file

Failed = pytest.fail.Exception


@pytest.fixture
def kit(tmp_path, monkeypatch):
    monkeypatch.setattr(golden, "FOLDER", tmp_path)
    save_file(
        {
            "in/a/x": torch.arange(4, dtype=torch.float16),
            "in/plain": torch.ones(2, dtype=torch.float16),
            "in/ids": torch.tensor([1, 2]),
            "out/a/y": torch.tensor([1.0, 2.0], dtype=torch.float64),
            "weights/layer.weight": torch.ones(2, 2, dtype=torch.float16),
        },
        tmp_path / "net_tiny.safetensors",
    )
    described = {"in/a/x": {"run_as": "float64"}, "in/ids": {"run_as": "int64"}}
    (tmp_path / "net_tiny.json").write_text(json.dumps({"case": "net_tiny", "tensors": described}))
    save_file({"in/x": torch.ones(1)}, tmp_path / "net_user.safetensors")
    (tmp_path / "net_user.json").write_text(json.dumps({"weights_file": "net_tiny.safetensors"}))
    save_file({"in/x": torch.ones(1)}, tmp_path / "net_without_json.safetensors")
    return tmp_path


def test_load_strips_prefixes_and_casts(kit):
    case = golden.load("net_tiny")
    assert case.meta["case"] == "net_tiny"
    assert {name: tensor.dtype for name, tensor in case.inputs.items()} == {
        "a/x": torch.float64,
        "plain": torch.float32,
        "ids": torch.int64,
    }
    assert case.outputs["a/y"].dtype == torch.float64
    assert case.weights["layer.weight"].dtype == torch.float32
    assert case.inputs["a/x"].tolist() == [0, 1, 2, 3]


def test_a_case_borrows_the_weights_it_names(kit):
    assert list(golden.load("net_user").weights) == ["layer.weight"]


def test_cases_lists_pairs_by_prefix(kit):
    assert golden.cases("net_") == ["net_tiny", "net_user"]
    assert golden.cases("other") == []


def test_no_kit_means_no_cases(kit, monkeypatch):
    monkeypatch.setattr(golden, "FOLDER", kit / "absent")
    assert golden.cases("net_") == []


def test_an_absent_case_skips_with_a_message(kit):
    with pytest.raises(pytest.skip.Exception, match="has no case 'missing'"):
        golden.load("missing")


def test_an_unknown_group_of_tensors_is_an_error(kit):
    save_file({"input/x": torch.ones(1)}, kit / "net_tiny.safetensors")
    with pytest.raises(ValueError, match="'input/x' is neither"):
        golden.load("net_tiny")


def test_an_unknown_dtype_is_an_error(kit):
    (kit / "net_tiny.json").write_text(json.dumps({"tensors": {"in/ids": {"run_as": "nn"}}}))
    with pytest.raises(ValueError, match="'nn' is not the name of a dtype"):
        golden.load("net_tiny")


def test_the_measure_is_relative_to_the_largest_expected_value():
    expected = torch.tensor([0.0, -10.0, 1.0])
    golden.assert_close(expected + torch.tensor([1e-4, 0.0, 0.0]), expected, 1.01e-5)
    with pytest.raises(Failed, match=r"1\.000e-05 is over the limit 9\.0e-06"):
        golden.assert_close(expected.double() + torch.tensor([1e-4, 0.0, 0.0]).double(), expected, 9e-6)


def test_zeros_are_compared_absolutely():
    golden.assert_close(torch.full((3,), 1e-7), torch.zeros(3), 1e-6)
    with pytest.raises(Failed, match="over the limit"):
        golden.assert_close(torch.full((3,), 1e-5), torch.zeros(3), 1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_must_coincide(bad):
    expected = torch.tensor([1.0, bad])
    golden.assert_close(expected.clone(), expected, 1e-6)
    with pytest.raises(Failed, match="difference inf"):
        golden.assert_close(torch.tensor([1.0, 1.0]), expected, 1e-6)
    with pytest.raises(Failed, match="difference inf"):
        golden.assert_close(torch.tensor([1.0, bad]), torch.tensor([1.0, 1.0]), 1e-6)


def test_infinities_of_the_other_sign_differ():
    with pytest.raises(Failed, match="difference inf"):
        golden.assert_close(torch.tensor([-float("inf")]), torch.tensor([float("inf")]), 1e-6)


def test_shapes_must_match():
    with pytest.raises(Failed, match=r"shape \(1, 2\) where \(2,\) was expected"):
        golden.assert_close(torch.ones(1, 2), torch.ones(2), 1.0)


def test_integers_must_match_exactly_whatever_the_limit():
    expected = torch.tensor([1, 2, 300])
    golden.assert_close([1.0, 2.0, 300.0], expected, 0.0)
    with pytest.raises(Failed, match="1 of 3 integer values differ"):
        golden.assert_close(torch.tensor([1, 2, 301]), expected, 1.0)
    golden.assert_close(torch.tensor([True, False]), torch.tensor([1, 0], dtype=torch.uint8), 0.0)


def test_empty_tensors_are_close():
    golden.assert_close(torch.empty(0, 3), torch.empty(0, 3), 0.0)
