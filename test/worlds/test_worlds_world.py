"""What holds for every world: the same from the same seed, closed, furnished, lit, free to move in."""

import math
from collections import Counter
from dataclasses import asdict

import numpy as np
import pytest
import torch

from gen3r_core.errors import InputError
from gen3r_core.worlds.floorplan import WORLD_KINDS
from gen3r_core.worlds.furniture import FURNITURE
from gen3r_core.worlds.intersection import nearest_hit, signed_distance
from gen3r_core.worlds.lighting import LARGEST_LIGHTS
from gen3r_core.worlds.packing import pack_worlds
from gen3r_core.worlds.placement import ROBOT_RADIUS
from gen3r_core.worlds.props import PROPS, ceiling_lamp, pillar
from gen3r_core.worlds.surfaces import _Geometry
from gen3r_core.worlds.world import LARGEST, make_world

SEEDS = range(24)


def description(world):
    return repr([asdict(solid) for solid in world.solids]) + repr(world.lights) + repr(world.objects)


def test_the_same_seed_gives_the_same_world_and_others_give_others():
    assert description(make_world(5)) == description(make_world(5))
    assert len({description(make_world(seed)) for seed in range(8)}) == 8
    assert description(make_world(5, "room")) != description(make_world(5, "corridor"))


def test_all_kinds_are_drawn():
    kinds = Counter(make_world(seed).kind for seed in range(40))
    assert set(kinds) == set(WORLD_KINDS)
    assert kinds["room"] > kinds["corridor"]


def test_a_negative_seed():
    with pytest.raises(InputError, match="the seed of a world is a whole number from 0 on, got -1"):
        make_world(-1)


@pytest.mark.parametrize("seed", SEEDS)
def test_worlds_stay_within_their_limits(world_of, seed):
    world = world_of(seed)
    counts = Counter(solid.shape for solid in world.solids)
    assert all(counts[shape] <= limit for shape, limit in LARGEST.items())
    assert 1 <= len(world.lights) <= LARGEST_LIGHTS
    assert {light.room for light in world.lights} == set(range(len(world.rooms)))
    assert len(world.owners) == len(world.solids)
    assert set(world.owners) == {-1, *range(len(world.objects))}
    assert 0.05 < world.exposure < 3
    for room in range(len(world.rooms)):
        assert any(placed.room == room for placed in world.placed) or world.rooms[room].area < 6


@pytest.mark.parametrize("seed", SEEDS)
def test_furniture_stands_on_the_floor_within_its_room(world_of, seed):
    world = world_of(seed)
    for placed in world.placed:
        extents = np.stack([solid.extents() for solid in placed.solids()])
        assert extents[:, 0, 2].min() == pytest.approx(0, abs=1e-9)
        x0, y0, x1, y1 = world.rooms[placed.room].inside
        assert (extents[:, 0, :2] > (x0 - 1e-9, y0 - 1e-9)).all()
        assert (extents[:, 1, :2] < (x1 + 1e-9, y1 + 1e-9)).all()
        assert extents[:, 1, 2].max() <= world.rooms[placed.room].height + 1e-9


@pytest.mark.parametrize("seed", SEEDS)
def test_pieces_do_not_reach_into_each_other_or_into_walls(world_of, seed):
    world = world_of(seed)
    packed = pack_worlds([world], dtype=torch.float64)
    points, _, index = _Geometry(packed).draw(6000, np.random.default_rng(0))
    source = packed.source[0].numpy()
    owners = np.array(world.owners)
    pieces = [number for number, one in enumerate(world.objects) if one.name in _PIECES]
    for owner in pieces:
        own = points[owners[source[index]] == owner]
        others = torch.from_numpy(np.flatnonzero(~np.isin(owners[source], [owner, *_rugs(world)]) & (source >= 0)))
        inside_room = own[own[:, 2] > 1e-3]  # feet touch the floor
        distance = signed_distance(packed.solids.select(others), torch.from_numpy(inside_room)[None, :, None])
        assert len(own) == 0 or float(distance.min()) > -1e-3, world.objects[owner]


_PIECES = {
    build(np.random.default_rng(seed)).name for build in (*FURNITURE.values(), *PROPS.values()) for seed in range(20)
}


