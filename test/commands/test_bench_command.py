"""``gen3r bench``."""

import json
import re
import shutil
import sys
import time

import pytest
from command_line import gen3r, gen3r_process
from page_cache import lies_in_memory

from gen3r_core import sizes
from gen3r_core.errors import OutOfMemoryError
from gen3r_core.execution import grid
from gen3r_core.execution.levels import NETWORKS


def test_a_tiny_model(tmp_path):
    done = gen3r("bench", "--tasks", "1view", "allview", "vggt", "--steps", "1", "--num_frames", "1", "--warmup", "0",
                 "--repeats", "1", "--json", tmp_path / "bench.json", "--device", "cpu")  # fmt: skip
    assert done.code == 0, done.err
    assert "| 1view, 1 x 112x112 | allview, 1 x 112x112 | vggt, 1 x 112x112 |" in done.out
    assert "dtype float32, steps 1, guidance 5.0, geometry latents, scheduler euler, attention auto, " in done.out
    assert "warm-up 0, median of 1." in done.out
    assert "bench" in done.err
    report = json.loads((tmp_path / "bench.json").read_text())
    assert [result["task"] for result in report["results"]] == ["1view", "allview", "vggt"]
    assert report["model"] == "tiny"
    for result in report["results"]:
        assert sum(result["seconds"].values()) <= result["total"] == result["runs"][0]


def test_what_cannot_be_timed(tmp_path):
    for options in (("--repeats", "0"), ("--warmup", "-1")):
        done = gen3r("bench", *options)
        assert done.code == 1
        assert "gen3r: error: bench needs at least one timed job, got --repeats" in done.err
    done = gen3r("bench", "--num_frames", "2", "--device", "cpu")
    assert done.code == 1
    assert "gen3r: error: the number of frames must be 4k+1" in done.err
    done = gen3r("bench", "--attention", "cudnn", "--device", "cpu")
    assert done.code == 1
    assert "attention kernel 'cudnn' cannot run" in done.err
    assert "Traceback" not in done.err
    done = gen3r("bench", "--differences", "--tasks", "vggt")
    assert done.code == 1
    assert "--differences compares latents" in done.err
    done = gen3r("bench", "--tasks", "3view")
    assert done.code == 2


@pytest.mark.parametrize("more", [(), ("--cold", "--checkpoint", "nowhere")])
def test_files_that_cannot_be_written_are_refused_before_anything_is_measured(tmp_path, monkeypatch, more):
    monkeypatch.setattr(sizes, "random_pipeline", None)  # nothing is built
    done = gen3r("bench", "--json", tmp_path / "missing" / "bench.json", *more)
    assert done.code == 1
    assert "bench.json: there is no folder" in done.err
    done = gen3r("bench", "--json", tmp_path, *more)
    assert done.code == 1
    assert "a folder of this name is in the way" in done.err


def test_what_was_measured_before_an_error_is_kept(tmp_path, monkeypatch):
    random_pipeline = sizes.random_pipeline
    made = []

    def make(*args, **options):
        made.append(args)
        if len(made) == 2:
            raise OutOfMemoryError("the device ran out of memory")
        return random_pipeline(*args, **options)

    monkeypatch.setattr(sizes, "random_pipeline", make)
    done = gen3r("bench", "--tasks", "vggt", "--num_frames", "1", "--warmup", "0", "--repeats", "1", "--device", "cpu",
                 "--memory_budgets", "8", "9", "--json", tmp_path / "bench.json")  # fmt: skip
    assert done.code == 1
    assert "|  | vggt, 1 x 112x112, 8 GiB |" in done.out
    assert "gen3r: error: the device ran out of memory" in done.err
    assert [result["budget_gib"] for result in json.loads((tmp_path / "bench.json").read_text())["results"]] == [8.0]


