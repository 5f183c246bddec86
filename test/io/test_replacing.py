"""A folder that is replaced as a whole, on systems that can exchange names and on others."""

import errno
import os
import shutil
import subprocess

import pytest

from gen3r_core.errors import OutputError
from gen3r_core.io import replacing
from gen3r_core.io.replacing import replaced_folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write(folder, text):
    with replaced_folder(folder) as new:
        (new / "sub").mkdir()
        (new / "sub" / text).write_text(text)


def unable(code):
    def exchange(one, _other):
        raise OSError(code, os.strerror(code), str(one))

    return exchange


@pytest.mark.parametrize("code", [None, errno.ENOSYS, errno.EINVAL])
def test_new_and_again(tmp_path, monkeypatch, code):
    if code is not None:
        monkeypatch.setattr(replacing, "_exchange", unable(code))
    write(tmp_path / "a" / "b", "one")
    write(tmp_path / "a" / "b", "two")
    assert names(tmp_path / "a" / "b" / "sub") == ["two"]
    assert names(tmp_path / "a") == ["b"]


def test_names_are_exchanged_at_once(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").touch()
    (tmp_path / "b").mkdir()
    replacing._exchange(tmp_path / "b", tmp_path / "a")
    assert (names(tmp_path / "a"), names(tmp_path / "b")) == ([], ["old"])
    with pytest.raises(FileNotFoundError):
        replacing._exchange(tmp_path / "b", tmp_path / "none")


def test_a_c_library_without_the_call(tmp_path, monkeypatch):
    monkeypatch.setattr(replacing.ctypes, "CDLL", lambda *_, **__: object())
    with pytest.raises(OSError, match="not implemented"):
        replacing._exchange(tmp_path, tmp_path)


def test_the_old_one_comes_back_if_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    write(tmp_path / "a", "one")

    def gone(one, _other):  # as if somebody had cleared it away
        replacing.shutil.rmtree(one)
        raise OSError(errno.ENOTSUP, "cannot", str(one))

    monkeypatch.setattr(replacing, "_exchange", gone)
    with pytest.raises(OutputError, match="cannot write"):
        write(tmp_path / "a", "two")
    assert names(tmp_path / "a" / "sub") == ["one"]
    assert names(tmp_path) == ["a"]


def test_other_errors_of_exchanging_are_told(tmp_path, monkeypatch):
    write(tmp_path / "a", "one")
    monkeypatch.setattr(replacing, "_exchange", unable(errno.EACCES))
    with pytest.raises(OutputError, match=r"Permission denied.*who may write there"):
        write(tmp_path / "a", "two")
    assert names(tmp_path / "a" / "sub") == ["one"]


def test_only_what_nobody_uses_is_cleared_away(tmp_path):
    with replaced_folder(tmp_path / "a") as new:
        (new / "x").touch()
        stale = tmp_path / ".partial-a-0123"
        stale.mkdir()
        (stale / "y").touch()
        (tmp_path / ".partial-ab-0123").mkdir()  # of a folder ab
        write(tmp_path / "a", "other")
        assert not stale.exists()
        assert (new / "x").exists()
    assert names(tmp_path) == [".partial-ab-0123", "a"]
    assert names(tmp_path / "a") == ["x"]


def test_errors_of_others_pass_through(tmp_path):
    with pytest.raises(FileNotFoundError), replaced_folder(tmp_path / "a"):
        (tmp_path.parent / "nowhere" / "b").read_text()
    with pytest.raises(OutputError, match=r"cannot write .*a: No such file"), replaced_folder(tmp_path / "a") as new:
        (new / "no" / "b").write_text("")
    with pytest.raises(OutputError, match="No space left"), replaced_folder(tmp_path / "a"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert names(tmp_path) == []


def test_what_is_in_the_way(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="is a file and not a folder"):
        write(tmp_path / "file", "x")
    with pytest.raises(OutputError, match="cannot write"):
        write(tmp_path / "file" / "below", "x")
    assert names(tmp_path) == ["file"]


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    (tmp_path / "disk" / "real").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "real")
    write(tmp_path / "link", "x")
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path / "disk") == ["real"]
    assert names(tmp_path / "disk" / "real") == ["sub"]


# --- folders that cannot be renamed ------------------------------------------------------------------------


@pytest.fixture(params=["pretended", "real"])
def mounted(request, tmp_path, monkeypatch):
    """A folder that is a mount point."""
    folder = tmp_path / "volume"
    folder.mkdir()
    if request.param == "pretended":
        monkeypatch.setattr(replacing, "is_movable", lambda _: False)
        yield folder
        return
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder]
    if shutil.which("mount") is None or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("a file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_mounted_folder_gets_new_entries(mounted):
    (mounted / ".partial-volume-0").mkdir()
    write(mounted, "one")
    (mounted / "more").touch()
    write(mounted, "two")
    assert names(mounted) == ["sub"]
    assert names(mounted / "sub") == ["two"]
    assert names(mounted.parent) == ["volume"]


def test_a_mounted_folder_keeps_its_entries_if_that_fails(mounted, monkeypatch):
    write(mounted, "one")
    (mounted / "more").touch()
    rename = replacing.Path.rename

    def failing(self, target):
        if self.parent.name.startswith(".partial-"):
            raise OSError(errno.EIO, "broken", str(self))
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(replacing.Path, "rename", failing)
        with pytest.raises(OutputError, match="cannot write"):
            write(mounted, "two")
    assert names(mounted) == ["more", "sub"]
    assert names(mounted / "sub") == ["one"]
    with pytest.raises(OutputError, match="No space left"), replaced_folder(mounted):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert names(mounted) == ["more", "sub"]


def test_what_can_be_renamed(tmp_path, monkeypatch):
    assert replacing.is_movable(tmp_path)
    monkeypatch.setattr(replacing.os, "access", lambda *_: False)
    assert not replacing.is_movable(tmp_path)
    assert [name for name in (".partial-a", ".earlier-a", "a") if replacing.is_leftover(name)] == [
        ".partial-a",
        ".earlier-a",
    ]
