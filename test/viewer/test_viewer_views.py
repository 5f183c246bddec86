"""Up, ceilings, sizes, and the look from above."""

import math

import numpy as np
import pytest
from map_samples import looking

from gen3r_core.viewer.content import Content, ViewCamera
from gen3r_core.viewer.views import (
    UPS,
    ceiling_cut,
    extent,
    heights_of,
    overview,
    point_size,
    up_direction,
)


def camera(T):
    return ViewCamera(np.asarray(T, float), 1.0, 1.5, None, "", generated=False, drawn=True, thumbnail=None)


def content(*poses, up=None):
    return Content(
        "x", np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8), cameras=tuple(map(camera, poses)), up=up
    )


def box(rng, size=(5, 4, 2.5), ceiling=True, count=60_000, blur=0.0, shift=0.0):
    """Points of a room's floor, walls and ceiling, evenly over their areas."""
    x, y, z = size
    faces = [((x, 0, 0), (0, y, 0), (0, 0, 0)), ((x, 0, 0), (0, 0, z), (0, 0, 0)), ((x, 0, 0), (0, 0, z), (0, y, 0))]
    faces += [((0, y, 0), (0, 0, z), (0, 0, 0)), ((0, y, 0), (0, 0, z), (x, 0, 0))]
    if ceiling:
        faces.append(((x, 0, 0), (0, y, 0), (0, 0, z)))
    areas = np.array([np.linalg.norm(np.cross(a, b)) for a, b, _ in faces])
    points = []
    for (a, b, start), share in zip(faces, areas / areas.sum(), strict=True):
        u, v = rng.random((2, int(count * share), 1))
        points.append(start + u * a + v * b)
    points = np.concatenate(points) + rng.normal(0, blur, (sum(map(len, points)), 3)) + [0, 0, shift]
    return rng.permutation(points).astype(np.float32)


def test_directions_have_their_names():
    assert UPS["x"].tolist() == [1, 0, 0]
    assert UPS["-y"].tolist() == [0, -1, 0]
    assert sorted(UPS) == ["-x", "-y", "-z", "x", "y", "z"]
    for vector in UPS.values():
        assert np.linalg.norm(vector) == 1


def test_up_is_what_the_source_says():
    assert up_direction(content(np.eye(4), up=UPS["x"])).tolist() == [1, 0, 0]


def test_up_is_z_where_cameras_are_about_upright():
    poses = [looking([0, 0, 1], yaw=yaw, pitch=-0.5) for yaw in np.linspace(0, 2, 5)]
    assert up_direction(content(*poses)).tolist() == [0, 0, 1]


def test_up_is_how_cameras_are_held_in_a_world_of_the_first_camera():
    tilted = looking([0, 0, 0], yaw=0.0, pitch=-0.1)
    poses = [np.linalg.inv(tilted) @ looking([0, 0, 0], yaw=yaw, pitch=-0.1) for yaw in (-0.4, 0, 0.4)]
    up = up_direction(content(*poses))
    assert np.linalg.norm(up) == pytest.approx(1)
    assert up @ [0, -1, 0] > math.cos(0.15)


def test_up_is_z_without_cameras_or_with_cameras_that_turn_about():
    assert up_direction(content()).tolist() == [0, 0, 1]
    over = np.diag([1.0, -1, -1, 1])
    assert up_direction(content(np.eye(4), over)).tolist() == [0, 0, 1]


@pytest.mark.parametrize("blur", [0.0, 0.03, 0.07])
def test_a_ceiling_is_cut_just_below(blur):
    heights = box(np.random.default_rng(1), blur=blur)[:, 2]
    cut = ceiling_cut(heights, np.array([1.2, 1.4]))
    assert 2.5 - 0.15 - 3 * blur < cut < 2.5 - blur
    assert cut > 1.6


