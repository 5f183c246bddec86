"""The kernels against the closed forms in torch, on a GPU."""

import pytest
import torch

from gen3r_core.worlds import intersection
from gen3r_core.worlds.packing import FULL_CAPACITY, pack_worlds
from gen3r_core.worlds.world import make_world

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture
def solids():
    worlds = [make_world(seed) for seed in range(3)]
    return pack_worlds(worlds, capacity=FULL_CAPACITY).to("cuda").solids


@pytest.fixture
def rays():
    generator = torch.Generator().manual_seed(0)
    origins = torch.rand(3, 1, 1, 3, generator=generator) * torch.tensor([3.0, 3.0, 2.0])
    return origins.cuda(), torch.randn(3, 1000, 3, 3, generator=generator).cuda()


def _plain(monkeypatch, function, *arguments):
    with monkeypatch.context() as patched:
        patched.setattr(intersection, "runs_fused", lambda _: False)
        return function(*arguments)


def test_nearest_hits(solids, rays, monkeypatch):
    distance, index = intersection.nearest_hit(solids, *rays)
    expected, place = _plain(monkeypatch, intersection.nearest_hit, solids, *rays)
    same = index == place
    assert float(same.double().mean()) > 0.999
    torch.testing.assert_close(distance[same], expected[same], atol=1e-4, rtol=1e-4)


def test_narrow_bundles_skip_solids_that_nothing_meets(solids, monkeypatch):
    """Rays of a camera, pixel by pixel, from places in the rooms: the cone leaves out what cannot be hit."""
    columns = torch.linspace(-0.8, 0.8, 4096, device="cuda")
    flat = torch.stack([torch.ones_like(columns), columns, 0.3 * columns.sin()], dim=-1)
    directions = flat[None, :, None].expand(3, -1, 1, 3)
    origins = torch.tensor([0.5, 0.4, 1.1], device="cuda").view(1, 1, 1, 3)
    distance, index = intersection.nearest_hit(solids, origins, directions)
    expected, place = _plain(monkeypatch, intersection.nearest_hit, solids, origins, directions)
    assert float((index == place).double().mean()) > 0.999
    torch.testing.assert_close(distance[index == place], expected[index == place], atol=1e-4, rtol=1e-4)
    assert index.unique().numel() > 5


def test_shadows(solids, rays, monkeypatch):
    origins, directions = rays
    points, targets = origins.expand_as(directions), origins + 2 * directions
    found = intersection.is_blocked(solids, points, targets)
    expected = _plain(monkeypatch, intersection.is_blocked, solids, points, targets)
    assert float((found != expected).double().mean()) < 1e-3
    assert 0.05 < float(found.double().mean()) < 0.999


def test_signed_distances(solids, rays, monkeypatch):
    points = rays[0] + rays[1]
    found = intersection.signed_distance(solids, points, 0.5)
    expected = _plain(monkeypatch, intersection.signed_distance, solids, points, 0.5)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert bool((found < 0).any())
    assert bool((found > 0).any())
