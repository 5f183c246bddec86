"""A robot that follows ways, and where it can go."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen3r_core.errors import InputError
from gen3r_core.worlds.robot import Robot, first_blocked, start_of, tour
from gen3r_core.worlds.routes import SMALLEST_CLEARANCE, Routes
from gen3r_core.worlds.splits import world_seed
from gen3r_core.worlds.world import make_world


@pytest.fixture(scope="module", params=[("room", 0), ("corridor", 1), ("rooms", 2)], ids=lambda pair: pair[0])
def world(request):
    return make_world(world_seed("test", request.param[1]), request.param[0])


def length(way):
    return float(np.linalg.norm(np.diff(way, axis=0), axis=1).sum())


def drive(robot, seconds=1e9, most=20_000):
    """Places every 20 ms until it has arrived or the time is over."""
    places = [(robot.x, robot.y, robot.yaw)]
    for _ in range(most):
        if not robot.busy or len(places) * 0.02 > seconds:
            break
        robot.step(0.02)
        places.append((robot.x, robot.y, robot.yaw))
    return np.array(places)


def test_a_tour_is_driven_closely_and_clear_of_everything(world):
    way = tour(world)
    np.testing.assert_array_equal(way[0], way[-1])
    robot = Robot(*start_of(way), speed=0.4)
    robot.follow(way, closed=True)
    places = []
    while robot.driven < 1.3 * length(way):
        robot.step(0.05)
        places.append((robot.x, robot.y))
    assert robot.busy, "it goes round and round"
    away = np.array([np.linalg.norm(way - place, axis=1).min() for place in places])
    assert away.max() < 0.1
    assert world.free_space.at(np.array(places)).min() > 0.15
    # Every room is visited.
    rooms = {world.room_at(place) for place in places}
    assert rooms == set(range(len(world.rooms)))


def test_it_is_a_unicycle(world):
    """It moves where it looks, no faster than it may, and speeds up gently."""
    way = tour(world)
    robot = Robot(*start_of(way), speed=0.5, turn_rate=0.7)
    robot.follow(way)
    places = drive(robot, 20)
    steps = np.diff(places, axis=0)
    middle = (places[1:, 2] + places[:-1, 2]) / 2
    forward = steps[:, 0] * np.cos(middle) + steps[:, 1] * np.sin(middle)
    np.testing.assert_allclose(steps[:, 1] * np.cos(middle) - steps[:, 0] * np.sin(middle), 0, atol=1e-12)
    assert forward.min() >= 0
    assert forward.max() <= 0.5 * 0.02 + 1e-12
    assert np.abs(steps[:, 2]).max() <= 0.7 * 0.02 + 1e-12
    assert np.diff(forward, prepend=0).max() <= 1.0 * 0.02**2 + 1e-12
    assert robot.driven == pytest.approx(forward.sum())


def test_the_same_steps_lead_to_the_same_place(world):
    way = tour(world, 1)
    runs = []
    for _ in range(2):
        robot = Robot(*start_of(way))
        robot.follow(way, closed=True)
        for _ in range(100):
            robot.step(0.1)
        runs.append(robot.T_world_base)
    np.testing.assert_array_equal(*runs)
    assert not np.array_equal(tour(world, 0), tour(world, 2))


@settings(max_examples=25)
@given(
    st.lists(st.tuples(st.floats(-3, 3), st.floats(-3, 3)), min_size=1, max_size=5),
    st.floats(-3.1, 3.1),
    st.none() | st.floats(-3.1, 3.1),
)
def test_it_arrives_wherever_a_way_leads(points, yaw, end_yaw):
    robot = Robot(0.0, 0.0, yaw, speed=1.0, turn_rate=2.0)
    way = np.array([(0.0, 0.0), *points])
    robot.follow(way, end_yaw=end_yaw)
    drive(robot)
    assert not robot.busy
    assert math.hypot(robot.x - points[-1][0], robot.y - points[-1][1]) < 0.011
    if end_yaw is not None:
        assert abs(math.remainder(robot.yaw - end_yaw, 2 * math.pi)) < 0.011
    before = robot.T_world_base
    robot.step(1.0)
    np.testing.assert_array_equal(robot.T_world_base, before)
    assert robot.velocity == robot.turning == 0.0


def test_stopping_leaves_the_way():
    robot = Robot(0.0, 0.0, 0.0)
    robot.follow(np.array([(0.0, 0.0), (5.0, 0.0)]))
    robot.step(2.0)
    robot.stop()
    robot.step(1.0)
    assert 0.3 < robot.x < 0.61
    assert not robot.busy


def test_poses_have_x_forward_and_z_up():
    T = Robot(1.0, 2.0, math.pi / 2).T_world_base
    np.testing.assert_allclose(T @ [1, 0, 0, 1], [1, 3, 0, 1], atol=1e-12)
    np.testing.assert_allclose(T @ [0, 0, 1, 1], [1, 2, 1, 1], atol=1e-12)


def test_ways_through_things_are_noticed(world):
    assert first_blocked(world, tour(world)) is None
    x0, y0, _, y1 = world.plan.bounds
    inside = tour(world)[0]
    outside = np.array([x0 - 1.0, (y0 + y1) / 2])
    x, y = first_blocked(world, np.stack([inside, outside]))
    assert world.free_space.at(np.array([x, y])) < 0.15
    assert first_blocked(world, outside[None]) == tuple(outside)
    assert first_blocked(world, inside[None]) is None


def test_ways_between_two_places_keep_off_things(world):
    routes = Routes(world)
    way = tour(world)
    for first, last in ((0, len(way) // 3), (len(way) // 2, 0), (5, 5)):
        start, end = tuple(way[first]), tuple(way[last])
        found = routes.between(start, end)
        assert np.linalg.norm(found[0] - start) < 0.15
        assert np.linalg.norm(found[-1] - end) < 0.15
        assert world.free_space.at(found).min() >= SMALLEST_CLEARANCE
        if len(found) > 1:
            assert np.linalg.norm(np.diff(found, axis=0), axis=1).max() < 0.08
            assert length(found) < 1.5 * length(way)


@pytest.mark.parametrize("values", [(math.nan, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0, -1.0)])
def test_robots_that_make_no_sense(values):
    x, y, yaw, *rates = values
    with pytest.raises(InputError, match="a robot needs"):
        Robot(x, y, yaw, **dict(zip(("speed", "turn_rate"), rates, strict=False)))


@pytest.mark.parametrize("way", [np.zeros((0, 2)), np.zeros((3, 3)), np.zeros(2), np.full((2, 2), np.nan)])
def test_ways_that_make_no_sense(way):
    with pytest.raises(InputError, match="a way has finite points"):
        Robot(0.0, 0.0, 0.0).follow(way)


def test_tours_have_seeds_from_0_on(world):
    with pytest.raises(InputError, match="the seed of a tour"):
        tour(world, -1)