def _rugs(world):
    return [number for number, one in enumerate(world.objects) if one.name == "rug"]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_robot_can_get_everywhere_and_doorways_are_free(world_of, seed):
    world = world_of(seed)
    space = world.free_space
    region = space.largest_region(ROBOT_RADIUS)
    for opening in world.openings:
        assert region[space.cell(opening.point)]
        for side in (-0.5, 0.5):
            beside = list(opening.point)
            beside[opening.axis] += side
            assert float(space.at(np.array([beside]))[0]) > 0.25
    for room in world.rooms:
        x0, y0, x1, y1 = room.inside
        points = space.points()
        inside = ((points > (x0, y0)) & (points < (x1, y1))).all(axis=-1)
        assert (region & inside).sum() * 0.01 > 0.5


@pytest.mark.parametrize("seed", SEEDS)
def test_no_ray_from_inside_gets_out(world_of, seed):
    world = world_of(seed)
    space = world.free_space
    cells = np.argwhere(space.clearance > 0.3)
    rng = np.random.default_rng(seed)
    chosen = cells[rng.integers(len(cells), size=400)]
    xy = space.points()[chosen[:, 0], chosen[:, 1]]
    directions = rng.normal(size=(400, 20, 3))
    packed = pack_worlds([world])
    origins = torch.from_numpy(np.c_[xy, rng.uniform(0.3, 2.0, 400)])[None, :, None].float()
    distance, _ = nearest_hit(packed.solids, origins, torch.from_numpy(directions)[None].float())
    assert bool(torch.isfinite(distance).all())
    hits = origins + distance[..., None] * torch.from_numpy(directions)[None].float()
    x0, y0, x1, y1 = world.plan.bounds
    assert float(hits[..., 0].min()) >= x0 - 1e-3
    assert float(hits[..., 0].max()) <= x1 + 1e-3
    assert float(hits[..., 1].min()) >= y0 - 1e-3
    assert float(hits[..., 1].max()) <= y1 + 1e-3


@pytest.mark.parametrize("name", [*FURNITURE, *PROPS])
def test_pieces_are_built_about_their_footprint(name):
    for seed in range(12):
        built = (FURNITURE | PROPS)[name](np.random.default_rng(seed))
        extents = np.stack([solid.extents() for solid in built.solids])
        assert extents[:, 0, 2].min() >= -1e-9
        assert extents[:, 1, 2].max() == pytest.approx(built.height)
        assert np.abs(extents[..., :2]).max(axis=(0, 1)) == pytest.approx(built.half)
        assert max(built.half) < 1.7
        assert built.height < 2.3


def test_pillars_and_lamps_reach_the_ceiling():
    for seed in range(10):
        rng = np.random.default_rng(seed)
        assert pillar(rng, 2.7).height == pytest.approx(2.7)
        solids, lamp = ceiling_lamp(rng, 2.7)
        tops = [solid.extents()[1, 2] for solid in solids]
        assert max(tops) == pytest.approx(2.7, abs=2e-3)
        assert 1.5 < lamp.point[2] < min(solid.extents()[0, 2] for solid in solids)


def test_tables_have_chairs_that_face_them(world_of):
    found = 0
    for seed in range(40):
        world = world_of(seed)
        tables = [placed for placed in world.placed if placed.piece.name in ("table", "round table")]
        for placed in world.placed:
            if "chair" not in placed.piece.name or placed.piece.name == "armchair":
                continue
            near = [table for table in tables if math.dist(table.center, placed.center) < 1.6]
            for table in near[:1]:
                ahead = np.array(table.center) - placed.center
                facing = np.array([-math.sin(placed.yaw), math.cos(placed.yaw)])
                found += bool(ahead @ facing / np.linalg.norm(ahead) > 0.9)
    assert found > 10


def test_room_at(world_of):
    world = world_of(4)
    for index, room in enumerate(world.rooms):
        x0, y0, x1, y1 = room.inside
        assert world.room_at(((x0 + x1) / 2, (y0 + y1) / 2)) == index
    assert world.room_at((-50.0, 0.0)) is None