def test_the_lower_of_two_ceilings_counts():
    rng = np.random.default_rng(2)
    both = np.concatenate([box(rng, (5, 4, 2.4)), box(rng, (5, 4, 3.0))])
    assert 2.2 < ceiling_cut(rng.permutation(both)[:, 2], np.array([1.5])) < 2.4


def test_a_table_is_no_ceiling():
    rng = np.random.default_rng(3)
    table = np.concatenate([rng.random((1500, 2)), np.full((1500, 1), 0.75)], axis=1).astype(np.float32)
    heights = rng.permutation(np.concatenate([box(rng), table]))[:, 2]
    assert 2.3 < ceiling_cut(heights, np.array([0.4])) < 2.5


def test_without_a_ceiling_nothing_is_cut():
    rng = np.random.default_rng(4)
    heights = box(rng, ceiling=False)[:, 2]
    assert ceiling_cut(heights, np.array([1.2])) is None
    assert ceiling_cut(heights, np.array([5.0])) is None  # a drone over everything
    assert ceiling_cut(rng.normal(size=100_000).astype(np.float32), np.array([0.0])) is None
    assert ceiling_cut(np.zeros(5000, np.float32), np.zeros(0)) is None
    assert ceiling_cut(np.zeros(0, np.float32), np.zeros(0)) is None


def test_without_cameras_the_middle_counts():
    assert 2.3 < ceiling_cut(box(np.random.default_rng(5))[:, 2], np.zeros(0)) < 2.5


def test_heights_and_extent():
    points = np.array([[1, 2, 3], [4, 5, -6]], np.float32)
    assert heights_of(points, UPS["-z"]).tolist() == [-3, 6]
    assert extent(heights_of(points, UPS["y"])) == (2, 5)
    assert extent(np.zeros(0, np.float32)) == (0, 1)


@pytest.mark.parametrize("up", ["z", "-y", "x"])
@pytest.mark.parametrize("scale", [0.01, 1, 300])
def test_everything_is_seen_from_above(up, scale):
    rng = np.random.default_rng(6)
    points = (scale * (rng.random((5000, 3)) * [8, 3, 2] - 20)).astype(np.float32)
    view = overview(points, UPS[up], np.zeros((0, 3)))
    forward = view.look_at - view.position
    forward /= np.linalg.norm(forward)
    assert forward @ UPS[up] < -0.5
    right = np.cross(forward, UPS[up])
    right /= np.linalg.norm(right)
    local = (points - view.position) @ np.stack([right, np.cross(forward, right), forward]).T
    assert (local[:, 2] > 0).all()
    slopes = np.abs(local[:, :2] / local[:, 2:]) / math.tan(math.radians(75) / 2) / [1.2, 1]
    assert (slopes < 1).mean() > 0.99
    assert slopes.max() > 0.8  # and it fills the window


def test_a_look_at_cameras_alone_and_at_nothing():
    cameras = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]])
    none = np.zeros((0, 3), np.float32)
    np.testing.assert_allclose(overview(none, UPS["z"], cameras).look_at, [1, 0, 0], atol=0.05)
    assert np.isfinite(overview(none, UPS["z"], np.zeros((0, 3))).position).all()
    one = overview(np.ones((1, 3), np.float32), UPS["z"], cameras)
    assert np.linalg.norm(one.position - one.look_at) > 0


def test_points_just_touch():
    grid = np.stack(np.meshgrid(*[np.arange(30)] * 2, [0.0]), -1).reshape(-1, 3).astype(np.float32)
    shuffled = np.random.default_rng(7).permutation(grid)
    assert point_size(0.1 * shuffled) == pytest.approx(0.041, abs=0.001)  # a hundredth of the size is the most
    dense = np.random.default_rng(8).permutation(np.concatenate([grid * 0.1, grid * 0.001]))
    assert 0.0007 < point_size(dense) < 0.041
    assert point_size(np.zeros((0, 3), np.float32)) > 0
    assert point_size(np.zeros((9, 3), np.float32)) > 0
