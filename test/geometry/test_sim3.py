import numpy as np
import pytest
from camera_tracks import arc, random_sim3, turn
from hypothesis import given, settings
from hypothesis import strategies as st

from gen3r_core.errors import InputError
from gen3r_core.geometry.poses import checked_poses, invert_poses
from gen3r_core.geometry.sim3 import Sim3


@given(st.integers(0, 2**31))
@settings(deadline=None, max_examples=30)
def test_there_and_back(seed):
    rng = np.random.default_rng(seed)
    moved, points, T = random_sim3(rng), rng.normal(size=(2, 5, 3)), arc(4)
    np.testing.assert_allclose(moved.inverse().apply(moved.apply(points)), points, atol=1e-9)
    np.testing.assert_allclose(moved.inverse().apply_poses(moved.apply_poses(T)), T, atol=1e-9)


def test_what_a_camera_sees_goes_with_it():
    rng = np.random.default_rng(1)
    moved, T, p_cam = random_sim3(rng), arc(3), rng.normal(size=3)
    seen = T[2, :3, :3] @ p_cam + T[2, :3, 3]
    T_moved = checked_poses(moved.apply_poses(T), "pose")
    back = invert_poses(T_moved)[2]
    np.testing.assert_allclose(back[:3, :3] @ moved.apply(seen) + back[:3, 3], moved.scale * p_cam, atol=1e-9)


@pytest.mark.parametrize(
    ("scale", "rotation", "translation", "message"),
    [
        (0.0, np.eye(3), np.zeros(3), "scale of a similarity must be positive, got 0.0"),
        (np.nan, np.eye(3), np.zeros(3), "must be positive, got nan"),
        (1.0, np.eye(4), np.zeros(3), r"a rotation \[3, 3\]"),
        (1.0, np.eye(3), np.array([0, 0, np.inf]), "NaN or infinite"),
        (1.0, -turn(1.0), np.zeros(3), "orthonormal"),
    ],
)
def test_bad_similarities_are_refused(scale, rotation, translation, message):
    with pytest.raises(InputError, match=message):
        Sim3(scale, rotation, translation)
