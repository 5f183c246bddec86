"""Writing our layout: content, sums, shards, refusals, and what does not fit the disk."""

from __future__ import annotations

import hashlib
import json
import resource
import shutil
from pathlib import Path

import pytest
import torch
from published_checkpoint import tiny_configs, write_published
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from gen3r_core.checkpoint import convert
from gen3r_core.checkpoint.components import SPECS
from gen3r_core.checkpoint.convert import convert_checkpoint
from gen3r_core.checkpoint.folder import MANIFEST, ComponentFiles, open_checkpoint
from gen3r_core.checkpoint.loading import load_component
from gen3r_core.cli import main
from gen3r_core.errors import CheckpointError, OutputError
from gen3r_core.io import atomic


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_layout_and_its_sums(converted):
    assert names_in(converted) == sorted([*SPECS, MANIFEST, "scheduler", "tokenizer"])
    manifest = json.loads((converted / MANIFEST).read_text())
    assert {key: manifest[key] for key in ("format", "format_version", "converted_from", "dtype", "defaults")} == {
        "format": "gen3r",
        "format_version": 1,
        "converted_from": "published",
        "dtype": "kept",
        "defaults": {
            "num_frames": 49,
            "image_size": [560, 560],
            "steps": 50,
            "guidance": 5.0,
            "geometry": "latents",
        },
    }
    files = [path for path in converted.rglob("*") if path.is_file() and path.name != MANIFEST]
    assert manifest["files"] == {
        path.relative_to(converted).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in files
    }
    for name in SPECS:
        assert names_in(converted / name) == ["config.json", "model.safetensors"]
        stored = load_file(converted / name / "model.safetensors")
        module = load_component(open_checkpoint(converted).component(name))
        tied = {"model.encoder.embed_tokens.weight"} if name == "text_encoder" else set()
        assert set(stored) == set(module.state_dict()) - tied
        assert {value.dtype for value in stored.values()} == {torch.float32}


