"""Errors against seconds, drawn: what is on the picture, and that there is one."""

from dataclasses import replace

import pytest
from PIL import Image

from gen3r_core.bench import BenchReport, BenchResult
from gen3r_core.bench_plot import check_picture, draw_errors, write_plot
from gen3r_core.errors import InputError
from gen3r_core.execution.profiles import PROFILES
from gen3r_core.execution.trajectory import TrajectoryError

BAD = [TrajectoryError([1.0, 0.0], [0.1, 0.9]), TrajectoryError([1.0, 0.0], [0.2, 0.6])]


def result(profile, total, error, accepted=True):
    return BenchResult(
        task="2view", num_frames=5, size=(112, 112), steps=50, seconds={"denoise": total}, total=total, per_step=None,
        runs=[total], allocated_gib=1.0, reserved_gib=None, profile=profile, error=error, accepted=accepted,
    )  # fmt: skip


@pytest.fixture
def report():
    results = [result("exact", 80.0, 0.0), result("balanced", 20.0, 0.05), result("fast", 12.5, 0.25, accepted=False)]
    results.append(replace(result("preview", 2.0, 0.0), error=None, accepted=None))
    return BenchReport("gen3r-small", {"device": "CPU"}, {"dtype": "float32", "steps": 50}, results)


def words_of(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_each_profile_is_where_it_belongs(report):
    figure = draw_errors(report, BAD)
    axes = figure.axes[0]
    points = [(*line.get_xydata()[0], line.get_marker()) for line in axes.lines if len(line.get_xydata()) == 1]
    assert points == [(80.0, 0.0, "o"), (20.0, 5.0, "o"), (12.5, 25.0, "X")]
    assert axes.get_xlim()[0] == 0
    assert axes.get_xlim()[1] > 80
    assert axes.get_ylim()[0] < 0
    levels = sorted(line.get_ydata()[0] for line in axes.lines if len(line.get_xydata()) == 2)
    assert levels == pytest.approx([100 * PROFILES["balanced"].limit, 100 * PROFILES["fast"].limit, 60.0])
    words = words_of(figure)
    assert words[:3] == ["exact\n80 s, 0 %", "balanced\n20 s, 5 %", "fast\n12.5 s, 25 %, refused"]
    assert set(words[3:]) == {"limit of balanced", "limit of fast", "a deliberately bad cache"}
    assert axes.get_title() == "gen3r-small on CPU; dtype float32, steps 50"


def test_jobs_that_differ_in_more_are_told_apart(report):
    larger = replace(report.results[1], size=(224, 224), total=50.0)
    figure = draw_errors(replace(report, results=[*report.results, larger]), [])
    words = words_of(figure)
    assert "balanced, 2view, 5 x 112x112\n20 s, 5 %" in words
    assert "balanced, 2view, 5 x 224x224\n50 s, 5 %" in words
    assert "a deliberately bad cache" not in words


@pytest.mark.parametrize(("name", "start"), [("plot.png", b"\x89PNG"), ("plot.SVG", b"<?xml"), ("plot.pdf", b"%PDF")])
def test_pictures(report, tmp_path, name, start):
    path = tmp_path / name
    write_plot(report, BAD, path)
    assert path.read_bytes().startswith(start)
    if name.endswith("png"):
        with Image.open(path) as picture:
            assert picture.size == (1050, 675)
            assert len(picture.convert("RGB").getcolors(1 << 20)) > 50
    assert [found.name for found in tmp_path.iterdir()] == [name]


def test_what_cannot_be_drawn(report, tmp_path):
    with pytest.raises(InputError, match=r"a plot can be png, svg, pdf, by the ending of its name; got 'plot.jpeg'"):
        check_picture(tmp_path / "plot.jpeg")
    with pytest.raises(InputError, match="no profile of these has the frames and size of exact"):
        write_plot(replace(report, results=report.results[3:]), BAD, tmp_path / "plot.png")
    assert list(tmp_path.iterdir()) == []
