"""Clips with a known truth for tests of the evaluation: coloured rooms, and predictions made of the truth."""

from __future__ import annotations

from dataclasses import replace

import torch
from room_clips import room_batch

from gen3r_core.evaluation.predictions import Geometry, Prediction
from gen3r_core.evaluation.scenes import TrueScene
from gen3r_core.geometry.rigid import compose, invert_rigid
from gen3r_core.training.scene_units import clip_points, relative_poses


def true_scene(row=0, frames=5, size=(28, 28), **without):
    """Clip ``row`` of an endless set of rooms; ``depth=False`` or ``cameras=False`` leave them out."""
    batch = room_batch(row, 1, frames, size, **without)
    depth, intrinsics, poses = (
        None if values is None else values[0] for values in (batch.depth, batch.intrinsics, batch.T_world_cam)
    )
    return TrueScene(f"room_{row}", row, 10 + row, batch.colors[0], depth, intrinsics, poses, f"room {row}")


def true_geometry(scene, unit=1.0, moved=True):
    """What a perfect network would say: the first camera as world, lengths in units of so many metres."""
    poses = relative_poses(scene.T_world_cam[None])[0] if moved else scene.T_world_cam.clone()
    T = invert_rigid(poses)
    points = clip_points(scene.depth[None], T[None], scene.intrinsics[None])[0] / unit
    T = compose(torch.eye(4), T).clone()
    T[:, :3, 3] /= unit
    return Geometry(scene.depth / unit, points, T)


class RoomScenes:
    """Such clips as a source."""

    def __init__(self, count, frames=5, size=(28, 28), **without):
        self.count, self.frames, self.size, self.without = count, frames, size, without
        self.loaded = []

    def __len__(self):
        return self.count

    def load(self, rows, device):
        self.loaded.append(list(rows))
        return [true_scene(row, self.frames, self.size, **self.without) for row in rows]

    def other_caption(self, row):
        return f"room {row + 1}"


class Oracle:
    """Predicts the truth, or what ``spoil`` makes of it."""

    def __init__(self, task=None, spoil=None):
        self.task, self.spoil = task, spoil or (lambda prediction: prediction)
        self.calls = []

    def predict(self, scenes, *, warm_up=False, callback=None):
        self.calls.append((warm_up, [scene.row for scene in scenes]))
        return [self.spoil(self.truth(scene)) for scene in scenes]

    def truth(self, scene):
        known = scene.depth is not None and scene.T_world_cam is not None
        geometry = true_geometry(scene, unit=2.5) if known else None
        return Prediction(scene.colors.clone(), geometry, geometry, 0.5, 0.25, None)


def shifted(prediction, colors=0.1):
    """Every picture brighter."""
    return replace(prediction, colors=prediction.colors + colors)
