"""Contact sheets: what is where."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from true_scenes import Oracle, true_geometry, true_scene

from gen3r_core.conditioning import Task
from gen3r_core.evaluation.run import SceneFigures
from gen3r_core.evaluation.sheets import evaluation_sheet

MARGIN, GAP = 96, 4
FIGURES = SceneFigures(
    "room_0", "room 0", None, 1.0, {"psnr_middle": 21.5, "auc30": None}, {"nearest": {"psnr_unknown": 19.0}}
)


def tile(sheet, rows, row, column, size):
    """The picture of a row, counted from the bottom as the height of the text varies."""
    height, width = size
    top = sheet.shape[0] - (rows - row) * (height + GAP)
    left = MARGIN + column * (width + GAP)
    return sheet[top : top + height, left : left + width]


def as_bytes(frame):
    return (frame.movedim(0, -1) * 255).round().byte().numpy()


@pytest.mark.parametrize(
    ("task", "rows"),
    [(Task.TWO_VIEW, 6), (Task.ONE_VIEW, 6), (Task.ALL_VIEW, 5), (None, 6)],
)
def test_rows_and_columns(task, rows):
    scene = true_scene(0, frames=17)
    prediction = replace(Oracle().truth(scene), colors=1 - scene.colors)
    sheet = evaluation_sheet(scene, prediction, FIGURES, task)
    assert sheet.dtype == np.uint8
    assert sheet.shape[1] == MARGIN + 6 * (28 + GAP)
    assert sheet.shape[0] > rows * (28 + GAP) + 2 * 17
    frames = [0, 3, 6, 10, 13, 16]
    for column, frame in enumerate(frames):
        assert np.array_equal(tile(sheet, rows, 0, column, (28, 28)), as_bytes(scene.colors[frame]))
        assert np.array_equal(tile(sheet, rows, 1, column, (28, 28)), as_bytes(1 - scene.colors[frame]))
        # The prediction's depth is the truth in other units: its colours are the same.
        depths = [tile(sheet, rows, row, column, (28, 28)).astype(int) for row in (rows - 3, rows - 2, rows - 1)]
        assert np.abs(depths[0] - depths[1]).max() <= 3
        assert np.array_equal(depths[1], depths[2])
    if task is Task.TWO_VIEW:
        assert np.array_equal(tile(sheet, rows, 2, 0, (28, 28)), as_bytes(scene.colors[0]))
        weight = 6 / 16
        middle = scene.colors[0] * (1 - weight) + scene.colors[16] * weight
        assert np.abs(tile(sheet, rows, 2, 2, (28, 28)).astype(int) - as_bytes(middle)).max() <= 1
    if task is Task.ONE_VIEW:
        assert np.array_equal(tile(sheet, rows, 2, 5, (28, 28)), as_bytes(scene.colors[0]))
    if task is None:
        four_times = as_bytes((4 * (1 - 2 * scene.colors[16]).abs()).clamp(0, 1))
        assert np.abs(tile(sheet, rows, 2, 5, (28, 28)).astype(int) - four_times).max() <= 1


def test_depth_alone_is_shown_without_truth_and_pictures():
    scene = true_scene(0, frames=2)
    geometry = true_geometry(scene)
    prediction = replace(Oracle().truth(scene), colors=None, geometry=geometry, vggt=None)
    sheet = evaluation_sheet(replace(scene, depth=None), prediction, FIGURES, None)
    assert np.array_equal(tile(sheet, 2, 0, 1, (28, 28)), as_bytes(scene.colors[1]))
    assert len(np.unique(tile(sheet, 2, 1, 0, (28, 28)).reshape(-1, 3), axis=0)) > 20


def test_colours_of_depth_are_those_of_the_truths_range():
    """Predictions that are far too deep in places do not change what the rest looks like."""
    scene = true_scene(0)
    truth = Oracle().truth(scene)
    far = truth.geometry.depth.clone()
    far[:, :8] *= 30
    wild = replace(truth, geometry=replace(truth.geometry, depth=far))
    right, wrong = (evaluation_sheet(scene, one, FIGURES, Task.ALL_VIEW) for one in (truth, wild))
    for column in range(5):
        a, b = (tile(sheet, 5, 2, column, (28, 28)).astype(int) for sheet in (right, wrong))
        assert np.abs(a - b).max() <= 4
        a, b = (tile(sheet, 5, 3, column, (28, 28)).astype(int) for sheet in (right, wrong))
        assert np.abs(a[8:] - b[8:]).max() <= 4
        assert np.abs(a[:8] - b[:8]).max() > 60


def test_broken_predictions_are_drawn():
    scene = true_scene(0)
    truth = Oracle().truth(scene)
    nothing = replace(truth.geometry, depth=truth.geometry.depth * torch.nan)
    sheet = evaluation_sheet(
        scene, replace(truth, colors=truth.colors * torch.nan, geometry=nothing), FIGURES, Task.ALL_VIEW
    )
    assert not tile(sheet, 5, 1, 0, (28, 28)).any()
    assert not tile(sheet, 5, 3, 0, (28, 28)).any()


def test_large_frames_become_thumbnails_and_text_is_written():
    scene = true_scene(0, frames=3, size=(112, 448))
    sheet = evaluation_sheet(scene, Oracle().truth(scene), FIGURES, Task.ONE_VIEW)
    assert sheet.shape[1] == MARGIN + 3 * (224 + GAP)
    assert (sheet[:17, :MARGIN] < 100).any()  # the name, dark on white
    other = evaluation_sheet(
        scene, replace(Oracle().truth(scene), prompt="a very long prompt " * 20), FIGURES, Task.ONE_VIEW
    )
    assert other.shape[0] > sheet.shape[0]
