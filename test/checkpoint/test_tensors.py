"""Weight files on disk: safetensors, shards, and pickles that must not run code."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from gen3r_core.checkpoint.tensors import open_weights
from gen3r_core.errors import CheckpointError

pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(5, dtype=torch.bfloat16)}


class Touch:
    """A pickle of this creates a folder when it is loaded carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def dumped(value, *, legacy: bool = False, **options) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=not legacy, **options)
    return buffer.getvalue()


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def assert_same(source) -> None:
    assert {key: (info.shape, info.dtype) for key, info in source.infos.items()} == {
        key: (tuple(value.shape), value.dtype) for key, value in TENSORS.items()
    }
    for key, value in TENSORS.items():
        assert torch.equal(source.read(key), value)


# --- safetensors -----------------------------------------------------------------------------------------


def test_a_single_file_or_its_folder(tmp_path):
    save_file(TENSORS, tmp_path / "model.safetensors")
    assert_same(open_weights(tmp_path / "model.safetensors"))
    source = open_weights(tmp_path)
    assert_same(source)
    assert source.files == [tmp_path / "model.safetensors"]
    source.release("a")  # a mapped tensor can be read again
    assert_same(source)


def test_every_truncation_is_noticed(tmp_path):
    whole = save(TENSORS)
    for length in range(len(whole)):
        path = write(tmp_path / "cut.safetensors", whole[:length])
        with pytest.raises(
            CheckpointError, match=rf"cut\.safetensors is truncated or not .* has {length} bytes\. Down"
        ):
            open_weights(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200))
def test_other_bytes_are_no_safetensors(tmp_path, data):
    path = write(tmp_path / "other.safetensors", data)
    with pytest.raises(CheckpointError, match="truncated or not a safetensors file"):
        open_weights(path)


def test_bytes_after_the_end_are_noticed(tmp_path):
    with pytest.raises(CheckpointError, match="truncated or not a safetensors file"):
        open_weights(write(tmp_path / "long.safetensors", save(TENSORS) + b"\0"))


def test_an_unknown_type_is_named(tmp_path):
    header = json.dumps({"x": {"dtype": "F8_E8M0", "shape": [2], "data_offsets": [0, 2]}}).encode()
    path = write(tmp_path / "new.safetensors", len(header).to_bytes(8, "little") + header + b"\0\0")
    with pytest.raises(CheckpointError, match=r"new\.safetensors stores tensors of type 'F8_E8M0', which is not suppo"):
        open_weights(path)


def test_what_cannot_be_opened(tmp_path):
    with pytest.raises(CheckpointError, match=r"absent\.safetensors does not exist"):
        open_weights(tmp_path / "absent.safetensors")
    folder = tmp_path / "f" / "model.safetensors"
    folder.mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        open_weights(tmp_path / "f")


# --- shards ----------------------------------------------------------------------------------------------


def write_shards(folder: Path, index: bool = True, stem: str = "model") -> None:
    folder.mkdir(exist_ok=True)
    names = [f"{stem}-{number:05d}-of-00002.safetensors" for number in (1, 2)]
    for name, key in zip(names, TENSORS, strict=True):
        save_file({key: TENSORS[key]}, folder / name)
    if index:
        content = {"metadata": {}, "weight_map": dict(zip(TENSORS, names, strict=True))}
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(content))


@pytest.mark.parametrize("index", [True, False])
def test_shards_with_and_without_index(tmp_path, index):
    write_shards(tmp_path, index)
    source = open_weights(tmp_path)
    assert_same(source)
    assert len(source.files) == 2


def test_an_index_leaves_other_files_alone(tmp_path):
    write_shards(tmp_path)
    save_file({"z": torch.ones(1)}, tmp_path / "other.safetensors")
    assert_same(open_weights(tmp_path))


def test_a_missing_shard_is_named(tmp_path):
    write_shards(tmp_path, index=False)
    (tmp_path / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"holds 1 of 2 shards\. Download the missing ones: model-00001-of-00002"):
        open_weights(tmp_path)


def test_an_index_that_names_an_absent_file(tmp_path):
    write_shards(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"index\.json names shards that are missing: model-00002-of-00002\.safe"):
        open_weights(tmp_path)


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}', '{"weight_map": {"a": ["x"]}}', b"\xff\xfe"],
)
def test_an_unreadable_index(tmp_path, content):
    write_shards(tmp_path)
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "model.safetensors.index.json").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"model\.safetensors\.index\.json is not a readable index of shards: "):
        open_weights(tmp_path)


def test_an_empty_index(tmp_path):
    write_shards(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    with pytest.raises(CheckpointError, match=r"index\.json names no shards"):
        open_weights(tmp_path)


def test_a_tensor_in_two_shards_is_named(tmp_path):
    write_shards(tmp_path)
    save_file(TENSORS, tmp_path / "model-00002-of-00002.safetensors")
    with pytest.raises(
        CheckpointError, match=r"tensor a is stored twice: in .*model-00002-of-00002\.safetensors and in"
    ):
        open_weights(tmp_path)


def test_a_truncated_shard_is_named(tmp_path):
    write_shards(tmp_path)
    path = tmp_path / "model-00002-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors is truncated"):
        open_weights(tmp_path)


