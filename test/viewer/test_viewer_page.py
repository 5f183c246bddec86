"""A page on a real server, without a browser: what it draws when its controls are moved."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from gen3r_core.errors import InputError
from gen3r_core.viewer.content import Content, ViewCamera
from gen3r_core.viewer.controls import CHANGED, LABELS, RELOAD, bounds_of
from gen3r_core.viewer.drawing import path_segments
from gen3r_core.viewer.page import Page, Source, ViewOptions
from gen3r_core.viewer.points import GENERATED, OBSERVED
from gen3r_core.viewer.serving import QuietServer, check_address, url_of


@pytest.fixture(scope="module")
def server():
    server = QuietServer(host="127.0.0.1", port=0, verbose=False)
    yield server
    server.stop()


class Shown:
    """A page that runs in a thread of its own."""

    def __init__(self, server, content, revision=lambda: (), **options):
        self.content = content
        self.page = Page(server, Source(self.read, revision), ViewOptions(**options))
        self.thread = threading.Thread(target=self.page.run)
        self.thread.start()

    def read(self):
        if isinstance(self.content, Exception):
            raise self.content
        return self.content

    @property
    def controls(self):
        return self.page._controls

    @property
    def drawing(self):
        return self.page._drawing

    @property
    def points(self):
        cloud = self.drawing._cloud
        return np.zeros((0, 3)) if cloud is None else cloud.points

    def visible(self):
        return [index for index, frustum in self.drawing._frusta.items() if frustum.visible]

    def until(self, condition):
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline, "the page does not draw it"
            assert self.thread.is_alive()
            time.sleep(0.02)


@pytest.fixture
def shown(server, room):
    pages = []

    def show(content=room, **options):
        pages.append(Shown(server, content, **options))
        pages[-1].until(lambda: pages[-1].drawing._cloud is not None)
        return pages[-1]

    yield show
    for page in pages:
        page.page.close()
        page.thread.join(timeout=30)
        assert not page.thread.is_alive()


def test_the_ceiling_is_cut_first_and_shown_when_the_slider_is_at_its_end(shown, room):
    page = shown()
    ceiling = room.points[:, 2].max()
    page.until(lambda: len(page.points))
    assert ceiling - 0.3 < page.points[:, 2].max() < ceiling - 0.05
    assert (page.points[:, 2] < 1).any()
    page.controls.cut.value = 1.0
    page.until(lambda: page.points[:, 2].max() <= 1.0)
    assert len(page.points) == (room.points[:, 2] <= page.controls.below).sum()
    page.controls.cut.value = page.controls.cut_bounds.high
    page.until(lambda: len(page.points) == len(room.points))


@pytest.mark.parametrize(("cut", "highest"), [("none", 2.53), (1.2, 1.2)])
def test_a_cut_from_the_start(shown, cut, highest):
    page = shown(cut=cut)
    page.until(lambda: len(page.points))
    assert page.points[:, 2].max() == pytest.approx(highest, abs=0.02)


def test_time_shows_what_was_known_then(shown, room):
    page = shown(cut="none")
    page.until(lambda: len(page.points) == len(room.points))
    assert page.visible() == list(range(8))
    page.controls.time.value = 2
    page.until(lambda: len(page.points) == (room.frame <= 2).sum())
    page.until(lambda: page.visible() == [0, 1, 2])
    page.controls.cameras.value = False
    page.until(lambda: page.visible() == [])
    page.controls.time.value = 7
    page.until(lambda: len(page.points) == len(room.points))


def test_playing_goes_round(shown):
    page = shown()
    page.controls.time.value = 6
    page.controls.play.value = True
    seen = []

    def twice_round():
        if not seen or seen[-1] != page.controls.time.value:
            seen.append(page.controls.time.value)
        return len(seen) > 4

    began = time.monotonic()
    page.until(twice_round)
    page.controls.play.value = False
    assert time.monotonic() - began > 0.4  # not faster than eight a second
    assert seen[:5] == [6, 7, 0, 1, 2]


def test_threshold_number_and_size_of_points(shown, room):
    page = shown(cut="none", point_size=0.05)
    page.until(lambda: len(page.points) == len(room.points))
    assert page.drawing._cloud.point_size == 0.05
    page.controls.point_size.value = 0.1
    assert page.drawing._cloud.point_size == 0.1
    page.controls.least.value = 60
    page.until(lambda: len(page.points) == pytest.approx(0.4 * len(room.points), rel=0.02))
    page.controls.most.value = 5000
    page.until(lambda: len(page.points) == 5000)
    page.controls.points.value = False
    page.until(lambda: len(page.points) == 0)


def test_colours(shown, room):
    page = shown(coloring="confidence")
    page.until(lambda: len(page.points))
    first = page.drawing._cloud.colors
    page.controls.coloring.value = LABELS["source"]
    page.until(lambda: len(page.points) and not np.array_equal(page.drawing._cloud.colors, first))
    blue = page.drawing._cloud.colors[:, 2].astype(int) > page.drawing._cloud.colors[:, 0]
    assert 0.5 < blue.mean() < 0.9


def test_a_colouring_that_the_map_has_nothing_for_is_refused(server, room):
    with pytest.raises(InputError, match=r"has nothing to colour by 'confidence'; it has image, source"):
        Shown(server, replace(room, confidence=None), coloring="confidence")


def test_the_mesh_is_shown_on_request_and_cut(shown):
    page = shown()
    time.sleep(0.2)
    assert page.drawing._mesh is None
    page.controls.mesh.value = True
    page.until(lambda: page.drawing._mesh is not None)
    whole = len(page.drawing._mesh.glb_data)
    page.controls.cut.value = 1.0
    page.until(lambda: page.drawing._mesh is not None and len(page.drawing._mesh.glb_data) < whole)
    page.controls.mesh.value = False
    page.until(lambda: page.drawing._mesh is None)


def test_camera_size_and_path(shown, server):
    page = shown()
    page.controls.camera_size.value = 0.3
    assert page.drawing._frusta[0].scale == 0.3
    page.until(lambda: "/path" in server.scene._handle_from_node_name)
    page.controls.path.value = False
    page.until(lambda: "/path" not in server.scene._handle_from_node_name)


def test_a_frame_is_pictured_and_stepped_through(shown, room):
    page = shown()
    page.page.select(3, None)
    assert "frame 3, observed, 0.30 s" in page.controls.caption.content
    np.testing.assert_array_equal(page.controls.picture.image, room.image(3))
    positions, clear = room.positions, 6 * page.controls.camera_size.value
    far = np.flatnonzero(np.linalg.norm(positions - positions[3], axis=1) > clear).tolist()
    assert 0 < len(far) < 7
    page.until(lambda: page.visible() == far)  # those around the eye are gone
    page.page._step("next", None)
    assert "frame 4" in page.controls.caption.content
    page.page._step("previous", None)
    assert "frame 3" in page.controls.caption.content
    page.page._see_all(None)
    page.until(lambda: page.visible() == list(range(8)))
    page.page._step("next", None)
    assert "frame 0" in page.controls.caption.content


@pytest.mark.parametrize("picture", [None, lambda index: (_ for _ in ()).throw(InputError("<gone>"))])
def test_a_picture_that_cannot_be_read_is_said(shown, room, picture):
    page = shown(replace(room, image=picture))
    page.page.select(1, None)
    assert not page.controls.picture.visible
    assert ("&lt;gone&gt;" if picture else "no pictures") in page.controls.caption.content


def test_a_cloud_alone_has_fewer_controls(shown, room):
    page = shown(Content("cloud", room.points, room.colors))
    page.until(lambda: len(page.points))
    controls = page.controls
    assert [controls.least, controls.mesh, controls.cameras, controls.time, controls.picture] == [None] * 5
    assert page.points[:, 2].max() < 2.5  # z is up, and the ceiling is found without cameras


def test_no_points_at_all(shown, room):
    none = np.zeros((0, 3), np.float32)
    page = shown(replace(room, points=none, colors=none.astype(np.uint8), confidence=None, generated=None, frame=None))
    assert len(page.points) == 0
    assert page.visible() == list(range(8))
    assert np.isfinite(page.page._view.position).all()


def test_up_can_be_said(shown, room):
    page = shown(up="-x", cut="none")
    page.until(lambda: len(page.points))
    page.controls.cut.value = -2.0
    page.until(lambda: len(page.points) < len(room.points))
    assert page.points[:, 0].min() >= 2.0 - 1e-6


def test_a_map_that_changes_can_be_read_again(shown, room, monkeypatch):
    monkeypatch.setattr("gen3r_core.viewer.page._LOOK_S", 0.1)
    state = {"revision": (("run.json", 1, 1, 1),)}
    page = shown(revision=lambda: state["revision"], cut="none")
    page.until(lambda: len(page.points) == len(room.points))
    page.controls.coloring.value = LABELS["source"]
    page.controls.most.value = 50_000
    page.until(lambda: len(page.points) == 50_000)
    assert page.controls.reload.label == RELOAD

    state["revision"] = (("run.json", 2, 1, 1),)
    page.until(lambda: page.controls.reload.label == CHANGED)
    page.content = InputError("half written")
    page.page._ask("reload")
    time.sleep(0.3)
    assert len(page.points) == 50_000  # what was there stays

    page.content = replace(room, points=room.points[:4000], colors=room.colors[:4000], confidence=None,
                           generated=None, frame=room.frame[:4000], cameras=room.cameras[:3])  # fmt: skip
    page.page._ask("reload")
    page.until(lambda: len(page.points) == 4000)
    page.until(lambda: page.visible() == [0, 1, 2])
    assert page.controls.coloring.value == "image"  # there is nothing left to tell sources by
    assert page.controls.most.value == 50_000
    assert page.controls.reload.label == RELOAD


def test_a_path_goes_by_cameras():
    def camera(x, name, generated=False):
        T = np.eye(4)
        T[0, 3] = x
        return ViewCamera(T, 1.0, 1.5, None, name, generated, drawn=True, thumbnail=None)

    none = np.zeros((0, 3), np.float32)
    cameras = (camera(0, "a"), camera(10, "b"), camera(1, "a"), camera(11, "b"), camera(2, "a", generated=True))
    content = Content("x", none, none.astype(np.uint8), cameras=cameras)
    ends, colors = path_segments(content, 4)
    assert ends[:, :, 0].tolist() == [[0, 1], [10, 11], [1, 2]]
    assert colors[:, 0].tolist() == [list(OBSERVED), list(OBSERVED), list(GENERATED)]
    assert ends.shape == colors.shape
    assert len(path_segments(content, 2)[0]) == 1
    assert len(path_segments(content, -1)[0]) == 0


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-2.53, 7.1), (1e-5, 3e-5), (4, 4), (-1e6, 3e6), (0, 200)])
def test_bounds_of_sliders_are_round_and_hold_the_values(low, high):
    found = bounds_of(low, high)
    assert found.low <= low <= high <= found.high
    steps = (found.high - found.low) / found.step
    assert 2 <= round(steps) <= 203
    assert abs(steps - round(steps)) < 1e-6
    for value in (low, high, (low + high) / 2):
        assert abs(found.nearest(value) - value) <= found.step
        assert found.low <= found.nearest(value) <= found.high


def test_nobody_is_given_a_way_in_from_outside(server):
    assert server.request_share_url() is None


def test_addresses():
    assert url_of("127.0.0.1", 8080) == "http://127.0.0.1:8080"
    assert url_of("0.0.0.0", 1) == "http://127.0.0.1:1"
    assert url_of("::1", 1) == "http://[::1]:1"
    check_address("127.0.0.1", 0)
    with pytest.raises(InputError, match=r"cannot listen on --host 203\.0\.113\.7 --port 8080: .*address of this"):
        check_address("203.0.113.7", 8080)
