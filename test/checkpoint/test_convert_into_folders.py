"""Converting into a folder that is there already and stays: an empty one, a mounted one, the working folder."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest

from gen3r_core.checkpoint import convert
from gen3r_core.checkpoint.components import SPECS
from gen3r_core.checkpoint.convert import convert_checkpoint
from gen3r_core.checkpoint.folder import MANIFEST, open_checkpoint
from gen3r_core.checkpoint.info import inspect_checkpoint
from gen3r_core.cli import main
from gen3r_core.errors import OutputError

WHOLE = sorted([*SPECS, MANIFEST, "scheduler", "tokenizer"])


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def assert_whole(folder: Path) -> None:
    assert names_in(folder) == WHOLE
    assert {row.state for row in inspect_checkpoint(folder, verify=True)[1]} == {"ok"}


@pytest.fixture
def immovable(monkeypatch):
    """As a mounted folder: it can neither be renamed nor removed."""
    usual = convert.os.replace

    def fail(source, target):
        if Path(source).is_dir() and Path(source).name == "own":
            raise OSError(errno.EBUSY, "Device or resource busy", str(source))
        usual(source, target)

    monkeypatch.setattr(convert.os, "replace", fail)
    monkeypatch.setattr(Path, "rmdir", _busy)


def _busy(path: Path) -> None:
    raise OSError(errno.EBUSY, "Device or resource busy", str(path))


def test_an_empty_folder_is_filled_and_stays_the_same(published, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    before = own.stat().st_ino
    convert_checkpoint(open_checkpoint(published), own)
    assert own.stat().st_ino == before
    assert names_in(tmp_path) == ["own"]
    assert_whole(own)


@pytest.mark.parametrize("replace", [False, True])
def test_the_working_folder(published, converted, tmp_path, monkeypatch, capsys, replace):
    own = tmp_path / "own"
    if replace:
        shutil.copytree(converted, own)
    else:
        own.mkdir()
    monkeypatch.chdir(own)
    assert main(["convert", str(published), ".", *(["--replace"] * replace)]) == 0, capsys.readouterr().err
    assert "MiB in" in capsys.readouterr().out
    assert Path.cwd() == own
    assert_whole(Path())
    assert names_in(tmp_path) == ["own"]


@pytest.mark.usefixtures("immovable")
def test_a_folder_that_cannot_be_renamed(published, tmp_path):
    (tmp_path / "own").mkdir()
    convert_checkpoint(open_checkpoint(published), tmp_path / "own")
    assert_whole(tmp_path / "own")


@pytest.mark.parametrize("known", [False, True])
def test_a_checkpoint_that_cannot_be_renamed_is_replaced(published, converted, tmp_path, monkeypatch, request, known):
    """A mount is known beforehand; other reasons show when it is tried."""
    own = shutil.copytree(converted, tmp_path / "own")
    shutil.rmtree(own / "vggt")
    (own / MANIFEST).write_text((own / MANIFEST).read_text().replace("published", "old"))
    if known:
        monkeypatch.setattr(convert, "is_movable", lambda _: False)
    request.getfixturevalue("immovable")
    convert_checkpoint(open_checkpoint(published), own, replace=True)
    assert_whole(own)
    assert names_in(tmp_path) == ["own"]


def test_an_interrupted_conversion_into_a_folder_goes_on(published, tmp_path):
    own, written = tmp_path / "own", []
    own.mkdir()
    last = list(SPECS)[-1]

    def stop(name, _done, _total):
        if name == last:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_checkpoint(open_checkpoint(published), own, progress=stop)
    assert names_in(own) == [".partial-own"]
    convert_checkpoint(open_checkpoint(published), own, progress=lambda name, _done, _total: written.append(name))
    assert set(written) == {last}
    assert_whole(own)


def test_what_cannot_be_moved_into_a_folder_leaves_it_as_it_was(published, tmp_path, monkeypatch):
    own, usual = tmp_path / "own", Path.rename
    own.mkdir()

    def full(path, target):
        if path.name == MANIFEST and Path(target).parent == own:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return usual(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", full)
        with pytest.raises(OutputError, match="No space left"):
            convert_checkpoint(open_checkpoint(published), own)
    assert names_in(own) == [".partial-own"]
    convert_checkpoint(open_checkpoint(published), own)
    assert_whole(own)
