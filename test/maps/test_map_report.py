"""The report of a map: whole HTML that needs nothing else, drawings to scale, and figures that are right."""

import base64
import io
import math
import re
import time
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from browser import Browser, find_browser
from made_maps import HALF, START, box_map, intrinsics, pose, seen
from PIL import Image

from gen3r_core.errors import InputError
from gen3r_core.maps import drawing as drawing_module
from gen3r_core.maps import redrawn
from gen3r_core.maps.drawing import ceiling_height, draw_from, scale_length, typical_spacing
from gen3r_core.maps.folder import write_map
from gen3r_core.maps.page import figure_tables, show, table
from gen3r_core.maps.redrawn import redraw
from gen3r_core.maps.scene_map import MapCloud, MapFrame, SceneMap

PROGRAM = find_browser()

DASH = "\N{EN DASH}"
EMPTY = {"meta", "img", "br", "image", "circle", "rect", "path", "polyline"}
RUN = {
    "source": ["a<b>.mcap", "c.mcap"], "model": "gen3r & co", "metric_reason": "scale from odometry", "windows": 3,
    "loops": 1, "seconds": {"select": 1.5, "windows": 20.25, "bad": "x"}, "lost": {"odd/a_b.mcap: cut <off>": 12},
    "figures": {"ate_m": 0.1234567, "cloud": {"median": 0.05}, "rows": [{"a": 1, "b": None}, {"a": 2.5}],
                "list": [1, 2]},
    "generated": {"views": 1}, "options": {"voxel_size": 0.05, "mesh": True}, "exit_code": 3, "note": "hello",
}  # fmt: skip


class Page(HTMLParser):
    """Checks that elements nest, and collects what a reader sees and what a browser would fetch."""

    def __init__(self, text):
        super().__init__()
        self.open, self.words, self.links, self.tags = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.links += [value for name, value in attrs if name in {"src", "href", "action", "data", "poster"}]
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        assert tag in EMPTY

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def picture(self, number, tag):
        link = [attrs.get("href") or attrs.get("src") for name, attrs in self.tags if name == tag][number]
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(link.partition(",")[2]))))


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("maps") / "map"
    made = box_map(8, generated=(6,), cameras=("a", "b"))
    write_map(replace(made, run={**made.run, **RUN}), folder, mcap=False)
    return folder / "report.html"


def test_it_needs_nothing_else_and_says_everything(report):
    page = Page(report.read_text(encoding="utf-8"))
    assert page.links
    assert all(link.startswith("data:image/") for link in page.links)
    assert {"script", "link", "iframe", "object"}.isdisjoint(tag for tag, _ in page.tags)
    assert "url(" not in report.read_text()
    for words in (
        "a<b>.mcap, c.mcap", "Reconstructed with gen3r & co. Lengths are metres. Scale from odometry.", "partly lost",
        "7 keyframes", "1 / 12 % views / points generated", "22 s in all", "ate m 0.1235", "median 0.05",
        f"a b 1 {DASH} 2.5 {DASH}",
        "odd/a_b.mcap: cut <off> 12", "select 1.5 s", "voxel size 0.05", "mesh yes", "note hello", "windows 20.25 s",
        "views 1", "list 1, 2",
    ):  # fmt: skip
        assert words in page.text, words
    assert page.text.count("PSNR of the map") == 1
    assert sum(tag == "img" for tag, _ in page.tags) == 12
    assert sum(attrs.get("class") == "made" for tag, attrs in page.tags if tag == "circle") == 2


def test_drawings_are_to_scale(report):
    """The bar in the picture, in pixels, against the box's known width."""
    page = Page(report.read_text(encoding="utf-8"))
    from_above = page.picture(0, "image")
    columns = np.flatnonzero(from_above[..., 3].any(axis=0))
    width = columns[-1] - columns[0] + 1
    bar = float(re.search(r"h([\d.]+)m0", report.read_text())[1])
    length = float(re.search(r">([\d.]+) m</text>", report.read_text())[1])
    points = box_map(8, generated=(6,), cameras=("a", "b")).cloud.points
    assert width / bar * length == pytest.approx(np.ptp(points[:, 0]), rel=0.03)
    assert 0.1 < bar / from_above.shape[1] < 0.25


