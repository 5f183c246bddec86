"""The table of a checkpoint's parts, and the command that prints it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from published_checkpoint import SHAPES, tiny_configs

from gen3r_core.checkpoint.components import SPECS
from gen3r_core.checkpoint.convert import convert_checkpoint
from gen3r_core.checkpoint.folder import open_checkpoint, open_parts
from gen3r_core.checkpoint.info import format_info, inspect_checkpoint
from gen3r_core.cli import main

PARTS = [*SPECS, "tokenizer"]


def run_json(folder: Path, capsys, *options: str) -> tuple[int, dict[str, dict]]:
    code = main(["info", str(folder), "--json", *options])
    content = json.loads(capsys.readouterr().out)
    assert set(content) == {"layout", "parts"}
    return code, {part["name"]: part for part in content["parts"]}


@pytest.fixture
def copy(published, tmp_path) -> Path:
    return shutil.copytree(published, tmp_path / "checkpoint")


def test_a_complete_checkpoint(published, capsys):
    code, parts = run_json(published, capsys)
    assert code == 0
    assert list(parts) == PARTS
    assert {part["state"] for part in parts.values()} == {"ok"}
    assert parts["vggt"]["licence"] == "CC-BY-NC-4.0"
    assert parts["video_vae"]["licence"] == "Apache-2.0"
    assert parts["image_encoder"]["licence"] == "MIT"
    assert "card" in parts["transformer"]["licence"]
    configs = tiny_configs()
    for folder, name in (("transformer", "transformer"), ("wan_vae", "video_vae"), ("vggt", "vggt")):
        stored = sum(torch.Size(shape).numel() for shape in SHAPES[folder](configs[folder]).values())
        assert parts[name]["parameters"] == stored
        assert parts[name]["size_bytes"] == next((published / folder).glob("*.safetensors")).stat().st_size
        assert (parts[name]["files"], parts[name]["dtype"], parts[name]["detail"]) == (1, "float32", "")
    assert parts["image_encoder"]["detail"].endswith("tensors without use left out")


def test_the_table_for_people(published, converted, capsys):
    assert main(["info", str(published)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[0] == f"{published}: published layout, 49 frames of 560x560, 50 steps, guidance 5, geometry from latents"
    )
    assert " ".join(lines[2].split()) == "part state files size parameters dtype licence of the weights"
    assert [line.split()[0] for line in lines[3:10]] == PARTS
    columns = {line.index(f" {word} ") for line, word in zip(lines[2:10], ["state", *["ok"] * 7], strict=True)}
    assert len(columns) == 1
    assert lines[-1].startswith("image_encoder: ")
    assert main(["info", str(converted)]) == 0
    assert ": our layout, 49 frames" in capsys.readouterr().out


def test_types_are_listed_most_frequent_first(published, tmp_path, capsys):
    convert_checkpoint(open_checkpoint(published), tmp_path / "own", dtype=torch.bfloat16)
    parts = run_json(tmp_path / "own", capsys)[1]
    assert parts["vggt"]["dtype"] == "bfloat16"
    assert parts["transformer"]["dtype"] == "bfloat16+float32"


def test_what_is_missing_is_listed(copy, capsys):
    shutil.rmtree(copy / "vggt")
    shutil.rmtree(copy / "tokenizer")
    code, parts = run_json(copy, capsys)
    assert code == 1
    assert {name for name, part in parts.items() if part["state"] == "missing"} == {"vggt", "tokenizer"}
    assert parts["vggt"]["licence"] == "CC-BY-NC-4.0"
    assert main(["info", str(copy)]) == 1
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("vggt"))
    assert row.split() == ["vggt", "missing", "-", "-", "-", "-", "CC-BY-NC-4.0"]


def test_what_is_broken_is_listed_with_its_reason_and_the_rest_is_still_judged(copy, capsys):
    path = copy / "vggt" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    (copy / "wan_vae" / "config.json").write_text("{")
    config = copy / "text_encoder" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dim": 64}))
    (copy / "clip_image_encoder" / "diffusion_pytorch_model.safetensors").unlink()
    (copy / "tokenizer" / "tokenizer.json").write_text("{")
    code, parts = run_json(copy, capsys)
    assert code == 1
    assert {name for name, part in parts.items() if part["state"] == "ok"} == {"transformer", "geometry_adapter"}
    for name, reason in {
        "vggt": "model.safetensors is truncated",
        "video_vae": "config.json is not valid JSON",
        "text_encoder": "a checkpoint of another size",
        "image_encoder": "holds no weights",
        "tokenizer": "cannot be read",
    }.items():
        assert (parts[name]["state"], parts[name]["parameters"]) == ("broken", 0)
        assert reason in parts[name]["detail"]
    assert main(["info", str(copy)]) == 1
    out = capsys.readouterr().out
    assert "\nvggt: " in out
    assert "Traceback" not in out


def test_a_wan_base_folder(wan_parts, capsys):
    code, parts = run_json(wan_parts.base, capsys)
    assert code == 1
    assert (parts["transformer"]["state"], parts["tokenizer"]["state"]) == ("ok", "ok")
    assert (parts["vggt"]["state"], parts["geometry_adapter"]["state"]) == ("missing", "missing")
    assert "another size" in parts["video_vae"]["detail"]  # tiny weights, and no file that says so
    checkpoint = open_parts(wan_parts.base, wan_parts.vggt_file, wan_parts.adapter_file, configs=wan_parts.configs)
    checkpoint, rows = inspect_checkpoint(checkpoint)
    assert {row.state for row in rows} == {"ok"}
    assert {row.name: row.detail for row in rows if row.detail}.keys() == {"geometry_adapter", "vggt", "image_encoder"}
    assert "parts for training (Wan base folder)" in format_info(checkpoint, rows)


def test_looking_does_not_keep_files_open(published):
    checkpoint, _ = inspect_checkpoint(published)
    assert not any("source" in vars(files) for files in checkpoint.components.values())


# --- sums ------------------------------------------------------------------------------------------------


def test_verify_finds_a_flipped_byte_and_a_missing_file(converted, tmp_path, capsys):
    code, parts = run_json(converted, capsys, "--verify")
    assert code == 0
    assert (parts["sums"]["state"], parts["sums"]["detail"]) == ("ok", "all SHA-256 sums agree")
    own = shutil.copytree(converted, tmp_path / "own")
    path = own / "vggt" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(bytes(data))
    assert run_json(own, capsys)[0] == 0  # sizes alone do not show it
    code, parts = run_json(own, capsys, "--verify")
    assert code == 1
    assert parts["vggt"]["state"] == "ok"
    assert parts["sums"]["detail"] == "since conversion changed: vggt/model.safetensors. Convert or copy again"
    (own / "image_encoder" / "config.json").unlink()
    code, parts = run_json(own, capsys, "--verify")
    assert code == 1
    assert "config.json is missing" in parts["image_encoder"]["detail"]
    assert "missing: image_encoder/config.json; changed: vggt/model.safetensors" in parts["sums"]["detail"]


def test_verify_needs_sums(published, capsys):
    code, parts = run_json(published, capsys, "--verify")
    assert code == 1
    assert (parts["sums"]["state"], parts["sums"]["detail"]) == ("missing", "only our layout stores SHA-256 sums")


# --- errors ----------------------------------------------------------------------------------------------


def test_the_command_explains_errors_without_a_traceback(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for folder, message in ((tmp_path / "absent", "does not exist"), (tmp_path / "empty", "is not a checkpoint")):
        assert main(["info", str(folder)]) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("gen3r: error: ")
        assert message in captured.err
        assert captured.err.count("\n") == 1


def test_a_pickle_that_carries_code_does_not_run_when_looked_at(copy, capsys, tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.mkdir, (tmp_path / "trap",))

    (copy / "vggt" / "model.safetensors").unlink()
    torch.save({"a": torch.ones(1), "b": Trap()}, copy / "vggt" / "model.bin")
    code, parts = run_json(copy, capsys)
    assert code == 1
    assert "was refused: loading it could run code" in parts["vggt"]["detail"]
    assert not (tmp_path / "trap").exists()
