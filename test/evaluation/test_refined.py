"""VGGT refined: its cameras and depth come closer to the truth, and VGGT's own are told beside them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from textured_room import SIZE, K, poses, window

from gen3r_core.evaluation import refined
from gen3r_core.evaluation.measure import geometry_figures
from gen3r_core.evaluation.refined import RefinedTask
from gen3r_core.evaluation.scenes import TrueScene
from gen3r_core.mapping.windows import Prediction

PATH = poses(np.linspace(0, 25, 7), np.stack([np.linspace(0, 0.8, 7), np.zeros(7), np.linspace(-1, 0, 7)], axis=1))


@pytest.fixture
def scene():
    room = window(PATH)
    colors = torch.from_numpy(room.colors).permute(0, 3, 1, 2).float() / 255
    intrinsics = torch.from_numpy(room.intrinsics).float()
    depth = torch.from_numpy(room.depth).float()
    return TrueScene("room", 0, 0, colors, depth, intrinsics, torch.from_numpy(PATH).float(), "")


def test_cameras_come_closer_to_the_truth(scene, monkeypatch):
    def wrong(colors):
        """A network whose cameras turn too far and whose focal length is too long; it is given 8-bit pictures."""
        assert colors.dtype == np.uint8
        assert colors.shape == (7, *SIZE, 3)
        T = poses(np.linspace(0, 40, 7), PATH[:, :3, 3] / 2)
        intrinsics = np.repeat((K * [[1.1, 1, 1], [1, 1.1, 1], [1, 1, 1]])[None], 7, axis=0)
        depth = scene.depth.numpy() / 2
        return Prediction(depth, np.ones_like(depth), T, intrinsics, np.ones((7, 4)))

    monkeypatch.setattr(refined, "VggtPredictor", lambda *_args, **_options: wrong)
    (found,) = RefinedTask(SimpleNamespace()).predict([scene])
    own, plain = geometry_figures(found.geometry, scene), geometry_figures(found.vggt, scene)
    assert plain["auc30"] < 0.7
    assert own["auc30"] > 0.9
    assert own["absrel"] < 0.05
    assert found.colors is None
    assert found.seconds > found.vggt_seconds > 0
    for geometry in (found.geometry, found.vggt):
        assert geometry.points.shape == (7, *SIZE, 3)
