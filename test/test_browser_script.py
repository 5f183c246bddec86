"""The logic of scripts/browser.sh, with stand-ins for the browser and for Debian's tools."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def tree(tmp_path):
    """A tree with the scripts, and a PATH with bash's own needs alone, on which nothing is installed."""
    (tmp_path / "scripts").mkdir()
    for name in ("browser.sh", "common.sh"):
        shutil.copy(ROOT / "scripts" / name, tmp_path / "scripts" / name)
    for name in ("bash", "dirname"):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).symlink_to(shutil.which(name))
    program(tmp_path, "dpkg-query", "exit 1")
    program(tmp_path, "id", "echo 0")
    program(tmp_path, "apt-get", 'echo "$*" >>apt.log')
    return tmp_path


def program(tree, name, text):
    path = tree / "bin" / name
    path.write_text(f"#!{shutil.which('bash')}\n{text}\n")
    path.chmod(0o755)


def run(tree):
    done = subprocess.run(
        ["bash", "scripts/browser.sh"],
        cwd=tree,
        env={**os.environ, "PATH": str(tree / "bin")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr  # tests are run in any case
    return done.stdout


@pytest.mark.parametrize("name", ["chromium", "google-chrome"])
def test_a_browser_that_is_there_is_enough(tree, name):
    program(tree, name, "")
    assert run(tree) == ""
    assert not (tree / "apt.log").exists()


def test_root_installs_one(tree):
    run(tree)
    assert "install -y --no-install-recommends chromium-headless-shell -qq" in (tree / "apt.log").read_text()


def test_others_are_told_how(tree):
    program(tree, "id", "echo 1000")
    out = run(tree)
    assert "As root, run:  apt-get update && apt-get install -y --no-install-recommends chromium-headless-shell" in out
    assert "the tests that look at pages are skipped" in out


def test_without_a_network_tests_still_run(tree):
    program(tree, "apt-get", "exit 100")
    assert "this command failed" in run(tree)


def test_elsewhere_than_on_debian_nothing_is_said(tree):
    (tree / "bin" / "dpkg-query").unlink()
    assert run(tree) == ""
