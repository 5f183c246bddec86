"""A camera in a world, in this process and in one of its own."""

import math
import os
import signal
import sys
import time
from multiprocessing import Pipe
from pathlib import Path

import numpy as np
import pytest
import torch

from gen3r_core.errors import Gen3RError, InputError, OutputError
from gen3r_core.worlds import camera as camera_module
from gen3r_core.worlds import render_process
from gen3r_core.worlds.camera import TrueCloud, WorldCamera, intrinsics_of
from gen3r_core.worlds.motion import camera_poses
from gen3r_core.worlds.packing import pack_worlds
from gen3r_core.worlds.render_process import CameraSettings, RenderProcess
from gen3r_core.worlds.rendering import render
from gen3r_core.worlds.robot import start_of, tour
from gen3r_core.worlds.splits import world_seed
from gen3r_core.worlds.world import make_world

SEED, SIZE, HFOV = world_seed("test", 3), (24, 32), 1.3
SETTINGS = CameraSettings(SEED, None, SIZE, HFOV, 1)


@pytest.fixture(scope="module")
def world():
    return make_world(SEED)


@pytest.fixture(scope="module")
def pose(world):
    x, y, yaw = start_of(tour(world))
    return camera_poses(np.array([x, y, 0.6]), np.array(yaw), np.array(0.0), np.array(0.0))


@pytest.fixture(scope="module")
def camera(world):
    return WorldCamera(world, SIZE, HFOV, samples=1)


def moved(pose, metres):
    other = pose.copy()
    other[2, 3] += metres
    return other


def test_pictures_are_those_of_the_renderer(world, camera, pose):
    K = np.array([[16 / math.tan(0.65), 0, 16], [0, 16 / math.tan(0.65), 12], [0, 0, 1]])
    np.testing.assert_allclose(camera.intrinsics, K)
    found = render(
        pack_worlds([world]), torch.from_numpy(pose)[None, None], torch.from_numpy(K)[None, None], SIZE, samples=1
    )
    picture = camera.picture(pose)
    assert (picture.colors.dtype, picture.depth.dtype) == (np.uint8, np.float32)
    np.testing.assert_allclose(picture.depth, found.depth[0, 0], atol=1e-6)
    assert np.abs(picture.colors / 255 - found.colors[0, 0].numpy()).max() <= 0.5 / 255 + 1e-6


def test_the_last_picture_is_not_rendered_again(world, pose):
    camera = WorldCamera(world, SIZE, HFOV, samples=1)
    first = camera.picture(pose)
    assert camera.picture(pose.copy()) is first
    assert camera.rendered == 1
    camera.picture(moved(pose, 0.1))
    camera.picture(pose)
    assert camera.rendered == 3


def test_a_folder_keeps_pictures(world, pose, tmp_path):
    def again(**changes):
        made = WorldCamera(world, **{"size": SIZE, "hfov": HFOV, "samples": 1, "cache_folder": tmp_path, **changes})
        return made, made.picture(pose)

    first, picture = again()
    other, same = again()
    assert (first.rendered, other.rendered) == (1, 0)
    np.testing.assert_array_equal(same.colors, picture.colors)
    np.testing.assert_array_equal(same.depth, picture.depth)
    assert again(hfov=1.2)[0].rendered == 1
    assert again(samples=2)[0].rendered == 1
    (*_, file) = sorted(tmp_path.glob("*.npz"))
    for file in tmp_path.glob("*.npz"):
        file.write_bytes(file.read_bytes()[:100])
    damaged, repaired = again()
    assert damaged.rendered == 1
    np.testing.assert_array_equal(repaired.colors, picture.colors)
    np.savez(next(tmp_path.glob("*.npz")), colors=np.zeros((2, 2, 3), np.uint8), depth=np.zeros((2, 2), np.float32))
    assert again()[1].colors.shape == (*SIZE, 3)


def test_a_folder_is_bounded(world, pose, tmp_path, monkeypatch):
    camera = WorldCamera(world, SIZE, HFOV, samples=1, cache_folder=tmp_path)
    camera.picture(pose)
    (first,) = tmp_path.glob("*.npz")
    os.utime(first, (1, 1))
    monkeypatch.setattr(camera_module, "CACHE_BYTES", int(3.5 * first.stat().st_size))
    for step in range(1, 8):
        camera.picture(moved(pose, step / 50))
        assert sum(file.stat().st_size for file in tmp_path.glob("*.npz")) <= camera_module.CACHE_BYTES
    assert not first.exists()
    rendered = camera.rendered
    camera.picture(moved(pose, 6 / 50))
    assert camera.rendered == rendered, "the newest are kept"


@pytest.mark.slow
def test_the_cloud_lies_on_the_surfaces(world, camera):
    cloud = camera.cloud(0.6, 0.05)
    assert cloud.points.shape == cloud.colors.shape
    assert (cloud.points.dtype, cloud.colors.dtype) == (np.float32, np.uint8)
    distance = camera.distance(cloud.points)
    assert np.median(distance) < 1e-3
    assert distance.max() < 0.05
    # Walls, floor and ceiling of the room are there.
    x0, y0, x1, y1 = world.rooms[0].inside
    low, high = cloud.points.min(axis=0), cloud.points.max(axis=0)
    np.testing.assert_allclose(low, [x0, y0, 0], atol=0.06)
    np.testing.assert_allclose(high, [x1, y1, world.rooms[0].height], atol=0.06)