def test_converting_to_bf16_halves_the_files_and_says_so(converted, tmp_path):
    convert_checkpoint(open_checkpoint(converted), tmp_path / "half", dtype=torch.bfloat16)
    manifest = json.loads((tmp_path / "half" / MANIFEST).read_text())
    assert (manifest["dtype"], manifest["converted_from"]) == ("bfloat16", "gen3r")
    stored = load_file(tmp_path / "half" / "vggt" / "model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.bfloat16}
    kept = SPECS["transformer"].keep_in_float32
    for key, value in load_file(tmp_path / "half" / "transformer" / "model.safetensors").items():
        assert value.dtype == (torch.float32 if any(part in key for part in kept) else torch.bfloat16)


def test_an_empty_destination_and_missing_parents_are_fine(published, tmp_path):
    checkpoint = open_checkpoint(published)
    (tmp_path / "empty").mkdir()
    for destination in (tmp_path / "empty", tmp_path / "a" / "b" / "own"):
        convert_checkpoint(checkpoint, destination)
        assert open_checkpoint(destination).layout == "gen3r"
    assert names_in(tmp_path) == ["a", "empty"]
    assert names_in(tmp_path / "a" / "b") == ["own"]


def test_a_relative_destination(published, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    convert_checkpoint(open_checkpoint(published), Path("../own"))
    assert names_in(tmp_path) == ["here", "own"]


def test_a_destination_in_use_is_refused_untouched(published, converted, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for destination in (tmp_path / "full", tmp_path / "file"):
        with pytest.raises(OutputError, match=rf"{destination.name} already holds something; name a folder that does"):
            convert_checkpoint(open_checkpoint(published), destination)
    with pytest.raises(OutputError, match="already holds something"):
        convert_checkpoint(open_checkpoint(converted), converted)
    assert names_in(tmp_path) == ["file", "full"]
    assert names_in(tmp_path / "full") == ["notes.txt"]


def test_shards(published, converted, tmp_path, monkeypatch):
    monkeypatch.setattr(convert, "SHARD_BYTES", 20_000)
    convert_checkpoint(open_checkpoint(published), tmp_path / "own", dtype=torch.bfloat16)
    checkpoint = open_checkpoint(tmp_path / "own")
    for name in SPECS:
        folder = tmp_path / "own" / name
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        shards = sorted(folder.glob("*.safetensors"))
        assert [path.name for path in shards] == [
            f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)
        ]
        assert len(shards) > 1
        total = 0
        for path in shards:
            with safe_open(path, framework="pt") as file:
                keys = list(file.keys())
                sizes = [file.get_tensor(key).nbytes for key in keys]
            assert {index["weight_map"][key] for key in keys} == {path.name}
            assert sum(sizes) <= 20_000 or len(sizes) == 1
            total += sum(sizes)
        assert index["metadata"]["total_size"] == total
        whole = load_component(open_checkpoint(converted).component(name), dtype=torch.bfloat16).state_dict()
        sharded = load_component(checkpoint.component(name)).state_dict()
        assert all(torch.equal(sharded[key], value) for key, value in whole.items())


def test_the_parts_of_a_joint_tensor_and_tied_ones_are_stored_apart(published, altered, tmp_path):
    """In the file's own type they are views of one tensor, which safetensors refuses to write."""

    def share(weights):
        weights["pos_embedding.embedding.weight"] = weights.pop("blocks.0.pos_embedding.embedding.weight")
        del weights["blocks.1.pos_embedding.embedding.weight"]

    shared: ComponentFiles = altered("text_encoder", share, shared_pos=True)
    shutil.copytree(published, tmp_path / "shared")
    shutil.rmtree(tmp_path / "shared" / "text_encoder")
    shutil.copytree(shared.path, tmp_path / "shared" / "text_encoder")
    convert_checkpoint(open_checkpoint(tmp_path / "shared"), tmp_path / "own")
    stored = load_file(tmp_path / "own" / "text_encoder" / "model.safetensors")
    tables = [value for key, value in stored.items() if "relative_attention_bias" in key]
    assert len(tables) == 2
    assert torch.equal(*tables)
    assert torch.equal(tables[0], shared.source.read("pos_embedding.embedding.weight"))
    q = stored_q(tmp_path / "own")
    joint = load_file(published / "clip_image_encoder" / "diffusion_pytorch_model.safetensors")
    assert torch.equal(q, joint["model.visual.transformer.0.attn.to_qkv.weight"][:32])


def stored_q(folder: Path) -> torch.Tensor:
    return load_file(folder / "image_encoder" / "model.safetensors")["tower.encoder.layers.0.self_attn.q_proj.weight"]


def test_progress_reaches_the_total_of_each_component(published, tmp_path):
    calls: dict[str, list[tuple[int, int]]] = {}
    report = lambda name, done, total: calls.setdefault(name, []).append((done, total))  # noqa: E731
    convert_checkpoint(open_checkpoint(published), tmp_path / "own", dtype=torch.float16, progress=report)
    assert list(calls) == list(SPECS)
    for name, steps in calls.items():
        done = [step for step, _ in steps]
        assert done == sorted(done)
        assert {total for _, total in steps} == {done[-1]}
        overhead = (tmp_path / "own" / name / "model.safetensors").stat().st_size - done[-1]
        assert 0 < overhead < 200_000  # the header


def test_a_source_that_does_not_fit_is_refused_before_anything_is_written(published, tmp_path):
    source = shutil.copytree(published, tmp_path / "source")
    path = source / "text_encoder" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(CheckpointError, match=r"diffusion_pytorch_model\.safetensors is truncated"):
        convert_checkpoint(open_checkpoint(source), tmp_path / "own")
    assert names_in(tmp_path) == ["source"]


def test_a_disk_that_is_too_small_is_noticed_before(published, tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "_free_space", lambda _path: 1_000_000)
    with pytest.raises(
        OutputError, match=r"cannot write .*own: 6\.\d MiB are needed and 976\.6 KiB are free there; free"
    ):
        convert_checkpoint(open_checkpoint(published), tmp_path / "own")
    assert not (tmp_path / "own").exists()


def test_a_disk_that_fills_up_on_the_way(published, tmp_path):
    """A real error of writing, by a limit on the size of files; safetensors wraps it in an error of its own."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, usual[1]))
    try:
        with pytest.raises(
            OutputError, match=r"own: File too large \(.* \(ulimit -f\) does not allow a file this larg"
        ):
            convert_checkpoint(open_checkpoint(published), tmp_path / "own")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert names_in(tmp_path) == [".partial-own"]
    convert_checkpoint(open_checkpoint(published), tmp_path / "own")
    assert names_in(tmp_path) == ["own"]


def test_an_error_of_safetensors_that_is_not_the_disks(published, tmp_path, monkeypatch):
    def refuse(*_args):
        raise SafetensorError("header too large")

    monkeypatch.setattr(convert, "save_file", refuse)
    with pytest.raises(OutputError, match=r"cannot write .*transformer.model\.safetensors: header too large"):
        convert_checkpoint(open_checkpoint(published), tmp_path / "own")


def test_a_partial_checkpoint_converts_to_a_partial_one(tmp_path):
    configs = tiny_configs()
    source = write_published(tmp_path / "source", configs={"vggt": configs["vggt"]})
    shutil.rmtree(source / "tokenizer")
    convert_checkpoint(open_checkpoint(source), tmp_path / "own")
    assert names_in(tmp_path / "own") == [MANIFEST, "scheduler", "vggt"]
    assert load_component(open_checkpoint(tmp_path / "own").component("vggt"))


# --- the command -----------------------------------------------------------------------------------------


def test_the_command(published, tmp_path, capsys):
    assert main(["convert", str(published), str(tmp_path / "own"), "--dtype", "bf16"]) == 0
    out = capsys.readouterr().out
    assert "our layout, 49 frames of 560x560" in out
    assert out.count(" ok ") == 7
    assert json.loads((tmp_path / "own" / MANIFEST).read_text())["dtype"] == "bfloat16"


def test_the_command_explains_errors_without_a_traceback(published, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    for arguments, message in (
        ([published, tmp_path / "full"], "full already holds something"),
        ([tmp_path / "absent", tmp_path / "own"], "checkpoint folder"),
        ([tmp_path / "full", tmp_path / "own"], "is not a checkpoint"),
    ):
        assert main(["convert", *map(str, arguments)]) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("gen3r: error: ")
        assert message in captured.err
        assert "Traceback" not in captured.err
        assert captured.err.count("\n") == 1


def test_wrong_arguments_exit_with_two(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["convert", "a", "b", "--dtype", "int4"])
    assert stop.value.code == 2
    assert "'int4' is no type of weights" in capsys.readouterr().err
