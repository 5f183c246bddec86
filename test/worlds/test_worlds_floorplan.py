import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen3r_core.errors import InputError
from gen3r_core.worlds.floorplan import ROOM_NAMES, WALL_THICKNESS, WORLD_KINDS, draw_floor_plan

seeds = st.integers(0, 2**40)
kinds = st.sampled_from(WORLD_KINDS)


def plan_of(kind, seed):
    return draw_floor_plan(kind, np.random.default_rng(seed))


@given(kinds, seeds)
def test_rooms_lie_apart_and_are_large_enough(kind, seed):
    plan = plan_of(kind, seed)
    for index, room in enumerate(plan.rooms):
        x0, y0, x1, y1 = room.inside
        assert min(x1 - x0, y1 - y0) > 1.4
        assert room.area == pytest.approx((x1 - x0) * (y1 - y0))
        assert 2.4 <= room.height <= 3.2
        assert room.name in (*ROOM_NAMES, "corridor")
        for other in plan.rooms[:index]:
            a, b = room.cell, other.cell
            assert min(a[2], b[2]) - max(a[0], b[0]) < 1e-9 or min(a[3], b[3]) - max(a[1], b[1]) < 1e-9


@given(kinds, seeds)
def test_every_room_can_be_reached(kind, seed):
    plan = plan_of(kind, seed)
    reached = {0}
    for _ in plan.rooms:
        reached |= {room for opening in plan.openings if set(opening.rooms) & reached for room in opening.rooms}
    assert reached == set(range(len(plan.rooms)))


@given(kinds, seeds)
def test_openings_lie_in_shared_walls_with_something_left_beside_them(kind, seed):
    plan = plan_of(kind, seed)
    assert len({opening.rooms for opening in plan.openings}) == len(plan.openings)
    for opening in plan.openings:
        before, behind = (plan.rooms[index].cell for index in opening.rooms)
        assert before[2 + opening.axis] == pytest.approx(opening.position)
        assert behind[opening.axis] == pytest.approx(opening.position)
        along = 1 - opening.axis
        low, high = max(before[along], behind[along]), min(before[2 + along], behind[2 + along])
        assert opening.center - opening.width / 2 >= low + WALL_THICKNESS / 2
        assert opening.center + opening.width / 2 <= high - WALL_THICKNESS / 2
        assert opening.width >= 0.9
        assert 1.9 <= opening.height <= min(plan.rooms[index].height for index in opening.rooms)
        assert opening.point[opening.axis] == opening.position


def test_kinds_are_what_they_say():
    for seed in range(30):
        assert len(plan_of("room", seed).rooms) == 1
        assert plan_of("corridor", seed).rooms[0].name == "corridor"
        assert 2 <= len(plan_of("rooms", seed).rooms) <= 4
    bends = [sum(room.name == "corridor" for room in plan_of("corridor", seed).rooms) for seed in range(30)]
    assert set(bends) == {1, 2}


def test_an_unknown_kind():
    with pytest.raises(InputError, match="worlds are room, corridor, rooms, got 'castle'"):
        plan_of("castle", 0)
