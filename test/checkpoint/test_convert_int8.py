"""Our layout with 8-bit weights, types by component, small files, and a checkpoint that is replaced."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from gen3r_core.checkpoint.components import SPECS
from gen3r_core.checkpoint.convert import convert_checkpoint
from gen3r_core.checkpoint.folder import MANIFEST, open_checkpoint
from gen3r_core.checkpoint.info import inspect_checkpoint
from gen3r_core.checkpoint.loading import load_component
from gen3r_core.checkpoint.quantised import METADATA, SCALE_SUFFIX, is_quantised
from gen3r_core.cli import main
from gen3r_core.errors import CheckpointError, InputError, OutputError


@pytest.fixture(scope="module")
def small(converted, tmp_path_factory) -> Path:
    """The tiny checkpoint in 8 bits; never changed."""
    folder = tmp_path_factory.mktemp("int8") / "own"
    convert_checkpoint(open_checkpoint(converted), folder, dtype=torch.int8)
    return folder


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in sorted((folder / name).glob("*.safetensors")):
        found |= load_file(path)
    return found


def state(folder: Path, name: str, dtype=None) -> dict[str, torch.Tensor]:
    return load_component(open_checkpoint(folder).component(name), dtype=dtype).state_dict()


@pytest.mark.parametrize("name", SPECS)
def test_every_weight_is_in_8_bits_or_in_16(converted, small, name):
    plain, stored = weights(converted, name), weights(small, name)
    scales = {key + SCALE_SUFFIX for key, value in stored.items() if value.dtype == torch.int8}
    assert set(stored) == set(plain) | scales
    quantised = 0
    for key, value in plain.items():
        kept = any(part in key for part in SPECS[name].keep_in_float32)
        if is_quantised(tuple(value.shape)) and not kept:
            quantised += value.numel()
            assert stored[key].dtype == torch.int8
            assert stored[key + SCALE_SUFFIX].dtype == torch.float32
        else:
            assert stored[key].dtype == torch.float16, key
    small_networks = ("vggt", "text_encoder")  # most of their matrices are too small to be worth it
    assert quantised > (0 if name in small_networks else 0.5) * sum(value.numel() for value in plain.values())
    with safe_open(small / name / "model.safetensors", framework="pt") as file:
        assert file.metadata() == METADATA


@pytest.mark.parametrize("name", SPECS)
def test_weights_come_back_close_and_all_in_float32(converted, small, name):
    before = state(converted, name)
    for key, value in state(small, name).items():
        assert value.dtype == torch.float32
        assert float((value - before[key]).norm()) <= 0.012 * float(before[key].norm()), key


def test_what_is_sensitive_stays_in_16_bits_on_disk_and_float32_in_memory(small):
    key = "condition_embedder.time_proj.weight"
    assert weights(small, "transformer")[key].dtype == torch.float16
    assert state(small, "transformer", torch.bfloat16)[key].dtype == torch.float32


def test_the_manifest_says_so_and_the_sums_agree(small):
    assert json.loads((small / MANIFEST).read_text())["dtype"] == "int8"
    rows = {row.name: row for row in inspect_checkpoint(small, verify=True)[1]}
    assert {row.state for row in rows.values()} == {"ok"}
    assert set(rows["vggt"].dtype.split("+")) == {"int8", "float16"}


def test_files_are_for_everybody_who_may_read_their_configuration(small):
    for path in small.glob("*/model.safetensors"):
        assert path.stat().st_mode == (path.parent / "config.json").stat().st_mode


def test_another_type_afterwards_is_what_loading_gives(small, tmp_path):
    convert_checkpoint(open_checkpoint(small), tmp_path / "float", dtype=torch.float32)
    for name in SPECS:
        assert {value.dtype for value in weights(tmp_path / "float", name).values()} == {torch.float32}
        own = state(small, name)
        assert all(torch.equal(value, own[key]) for key, value in state(tmp_path / "float", name).items())


def test_keeping_the_type_keeps_the_numbers(small, tmp_path):
    convert_checkpoint(open_checkpoint(small), tmp_path / "again")
    for name in SPECS:
        before, after = weights(small, name), weights(tmp_path / "again", name)
        assert set(before) == set(after)
        for key, value in before.items():
            if key.endswith(SCALE_SUFFIX):
                torch.testing.assert_close(after[key], value, rtol=3e-7, atol=0)
            else:
                assert torch.equal(after[key], value), key


def test_components_have_types_of_their_own(converted, tmp_path):
    kinds = {"vggt": torch.int8, "video_vae": torch.float16}
    convert_checkpoint(open_checkpoint(converted), tmp_path / "own", dtype=kinds)
    found = {name: {value.dtype for value in weights(tmp_path / "own", name).values()} for name in SPECS}
    assert found.pop("vggt") == {torch.int8, torch.float16, torch.float32}
    assert found.pop("video_vae") == {torch.float16}
    assert set(map(frozenset, found.values())) == {frozenset({torch.float32})}
    assert json.loads((tmp_path / "own" / MANIFEST).read_text())["dtype"] == {"vggt": "int8", "video_vae": "float16"}
    with pytest.raises(InputError, match="a type of weights is given for vgt, which this checkpoint does not hold"):
        convert_checkpoint(open_checkpoint(converted), tmp_path / "other", dtype={"vgt": torch.int8})


def test_values_beyond_16_bits_are_refused_by_name(converted, tmp_path):
    source = shutil.copytree(converted, tmp_path / "source")
    (source / MANIFEST).write_text('{"format": "gen3r", "format_version": 1}')
    path = source / "vggt" / "model.safetensors"
    tensors = load_file(path)
    tensors["aggregator.camera_token"][:] = 7e4
    save_file(tensors, path)
    for kind in (torch.int8, torch.float16):
        with pytest.raises(CheckpointError, match=r"vggt: aggregator\.camera_token has values beyond 65504"):
            convert_checkpoint(open_checkpoint(source), tmp_path / "own", dtype=kind)
    key = next(key for key, value in tensors.items() if is_quantised(tuple(value.shape)))
    tensors[key][0] = torch.nan
    tensors["aggregator.camera_token"][:] = 1
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=rf"vggt: {key}: a weight is not finite"):
        convert_checkpoint(open_checkpoint(source), tmp_path / "own", dtype=torch.int8)
    assert not (tmp_path / "own").exists()


# --- small files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "limit"), [(torch.int8, 150_000), (torch.bfloat16, 400_000)])
def test_no_file_is_larger_than_asked_headers_included(converted, small, tmp_path, dtype, limit):
    convert_checkpoint(open_checkpoint(converted), tmp_path / "own", dtype=dtype, shard_bytes=limit)
    files = sorted((tmp_path / "own").rglob("*.safetensors"))
    assert len(files) > len(SPECS)
    assert max(path.stat().st_size for path in files) <= limit
    for path in files:
        stored = load_file(path)
        eights = {key for key, value in stored.items() if value.dtype == torch.int8}
        assert {key + SCALE_SUFFIX for key in eights} <= set(stored)
    if dtype == torch.int8:
        for name in SPECS:
            whole = state(small, name)
            assert all(torch.equal(value, whole[key]) for key, value in state(tmp_path / "own", name).items())


def test_a_tensor_that_no_file_can_hold_is_named(converted, tmp_path):
    with pytest.raises(InputError, match=r": \S+ alone makes a file of \d\.\d MiB, but files may have 0\.0 MiB; allow"):
        convert_checkpoint(open_checkpoint(converted), tmp_path / "own", shard_bytes=20_000)
    assert list(tmp_path.iterdir()) == []


def test_another_type_or_file_size_starts_an_interrupted_conversion_again(converted, tmp_path):
    def stop(name, _done, _total):
        if name == "vggt":
            raise KeyboardInterrupt

    written: list[str] = []
    report = lambda name, *_: written.append(name)  # noqa: E731
    for options in ({"dtype": torch.int8}, {"shard_bytes": 900_000}):
        with pytest.raises(KeyboardInterrupt):
            convert_checkpoint(open_checkpoint(converted), tmp_path / "own", **options, progress=stop)
    convert_checkpoint(open_checkpoint(converted), tmp_path / "own", dtype=torch.int8, progress=report)
    assert set(written) == set(SPECS)
    assert {row.state for row in inspect_checkpoint(tmp_path / "own", verify=True)[1]} == {"ok"}


# --- replacing -------------------------------------------------------------------------------------------


def test_a_checkpoint_of_ours_is_replaced(converted, small, tmp_path):
    for source in (converted, small):
        convert_checkpoint(open_checkpoint(source), tmp_path / "own", replace=True)
        _, rows = inspect_checkpoint(tmp_path / "own", verify=True)
        assert {row.state for row in rows} == {"ok"}
        assert {row.dtype for row in rows if row.name == "vggt"} <= {"float32", "int8+float16", "float16+int8"}
    assert list(tmp_path.iterdir()) == [tmp_path / "own"]
    assert weights(tmp_path / "own", "vggt").keys() == weights(small, "vggt").keys()
    convert_checkpoint(open_checkpoint(tmp_path / "own"), tmp_path / "own", dtype=torch.bfloat16, replace=True)
    assert {value.dtype for value in weights(tmp_path / "own", "vggt").values()} == {torch.bfloat16}


def test_nothing_else_is_replaced(converted, small, tmp_path):
    convert_checkpoint(open_checkpoint(small), tmp_path / "own")
    before = sorted(path for path in tmp_path.rglob("*"))
    with pytest.raises(OutputError, match="own already holds something"):
        convert_checkpoint(open_checkpoint(converted), tmp_path / "own")
    (tmp_path / "own" / "vggt" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"would not be replaced alone: it also holds vggt/notes\.txt; name another"):
        convert_checkpoint(open_checkpoint(converted), tmp_path / "own", replace=True)
    (tmp_path / "own" / "vggt" / "notes.txt").unlink()
    assert sorted(path for path in tmp_path.rglob("*")) == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("other", "file"):
        with pytest.raises(OutputError, match=rf"{name} holds no checkpoint that could be replaced"):
            convert_checkpoint(open_checkpoint(converted), tmp_path / name, replace=True)


def test_the_old_checkpoint_stays_until_the_new_one_is_whole(converted, small, tmp_path, monkeypatch):
    convert_checkpoint(open_checkpoint(small), tmp_path / "own")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "own").rglob("*")}

    def stop(name, _done, _total):
        if name == "image_encoder":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_checkpoint(open_checkpoint(converted), tmp_path / "own", replace=True, progress=stop)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "own").rglob("*")} == before

    renamed, usual = [], os.replace

    def fail_second(source, destination):
        renamed.append(Path(source).name)
        if len(renamed) == 2:
            raise OSError(5, "Input/output error", str(destination))
        usual(source, destination)

    with monkeypatch.context() as patch:
        patch.setattr("gen3r_core.checkpoint.convert.os.replace", fail_second)
        with pytest.raises(OutputError, match="Input/output error"):
            convert_checkpoint(open_checkpoint(converted), tmp_path / "own", replace=True)
    assert renamed == ["own", ".partial-own", ".replaced-own"]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "own").rglob("*")} == before
    convert_checkpoint(open_checkpoint(converted), tmp_path / "own", replace=True)
    assert [path.name for path in tmp_path.iterdir()] == ["own"]


# --- the command -----------------------------------------------------------------------------------------


def test_the_command_stores_parts_in_types_of_their_own_and_prints_sizes(converted, tmp_path, capsys):
    own = tmp_path / "own"
    code = main(
        [
            "convert", str(converted), str(own), "--dtype", "int8,vggt=fp16,video_vae=bfloat16",
            "--max_shard_size", "0.5", "--num_frames", "17", "--size", "224", "--licence", "Apache-2.0",
            "--steps", "12", "--guidance", "1.5", "--geometry", "frames",
        ]
    )  # fmt: skip
    assert code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("own: our layout, 17 frames of 224x224, 12 steps, guidance 1.5, geometry from frames")
    table = {line.split()[0]: line for line in lines[3:10]}
    assert set(table) == {*SPECS, "tokenizer"}
    assert all(line.endswith("Apache-2.0") for line in table.values())
    assert " float16 " in table["vggt"]
    assert " bfloat16 " in table["video_vae"]
    assert "int8" in table["transformer"]
    sizes = [path.stat().st_size for path in own.rglob("*") if path.is_file()]
    assert lines[-1] == (
        f"{sum(sizes) / 2**20:.2f} MiB in {len(sizes)} files, the largest of {max(sizes) / 2**20:.2f} MiB"
    )
    assert max(sizes) <= 2**19
    sizes = {"num_frames": 17, "image_size": [224, 224]}
    assert open_checkpoint(own).defaults == {**sizes, "steps": 12, "guidance": 1.5, "geometry": "frames"}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--dtype", "int4"], 2, "'int4' is no type of weights; choose among keep, int8, fp32"),
        (["--dtype", "vggt="], 2, "'' is no type of weights"),
        (["--dtype", "int8,fp16"], 2, "'int8,fp16' gives all parts two types"),
        (["--dtype", "vggt=int8,vggt=fp16"], 2, "gives a part two types"),
        (["--dtype", "vgt=int8"], 1, "a type of weights is given for vgt, which"),
        (["--steps", "0"], 1, "--steps must be at least 1, got 0"),
        (["--guidance", "-1"], 1, "--guidance must be 0 or more, got -1"),
        (["--max_shard_size", "0"], 1, "--max_shard_size must be positive, got 0"),
        (["--max_shard_size", "nan"], 1, "--max_shard_size must be positive, got nan"),
        (["--max_shard_size", "0.001"], 1, "alone makes a file of"),
        (["--output", "elsewhere"], 1, "name the destination once"),
        (["--num_frames", "6"], 1, "frames must be 4k+1"),
        (["--size", "0"], 1, "image height 0 is not supported"),
    ],
)
def test_wrong_options(converted, tmp_path, capsys, arguments, code, message):
    try:
        found = main(["convert", str(converted), str(tmp_path / "own"), *arguments])
    except SystemExit as stop:
        found = stop.code
    assert found == code
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
