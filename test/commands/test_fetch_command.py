"""``gen3r fetch`` against a stand-in hub: a published checkpoint arrives, is listed, and generates."""

import pytest
from published_checkpoint import write_published
from stand_in_hub import Hub, running

from gen3r_core.cli import main


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch):
    for name in ("HF_TOKEN", "HF_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def test_fetch_then_info(tmp_path, capsys):
    source = write_published(tmp_path / "source")
    offered = {p.relative_to(source).as_posix(): p.read_bytes() for p in source.rglob("*") if p.is_file()}
    with running(Hub(offered)) as hub:
        assert main(["fetch", "someone/scenes", str(tmp_path / "here"), "--endpoint", hub.endpoint]) == 0
        first = capsys.readouterr().out
        assert main(["fetch", "someone/scenes", str(tmp_path / "here"), "--endpoint", hub.endpoint]) == 0
        second = capsys.readouterr().out
    assert "VGGT-1B: CC-BY-NC-4.0" in first
    assert "not for commercial use" in first
    assert f"{len(offered)} files" in first
    assert "(0.0 MiB received now)" in second
    assert main(["info", str(tmp_path / "here")]) == 0
    assert "published layout" in capsys.readouterr().out


def test_an_unknown_repository(tmp_path, capsys):
    with running(Hub({})) as hub:
        assert main(["fetch", "nobody/nothing", str(tmp_path / "here"), "--endpoint", hub.endpoint]) == 1
    assert "nobody/nothing" in capsys.readouterr().err