def test_ceilings_are_cut_in_the_plan_alone(report):
    page = Page(report.read_text(encoding="utf-8"))
    assert "above the cameras is cut off" in page.text
    cloud = full_cloud()
    cameras = np.array([[0.0, 0, -0.25], [1, 0, -0.25]])
    cut, kept = ceiling_height(cloud.points.astype(float), cameras)
    assert cut == pytest.approx(0.4 * 1.5)
    high = cloud.points[:, 2] > -0.25 + 0.6
    np.testing.assert_array_equal(kept, ~high)
    from_above = draw_from(
        cloud.select(kept), cloud.points[kept].astype(float), cameras, (0, 1, 2), largest=(200, 300), spacing=0.05
    )
    x, y = from_above.place(np.array([0.0]), np.array([0.0]))[0].astype(int)
    floor = cloud.colors[np.argmin(np.linalg.norm(cloud.points - [0, 0, -HALF[2]], axis=1))]
    assert np.abs(from_above.pixels[y, x, :3].astype(int) - floor).max() < 30
    nothing = ceiling_height(cloud.points.astype(float), cameras + np.array([0, 0, 5]))
    assert math.isinf(nothing[0])
    assert nothing[1].all()
    assert math.isinf(ceiling_height(cloud.points.astype(float), cameras[:0])[0])


def full_cloud(spacing=0.05):
    """All of the box's walls."""
    grid = [np.arange(-half, half + 1e-9, spacing) for half in HALF]
    points = []
    for axis in range(3):
        others = [other for other in range(3) if other != axis]
        a, b = np.meshgrid(grid[others[0]], grid[others[1]])
        for side in (-1, 1):
            wall = np.empty((a.size, 3))
            wall[:, axis], wall[:, others[0]], wall[:, others[1]] = side * HALF[axis], a.ravel(), b.ravel()
            points.append(wall)
    return cloud_of(np.concatenate(points))


def cloud_of(points, colors=None, generated=False):
    from made_maps import colors_at

    count = len(points)
    colors = colors_at(points) if colors is None else np.tile(np.array(colors, np.uint8), (count, 1))
    return MapCloud(
        points.astype(np.float32),
        colors,
        np.ones(count, np.float32),
        np.full(count, generated),
        np.zeros(count, np.int32),
    )


@pytest.mark.parametrize(("axes", "expected"), [((0, 1, 2), 2), ((0, 2, 1), 0), ((1, 2, 0), 1)])
def test_the_nearest_point_is_seen(axes, expected):
    """Three points behind each other along each axis: the eye is above, below the plan, and to its right."""
    colors = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    points = {
        0: [[0, -1, 0], [0, 0, 0], [0, 1, 0]],
        1: [[-1, 0, 0], [1, 0, 0], [0, 0, 0]],
        2: [[0, 0, -1], [0, 0, 0], [0, 0, 1]],
    }
    cloud = replace(cloud_of(np.array(points[expected], float)), colors=colors)
    drawn = draw_from(cloud, cloud.points.astype(float), np.zeros((0, 3)), axes, largest=(9, 9), spacing=0.0)
    there = drawn.pixels[drawn.pixels[..., 3] > 0]
    assert there[:, :3].tolist() == [colors[expected].tolist()]


def test_strays_do_not_shrink_a_drawing_and_generated_points_are_orange():
    points = np.concatenate([np.random.default_rng(0).uniform(-1, 1, (2000, 3)), [[500, 0, 0]]])
    cloud = cloud_of(points, (0, 0, 255), generated=True)
    drawn = draw_from(cloud, points, np.zeros((1, 3)), (0, 1, 2), largest=(100, 400), spacing=0.1, tint_generated=True)
    assert drawn.pixels.shape[1] < 120
    assert drawn.outside == pytest.approx(1 / 2001)
    color = drawn.pixels[drawn.pixels[..., 3] > 0][0]
    assert color[0] > 90 > color[1]
    with pytest.raises(InputError, match="nothing to draw"):
        draw_from(MapCloud.empty(), np.zeros((0, 3)), np.zeros((0, 3)), (0, 1, 2), largest=(9, 9), spacing=0.1)


def test_large_clouds_are_thinned_to_be_drawn(monkeypatch):
    monkeypatch.setattr(drawing_module, "_MOST_POINTS", 50)
    cloud = full_cloud()
    drawn = draw_from(cloud, cloud.points.astype(float), np.zeros((0, 3)), (0, 1, 2), largest=(400, 400), spacing=0.0)
    assert 20 < (drawn.pixels[..., 3] > 0).sum() <= 50


@pytest.mark.parametrize(("extent", "length"), [(10, 2), (4.9, 0.5), (26, 5), (1e-3, 2e-4), (999, 100), (5, 1)])
def test_lengths_of_bars(extent, length):
    assert scale_length(extent) == pytest.approx(length)


def test_spacing():
    assert typical_spacing(np.zeros((1, 3), np.float32)) == 0
    grid = np.stack(np.meshgrid(*[np.arange(5) * 0.25] * 3), axis=-1).reshape(-1, 3)
    assert typical_spacing(grid.astype(np.float32)) == pytest.approx(0.25)


