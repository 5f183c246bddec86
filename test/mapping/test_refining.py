"""A window refined: cameras of matches, depth that fits them; untouched where there is nothing to match."""

import numpy as np
import pytest
from textured_room import SIZE, poses, window

from gen3r_core.mapping.features import FeatureBook
from gen3r_core.mapping.known import mismatch
from gen3r_core.mapping.refining import refine_window
from gen3r_core.mapping.similarity import so3_exp

AHEAD = poses(np.linspace(0, 25, 7), np.stack([np.linspace(0, 0.8, 7), np.zeros(7), np.linspace(-1, 0, 7)], axis=1))
BENT = np.exp(0.08 * np.cos(np.linspace(0, 3.1, SIZE[1]))).astype(np.float16)


def book():
    return FeatureBook(lambda frame: pytest.fail(f"frame {frame} is at hand in its window"))


def given(**changes):
    wrong = AHEAD.copy()
    angle = np.radians(20) * np.linspace(0, 1, len(wrong))
    wrong[:, :3, :3] = so3_exp(np.stack([0 * angle, angle, 0 * angle], axis=1)) @ AHEAD[:, :3, :3]
    room = window(AHEAD, cameras=wrong, **changes)
    true = room.depth.astype(np.float64)
    room.depth[:] *= BENT
    return room, true


def off(depth, true):
    logs = np.log(depth.astype(np.float64) / true)
    return np.abs(logs - np.median(logs)).mean()


def test_cameras_and_depth_become_right():
    room, true = given()
    before = off(room.depth, true)
    found = refine_window(room, book())
    assert found.reason == ""
    assert mismatch(found.window.T_window_cam, AHEAD)[0] < np.radians(0.6)
    assert found.window.depth.dtype == np.float16
    assert off(found.window.depth, true) < 0.75 * before


def test_nothing_to_match_nothing_changed():
    room, _ = given(plain=True)
    found = refine_window(room, book())
    assert found.reason.startswith("too few matches")
    assert found.window is room
