"""What the panel says about a map and a frame."""

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen3r_core.viewer.content import Content
from gen3r_core.viewer.summary import camera_text, summary_html

NOTHING = Content("x", np.zeros((3, 3), np.float32), np.zeros((3, 3), np.uint8))


def rows(content):
    cells = [cell.replace("&#x27;", "'") for cell in re.findall(r"<td[^>]*>(.*?)</td>", summary_html(content))]
    return dict(zip(cells[::2], cells[1::2], strict=True))


def test_a_map(room):
    assert rows(room) == {
        "unit": "metres (odometry)",
        "points": "55,296, 13,824 of them generated",
        "frames": "6 observed, 2 generated",
        "mesh": f"{len(room.mesh.triangles):,} triangles",
        "source": "room.mcap",
        "model": "&lt;b&gt;small&lt;/b&gt;",
        "state": "part of the recording was lost",
        "lost": "blurred: 4",
    }


def test_a_cloud_of_which_nothing_is_known():
    assert rows(NOTHING) == {"unit": "not known", "points": "3"}


def test_units():
    assert rows(replace(NOTHING, metric=False))["unit"] == "the map's own, not metres"
    assert rows(replace(NOTHING, metric=True))["unit"] == "metres"
    why = replace(NOTHING, metric=False, run={"why_not_metric": "no TF"})
    assert rows(why)["unit"] == "the map's own, not metres (no TF)"
    assert rows(replace(NOTHING, metric=False, run={"result": {"metres_per_unit": 1.75}}))["unit"] == "1.75 m"


def test_more_of_a_run(room):
    run = {"source": ["a.bag", "b.bag"], "model": {"name": "small", "path": "x"}, "windows": 7, "lost": {}, "loops": 0}
    two = tuple(replace(camera, camera=f"/cam{index % 2}") for index, camera in enumerate(room.cameras))
    found = rows(replace(room, run=run, cameras=two))
    assert found["source"] == "a.bag, b.bag"
    assert found["model"] == "small"
    assert found["windows"] == "7"
    assert found["lost"] == "nothing"
    assert "loops" not in found
    assert found["frames"].endswith("2 cameras")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)
NAMES = ("source", "model", "metric_reason", "why_not_metric", "lost", "exit_code", "result", "windows", "prompt")


@given(st.dictionaries(st.sampled_from(NAMES), JSON))
def test_whatever_a_run_says_is_text(run):
    found = summary_html(replace(NOTHING, metric=True, run=run))
    assert set(re.findall(r"</?([a-z]+)", found)) <= {"div", "table", "tr", "td"}
    assert len(found) < 10_000


def test_a_frame(room):
    assert camera_text(room, 0) == "frame 0, observed, 0.00 s"
    assert camera_text(room, 7) == "frame 7, generated, 0.70 s"
    named = replace(room, cameras=(replace(room.cameras[0], camera="/front", stamp_ns=None),))
    assert camera_text(named, 0) == "frame 0, observed, /front"


@pytest.mark.parametrize("length", [119, 200])
def test_long_values_are_cut(length):
    assert len(rows(replace(NOTHING, run={"source": "a" * length}))["source"]) == min(length, 120)
