"""Fetching a checkpoint from a stand-in hub: whole, interrupted, spoilt and refused."""

import fcntl
import json
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import huggingface_hub.constants
import pytest
from stand_in_hub import COMMIT, Hub, running

from gen3r_core.checkpoint.fetch import fetch_checkpoint
from gen3r_core.errors import CheckpointError, OutputError

BIG = random.Random(0).randbytes(3_072_000)  # a piece in the wrong place would show
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch):
    for name in ("HF_TOKEN", "HF_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def hub():
    offered = Hub(
        {
            "model_index.json": b'{"_class_name": "Gen3RPipeline"}',
            "transformer/diffusion_pytorch_model.safetensors": BIG,
            "vggt/model.safetensors": b"tokens" * 1000,
            "vggt/empty.txt": b"",
            ".gitattributes": b"*.safetensors filter=lfs",
        }
    )
    with running(offered):
        yield offered


@pytest.fixture
def get(hub, tmp_path):
    """Fetch from the stand-in into ``tmp_path/checkpoint``."""

    def call(repo_id="someone/scenes", folder=tmp_path / "checkpoint", **options):
        return fetch_checkpoint(repo_id, folder, endpoint=hub.endpoint, progress=False, **options)

    return call


def assert_whole(folder, hub):
    found = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".gen3r-fetch" not in path.parts
    }
    assert found == {path: content for path, content in hub.files.items() if path != ".gitattributes"}
    assert not [path for path in folder.rglob("*") if path.is_symlink()]
    assert sorted(path.name for path in (folder / ".gen3r-fetch").iterdir()) == ["lock", "record.json"]


def test_everything_arrives_as_plain_files_with_a_report(hub, get, tmp_path):
    report = get()
    assert_whole(tmp_path / "checkpoint", hub)
    assert report.repo_id == "someone/scenes"
    assert report.commit == COMMIT
    assert report.licence == "mit"
    assert [part.folders for part in report.parts] == [("transformer",), ("vggt",)]
    assert report.files == (
        "model_index.json",
        "transformer/diffusion_pytorch_model.safetensors",
        "vggt/empty.txt",
        "vggt/model.safetensors",
    )
    assert report.total_bytes == report.received_bytes == len(BIG) + 6000 + 32


def test_the_licences_are_announced_before_any_file_is_asked_for(hub, get):
    heard = []
    get(announce=lambda notice: heard.append((notice, len(hub.fetched()))))
    ((notice, asked_before),) = heard
    assert asked_before == 0
    assert "licence on its card: mit" in notice
    assert "CC-BY-NC-4.0" in notice


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ({"license": "other", "license_name": "gen3r-research"}, "gen3r-research"),
        ({"license": "other", "license_link": "LICENSE.md"}, "LICENSE.md"),
        ({"license": ["mit", "apache-2.0"]}, "mit, apache-2.0"),
        ({}, None),
        (None, None),
    ],
)
def test_the_licence_on_the_card(hub, get, card, licence):
    hub.card = card
    assert get().licence == licence


def test_a_second_call_fetches_nothing(hub, get, tmp_path):
    get()
    hub.requests.clear()
    assert get().received_bytes == 0
    assert hub.fetched() == []
    assert_whole(tmp_path / "checkpoint", hub)


def test_an_empty_folder_is_taken(hub, get, tmp_path):
    (tmp_path / "checkpoint").mkdir()
    get()
    assert_whole(tmp_path / "checkpoint", hub)


def test_a_deleted_file_is_fetched_again_alone(hub, get, tmp_path):
    get()
    (tmp_path / "checkpoint/vggt/model.safetensors").unlink()
    hub.requests.clear()
    assert get().received_bytes == 6000
    assert hub.fetched() == [("vggt/model.safetensors", None)]


def test_a_new_revision_replaces_and_removes(hub, get, tmp_path):
    get()
    hub.commit = "d" * 40
    hub.files["model_index.json"] = b"{}"
    del hub.files["vggt/model.safetensors"]
    hub.requests.clear()
    assert get(revision="v2").commit == "d" * 40
    assert hub.requests[0][0] == "/api/models/someone/scenes/revision/v2"
    assert hub.fetched() == [("model_index.json", None)]
    assert_whole(tmp_path / "checkpoint", hub)