def test_plots_that_cannot_be_are_refused_before_anything_is_measured(tmp_path, monkeypatch):
    done = gen3r("bench", "--plot", tmp_path / "plot.png")
    assert done.code == 1
    assert "--plot draws the latents' errors against seconds; add --errors, which measures them" in done.err
    done = gen3r("bench", "--errors", "--plot", tmp_path / "plot.txt")
    assert done.code == 1
    assert "a plot can be png, svg, pdf, by the ending of its name; got 'plot.txt'" in done.err
    done = gen3r("bench", "--errors", "--plot", tmp_path / "missing" / "plot.png")
    assert done.code == 1
    assert "plot.png: there is no folder" in done.err
    for options in (("--tasks", "vggt"), ("--profiles", "preview")):
        done = gen3r("bench", "--errors", "--plot", tmp_path / "plot.png", *options)
        assert done.code == 1
        assert "--plot needs a task that generates and a profile of the frames and size of exact" in done.err
    monkeypatch.delitem(sys.modules, "gen3r_core.bench_plot", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    done = gen3r("bench", "--errors", "--plot", tmp_path / "plot.png")
    assert done.code == 1
    assert "--plot needs matplotlib, which is not installed: pip install 'gen3r[plot]'" in done.err


def test_bench_of_attention_kernels():
    done = gen3r("bench", "--kernels", "--repeats", "2", "--device", "cpu")
    assert done.code == 0, done.err
    head, _, _, _, *rows = done.out.splitlines()
    assert head.endswith("dtype float32, median of 2.")
    cells = {row.split(" | ")[1]: [cell.strip(" |") for cell in row.split(" | ")[2:]] for row in rows}
    assert list(cells) == ["auto", "flash4", "cudnn", "flash", "efficient", "math"]
    assert cells["cudnn"] == cells["flash4"] == ["-", "-", "-"]
    for kernel in ("auto", "flash", "math"):
        milliseconds, tera, difference = map(float, cells[kernel])
        operations = 4 * 5 * 64 * 1960**2
        assert abs(tera - operations / milliseconds / 1e9) < 0.01
        assert difference < 1e-5


COLD = ("bench", "--cold", "--num_frames", "1", "--steps", "1", "--guidance", "3", "--device", "cpu", "--checkpoint")

SLOW_START = """
import sys, time
time.sleep({delay})
from gen3r_core.bench_cold import ColdWatch
from gen3r_core.cli import main

known, lap = set(), ColdWatch.lap

def told(watch, part):
    lap(watch, part)
    packages = {{name.partition(".")[0] for name in sys.modules}}
    known.update(known or packages)
    print("later:", *packages - known, file=sys.stderr)

ColdWatch.lap = told
sys.exit(main(sys.argv[1:]))
"""
"""The command after a delay; tells which packages it imports after its first lap."""


@pytest.fixture(scope="module")
def cold(own_checkpoint, tmp_path_factory):
    """Output and JSON of a cold start in a process of its own, its delay, and the wall time as seen from outside."""
    folder = tmp_path_factory.mktemp("cold")
    shutil.copytree(own_checkpoint, folder / "copy")  # whose files no process has mapped
    delay, start = 1.5, time.monotonic()
    done = gen3r_process(*COLD, folder / "copy", "--memory_budgets", "8", "--json", folder / "cold.json",
                         program=(sys.executable, "-c", SLOW_START.format(delay=delay)))  # fmt: skip
    wall = time.monotonic() - start
    assert done.code == 0, done.err
    return done, json.loads((folder / "cold.json").read_text()), delay, wall


def test_a_cold_start_is_measured_from_the_start_of_the_process(cold):
    done, report, delay, wall = cold
    result = report["result"]
    assert delay < result["seconds"]["start and imports"] < result["total"]
    assert wall / 2 < result["total"] + result["left_out"] < wall + 0.02
    later = re.findall("later:(.*)", done.err)
    assert len(later) == 7
    assert "".join(later).strip() == ""


def test_parts_of_a_cold_start(cold):
    result = cold[1]["result"]
    seconds, loading = result["seconds"], result["loading"]
    assert list(seconds) == ["start and imports", "device", "plan", "load", "text", "image", "cameras", "video_encode",
                             "denoise", "geometry", "video_decode", "rest"]  # fmt: skip
    assert sum(seconds.values()) == pytest.approx(result["total"], abs=1e-6)
    assert min(seconds.values()) >= 0
    assert list(loading) == list(NETWORKS)
    assert min(loading.values()) > 0
    assert sum(loading.values()) <= seconds["load"]
    assert (result["task"], result["num_frames"], result["size"]) == ("2view", 1, [112, 112])
    assert (result["steps"], result["level"]) == (1, "resident")


def test_table_and_json_of_a_cold_start(cold, own_checkpoint):
    done, report, _, _ = cold
    result = report["result"]
    words, head, empty, *lines = done.out.splitlines()
    assert words.startswith("resident: 0.")
    assert head.startswith("Cold start of copy; device ")
    assert "dtype float32, steps 1, guidance 3.0, geometry latents, scheduler euler, attention auto, " in head
    assert "budget GiB 8.0, level resident, " in head
    size = sum(path.stat().st_size for path in own_checkpoint.rglob("*.safetensors"))
    assert result["weights_gib"] == pytest.approx(size / 2**30)
    if not lies_in_memory(own_checkpoint):
        assert result["cached"] == 0
        assert head.endswith(f"weights {size / 2**30:.3f} GiB, dropped from the page cache.")
    assert empty == ""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["", "2view, 1 x 112x112", "%"]
    rows = {name: (figure, share) for name, figure, share in cells[2:]}
    for part, value in result["seconds"].items():
        assert rows.pop(f"{part} s") == (f"{value:.3f}", f"{report['percent'][part]:.1f}")
        assert report["percent"][part] == pytest.approx(100 * value / result["total"])
    for name, value in result["loading"].items():
        assert rows.pop(f"- {name} s") == (f"{value:.3f}", f"{100 * value / result['total']:.1f}")
    assert rows == {"**whole s**": (f"**{result['total']:.2f}**", "100")}


def test_a_compiled_cold_start(own_checkpoint, monkeypatch):
    asked = []
    monkeypatch.setattr(grid, "speed_up", lambda made, **options: asked.append((made.image_size, options)))
    done = gen3r(*COLD, own_checkpoint, "--tasks", "vggt", "2view", "--sizes", "112x224", "--compile")
    assert done.code == 0, done.err
    assert asked == [((112, 112), {"channels_last": False, "compiled": True})]
    assert "compiled True, compiler's cache " in done.out
    assert "|  | vggt, 1 x 112x224 | % |" in done.out
    assert "| device s | 0.0" in done.out
    assert "plan" not in done.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--kernels",), "--cold times a single job, without --kernels\n"),
        (("--differences", "--errors"), "--cold times a single job, without --differences, --errors\n"),
        (("--plot", "plot.png"), "--cold times a single job, without --plot\n"),
        (("--trace", "3"), "without --trace"),
        (("--profiles", "exact", "fast"), "without --profiles other than exact"),
        (("--sizes", "112", "224", "--memory_budgets", "4", "8"), "without several --sizes, several --memory_budgets"),
    ],
)
def test_what_does_not_go_with_a_cold_start(own_checkpoint, options, message):
    done = gen3r(*COLD, own_checkpoint, *options)
    assert (done.code, done.out) == (1, "")
    assert message in done.err


def test_a_cold_start_needs_one_process_and_a_checkpoint(own_checkpoint, monkeypatch):
    done = gen3r("bench", "--cold")
    assert done.code == 1
    assert "gen3r: error: --cold also measures how weights are loaded, and random weights are not loaded" in done.err
    done = gen3r(*COLD, own_checkpoint / "missing")
    assert done.code == 1
    assert "missing does not exist" in done.err
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = gen3r(*COLD, own_checkpoint)
    assert done.code == 1
    assert "--cold measures one process, not 2" in done.err
