"""Points that other views see at another depth are left out; those that nobody else looks at stay."""

import numpy as np
import pytest
from textured_room import K, look, poses

from gen3r_core.errors import InputError
from gen3r_core.mapping.fusion import PlacedView
from gen3r_core.offline.confirming import ConfirmOptions, confirm_views, confirmed, witnesses
from gen3r_core.offline.fusing import save_view
from gen3r_core.progress import JobMonitor

COUNT = 12
POSES = poses(np.zeros(COUNT), np.stack([np.linspace(-0.5, 0.5, COUNT), np.zeros(COUNT), np.zeros(COUNT)], axis=1))
OPTIONS = ConfirmOptions(others=4, apart=3)


@pytest.fixture
def views(tmp_path):
    (tmp_path / "views").mkdir()
    made = []
    for number, T in enumerate(POSES):
        image, depth = look(T)
        depth = depth.astype(np.float32)
        if number == 5:
            depth[:, 70:90] *= 0.8  # a wall that stands before the wall
        depth[:4] = 0
        made.append(PlacedView(number, T, K, depth, np.ones_like(depth), image))
        save_view(tmp_path / "views" / f"{number:06d}.npz", made[-1])
    return tmp_path, made


def test_what_others_see_elsewhere_is_left_out(views):
    folder, made = views
    told = []
    share = confirm_views(folder / "views", folder / "masks", COUNT, POSES, 3.0,
                          JobMonitor(lambda p: told.append((p.stage, p.step)) or True), OPTIONS)  # fmt: skip
    assert told[-1] == ("confirm", COUNT)
    sure = [confirmed(view, folder / "masks", number) for number, view in enumerate(made)]
    assert not sure[5].depth[10:-10, 72:88].any()
    rest = np.ones(120 * 160, bool).reshape(120, 160)
    rest[:, 68:92] = False
    rest[:4] = False
    assert (sure[5].depth[rest] > 0).mean() > 0.97
    kept = [float((one.depth > 0).sum() / (view.depth > 0).sum()) for one, view in zip(sure, made, strict=True)]
    assert share == pytest.approx(np.mean(kept), abs=0.001)
    assert min(kept[:5] + kept[6:]) > 0.95
    np.testing.assert_array_equal(sure[0].depth[sure[0].depth > 0], made[0].depth[sure[0].depth > 0])


def test_witnesses_are_near_in_space_and_not_in_time():
    found = witnesses(POSES, 5, 3.0, OPTIONS)
    assert len(found) == 4
    assert min(abs(one - 5) for one in found) >= 3
    back = poses([0, 0, 180, 0], [[0, 0, 0], [0.1, 0, 0], [0.1, 0, 0], [0.2, 0, 0]])
    assert witnesses(back, 0, 1.0, ConfirmOptions(apart=1)) == [1, 3]
    assert witnesses(back, 0, 1.0) == []


def test_where_nobody_looks_points_stay(views):
    folder, made = views
    assert confirm_views(folder / "views", folder / "alone", 1, POSES[:1], 3.0, JobMonitor()) == 1.0
    np.testing.assert_array_equal(confirmed(made[0], folder / "alone", 0).depth, made[0].depth)


def test_damage_is_told(views):
    folder, made = views
    (folder / "000000.npy").write_bytes(b"nothing")
    with pytest.raises(InputError, match="damaged"):
        confirmed(made[0], folder, 0)
    with pytest.raises(InputError, match="tolerance"):
        ConfirmOptions(tolerance=0)
