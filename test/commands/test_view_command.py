"""`gen3r view` in a process of its own: how it begins, and every way in which it ends."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from command_line import ROOT, environment, gen3r
from map_samples import room_map

from gen3r_core.maps.folder import write_map
from gen3r_core.maps.ply_files import write_map_cloud


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("maps") / "room"
    write_map(room_map(), folder, mcap=False, report=False)
    return folder


@contextlib.contextmanager
def started(*arguments, **variables):
    """The process and the line that it prints when it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-m", "gen3r_core.cli", "view", *map(str, arguments)],
        cwd=ROOT,
        env={**environment(), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process, process.stdout.readline()
    finally:
        process.kill()
        process.communicate(timeout=30)


def address(line):
    return re.search(r"http://[\d.]+:\d+", line)[0]


def listening(port):
    """Addresses (hexadecimal, as Linux has them) that are listened on with a port."""
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {row[1].split(":")[0] for row in rows if row[3] == "0A" and int(row[1].split(":")[1], 16) == port}


def test_it_serves_this_machine_until_it_is_interrupted(folder):
    with started(folder, "--port", "0") as (process, line):
        url = address(line)
        assert line == f"the map is at {url} (Ctrl-C ends)\n"
        page = urllib.request.urlopen(url, timeout=30).read()
        assert b"<!doctype html>" in page[:100].lower()
        port = int(url.rpartition(":")[2])
        assert listening(port) == {"0100007F"}
        taken = gen3r("view", folder, "--port", port)
        assert taken.code == 1
        assert f"port {port} of 127.0.0.1 is taken" in taken.err
        assert f"--port {port + 1}" in taken.err
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert process.returncode == 0
        assert (out, err) == ("", "")
    with started(folder, "--port", port, "--open", BROWSER="/missing/browser", PATH="/missing", DISPLAY="") as (
        process,
        line,
    ):
        assert address(line) == url  # the port is free again at once
        assert process.stdout.readline() == "no browser was found here: open the address yourself\n"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode == 0


def test_it_listens_elsewhere_when_told_to_and_opens_a_browser(folder, tmp_path):
    browser = tmp_path / "browser"
    opened = tmp_path / "opened"
    browser.write_text(f'#!/bin/sh\necho "$1" >{opened}\n')
    browser.chmod(0o755)
    arguments = (folder, "--port", "0", "--host", "0.0.0.0", "--open")
    with started(*arguments, BROWSER=str(browser)) as (process, line):
        url = address(line)
        assert listening(int(url.rpartition(":")[2])) == {"00000000"}
        deadline = time.monotonic() + 30
        while not (opened.is_file() and opened.read_text().endswith("\n")):
            assert time.monotonic() < deadline, "no browser was opened within 30 s"
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
        assert process.returncode == 0
        assert out == ""
    assert opened.read_text().strip() == url


def test_what_cannot_be_shown(tmp_path):
    done = gen3r("view", tmp_path / "missing", "--port", "0")
    assert done.code == 1
    assert "missing: there is no such folder or file" in done.err
    done = gen3r("view", tmp_path, "--port", "0")
    assert done.code == 1
    assert "this folder is no map" in done.err
    write_map_cloud(tmp_path / "a.ply", room_map().cloud.select(np.arange(5)), metric=True)
    done = gen3r("view", tmp_path / "a.ply", "--port", "0", "--color", "source")
    assert done.code == 1
    assert "a.ply has nothing to colour by 'source'; it has image" in done.err


def test_an_address_that_is_not_this_machine(folder):
    done = gen3r("view", folder, "--host", "203.0.113.7", "--port", "0")
    assert done.code == 1
    assert "cannot listen on --host 203.0.113.7 --port 0" in done.err


def test_a_port_for_administrators(folder):
    if os.geteuid() == 0:
        pytest.skip("for whom no port is forbidden")
    done = gen3r("view", folder, "--port", "1")
    assert done.code == 1
    assert "--port 8001" in done.err


def test_viser_that_is_missing(folder):
    source = (
        "import sys; sys.modules['viser'] = None\n"
        f"from gen3r_core.cli import main; sys.exit(main(['view', {str(folder)!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "gen3r: error: gen3r view needs viser, which is not installed: pip install 'gen3r[view]'\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--port", "70000"), "'70000' is no port: 0 to 65535"),
        (("--port", "-1"), "is no port"),
        (("--cut", "high"), "'high' is not a number"),
        (("--cut", "inf"), "'inf' is not a finite number"),
        (("--max_points", "5"), "no number of points from 1000 to 5000000"),
        (("--point_size", "0"), "a point's size must be positive"),
        (("--color", "red"), "invalid choice: 'red'"),
        (("--up", "w"), "invalid choice: 'w'"),
    ],
)
def test_arguments_that_make_no_sense(arguments, words):
    done = gen3r("view", "x", *arguments)
    assert done.code == 2
    assert words in done.err