def test_a_killed_download_goes_on_where_it_stopped(hub, get, tmp_path):
    folder = tmp_path / "checkpoint"
    hub.pause_after = 2_000_000
    script = textwrap.dedent(
        f"""
        from pathlib import Path
        from huggingface_hub import constants
        constants.DOWNLOAD_CHUNK_SIZE = 100_000
        from gen3r_core.checkpoint.fetch import fetch_checkpoint
        fetch_checkpoint("someone/scenes", Path({str(folder)!r}), endpoint={hub.endpoint!r})
        """
    )
    child = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)
    try:
        assert hub.paused.wait(60)
        part = wait_for_part(folder, 1_500_000)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait(60)
    hub.go_on.set()
    hub.pause_after = None
    stopped_at = part.stat().st_size
    assert 1_500_000 <= stopped_at <= 2_000_000
    assert not (folder / "transformer").exists()
    hub.requests.clear()

    report = get()

    assert hub.fetched()[0] == ("transformer/diffusion_pytorch_model.safetensors", f"bytes={stopped_at}-")
    assert "model_index.json" not in [path for path, _ in hub.fetched()]
    assert report.received_bytes == report.total_bytes - stopped_at - 32
    assert_whole(folder, hub)


def wait_for_part(folder, size):
    """Wait until that much of a part is on disk (its writer buffers a little)."""
    for _ in range(600):
        for part in folder.glob(".gen3r-fetch/*.part"):
            if part.stat().st_size >= size:
                return part
        time.sleep(0.1)
    raise AssertionError(f"no part of {size} bytes came to be in {folder}")


def test_a_dropped_connection_is_taken_up_within_the_call(hub, get, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 100_000)
    hub.drop_once_after = 1_000_000
    report = get()
    asked = [wanted for path, wanted in hub.fetched() if path.startswith("transformer")]
    assert asked == [None, "bytes=1000000-"]
    assert report.received_bytes == report.total_bytes
    assert_whole(tmp_path / "checkpoint", hub)


def leave_part(hub, tmp_path, content):
    """As if killed: the folder has a part of the big file and a record."""
    listed = {entry["rfilename"]: entry for entry in hub.answer()["siblings"]}
    digest = listed["transformer/diffusion_pytorch_model.safetensors"]["lfs"]["sha256"]
    state = tmp_path / "checkpoint/.gen3r-fetch"
    state.mkdir(parents=True)
    (state / "record.json").write_text(json.dumps({"repo_id": hub.repo_id, "commit": COMMIT, "complete": {}}))
    (state / f"{digest}.part").write_bytes(content)


def test_a_hub_that_ignores_ranges_costs_the_part_only(hub, get, tmp_path):
    leave_part(hub, tmp_path, BIG[:1000])
    hub.ignores_ranges = True
    report = get()
    assert ("transformer/diffusion_pytorch_model.safetensors", "bytes=1000-") in hub.fetched()
    assert report.received_bytes == report.total_bytes
    assert_whole(tmp_path / "checkpoint", hub)


def test_a_whole_part_is_not_asked_for_again(hub, get, tmp_path):
    leave_part(hub, tmp_path, BIG)
    report = get()
    assert report.received_bytes == report.total_bytes - len(BIG)
    assert_whole(tmp_path / "checkpoint", hub)


def test_a_spoilt_part_is_thrown_away_and_fetched_from_the_start(hub, get, tmp_path):
    leave_part(hub, tmp_path, b"\0" * 1000)
    get()
    asked = [wanted for path, wanted in hub.fetched() if path.startswith("transformer")]
    assert asked == ["bytes=1000-", None]
    assert_whole(tmp_path / "checkpoint", hub)


def test_a_part_that_is_too_long_is_thrown_away(hub, get, tmp_path):
    leave_part(hub, tmp_path, BIG + b"x")
    get()
    assert ("transformer/diffusion_pytorch_model.safetensors", None) in hub.fetched()
    assert_whole(tmp_path / "checkpoint", hub)


def test_parts_of_another_revision_are_removed(hub, get, tmp_path):
    leave_part(hub, tmp_path, b"")
    stale = tmp_path / "checkpoint/.gen3r-fetch" / ("e" * 64 + ".part")
    stale.write_bytes(b"old")
    hub.file_status = 500
    with pytest.raises(CheckpointError):
        get()
    assert not stale.exists()