def test_distances_are_those_to_the_floor_in_the_open(world, camera, pose):
    x, y = pose[:2, 3]
    points = np.array([[x, y, 0.1], [x, y, -0.02], [x, y, 0.0]])
    np.testing.assert_allclose(camera.distance(points), [0.1, 0.02, 0], atol=1e-5)
    assert camera.distance(np.zeros((0, 3))).shape == (0,)
    many = np.repeat(points, 20_000, axis=0)
    np.testing.assert_allclose(camera.distance(many)[::20_000], [0.1, 0.02, 0], atol=1e-5)


@pytest.mark.parametrize(("size", "hfov"), [((1, 9), 1.0), ((9, 9000), 1.0), ((9, 9), 0.0), ((9, 9), 3.1)])
def test_cameras_that_make_no_sense(size, hfov):
    with pytest.raises(InputError, match="a camera has a size"):
        intrinsics_of(size, hfov)


def test_other_bad_input(world, camera, tmp_path):
    with pytest.raises(InputError, match="samples a side, got 0"):
        WorldCamera(world, SIZE, HFOV, samples=0)
    for bad in (np.eye(3), np.full((4, 4), np.nan)):
        with pytest.raises(InputError, match="a camera pose is a matrix"):
            camera.picture(bad)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        WorldCamera(world, SIZE, HFOV, cache_folder=tmp_path / "file/folder")


# --- in a process of its own -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def process():
    made = RenderProcess(SETTINGS)
    yield made
    made.close()


def test_the_process_answers_in_order(process, camera, pose):
    assert process.answer() is None
    for metres in (0.0, 0.1):
        process.ask_picture(moved(pose, metres))
    process.ask_cloud(0.6, 0.1)
    process.ask_picture(np.eye(3))
    for metres in (0.0, 0.1):
        picture, truth = process.answer(60), camera.picture(moved(pose, metres))
        np.testing.assert_array_equal(picture.colors, truth.colors)
        np.testing.assert_array_equal(picture.depth, truth.depth)
    assert isinstance(process.answer(60), TrueCloud)
    with pytest.raises(InputError, match="a camera pose is a matrix"):
        process.answer(60)
    assert process.answer() is None
    process.ask_picture(pose)
    assert process.answer(60).colors.shape == (*SIZE, 3)


def test_a_process_that_died_is_noticed_at_asking_and_at_answering(pose):
    for ask_first in (True, False):
        process = RenderProcess(SETTINGS)
        if ask_first:
            process.ask_picture(pose)
        os.kill(process.pid, signal.SIGKILL)
        process._process.wait(5)
        with pytest.raises(Gen3RError, match=r"has ended \(exit code -9\)"):
            process.answer(5) if ask_first else process.ask_picture(pose)
        process.close()


def test_it_ends_at_once_while_it_renders(pose):
    process = RenderProcess(CameraSettings(SEED, None, (2000, 2000), HFOV, 2))
    process.ask_picture(pose)
    assert process.answer(0.5) is None
    start = time.monotonic()
    process.close()
    assert time.monotonic() - start < 4
    assert not Path(f"/proc/{process.pid}").exists()


def test_one_that_does_not_end_is_killed(monkeypatch):
    process = RenderProcess(SETTINGS)
    monkeypatch.setattr(process._process, "terminate", lambda: None)
    monkeypatch.setattr(render_process, "_END_SECONDS", 0.1)
    process.close()
    assert process._process.returncode == -9


def test_it_ends_with_the_one_who_asked():
    ours, theirs = Pipe()
    ours.send(SETTINGS)
    ours.close()
    assert render_process.main([str(os.dup(theirs.fileno()))]) == 0


@pytest.mark.slow
def test_serving_in_this_process(pose, camera, tmp_path):
    """What the process does, step by step; the first request brings the settings' errors."""
    (tmp_path / "file").touch()
    for settings, good in ((SETTINGS, True), (CameraSettings(SEED, None, SIZE, HFOV, 1, tmp_path / "file/x"), False)):
        ours, theirs = Pipe()
        for message in (settings, ("picture", pose), ("cloud", 0.6, 0.2)):
            ours.send(message)
        answers = []
        with pytest.raises(EOFError):
            render_process.serve(_Recorder(theirs, answers, 2))
        if good:
            np.testing.assert_array_equal(answers[0].colors, camera.picture(pose).colors)
            assert isinstance(answers[1], TrueCloud)
        else:
            assert [type(answer) for answer in answers] == [OutputError, OutputError]


class _Recorder:
    """A connection whose other side goes after some answers."""

    def __init__(self, connection, answers, most):
        self._connection, self._answers, self._most = connection, answers, most

    def recv(self):
        if len(self._answers) == self._most:
            raise EOFError
        return self._connection.recv()

    def send(self, answer):
        self._answers.append(answer)


def test_nonsense_is_no_answer(process, pose, monkeypatch):
    ours, theirs = Pipe()
    theirs.send("nonsense")
    monkeypatch.setattr(process, "_connection", ours)
    monkeypatch.setattr(process, "_waiting", 1)
    with pytest.raises(Gen3RError, match="answered with str"):
        process.answer(1)


def test_no_process_can_be_started(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(Gen3RError, match="no process for rendering can be started"):
        RenderProcess(SETTINGS)
