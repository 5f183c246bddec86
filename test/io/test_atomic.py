# ruff: noqa: PT012 - what is tested is how blocks with several statements end
import errno
import json
import os
import shutil
import subprocess
import sys
from typing import NamedTuple

import pytest

from gen3r_core.errors import InputError, OutputError
from gen3r_core.io import atomic
from gen3r_core.io.atomic import OutputFolder, atomic_path, check_free_space, write_json_atomic, write_text_atomic


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 64 KiB, where one can be mounted."""
    mount, disk = shutil.which("mount"), tmp_path / "disk"
    disk.mkdir()
    if mount is None or os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    command = [mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_text_and_json(tmp_path):
    write_text_atomic(tmp_path / "a.txt", "grün\n")
    write_json_atomic(tmp_path / "b.json", {"x": [1, 2.5]})
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "grün\n"
    assert json.loads((tmp_path / "b.json").read_text()) == {"x": [1, 2.5]}
    assert tree(tmp_path) == ["a.txt", "b.json"]


def test_files_get_the_usual_permissions(tmp_path):
    (tmp_path / "plain").write_text("")
    write_text_atomic(tmp_path / "a.txt", "")
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("value", [float("nan"), {"x": object()}])
def test_what_is_not_json_leaves_the_old_file(tmp_path, value):
    write_json_atomic(tmp_path / "a.json", 1)
    with pytest.raises(OutputError, match=r"a\.json: the value is not valid JSON"):
        write_json_atomic(tmp_path / "a.json", value)
    assert (tmp_path / "a.json").read_text() == "1\n"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_write_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), atomic_path(path) as partial:
        partial.write_text("half")
        raise error
    assert tree(tmp_path) == ["a.txt"]
    assert path.read_text() == "old"


def test_missing_folder(tmp_path):
    with pytest.raises(OutputError, match=r"missing/a\.txt: No such file or directory \(.* free there\)"):
        write_text_atomic(tmp_path / "missing" / "a.txt", "")


def test_other_errors_of_the_system_pass_through(tmp_path):
    with pytest.raises(FileNotFoundError, match="input"), atomic_path(tmp_path / "a"):
        (tmp_path / "input").read_text()


def test_full_disk(small_disk):
    (small_disk / "old.txt").write_text("old")
    with pytest.raises(OutputError, match=r"old\.txt: No space left on device \(.* free there\); free some space"):
        write_text_atomic(small_disk / "old.txt", "x" * 100_000)
    assert tree(small_disk) == ["old.txt"]
    assert (small_disk / "old.txt").read_text() == "old"


def test_full_disk_with_output_folder(small_disk):
    with pytest.raises(OutputError, match=r"new: No space left on device"), OutputFolder(small_disk / "new") as out:
        out.path("a").write_text("x" * 1000)
        out.path("b").write_text("x" * 100_000)
    assert tree(small_disk) == []


def test_limited_file_size(tmp_path):
    limited = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from gen3r_core.io.atomic import write_text_atomic\n"
        "from gen3r_core.errors import OutputError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "usual = resource.getrlimit(resource.RLIMIT_FSIZE)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, usual[1]))\n"
        "try: write_text_atomic(Path(sys.argv[1]), 'x' * 10_000)\n"
        "except OutputError as error: print(error)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, usual)\n"  # a coverage tool writes its file at exit
    )
    done = subprocess.run(
        [sys.executable, "-c", limited, tmp_path / "a.txt"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    assert "File too large" in done.stdout
    assert "ulimit -f" in done.stdout
    assert tree(tmp_path) == []


def test_free_space(tmp_path, monkeypatch):
    check_free_space(tmp_path / "not" / "there" / "yet", 1)
    monkeypatch.setattr(atomic.shutil, "disk_usage", lambda _folder: Usage(10**9, 0, 3 * 2**20))
    check_free_space(tmp_path, 3 * 2**20)
    with pytest.raises(OutputError, match=r"out: 2\.0 GiB are needed and 3\.0 MiB are free there"):
        check_free_space(tmp_path / "out", 2 * 2**30)


def test_free_space_that_cannot_be_told(tmp_path, monkeypatch):
    def fail(_folder):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(atomic.shutil, "disk_usage", fail)
    with pytest.raises(OutputError, match=r"Input/output error \(free space unknown\)"):
        check_free_space(tmp_path, 1)


def test_output_folder_commits_all_files(tmp_path):
    target = tmp_path / "a" / "b"
    with OutputFolder(target) as out:
        out.path("one.txt").write_text("1")
        out.path("images/two.txt").write_text("2")
        assert not (target / "one.txt").exists()
    assert tree(tmp_path) == ["a", "a/b", "a/b/images", "a/b/images/two.txt", "a/b/one.txt"]
    assert (target / "images/two.txt").read_text() == "2"


def test_output_folder_replaces_and_keeps_others(tmp_path):
    (tmp_path / "one.txt").write_text("old")
    (tmp_path / "other.txt").write_text("other")
    with OutputFolder(tmp_path) as out:
        write_text_atomic(out.path("one.txt"), "new")
    assert tree(tmp_path) == ["one.txt", "other.txt"]
    assert (tmp_path / "one.txt").read_text() == "new"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, InputError])
def test_output_folder_leaves_nothing_after_a_failure(tmp_path, error):
    with pytest.raises(error), OutputFolder(tmp_path / "a" / "b") as out:
        out.path("one.txt").write_text("1")
        raise error
    assert tree(tmp_path) == []


def test_output_folder_with_somebody_elses_file_stays(tmp_path):
    with pytest.raises(RuntimeError), OutputFolder(tmp_path / "a") as out:
        out.path("one.txt").write_text("1")
        (tmp_path / "a" / "theirs").write_text("")
        raise RuntimeError
    assert tree(tmp_path) == ["a", "a/theirs"]


@pytest.mark.parametrize("links", [True, False])
def test_a_commit_that_fails_half_way_is_undone(tmp_path, monkeypatch, links):
    (tmp_path / "a.txt").write_text("old")
    (tmp_path / "c.txt").mkdir()
    if not links:

        def no_links(_self, _target):
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(atomic.Path, "hardlink_to", no_links)
    message = r"cannot write .*: Is a directory.*folder of this name is in the way"
    with pytest.raises(OutputError, match=message), OutputFolder(tmp_path) as out:
        for name in ("a.txt", "b.txt", "c.txt", "sub/d.txt"):
            out.path(name).write_text("new")
    assert tree(tmp_path) == ["a.txt", "c.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_created_sub_folders_go_when_the_commit_fails(tmp_path):
    (tmp_path / "z").mkdir()
    with pytest.raises(OutputError, match="Is a directory"), OutputFolder(tmp_path) as out:
        out.path("sub/deep/d.txt").write_text("new")
        out.path("z").write_text("new")
    assert tree(tmp_path) == ["z"]


def test_errors_of_the_block(tmp_path):
    with pytest.raises(OutputError, match=r"cannot write .*: No such file"), OutputFolder(tmp_path / "new") as out:
        (out.path("x").parent / "missing" / "file").write_text("")
    with pytest.raises(FileNotFoundError, match="input"), OutputFolder(tmp_path / "new"):
        (tmp_path / "input").read_text()
    assert tree(tmp_path) == []


def test_a_file_is_in_the_way(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "sub"):
        with pytest.raises(OutputError, match=r"Not a directory.*is a file and not a folder"), OutputFolder(folder):
            pass
    with pytest.raises(OutputError, match=r"cannot write .*x: "), OutputFolder(tmp_path / "new") as out:
        out.path("x").write_text("")
        out.path("x/y")


@pytest.mark.parametrize("name", ["../x", "/x", "", "a/../../x"])
def test_names_stay_within(tmp_path, name):
    with pytest.raises(OutputError, match="does not stay within"), OutputFolder(tmp_path / "new") as out:
        out.path(name)


def test_a_folder_that_is_not_open(tmp_path):
    out = OutputFolder(tmp_path)
    with pytest.raises(OutputError, match="is not open"):
        out.path("a")
    out.__exit__(None, None, None)
    assert tree(tmp_path) == []