def test_a_file_that_is_whole_but_not_on_record_is_recognised(hub, get, tmp_path):
    leave_part(hub, tmp_path, b"")
    target = tmp_path / "checkpoint/transformer/diffusion_pytorch_model.safetensors"
    target.parent.mkdir()
    target.write_bytes(BIG)
    (tmp_path / "checkpoint/model_index.json").write_bytes(b"x" * 32)  # right size, wrong content
    get()
    assert sorted(path for path, _ in hub.fetched()) == ["model_index.json", "vggt/model.safetensors"]
    assert_whole(tmp_path / "checkpoint", hub)


def test_a_link_is_replaced_by_a_file(hub, get, tmp_path):
    leave_part(hub, tmp_path, b"")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(hub.files["model_index.json"])
    (tmp_path / "checkpoint/model_index.json").symlink_to(elsewhere)
    get()
    assert_whole(tmp_path / "checkpoint", hub)


def test_wrong_content_is_refused_and_leaves_nothing_under_its_name(hub, get, tmp_path):
    hub.wrong_bytes = 1
    with pytest.raises(CheckpointError, match=r"model_index\.json of 'someone/scenes' arrived with the wrong content"):
        get()
    assert not (tmp_path / "checkpoint/model_index.json").exists()
    assert not list((tmp_path / "checkpoint/.gen3r-fetch").glob("*.part"))
    get()
    assert_whole(tmp_path / "checkpoint", hub)


# --- the folder ------------------------------------------------------------------------------------------


def test_a_folder_with_something_else_is_refused_before_the_hub_is_asked(hub, get, tmp_path):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for name in ("a", "b", "c", "d"):
        (folder / name).touch()
    with pytest.raises(OutputError, match=r"holds something else \(a, b, c, \.\.\.\); give an empty or a new folder"):
        get()
    assert hub.requests == []


def test_a_folder_of_another_repository_is_refused(hub, get):
    get()
    with pytest.raises(OutputError, match="holds 'someone/scenes', not 'other/model'"):
        get("other/model")


@pytest.mark.parametrize("text", ["{", "[]", '{"repo_id": "x"}', '{"repo_id": "x", "complete": 3}'])
def test_a_damaged_record_is_refused(hub, get, tmp_path, text):
    get()
    (tmp_path / "checkpoint/.gen3r-fetch/record.json").write_text(text)
    with pytest.raises(OutputError, match=r"record\.json is damaged .* start anew"):
        get()


def test_a_file_is_no_folder(get, tmp_path):
    (tmp_path / "checkpoint").touch()
    with pytest.raises(OutputError, match="is a file, not a folder"):
        get()


def test_two_downloads_into_one_folder_are_refused(hub, get, tmp_path):
    leave_part(hub, tmp_path, b"")
    with (tmp_path / "checkpoint/.gen3r-fetch/lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match="another process is fetching"):
            get()
    get()


def test_a_disk_that_is_too_small_is_noticed_before_anything_is_written(hub, get, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 2_900_000))
    with pytest.raises(OutputError, match=r"2\.9 MiB are needed and 2\.8 MiB are free there; free some space"):
        get()
    assert not (tmp_path / "checkpoint").exists()
    assert hub.fetched() == []


def test_what_is_there_needs_no_space_again(hub, get, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 3_000_000))
    leave_part(hub, tmp_path, BIG[:100_000])
    get()
    assert_whole(tmp_path / "checkpoint", hub)


def test_a_folder_that_cannot_be_made_is_an_output_error(hub, get, tmp_path):
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint/.gen3r-fetch").touch()
    with pytest.raises(OutputError, match=r"cannot write .*File exists"):
        get()


def test_a_disk_that_takes_no_more_is_an_output_error(hub, tmp_path):
    """A real failing write: the child may not make files larger than 1 MB."""
    script = textwrap.dedent(
        f"""
        import resource, signal
        from pathlib import Path
        from gen3r_core.checkpoint.fetch import fetch_checkpoint
        from gen3r_core.errors import OutputError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
        try:
            fetch_checkpoint("someone/scenes", Path({str(tmp_path / "x")!r}), endpoint={hub.endpoint!r})
        except OutputError as error:
            print(error)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert f"cannot write {tmp_path}/x: File too large" in done.stdout


def test_a_folder_that_cannot_be_read_is_an_output_error(get, tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "checkpoint").mkdir()
    monkeypatch.setattr(Path, "iterdir", refuse)  # root, who runs tests in containers, may read everything
    with pytest.raises(OutputError, match="checkpoint cannot be read: Permission denied"):
        get()