def test_which_files_belong_together_must_be_clear(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no weights \(\*\.safetensors"):
        open_weights(tmp_path)
    save_file(TENSORS, tmp_path / "a.safetensors")
    save_file(TENSORS, tmp_path / "b.safetensors")
    with pytest.raises(CheckpointError, match=r"several weight files and no index: a\.safetensors, b\.safetensors"):
        open_weights(tmp_path)
    # Two halves of different models are no complete set, though two files say "of 2".
    (tmp_path / "a.safetensors").rename(tmp_path / "a-00001-of-00002.safetensors")
    (tmp_path / "b.safetensors").rename(tmp_path / "b-00002-of-00002.safetensors")
    with pytest.raises(CheckpointError, match="several weight files and no index"):
        open_weights(tmp_path)
    for stem in ("model", "model.fp16"):
        write_shards(tmp_path / "two", stem=stem)
    with pytest.raises(CheckpointError, match=r"several weight files and 2 index: .*Leave only those that belong"):
        open_weights(tmp_path / "two")


# --- pickles ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
@pytest.mark.parametrize(
    "nest",
    [
        lambda t: t,
        lambda t: {"state_dict": t, "epoch": 3},
        lambda t: {"model": t, "optimizer": {"lr": 0.1}},
        lambda t: {"model": {"state_dict": t}},
    ],
)
def test_pickles_of_tensors(tmp_path, legacy, suffix, nest):
    write(tmp_path / f"weights{suffix}", dumped(nest(TENSORS), legacy=legacy))
    source = open_weights(tmp_path)
    assert_same(source)
    source.release("a")
    assert source.infos["a"].shape == (2, 3)
    assert torch.equal(source.read("b"), TENSORS["b"])


def test_a_parameter_may_be_called_model(tmp_path):
    source = open_weights(write(tmp_path / "w.pth", dumped({"model": torch.ones(2), "state_dict": torch.ones(1)})))
    assert list(source.infos) == ["model", "state_dict"]


@pytest.mark.parametrize(
    "write_pickle",
    [
        dumped,
        lambda value: dumped(value, legacy=True),
        pickle.dumps,
        lambda value: pickle.dumps(value, protocol=0),
        lambda value: pickle.dumps(value, protocol=2),
        lambda value: dumped(value, pickle_protocol=4),
    ],
    ids=["zip", "legacy", "plain", "protocol 0", "protocol 2", "zip protocol 4"],
)
def test_a_pickle_that_carries_code_is_refused_and_does_not_run(tmp_path, write_pickle):
    trap = tmp_path / "trap"
    data = write_pickle({"a": torch.ones(2).tolist(), "b": Touch(trap)})
    path = write(tmp_path / "evil.pth", data)
    with pytest.raises(
        CheckpointError, match=r"evil\.pth is a pickle that holds more than tensors \(posix\.mkdir\) and was ref"
    ):
        open_weights(path)
    assert not trap.exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_the_trap_would_run(tmp_path, legacy):
    torch.load(io.BytesIO(dumped({"b": Touch(tmp_path / "trap")}, legacy=legacy)), weights_only=False)
    assert (tmp_path / "trap").exists()


@pytest.mark.parametrize(
    "value", [torch.nn.Linear(2, 2), {"state_dict": TENSORS, "args": argparse.Namespace(lr=1)}], ids=["module", "args"]
)
def test_objects_beside_tensors_are_refused_by_name(tmp_path, value):
    with pytest.raises(
        CheckpointError, match=r"more than tensors \((torch\.nn\.modules\.linear\.Linear|argparse\.Namespace)\)"
    ):
        open_weights(write(tmp_path / "w.pth", dumped(value)))


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ([torch.ones(1)], "None of type list"),
        ({3: torch.ones(1)}, "3 of type Tensor"),
        ({"a": torch.ones(1), "n": 3}, "'n' of type int"),
        ({"a": torch.eye(2).to_sparse()}, "'a' of type Tensor"),
    ],
)
def test_what_is_no_state_dict(tmp_path, value, found):
    with pytest.raises(CheckpointError, match=rf"w\.pth does not hold a state dict .* dense tensors\), but {found}"):
        open_weights(write(tmp_path / "w.pth", dumped(value)))


@pytest.mark.parametrize("data", [b"", b"<html>Not found</html>", b"hello", bytes(64), b"version https://git-lfs"])
def test_files_that_are_no_pickles(tmp_path, data):
    with pytest.raises(
        CheckpointError, match=rf"w\.pth is damaged or no file of weights .* has {len(data)} bytes\. Do"
    ):
        open_weights(write(tmp_path / "w.pth", data))


def test_another_zip_file(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("readme.txt", "no weights")
    with pytest.raises(CheckpointError, match=r"w\.pth is damaged or no file of weights \(RuntimeError: "):
        open_weights(tmp_path / "w.pth")


@pytest.mark.parametrize("legacy", [False, True])
def test_truncated_and_changed_pickles_raise_nothing_else(tmp_path, legacy):
    whole = dumped(TENSORS, legacy=legacy)
    for length in range(0, len(whole), 1 if legacy else 5):
        with pytest.raises(CheckpointError, match=r"w\.pth (is damaged|is a pickle)"):
            open_weights(write(tmp_path / "w.pth", whole[:length]))
    for place in range(0, len(whole), 2 if legacy else 5):
        changed = bytearray(whole)
        changed[place] ^= 0x55
        with contextlib.suppress(CheckpointError):  # a change in the values cannot be noticed
            open_weights(write(tmp_path / "w.pth", bytes(changed)))


def test_pickles_must_be_one_file_that_can_be_read(tmp_path):
    for name in ("a.bin", "b.bin"):
        write(tmp_path / name, dumped(TENSORS))
    with pytest.raises(CheckpointError, match=r"several weight files and no index: a\.bin, b\.bin"):
        open_weights(tmp_path)
    (tmp_path / "folder" / "w.pth").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"w\.pth cannot be read: Is a directory"):
        open_weights(tmp_path / "folder")
