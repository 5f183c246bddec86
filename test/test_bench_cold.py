"""The parts of a cold start: its clock, the page cache, and the table."""

import itertools
import json
import time
from pathlib import Path

import pytest
from page_cache import lies_in_memory

from gen3r_core import bench_cold
from gen3r_core.bench_cold import (
    ColdReport,
    ColdStart,
    ColdWatch,
    Part,
    cached_share,
    drop_cached,
    format_cold,
    import_compiler,
    process_seconds,
)
from gen3r_core.errors import CheckpointError

MIB = 2**20

RESULT = ColdStart(
    task="2view",
    num_frames=5,
    size=(112, 224),
    steps=2,
    level="resident",
    seconds={"start and imports": 4.0, "device": 0.5, "load": 2.5, "text": 0.25, "denoise": 2.25, "rest": 0.5},
    loading={"transformer": 1.5, "vggt": 0.75},
    total=10.0,
    left_out=3.0,
    weights_gib=21.5,
    cached=0.0,
)
REPORT = ColdReport("checkpoint", {"device": "a GPU"}, {"dtype": "bfloat16", "steps": 2}, RESULT)


def test_the_clock_starts_with_the_process_whatever_its_name():
    name = Path("/proc/self/comm")
    before = name.read_text()
    first, wall = process_seconds(), time.monotonic()
    try:
        name.write_text(") 1 (x 2 3")
        time.sleep(0.1)
        passed = process_seconds() - first
    finally:
        name.write_text(before)
    assert first > 0.1
    assert passed == pytest.approx(time.monotonic() - wall, abs=0.05)


def test_laps_and_pauses(monkeypatch):
    clock = itertools.chain([3.0, 4.0, 9.0, 9.5, 10.5, 12.5, 13.0, 20.0])
    monkeypatch.setattr(bench_cold, "process_seconds", lambda: next(clock))
    watch = ColdWatch()
    watch.lap(Part.STARTED)
    with watch.pause():
        pass  # from 4 to 9
    watch.lap(Part.REST)
    watch.loaded("transformer", 10, 10)
    watch.loaded("vggt", 5, 20)
    watch.loaded("vggt", 20, 20)
    watch.lap(Part.LOAD)
    watch.lap(Part.REST)
    assert watch.seconds == {"start and imports": 3.0, "rest": 1.5 + 7, "load": 3.5}
    assert watch.loading == {"transformer": 1.0, "vggt": 2.0}
    assert (watch.total, watch.left_out) == (15.0, 5.0)


def test_files_are_dropped_from_the_page_cache(tmp_path):
    if lies_in_memory(tmp_path):
        pytest.skip("this file system lies in memory")
    large, small, empty = (tmp_path / name for name in ("large", "small", "empty"))
    large.write_bytes(b"1" * 3 * MIB)
    small.write_bytes(b"2" * (MIB - 5))
    empty.touch()
    files = [large, small, empty]
    assert cached_share(files) == 1.0
    drop_cached([small, empty])
    assert cached_share(files) == 0.75
    drop_cached(files)
    assert cached_share(files) == 0.0
    assert small.read_bytes() == b"2" * (MIB - 5)  # nothing that was not on disk yet is lost
    assert cached_share(files) == 0.25
    assert cached_share([empty]) == 0.0


def test_a_file_that_cannot_be_dropped_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"missing cannot be read: No such file or directory"):
        drop_cached([tmp_path / "missing"])


def test_the_table():
    head, empty, *lines = format_cold(REPORT).splitlines()
    assert head == (
        "Cold start of checkpoint; device a GPU, dtype bfloat16, steps 2, level resident, "
        "weights 21.500 GiB, dropped from the page cache."
    )
    assert empty == ""
    assert lines == [
        "|  | 2view, 5 x 112x224 | % |",
        "| --- | --- | --- |",
        "| start and imports s | 4.000 | 40.0 |",
        "| device s | 0.500 | 5.0 |",
        "| load s | 2.500 | 25.0 |",
        "| - transformer s | 1.500 | 15.0 |",
        "| - vggt s | 0.750 | 7.5 |",
        "| text s | 0.250 | 2.5 |",
        "| denoise s | 2.250 | 22.5 |",
        "| rest s | 0.500 | 5.0 |",
        "| **whole s** | **10.00** | 100 |",
    ]


def test_what_stays_in_the_page_cache_is_said():
    result = ColdStart(**{**vars(RESULT), "cached": 0.125})
    head = format_cold(ColdReport("checkpoint", {}, {}, result)).splitlines()[0]
    assert head.endswith("weights 21.500 GiB, of which 12 % could not be dropped from the page cache.")


def test_a_report_can_be_stored():
    stored = json.loads(json.dumps(REPORT.to_dict()))
    assert stored["percent"] == {"start and imports": 40, "device": 5, "load": 25, "text": 2.5, "denoise": 22.5,
                                 "rest": 5}  # fmt: skip
    again = ColdStart(**stored["result"] | {"size": tuple(stored["result"]["size"])})
    assert again == RESULT


def test_the_compilers_cache_on_disk_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    assert import_compiler() == {"compiler's cache": "empty"}
    (tmp_path / "kernel.py").touch()
    assert import_compiler() == {"compiler's cache": "filled"}
