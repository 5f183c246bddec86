"""Conversions that are stopped on the way: nothing under the final name, and the next call goes on."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from published_checkpoint import write_published

from gen3r_core.checkpoint.components import SPECS
from gen3r_core.checkpoint.convert import convert_checkpoint
from gen3r_core.checkpoint.folder import MANIFEST, open_checkpoint
from gen3r_core.checkpoint.info import inspect_checkpoint
from gen3r_core.cli import main

ORDER = list(SPECS)
FINISHED, UNFINISHED = ORDER[:3], ORDER[3:]


class Stop:
    """Progress that interrupts in the middle of the first unfinished component."""

    def __init__(self, name: str = UNFINISHED[0]) -> None:
        self.name = name

    def __call__(self, name: str, done: int, total: int) -> None:
        if name == self.name and done > total // 2:
            raise KeyboardInterrupt


class Record:
    """Progress that notes the components that are written."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, name: str, _done: int, _total: int) -> None:
        if name not in self.names:
            self.names.append(name)


def interrupt(source: Path, destination: Path, name: str = UNFINISHED[0], dtype: torch.dtype | None = None) -> None:
    with pytest.raises(KeyboardInterrupt):
        convert_checkpoint(open_checkpoint(source), destination, dtype=dtype, progress=Stop(name))
    assert not destination.exists()


def go_on(source: Path, destination: Path, dtype: torch.dtype | None = None) -> list[str]:
    record = Record()
    convert_checkpoint(open_checkpoint(source), destination, dtype=dtype, progress=record)
    assert [path.name for path in destination.parent.glob(".partial-*")] == []
    return record.names


def assert_whole(folder: Path) -> None:
    """All parts are there, all sums are right, and no file is there that has none."""
    manifest = json.loads((folder / MANIFEST).read_text())["files"]
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    assert set(files) == {*manifest, MANIFEST}
    for name, facts in manifest.items():
        assert hashlib.sha256(files[name].read_bytes()).hexdigest() == facts["sha256"], name
    assert {row.state for row in inspect_checkpoint(folder, verify=True)[1]} == {"ok"}


def same_weights(a: Path, b: Path) -> bool:
    return all((a / n / "model.safetensors").read_bytes() == (b / n / "model.safetensors").read_bytes() for n in SPECS)


@pytest.mark.slow
def test_a_killed_conversion_goes_on_with_what_is_not_finished(published, converted, tmp_path):
    script = f"""
import sys, time
from pathlib import Path
from gen3r_core.checkpoint.convert import convert_checkpoint
from gen3r_core.checkpoint.folder import open_checkpoint

def progress(name, done, total):
    if name == {UNFINISHED[0]!r} and done > total // 2:
        print("in the middle", flush=True)
        time.sleep(60)

convert_checkpoint(open_checkpoint({str(published)!r}), Path({str(tmp_path / "own")!r}), progress=progress)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "in the middle\n"
        finally:
            os.kill(child.pid, signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    assert not (tmp_path / "own").exists()
    work = tmp_path / ".partial-own"
    assert {path.name for path in work.iterdir()} == {*FINISHED, UNFINISHED[0]}
    before = {name: (work / name / "model.safetensors").stat() for name in FINISHED}
    assert go_on(published, tmp_path / "own") == UNFINISHED
    for name, stat in before.items():
        after = (tmp_path / "own" / name / "model.safetensors").stat()
        assert (after.st_ino, after.st_mtime_ns) == (stat.st_ino, stat.st_mtime_ns)
    assert_whole(tmp_path / "own")
    assert same_weights(tmp_path / "own", converted)


def test_another_type_starts_again(published, tmp_path):
    interrupt(published, tmp_path / "own")
    assert go_on(published, tmp_path / "own", torch.bfloat16) == ORDER
    assert_whole(tmp_path / "own")


def test_a_source_that_has_changed_meanwhile_is_read_again(published, tmp_path):
    source = shutil.copytree(published, tmp_path / "source")
    interrupt(source, tmp_path / "own")
    path = source / "transformer" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes())  # as large as before, but another time
    config = source / "wan_vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_res_blocks": 2}))
    assert go_on(source, tmp_path / "own") == ["transformer", "video_vae", *UNFINISHED]
    assert_whole(tmp_path / "own")


def test_another_source_leaves_nothing_of_the_first(published, converted, tmp_path):
    """The second lacks components that the first had finished; they must not end up in the result."""
    other = write_published(tmp_path / "other", seed=5)
    shutil.rmtree(other / "wan_vae")
    shutil.rmtree(other / "tokenizer")
    interrupt(published, tmp_path / "own")
    (tmp_path / ".partial-own" / "tokenizer").mkdir()
    (tmp_path / ".partial-own" / "tokenizer" / "old.json").write_text("{}")
    (tmp_path / ".partial-own" / MANIFEST).write_text("{}")
    assert go_on(other, tmp_path / "own") == [name for name in ORDER if name != "video_vae"]
    assert not (tmp_path / "own" / "video_vae").exists()
    assert not (tmp_path / "own" / "tokenizer").exists()
    weights = [folder / "vggt" / "model.safetensors" for folder in (tmp_path / "own", converted)]
    assert weights[0].read_bytes() != weights[1].read_bytes()
    checkpoint, rows = inspect_checkpoint(tmp_path / "own", verify=True)
    assert checkpoint.layout == "gen3r"
    assert {row.name: row.state for row in rows if row.state != "ok"} == {
        "video_vae": "missing",
        "tokenizer": "missing",
    }


@pytest.mark.parametrize("damage", ["marker", "no marker", "list", "shorter", "gone"])
def test_a_component_whose_end_is_in_doubt_is_written_again(published, tmp_path, damage):
    interrupt(published, tmp_path / "own")
    folder = tmp_path / ".partial-own" / FINISHED[1]
    marker, weights = folder / "converted.json", folder / "model.safetensors"
    if damage == "marker":
        marker.write_text(marker.read_text()[:20])
    elif damage == "list":
        marker.write_text("[]")
    elif damage == "no marker":
        marker.unlink()
    elif damage == "shorter":
        weights.write_bytes(weights.read_bytes()[:-1])
    else:
        weights.unlink()
    assert go_on(published, tmp_path / "own") == [FINISHED[1], *UNFINISHED]
    assert_whole(tmp_path / "own")


def test_an_interruption_after_everything_but_the_last_step(published, tmp_path, monkeypatch):
    """Killed between the last component and the final name: only small files are written again."""

    def die(*_args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("gen3r_core.checkpoint.convert.shutil.copytree", die)
        with pytest.raises(KeyboardInterrupt):
            convert_checkpoint(open_checkpoint(published), tmp_path / "own")
    assert not (tmp_path / "own").exists()
    assert go_on(published, tmp_path / "own") == []
    assert_whole(tmp_path / "own")


def test_the_same_open_checkpoint_can_go_on(published, tmp_path):
    checkpoint = open_checkpoint(published)
    with pytest.raises(KeyboardInterrupt):
        convert_checkpoint(checkpoint, tmp_path / "own", progress=Stop())
    record = Record()
    convert_checkpoint(checkpoint, tmp_path / "own", progress=record)
    assert record.names == UNFINISHED
    assert_whole(tmp_path / "own")


def test_the_command_is_interrupted(published, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("gen3r_core.checkpoint.convert.save_file", _interrupted)
    assert main(["convert", str(published), str(tmp_path / "own")]) == 130
    assert capsys.readouterr().err.rpartition("gen3r: ")[2].startswith("interrupted")
    assert not (tmp_path / "own").exists()


def _interrupted(*_args):
    raise KeyboardInterrupt
