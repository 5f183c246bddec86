"""``gen3r bench``."""

import json

from command_line import gen3r


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
    done = gen3r("bench", "--tasks", "vggt", "--num_frames", "1", "--repeats", "1", "--warmup", "0",
                 "--json", tmp_path / "missing" / "bench.json")  # fmt: skip
    assert done.code == 1
    assert "bench.json: No such file or directory" in done.err


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
