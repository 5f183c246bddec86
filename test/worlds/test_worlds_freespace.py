import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen3r_core.worlds.floorplan import FloorPlan, Room
from gen3r_core.worlds.freespace import Footprint, FreeSpace, blocking, footprint_of
from gen3r_core.worlds.materials import Material
from gen3r_core.worlds.solids import box, cylinder, tilted

MATERIAL = Material("plain", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
PLAN = FloorPlan("room", (Room("studio", (0.0, 0.0, 4.0, 3.0), 2.5),), ())
numbers = st.floats(-2, 2)
halves = st.floats(0.1, 1.5)


def test_distance_to_a_turned_rectangle():
    footprint = Footprint((1.0, 0.0), (2.0, 0.5), math.pi / 2)  # 1 m wide along x, 4 m long along y
    points = np.array([[3.0, 0.0], [1.0, 3.0], [1.0, 0.0], [1.5 + 3, 2 + 4.0]])
    np.testing.assert_allclose(footprint.distance(points), [1.5, 1.0, -0.5, 5.0], atol=1e-12)


@given(numbers, numbers, halves, halves, st.floats(-4, 4), numbers, numbers, halves, halves, st.floats(-4, 4))
def test_rectangles_overlap_just_where_points_say_so(x, y, a, b, yaw, x2, y2, a2, b2, yaw2):
    one, two = Footprint((x, y), (a, b), yaw), Footprint((x2, y2), (a2, b2), yaw2)
    assert one.overlaps(two) == two.overlaps(one)
    steps = np.linspace(-1, 1, 41)
    grid = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    cos, sin = math.cos(yaw), math.sin(yaw)
    points = grid * (a, b) @ np.array([[cos, sin], [-sin, cos]]) + (x, y)
    deepest = two.distance(points).min()
    if deepest < -0.02:
        assert one.overlaps(two)
    if not one.overlaps(two):
        assert deepest > -0.02


def test_margins_count():
    one, two = Footprint((0.0, 0.0), (0.5, 0.5)), Footprint((1.1, 0.0), (0.5, 0.5))
    assert not one.overlaps(two)
    assert one.overlaps(two, 0.2)


def test_footprints_of_solids():
    turned = footprint_of(box((-1.0, -0.2, 0.0), (1.0, 0.2, 1.0), MATERIAL).moved(0.7, (2.0, 1.0, 0.0)))
    assert turned.yaw == pytest.approx(0.7)
    assert turned.half == (1.0, pytest.approx(0.2))
    lying = footprint_of(cylinder((0.0, 0.0, 1.0), 0.3, 2.0, MATERIAL, axis="x"))
    assert lying.half == (pytest.approx(1.0), pytest.approx(0.3))
    leaning = footprint_of(tilted(box((-1.0, -0.1, 0.0), (1.0, 0.1, 2.0), MATERIAL), 0.3))
    assert leaning.half[1] > 0.3


def test_only_what_stands_between_floor_and_head_blocks():
    floor, lintel = box((0.0, 0.0, -0.1), (4.0, 3.0, 0.0), MATERIAL), box((0.0, 0.0, 2.0), (1.0, 0.1, 2.5), MATERIAL)
    wall = box((0.0, 0.0, 0.0), (4.0, 0.1, 2.5), MATERIAL)
    assert len(blocking([floor, lintel, wall])) == 1


def test_clearance_is_the_distance_to_the_next_obstacle():
    wall, pole = Footprint((2.0, 0.0), (2.0, 0.1)), Footprint((3.0, 2.0), (0.1, 0.1))
    space = FreeSpace.of(PLAN, [wall, pole])
    points = np.array([[1.0, 1.0], [2.5, 2.0], [3.72, 1.41]])
    np.testing.assert_allclose(space.at(points), np.minimum(wall.distance(points), pole.distance(points)), atol=0.02)
    assert float(space.at(np.array([[9.0, 1.0]]))[0]) == -1
    x, y = space.cell((1.23, 2.51))
    assert np.abs(space.points()[x, y] - (1.23, 2.51)).max() <= 0.05 + 1e-9


def test_a_wall_divides_the_floor():
    apart = FreeSpace.of(PLAN, [Footprint((2.0, 1.5), (0.1, 2.0))])
    assert not apart.connects([(1.0, 1.5), (3.0, 1.5)], 0.3)
    assert apart.connects([(0.5, 1.5), (1.2, 2.5)], 0.3)
    door = FreeSpace.of(PLAN, [Footprint((2.0, 0.9), (0.1, 0.9)), Footprint((2.0, 2.9), (0.1, 0.1))])
    assert door.connects([(1.0, 1.5), (3.0, 1.5)], 0.3)
    assert not door.connects([(1.0, 1.5), (3.0, 1.5)], 0.6)
    assert not door.connects([(2.0, 0.5)], 0.3)  # in the wall
    narrowed = door.with_obstacle(Footprint((2.0, 2.3), (0.1, 0.3)))
    assert not narrowed.connects([(1.0, 1.5), (3.0, 1.5)], 0.3)
    uneven = FreeSpace.of(PLAN, [Footprint((1.0, 1.5), (0.1, 2.0))]).largest_region(0.2)
    assert uneven[uneven.shape[0] // 2 + 5, 10]
    assert not uneven[3, 10]
