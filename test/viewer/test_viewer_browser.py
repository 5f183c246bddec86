"""`gen3r view` as a person sees it: a real server, a headless Chromium, and what is on its screen."""

import contextlib
import json
import math
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from browser import Browser, find_browser
from command_line import ROOT, environment

from gen3r_core.errors import InputError
from gen3r_core.viewer.opening import revision
from gen3r_core.viewer.page import Page, Source, ViewOptions
from gen3r_core.viewer.points import GENERATED, OBSERVED
from gen3r_core.viewer.serving import QuietServer

PROGRAM = find_browser()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium here: apt-get install chromium-headless-shell")

# The element with this text, and the input to its right; of several elements, one that has an input.
FIND = """
(label => {
  const middle = box => (box.top + box.bottom) / 2;
  const centre = box => [(box.left + box.right) / 2, middle(box)];
  const leaves = [...document.querySelectorAll('*')].filter(
    one => one.childElementCount === 0 && one.textContent.trim() === label && one.getBoundingClientRect().width > 0);
  const inputOf = leaf => {
    const box = leaf.getBoundingClientRect();
    return [...document.querySelectorAll('input')].filter(one => {
      const there = one.getBoundingClientRect();
      return there.width > 4 && there.left > box.left && Math.abs(middle(there) - middle(box)) < 12;
    }).at(-1);
  };
  const leaf = leaves.find(inputOf) ?? leaves[0];
  if (!leaf) return null;
  leaf.scrollIntoView({block: 'center'});
  const input = inputOf(leaf);
  return {label: centre(leaf.getBoundingClientRect()), input: input ? centre(input.getBoundingClientRect()) : null,
          value: input ? input.value : null};
})(%s)
"""


class Screen:
    """The page in a browser; what is left of its panel is so wide."""

    def __init__(self, browser, url, width=840):
        self.browser, self.width = browser, width
        browser.open(f"{url}?fixedDpr=1")  # or its resolution goes down where the browser is slow
        self.wait(lambda: self.find("most points"))
        self.wait(lambda: covered(self.canvas()) > 0.1)
        self.browser.evaluate("document.querySelector('.mantine-Notification-closeButton')?.click()")  # software WebGL
        self.wait(lambda: (self.canvas()[15:60, 15:30, 2] < 128).mean() < 0.3)

    def find(self, label):
        return self.browser.evaluate(FIND % json.dumps(label))

    def canvas(self):
        """What is left of the panel: ``[H, W, 3]`` int."""
        return self.browser.screenshot()[:, : self.width].astype(int)

    def wait(self, condition, seconds=60):
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            if time.monotonic() > deadline:
                pytest.fail("the page did not come to show it")
            time.sleep(0.1)
        return found

    def enter(self, label, value):
        """Types into the number beside a slider."""
        where = self.find(label)
        self.browser.click(*where["input"])
        self.browser.evaluate("document.activeElement.select()")
        self.browser.type(str(value))
        self.browser.press("Enter", 13)
        self.browser.evaluate("document.activeElement.blur()")

    def choose(self, label, option):
        self.browser.click(*self.find(label)["input"])
        self.browser.click(*self.wait(lambda: self.find(option))["label"])

    def press(self, label):
        self.browser.click(*self.find(label)["label"])

    def tick(self, label):
        self.browser.click(*self.find(label)["input"])

    def settled(self, condition):
        """The canvas, when it fulfils a condition and stands still."""

        def found():
            now = self.canvas()
            return now if condition(now) and np.array_equal(now, self.canvas()) else None

        deadline = time.monotonic() + 60
        while (canvas := found()) is None:
            assert time.monotonic() < deadline, "the page did not come to show it"
        return canvas

    def changed(self, before, share):
        """The canvas, when so much of it has changed."""
        return self.settled(lambda now: (np.abs(now - before).max(axis=2) > 30).mean() > share)


def covered(canvas):
    """Share of pixels that are not background."""
    return (canvas.min(axis=2) < 240).mean()


def near(canvas, color, distance=130):
    """Share of pixels of about a colour, lighter or darker."""
    return (np.abs(canvas - color).sum(axis=2) < distance).mean()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    found = Browser(PROGRAM, tmp_path_factory.mktemp("browser"), (1180, 600))  # the panel takes 324
    yield found
    found.close()


