"""What a hub may answer, and the errors that come of it."""

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import huggingface_hub.constants
import pytest
from stand_in_hub import COMMIT, Hub, running

from gen3r_core.checkpoint.fetch import fetch_checkpoint
from gen3r_core.checkpoint.hub import RemoteFile, look_up
from gen3r_core.errors import CheckpointError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch):
    for name in ("HF_TOKEN", "HF_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def hub():
    with running(Hub({"vggt/config.json": b"{}", "a.txt": b"abc"})) as offered:
        yield offered


def test_a_look_up_lists_files_in_order_and_downloads_nothing(hub):
    remote = look_up("someone/scenes", endpoint=hub.endpoint + "/")
    assert remote.files == (
        RemoteFile("a.txt", 3, "f2ba8f84ab5c1bce84a7b441cb1959cfc7093b7f"),
        RemoteFile("vggt/config.json", 2, "9e26dfeeb6e641a33dae4961196235bdb965b21b"),
    )
    assert remote.size == 5
    assert remote.endpoint == hub.endpoint
    assert [path for path, _ in hub.requests] == ["/api/models/someone/scenes"]


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (404, "RepoNotFound", r"there is no repository 'someone/scenes' at http://127.* or it is private; .*HF_TOKEN"),
        (401, "RepoNotFound", r"there is no repository 'someone/scenes'"),
        (401, "", r"refused 'someone/scenes' with status 401; set HF_TOKEN"),
        (403, "GatedRepo", r"is gated: accept its terms at http://127.*/someone/scenes, set HF_TOKEN"),
        (404, "RevisionNotFound", r"has no revision 'v9'; see http://127.*/someone/scenes/commits/main"),
        (403, "", r"refused 'someone/scenes' with status 403; set HF_TOKEN"),
        (500, "", r"refused 'someone/scenes' with status 500; the hub is in trouble or busy; run the same command"),
    ],
)
def test_refused_look_ups(hub, status, code, message):
    hub.listing, hub.listing_status, hub.error_code = b"{}", status, code
    with pytest.raises(CheckpointError, match=message):
        look_up("someone/scenes", "v9", hub.endpoint)


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (403, "GatedRepo", "is gated: accept its terms"),
        (404, "EntryNotFound", r"refused a\.txt of 'someone/scenes' with status 404; the file has gone"),
        (503, "", r"refused a\.txt of 'someone/scenes' with status 503; the hub is in trouble"),
    ],
)
def test_refused_files(hub, tmp_path, status, code, message):
    hub.file_status, hub.error_code = status, code
    with pytest.raises(CheckpointError, match=message):
        fetch_checkpoint("someone/scenes", tmp_path / "x", endpoint=hub.endpoint, progress=False)


@pytest.mark.parametrize("name", ["no spaces", "a/b/c", "../up", ""])
def test_names_that_are_none(hub, name):
    with pytest.raises(CheckpointError, match=rf"{re.escape(repr(name))} is not the name of a repository"):
        look_up(name, endpoint=hub.endpoint)
    assert hub.requests == []


@pytest.mark.parametrize(
    "listing", [b"<html>log in first</html>", b"[]", b"3", b"{}", b'{"id": "x", "siblings": [{}]}']
)
def test_something_that_is_no_hub(hub, listing):
    hub.listing = listing
    with pytest.raises(CheckpointError, match=r"did not answer as a hub does|holds no files"):
        look_up("someone/scenes", endpoint=hub.endpoint)


def test_a_repository_without_files(hub):
    hub.files.clear()
    with pytest.raises(CheckpointError, match=r"'someone/scenes' at .* holds no files"):
        look_up("someone/scenes", endpoint=hub.endpoint)


@pytest.mark.parametrize("commit", [None, "main", "../../etc"])
def test_a_commit_must_be_a_hash(hub, commit):
    hub.commit = commit
    with pytest.raises(CheckpointError, match="names no valid commit"):
        look_up("someone/scenes", endpoint=hub.endpoint)


@pytest.mark.parametrize(
    "path", ["../out", "a/../../out", "/etc/passwd", "a\\b", "a\0b", ".gen3r-fetch/record.json", "a//b", "./a", ""]
)
def test_paths_that_lead_elsewhere_are_refused(hub, path):
    hub.files[path] = b""
    with pytest.raises(CheckpointError, match=r"unacceptable path .*; do not use this repository"):
        look_up("someone/scenes", endpoint=hub.endpoint)


@pytest.mark.parametrize("change", [{"size": None}, {"size": -1}, {"blobId": None}, {"blobId": "../x"}])
def test_files_need_a_size_and_a_digest(hub, change):
    answer = hub.answer()
    answer["siblings"][0].update(change)
    hub.listing = json.dumps(answer).encode()
    with pytest.raises(CheckpointError, match=r"gives no size or digest of vggt/config\.json"):
        look_up("someone/scenes", endpoint=hub.endpoint)


def test_offline_mode_is_respected(hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    huggingface_hub.utils.close_session()
    try:
        with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE is set; unset it"):
            look_up("someone/scenes", endpoint=hub.endpoint)
    finally:
        monkeypatch.undo()
        huggingface_hub.utils.close_session()
    assert hub.requests == []


def test_offline_mode_set_in_the_environment(hub):
    source = f"""
from gen3r_core.checkpoint.hub import look_up
from gen3r_core.errors import CheckpointError
try:
    look_up("someone/scenes", endpoint={hub.endpoint!r})
except CheckpointError as error:
    print(error)
"""
    done = subprocess.run(
        ["env", "HF_HUB_OFFLINE=1", sys.executable, "-c", source],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "HF_HUB_OFFLINE is set; unset it" in done.stdout


def test_nobody_listens():
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        with pytest.raises(
            CheckpointError, match=rf"cannot fetch 'a/b' from {endpoint} \(ConnectError.*check the network"
        ):
            look_up("a/b", endpoint=endpoint)


def test_an_address_that_is_none():
    with pytest.raises(CheckpointError, match="cannot fetch 'a/b' from nowhere"):
        look_up("a/b", endpoint="nowhere")


def test_settings_that_keep_the_client_from_starting(hub, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", "/absent/certificates.pem")
    huggingface_hub.utils.close_session()
    try:
        with pytest.raises(CheckpointError, match=r"cannot ask http://127.* about 'a/b' .*check the network settings"):
            look_up("a/b", endpoint=hub.endpoint)
    finally:
        monkeypatch.undo()
        huggingface_hub.utils.close_session()


def test_a_file_shorter_than_listed(hub, tmp_path):
    answer = hub.answer()
    answer["siblings"][1]["size"] = 10
    hub.listing = json.dumps(answer).encode()
    with pytest.raises(
        CheckpointError, match=r"a\.txt of 'someone/scenes' arrived incomplete; run the same .* goes on"
    ):
        fetch_checkpoint("someone/scenes", tmp_path / "x", endpoint=hub.endpoint, progress=False)


def test_the_token_is_sent_when_there_is_one(hub, monkeypatch, tmp_path):
    sent = []
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(
        "stand_in_hub.Handler.log_request", lambda handler, *_: sent.append(handler.headers["Authorization"])
    )
    fetch_checkpoint("someone/scenes", tmp_path / "x", endpoint=hub.endpoint, progress=False)
    assert sent == ["Bearer hf_secret"] * 3
    assert COMMIT in hub.requests[1][0]