# --- views -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", [1.0, 1e-3, 1e4])
def test_the_map_from_its_own_frames(unit):
    T, K = pose(1, 6), intrinsics()
    image, _, _ = seen(T, K)
    T[:3, 3] *= unit
    cloud = full_cloud(0.02)
    cloud = replace(cloud, points=cloud.points * np.float32(unit))
    view = redraw(1, MapFrame(image, T, K), cloud, 0.02 * unit)
    assert view.covered > 0.99
    error = (view.picture.astype(float) - image) / 255
    assert view.psnr == pytest.approx(-10 * math.log10(np.square(error).mean()), abs=0.3)
    assert view.psnr > 27
    moved = T.copy()
    moved[0, 3] += 0.5 * unit
    assert redraw(1, MapFrame(image, moved, K), cloud, 0.02 * unit).psnr < view.psnr - 5


def test_views_of_nothing_of_the_same_and_of_very_much(monkeypatch):
    T, K = np.eye(4), intrinsics((8, 8), 8.0)
    grey = MapFrame(np.full((8, 8, 3), 99, np.uint8), T, K)
    assert math.isnan(redraw(0, grey, MapCloud.empty(), 0.1).psnr)
    u, v = np.meshgrid(np.linspace(-1, 1, 60), np.linspace(-1, 1, 60))
    wall = cloud_of(np.stack([u.ravel(), v.ravel(), np.ones(3600)], axis=1), (99, 99, 99))
    same = redraw(0, grey, wall, 0.03)
    assert (same.covered, same.psnr) == (1, math.inf)
    monkeypatch.setattr(redrawn, "_MOST_POINTS", 300)
    assert redraw(0, grey, wall, 0.03).covered == 1


def test_a_map_of_generated_views_alone_and_one_that_is_the_same_everywhere(tmp_path):
    more = {"seconds": {"all": 700}, "why_not_metric": "no TF", "losses": ["a.mcap: cut"], "lost": {"messages": 0}}
    one = box_map(2, generated=(0, 1), mesh=False, gravity_known=False, **more)
    write_map(one, tmp_path / "a", mcap=False)
    text = Page((tmp_path / "a" / "report.html").read_text()).text
    assert "0 keyframes" in text
    assert "12 min in all" in text
    assert "What was lost messages 0 a.mcap: cut" in text
    assert "No TF." in text
    T = np.eye(4)
    lone = MapFrame(np.zeros((4, 4, 3), np.uint8), T, intrinsics((4, 4), 4.0), START)
    write_map(SceneMap([lone], MapCloud.empty(), metric=False), tmp_path / "b", mcap=False)
    text = Page((tmp_path / "b" / "report.html").read_text()).text
    assert "Lengths are the map's own units, not metres." in text
    assert "What was lost Nothing." in text
    assert f"frame 0: {DASH}, 0 % covered" in text


# --- pieces ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, DASH), (True, "yes"), (1234567, "1,234,567"), (0.000123456, "0.0001235"), (12345.6, "12,346"),
        (math.nan, DASH), (math.inf, "∞"), ([1, None], f"1, {DASH}"), ({"a": 2}, "a 2"), ("x_y", "x_y"),
    ],
)  # fmt: skip
def test_values_for_readers(value, shown):
    assert show(value) == shown


def test_tables():
    assert table([]) == ""
    assert figure_tables({}) == ""
    assert figure_tables({"a": {}}) == ""
    nested = figure_tables({"a": {"b_c": {"d": 1}}, "one": [{"x": 2}], "none": [], "mixed": [{"y": 1}, {"y": 2}]})
    assert re.findall("<h3>(.*?)</h3>", nested) == ["a, b c", "one", "mixed"]
    assert "<td>none</td><td>&ndash;</td>".replace("&ndash;", DASH) in nested
    assert "<script>" not in table([("<script>", 1)], ("<script>", "n"))


@pytest.mark.skipif(PROGRAM is None, reason="no Chromium here: apt-get install chromium-headless-shell")
@pytest.mark.parametrize(("scheme", "paper"), [("light", 250), ("dark", 22)])
def test_a_browser_shows_it_light_and_dark(report, tmp_path, scheme, paper):
    """The plan must be in the picture, on paper of the right brightness."""
    browser = Browser(PROGRAM, tmp_path, (1000, 1400))
    try:
        browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        browser.open(report.as_uri())
        deadline = time.monotonic() + 60
        while browser.evaluate("document.readyState + location.protocol") != "completefile:":
            assert time.monotonic() < deadline, "the page did not load"
            time.sleep(0.05)
        pixels = browser.screenshot().astype(int)
    finally:
        browser.close()
    assert abs(int(np.median(pixels[:, :20])) - paper) < 8
    colored = np.ptp(pixels, axis=2) > 40
    assert colored[250:].mean() > 0.1
