"""The checkpoint that is used when none is named; a tiny one stands in for the packaged weights."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from command_line import QUICK, gen3r, write_picture

from gen3r_core.checkpoint import folder as folders
from gen3r_core.checkpoint.folder import open_checkpoint
from gen3r_core.checkpoint.info import inspect_checkpoint
from gen3r_core.checkpoint.packaged import PACKAGED, packaged_folder
from gen3r_core.errors import CheckpointError
from gen3r_core.pipeline import Gen3RPipeline
from gen3r_core.prompts import PromptCache


@pytest.fixture
def packaged(converted, monkeypatch):
    monkeypatch.setattr(folders, "packaged_folder", lambda: converted)
    return converted


@pytest.fixture
def unpacked(monkeypatch, tmp_path):
    """A copy of the project without weights."""
    monkeypatch.setattr(folders, "packaged_folder", lambda: tmp_path / "small" / "weights")


def test_it_lies_in_the_package():
    assert packaged_folder().parts[-3:] == ("gen3r_core", "small", "weights")
    assert (packaged_folder().parent / "sizes.json").is_file()


def test_its_name(converted, monkeypatch):
    monkeypatch.chdir(converted)
    assert open_checkpoint(".").name == converted.name
    monkeypatch.setattr(folders, "packaged_folder", lambda: converted)
    assert open_checkpoint(None).name == PACKAGED


@pytest.mark.parametrize("name", [None, PACKAGED])
def test_naming_nothing_or_its_name(packaged, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert open_checkpoint(name).root == packaged
    assert inspect_checkpoint(name)[0].root == packaged
    assert torch.equal(
        Gen3RPipeline.from_pretrained(name).vggt.aggregator.camera_token,
        Gen3RPipeline.from_pretrained(packaged).vggt.aggregator.camera_token,
    )


def test_a_folder_of_that_name_is_that_folder(packaged, tmp_path, monkeypatch):
    other = shutil.copytree(packaged, tmp_path / PACKAGED)
    monkeypatch.chdir(tmp_path)
    assert open_checkpoint(PACKAGED).root.resolve() == other
    assert open_checkpoint().root == packaged


def test_without_weights_the_error_says_what_to_do(unpacked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = (
        r"this copy of gen3r came without the weights of gen3r-small \(.*small.weights\)\. Name a checkpoint folder; "
        r"'gen3r fetch REPO_ID FOLDER' downloads a published one"
    )
    for act in (open_checkpoint, Gen3RPipeline.from_pretrained, lambda: inspect_checkpoint(None)):
        with pytest.raises(CheckpointError, match=r"^no checkpoint was named, and " + message):
            act()
    with pytest.raises(CheckpointError, match="^" + message):
        open_checkpoint(PACKAGED)


def test_commands_without_a_checkpoint_explain_it(unpacked, tmp_path):
    picture = write_picture(tmp_path / "first.png")
    (tmp_path / "checkpoints").mkdir()  # the authors' default is a name like any other
    for command in (
        ("infer", "--prompts", "a room", "--frame_path", picture, "--output_dir", tmp_path / "out"),
        ("info",),
        ("embed-prompts", tmp_path / "prompts.safetensors", "--prompts", "a room"),
    ):
        done = gen3r(*command)
        assert done.code == 1
        assert done.err.startswith("gen3r: error: no checkpoint was named, and this copy of gen3r came without")
        assert "Traceback" not in done.err


@pytest.mark.slow
def test_commands_use_it(packaged, tmp_path):
    done = gen3r("info")
    assert done.code == 0
    assert done.out.startswith(f"{packaged}: our layout")
    cache = tmp_path / "prompts.safetensors"
    done = gen3r("embed-prompts", cache, "--prompts", "a room", "--device", "cpu")
    assert done.code == 0, done.err
    for option in ((), ("--checkpoint", PACKAGED)):
        out = tmp_path / f"out{len(option)}"
        done = gen3r("infer", *option, "--prompts", "a room", "--frame_path", write_picture(tmp_path / "first.png"),
                     "--prompt_embeds", cache, "--output_dir", out, *QUICK)  # fmt: skip
        assert done.code == 0, done.err
        assert json.loads((out / "run.json").read_text())["checkpoint"] == PACKAGED
    assert PromptCache.load(cache).get("a room").shape[1] == 32