@contextlib.contextmanager
def served(*arguments):
    process = subprocess.Popen(
        [sys.executable, "-m", "gen3r_core.cli", "view", *map(str, arguments), "--port", "0"],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield re.search(r"http://\S+", process.stdout.readline())[0]
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate(timeout=30)


def test_a_map_is_seen_and_its_controls_work(browser, room_folder):
    with served(room_folder, "--color", "source", "--cut", "1.0") as url:
        browser.requests.clear()
        screen = Screen(browser, url)
        ours = (url, url.replace("http", "ws"), "data:", "blob:")
        assert all(request.startswith(ours) for request in browser.requests)
        text = str(browser.evaluate("document.body.innerText"))
        assert "metres (odometry)" in text
        assert "55,296, 13,824 of them generated" in text
        assert "blurred: 4" in text
        assert "<b>small</b>" in text  # and not in bold

        # What was asked for at the start.
        assert float(screen.find("cut above")["value"]) == pytest.approx(1.0, abs=0.011)
        source = screen.canvas()
        assert near(source, OBSERVED) > 0.08
        assert near(source, GENERATED) > 0.02

        screen.choose("colours", "image")
        image = screen.changed(source, 0.15)
        assert near(image, OBSERVED) < 0.03  # but for the cameras

        screen.choose("colours", "confidence")
        sure = screen.changed(image, 0.15)
        assert near(sure, (60, 20, 110), 60) > 0.05 + near(image, (60, 20, 110), 60)

        # The ceiling hides what is below.
        screen.enter("cut above", 2.54)
        closed = screen.changed(sure, 0.2)
        assert covered(closed) > 1.2 * covered(sure)
        screen.enter("cut above", 2.4)
        room = screen.changed(closed, 0.1)
        screen.choose("colours", "image")
        full = screen.changed(room, 0.1)

        # The surface looks like its points.
        screen.tick("points")
        without = screen.settled(lambda now: covered(now) < 0.2 * covered(full))
        screen.tick("mesh")
        mesh = screen.changed(without, 0.1)
        both = (full.min(axis=2) < 240) & (mesh.min(axis=2) < 240)
        assert both.mean() > 0.5 * covered(full)
        assert np.median(np.abs(mesh - full)[both].max(axis=1)) < 40

        screen.enter("until frame", 0)
        screen.tick("points")
        screen.tick("mesh")
        screen.settled(lambda now: 0.1 * covered(full) < covered(now) < 0.6 * covered(full))


@pytest.mark.slow
def test_a_click_on_a_camera_shows_its_picture_and_goes_there(browser, room_folder, room):
    server = QuietServer(host="127.0.0.1", port=0, verbose=False)
    found = [room]
    page = Page(server, Source(lambda: read(found), lambda: revision(room_folder)), ViewOptions(cut=1.0))
    thread = threading.Thread(target=page.run)
    thread.start()
    try:
        screen = Screen(browser, f"http://127.0.0.1:{server.get_port()}")
        everything = screen.canvas()
        page._controls.time.value = 0
        before = screen.changed(everything, 0.02)
        (client,) = server.get_clients().values()
        camera, frustum = room.cameras[0], page._drawing._frusta[0]
        depth = frustum.compute_canonical_frustum_size()[2] * frustum.scale
        screen.browser.click(*seen_at(client.camera, camera.position + depth * camera.T_world_cam[:3, 2]))
        after = screen.changed(before, 0.2)
        assert np.linalg.norm(client.camera.position - camera.position) < 0.05
        # All of the picture is in view, whichever of its sides touches the canvas's.
        shown = math.tan(client.camera.fov / 2) * np.array([client.camera.aspect, 1])
        own = math.tan(camera.fov_y / 2) * np.array([camera.aspect, 1])
        assert (shown / own).min() == pytest.approx(1, abs=0.01)
        assert "frame 0, observed" in str(browser.evaluate("document.body.innerText"))
        pictures = browser.evaluate("[...document.images].map(one => one.naturalWidth)")
        assert room.image(0).shape[1] in pictures
        screen.press("See all")
        back = screen.changed(after, 0.2)
        assert np.abs(back - before).mean() < 6
        screen.press("next")
        screen.changed(back, 0.2)
        found.clear()
        screen.press("Reload")
        screen.wait(lambda: "it is half written" in str(browser.evaluate("document.body.innerText")))
        assert covered(screen.canvas()) > 0.1
    finally:
        page.close()
        thread.join(timeout=30)
        server.stop()


@pytest.mark.slow
def test_a_narrow_window_shows_all_from_the_start(tmp_path, room_folder):
    """As "See all" does; the panel takes 324 of the 844 pixels."""
    browser = Browser(PROGRAM, tmp_path, (844, 700))
    try:
        with served(room_folder, "--cut", "1.0") as url:
            screen = Screen(browser, url, 500)
            sides = [slice(10), slice(-10, None)]
            screen.settled(lambda now: covered(now) > 0.1 and all(now[60:, side].min() > 240 for side in sides))
    finally:
        browser.close()


def read(found):
    if not found:
        raise InputError("it is half written")
    return found[0]


def seen_at(eye, point):
    """The pixel at which a client sees a point."""
    w, x, y, z = eye.wxyz
    R = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    local = R.T @ (point - eye.position)
    focal = eye.image_height / 2 / np.tan(eye.fov / 2)
    return local[:2] / local[2] * focal + np.array([eye.image_width, eye.image_height]) / 2
