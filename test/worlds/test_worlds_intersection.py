"""Rays and distances against closed forms."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gen3r_core.worlds.intersection import is_blocked, nearest_hit, signed_distance
from gen3r_core.worlds.materials import Material
from gen3r_core.worlds.packing import pack_worlds
from gen3r_core.worlds.solids import Solid, box, cylinder, ellipsoid, tilted, yaw_matrix

MATERIAL = Material("plain", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
UNIT_BALL = ellipsoid((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), MATERIAL)
DRUM = cylinder((0.0, 0.0, 0.0), 1.0, 4.0, MATERIAL)
BLOCK = box((-1.0, -2.0, -3.0), (1.0, 2.0, 3.0), MATERIAL)


def hit(bare_world, solids, origin, direction, dtype=torch.float64):
    packed = pack_worlds([bare_world(solids)], dtype=dtype)
    tensors = (torch.tensor(value, dtype=dtype)[None, None, None] for value in (origin, direction))
    distance, index = nearest_hit(packed.solids, *tensors)
    return float(distance), int(packed.source[0, int(index)])


@pytest.mark.parametrize(
    ("solid", "origin", "direction", "expected"),
    [
        (BLOCK, (5.0, 0.0, 0.0), (-1.0, 0.0, 0.0), 4.0),
        (BLOCK, (5.0, 0.0, 0.0), (-2.0, 0.0, 0.0), 2.0),
        (BLOCK, (0.0, 0.0, 9.0), (0.0, 0.0, -1.0), 6.0),
        (BLOCK, (5.0, 2.5, 0.0), (-1.0, 0.0, 0.0), math.inf),
        (BLOCK, (5.0, 0.0, 0.0), (1.0, 0.0, 0.0), math.inf),
        (BLOCK, (0.0, 0.0, 0.0), (1.0, 0.0, 0.0), math.inf),
        (UNIT_BALL, (3.0, 0.0, 0.0), (-1.0, 0.0, 0.0), 2.0),
        (UNIT_BALL, (3.0, 0.6, 0.0), (-1.0, 0.0, 0.0), 2.2),
        (UNIT_BALL, (3.0, 1.1, 0.0), (-1.0, 0.0, 0.0), math.inf),
        (DRUM, (3.0, 0.8, 1.9), (-1.0, 0.0, 0.0), 2.4),
        (DRUM, (3.0, 0.0, 2.1), (-1.0, 0.0, 0.0), math.inf),
        (DRUM, (0.3, 0.2, 7.0), (0.0, 0.0, -1.0), 5.0),
        (DRUM, (1.3, 0.2, 7.0), (0.0, 0.0, -1.0), math.inf),
        (DRUM, (0.0, 0.0, 0.0), (0.0, 0.0, -1.0), math.inf),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_known_distances(bare_world, solid, origin, direction, expected, dtype):
    distance, index = hit(bare_world, [solid], origin, direction, dtype)
    assert distance == pytest.approx(expected, rel=1e-6)
    assert index == 0


def test_the_nearest_of_several_shapes(bare_world):
    solids = [
        ellipsoid((5.0, 0.0, 0.0), (0.5, 0.5, 0.5), MATERIAL),
        cylinder((3.0, 0.0, 0.0), 0.5, 1.0, MATERIAL),
        box((1.0, -1.0, -1.0), (1.5, 1.0, 1.0), MATERIAL),
        box((0.4, -1.0, 2.0), (0.6, 1.0, 4.0), MATERIAL),
    ]
    assert hit(bare_world, solids, (0.0, 0.0, 0.0), (1.0, 0.0, 0.0)) == (pytest.approx(1.0), 2)
    assert hit(bare_world, solids, (9.0, 0.0, 0.0), (-1.0, 0.0, 0.0)) == (pytest.approx(3.5), 0)
    assert hit(bare_world, solids, (3.0, 5.0, 0.0), (0.0, -1.0, 0.0)) == (pytest.approx(4.5), 1)
    assert hit(bare_world, solids[1:2], (9.0, 0.0, 9.0), (1.0, 0.0, 0.0))[0] == math.inf


def test_a_world_without_solids_shows_nothing(bare_world):
    packed = pack_worlds([bare_world([UNIT_BALL])])
    none = packed.solids.select(torch.empty(0, dtype=torch.int64))
    ray = torch.ones(1, 2, 1, 3)
    distance, index = nearest_hit(none, ray, ray)
    assert distance.shape == index.shape == (1, 2, 1)
    assert bool(torch.isinf(distance).all())
    assert not bool(is_blocked(none, ray, ray + 1).any())
    assert bool(torch.isinf(signed_distance(none, ray)).all())


numbers = st.floats(-3, 3)
halves = st.floats(0.1, 1.5)


@st.composite
def solids(draw):
    shape = draw(st.sampled_from(["box", "cylinder", "ellipsoid"]))
    a, b, c = draw(halves), draw(halves), draw(halves)
    half = (a, a, c) if shape == "cylinder" else (a, b, c)
    center = (draw(numbers), draw(numbers), draw(numbers))
    return tilted(Solid(shape, center, half, MATERIAL, yaw_matrix(draw(numbers))), draw(numbers))


@given(solids(), st.integers(0, 1000))
def test_hits_lie_on_the_surface_and_nothing_lies_before_them(bare_world, solid, seed):
    packed = pack_worlds([bare_world([solid])], dtype=torch.float64)
    rng = np.random.default_rng(seed)
    origins = rng.normal(size=(64, 3)) * 4
    targets = np.array(solid.center) + rng.normal(size=(64, 3)) * 0.5 * np.array(solid.half)
    o, d = (torch.from_numpy(values)[None, :, None] for values in (origins, targets - origins))
    outside = signed_distance(packed.solids, o)[0, :, 0] > 1e-6
    distance, _ = nearest_hit(packed.solids, o, d)
    seen = torch.isfinite(distance)[0, :, 0] & outside
    at = o + distance[..., None] * d
    on_surface = signed_distance(packed.solids, at)[0, :, 0][seen].abs()
    assert len(on_surface) == 0 or float(on_surface.max()) < 1e-9
    steps = torch.linspace(0, 0.999, 50, dtype=torch.float64)[None, None, :, None]
    end = torch.where(torch.isfinite(distance), distance, 1.0)[..., None]
    before = signed_distance(packed.solids, o + steps * end * d)[0][seen]
    assert len(before) == 0 or float(before.min()) > -1e-9
    inside = signed_distance(packed.solids, torch.from_numpy(targets)[None, :, None])[0, :, 0] < -1e-9
    assert bool(seen[inside & outside].all())


@given(solids(), st.integers(0, 1000))
def test_signed_distances_are_distances(bare_world, solid, seed):
    """No farther from the surface than any of its points, and no steeper than a distance may be."""
    packed = pack_worlds([bare_world([solid])], dtype=torch.float64)
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(64, 3)) * 3
    surface = _surface_points(solid, rng)
    distance = signed_distance(packed.solids, torch.from_numpy(points)[None, :, None])[0, :, 0].numpy()
    nearest = np.linalg.norm(points[:, None] - surface, axis=-1).min(axis=1)
    assert (np.abs(distance) <= nearest + 1e-9).all()
    if solid.shape != "ellipsoid" or len(set(solid.half)) == 1:
        outside = distance > 0.3
        assert (nearest[outside] - distance[outside] < 0.15).all()


def _surface_points(solid, rng):
    u = rng.normal(size=(6000, 3))
    if solid.shape == "box":
        u = rng.uniform(-1, 1, (6000, 3))
        u[np.arange(6000), rng.integers(0, 3, 6000)] = rng.choice([-1.0, 1.0], 6000)
    elif solid.shape == "cylinder":
        u[:, :2] /= np.linalg.norm(u[:, :2], axis=1, keepdims=True)
        u[:, 2] = rng.uniform(-1, 1, 6000)
        u[:3000, :2] *= np.sqrt(rng.random((3000, 1)))
        u[:3000, 2] = np.sign(u[:3000, 2])
    else:
        u /= np.linalg.norm(u, axis=1, keepdims=True)
    return (u * solid.half) @ np.array(solid.rotation).T + solid.center


@pytest.mark.parametrize(
    ("solid", "point", "expected"),
    [
        (BLOCK, (2.0, 0.0, 0.0), 1.0),
        (BLOCK, (2.0, 3.0, 4.0), math.sqrt(3)),
        (BLOCK, (0.5, 0.0, 0.0), -0.5),
        (UNIT_BALL, (0.0, 3.0, 0.0), 2.0),
        (UNIT_BALL, (0.0, 0.5, 0.0), -0.5),
        (DRUM, (3.0, 0.0, 0.0), 2.0),
        (DRUM, (2.0, 0.0, 3.0), math.sqrt(2)),
        (DRUM, (0.0, 0.0, 3.0), 1.0),
        (DRUM, (0.0, 0.0, 1.8), -0.2),
    ],
)
def test_known_signed_distances(bare_world, solid, point, expected):
    packed = pack_worlds([bare_world([solid])], dtype=torch.float64)
    actual = signed_distance(packed.solids, torch.tensor(point, dtype=torch.float64)[None, None, None])
    assert float(actual) == pytest.approx(expected)


def test_blocked_is_between_and_not_beyond(bare_world):
    solids = pack_worlds([bare_world([box((1.0, -1.0, -1.0), (2.0, 1.0, 1.0), MATERIAL)])]).solids
    start = torch.zeros(1, 1, 1, 3)
    targets = torch.tensor([[3.0, 0, 0], [0.9, 0, 0], [-3.0, 0, 0], [3.0, 4.0, 0]])
    blocked = is_blocked(solids, start.expand(1, 1, 4, 3), targets[None, None])
    assert blocked.flatten().tolist() == [True, False, False, False]


def test_distances_beyond_what_matters(bare_world):
    packed = pack_worlds([bare_world([UNIT_BALL])], dtype=torch.float64)
    points = torch.tensor([[1.25, 0.0, 0.0], [0.5, 0.0, 0.0], [9.0, 0.0, 0.0]], dtype=torch.float64)[None, :, None]
    found = signed_distance(packed.solids, points, 2.0)[0, :, 0]
    torch.testing.assert_close(found, torch.tensor([0.25, -0.5, 2.0], dtype=torch.float64))
