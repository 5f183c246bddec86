"""The stage that gives windows cameras of matches: what it says it did, and what it does not do again."""

from types import SimpleNamespace

import numpy as np
import pytest
from textured_room import poses, window

from gen3r_core.geometry.poses import invert_poses
from gen3r_core.mapping.features import FeatureBook
from gen3r_core.mapping.known import mismatch
from gen3r_core.mapping.similarity import so3_exp
from gen3r_core.mapping.windows import WindowStore
from gen3r_core.offline import matched as module
from gen3r_core.offline.matched import match_windows, refinement
from gen3r_core.progress import JobMonitor

TRUE = poses(np.linspace(0, 30, 8), np.stack([np.linspace(0, 0.9, 8), np.zeros(8), np.linspace(-1, 0, 8)], axis=1))
NAMES = ["bent", "true", "blank"]


def book():
    return FeatureBook(lambda frame: pytest.fail(f"frame {frame} is at hand in its window"))


@pytest.fixture
def stores(tmp_path):
    angle = np.radians(np.linspace(0, 40, 8))
    wrong = TRUE.copy()
    wrong[:, :3, :3] = so3_exp(np.stack([0 * angle, angle, 0 * angle], axis=1)) @ TRUE[:, :3, :3]
    with WindowStore(tmp_path / "raw", {}) as raw, WindowStore(tmp_path / "matched", {}) as matched:
        raw.put("bent", window(TRUE, 0, 3.0, cameras=wrong, depth_noise=0.03))
        raw.put("true", window(TRUE, 8, 3.0))
        raw.put("blank", window(TRUE, 16, 3.0, cameras=wrong, plain=True))
        yield raw, matched


def test_windows_get_the_cameras_that_explain_the_images(stores, monkeypatch):
    raw, matched = stores
    told = []
    monitor = JobMonitor(lambda p: told.append((p.stage, p.step, p.total)) or True)
    facts = match_windows(raw, NAMES, matched, book(), monitor)
    assert facts["windows"] == {
        "cameras of matches": 1,
        "as predicted; the network's cameras explain as many matches": 1,
        "as predicted; too few matches": 1,
    }
    assert facts["before"] < 0.7 * facts["after"] <= facts["matches"]
    assert told[-1] == ("match", 3, 3)
    made, given = matched.get("bent"), raw.get("bent")
    assert mismatch(made.T_window_cam, TRUE)[0] < np.radians(0.4) < mismatch(given.T_window_cam, TRUE)[0]
    # Depth has the unit of the cameras: what one view sees is where the next one sees it.
    true = np.linalg.norm(np.diff(invert_poses(TRUE)[:, :3, 3], axis=0), axis=1).sum()
    own = np.linalg.norm(np.diff(invert_poses(made.T_window_cam)[:, :3, 3], axis=0), axis=1).sum()
    assert true / own == pytest.approx(3.0, rel=0.08)
    np.testing.assert_array_equal(matched.get("blank").T_window_cam, raw.get("blank").T_window_cam)
    monkeypatch.setattr(module, "refine_window", lambda *_: pytest.fail("done before"))
    assert match_windows(raw, NAMES, matched, book(), JobMonitor()) == facts


@pytest.mark.parametrize("known", [True, False])
def test_the_focal_length_is_looked_for_where_it_is_not_known(known):
    rows = [SimpleNamespace(intrinsics=np.eye(3) if known or number else None) for number in range(3)]
    keyframes = SimpleNamespace(of=lambda camera: {"front": [0, 1, 2], "rear": [1, 2]}[camera], table=rows)
    assert refinement(keyframes, "front").match.calibrated == known
    assert refinement(keyframes, "rear").match.calibrated
