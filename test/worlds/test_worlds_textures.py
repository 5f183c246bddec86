import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gen3r_core.worlds.materials import PATTERNS
from gen3r_core.worlds.textures import Surface, _fbm, _hash, _noise, _wave, albedo


def surface(pattern, count=64, width=1e-4, dtype=torch.float32, seed=5, scale=(0.4, 0.3), extent=2.0):
    line = torch.linspace(-extent, extent, count, dtype=dtype) + 0.0131
    u, v = (grid.flatten() for grid in torch.meshgrid(line, line, indexing="ij"))
    full = torch.ones_like(u)
    code = torch.full(u.shape, PATTERNS.index(pattern))
    color = (0.2 * full, 0.4 * full, 0.6 * full)
    accent = (0.7 * full, 0.1 * full, 0.05 * full)
    return Surface(
        u, v, u / extent, v / extent, width * full, code, torch.full(u.shape, seed), scale[0] * full, scale[1] * full,
        color, accent,
    )  # fmt: skip


@given(st.floats(-50, 50), st.floats(0.02, 4), st.floats(0.1, 0.9))
def test_a_filtered_wave_is_the_mean_of_the_wave(x, width, duty):
    fine = x + width * ((torch.arange(20001, dtype=torch.float64) + 0.5) / 20001 - 0.5)
    expected = ((fine - fine.floor()) < duty).double().mean()
    actual = _wave(torch.tensor(x, dtype=torch.float64), torch.tensor(width, dtype=torch.float64), duty)
    assert float(actual) == pytest.approx(float(expected), abs=2e-4)


def test_hashes_are_uniform_and_do_not_repeat():
    x, y = torch.meshgrid(torch.arange(-100, 100), torch.arange(-100, 100), indexing="ij")
    values = _hash(x, y, torch.tensor(7))
    assert values.dtype == torch.float32
    assert float(values.min()) >= 0
    assert float(values.max()) < 1
    counts = torch.histc(values, 20, 0, 1)
    assert float((counts - 2000).abs().max()) < 6 * math.sqrt(2000)
    for shifted in (values.roll(1, 0), values.roll(1, 1), _hash(x, y, torch.tensor(8))):
        correlation = torch.corrcoef(torch.stack([values.flatten(), shifted.flatten()]))[0, 1]
        assert abs(float(correlation)) < 0.03


def test_hashes_are_those_they_always_were():
    values = _hash(torch.tensor([0, 1, -1, 1000]), torch.tensor([0, 0, 5, -7]), torch.tensor([0, 1, 2**31 - 1, 12345]))
    assert [round(float(value), 6) for value in values] == [0.576126, 0.251981, 0.562327, 0.183235]


def test_noise_is_smooth_and_takes_the_hashes_at_whole_numbers():
    whole = torch.arange(-5, 5)
    at = _noise(whole.double(), whole.double(), torch.tensor(3))
    torch.testing.assert_close(at, _hash(whole, whole, torch.tensor(3)).double())
    line = torch.linspace(0, 3, 3001, dtype=torch.float64)
    steps = _fbm(line, 0.7 * line, torch.tensor(3)).diff().abs()
    assert float(steps.max()) < 0.006


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_are_reflectances_and_alike_in_double_precision(pattern):
    single = torch.stack(albedo(surface(pattern)))
    double = torch.stack(albedo(surface(pattern, dtype=torch.float64)))
    assert single.dtype == torch.float32
    assert float(single.min()) >= 0
    assert float(single.max()) < 1.2
    differs = (single - double).abs().amax(dim=0) > 1e-2
    assert float(differs.double().mean()) < 0.003  # a cell's border may fall between two points


@pytest.mark.parametrize("pattern", [name for name in PATTERNS if name != "plain"])
def test_patterns_have_structure(pattern):
    assert float(torch.stack(albedo(surface(pattern))).std(dim=1).max()) > 0.02


@pytest.mark.parametrize("pattern", ["checker", "stripes", "bricks", "tiles", "planks"])
def test_from_far_away_a_pattern_fades_to_its_mean(pattern):
    near, far = (torch.stack(albedo(surface(pattern, width=width, count=96))) for width in (1e-4, 1.6))
    assert float(far.std(dim=1).max()) < 0.3 * float(near.std(dim=1).max())
    torch.testing.assert_close(far.mean(dim=1), near.mean(dim=1), atol=0.03, rtol=0.05)


def test_a_checkerboard_is_one():
    colors = torch.stack(albedo(surface("checker", count=4, scale=(1.0, 1.0))))[0].reshape(4, 4)
    light = colors > 0.45
    # Points lie about 1.33 cells apart: -2, -0.67, 0.67, 2 fall into cells -2, -1, 0, 2.
    cells = torch.tensor([-2, -1, 0, 2])
    expected = (cells[:, None] + cells[None]) % 2 == 0
    assert bool((light == expected).all()) or bool((light == ~expected).all())


def test_seeds_change_random_patterns_only():
    for pattern in ("planks", "noise", "poster", "books", "marble"):
        assert not torch.equal(*(torch.stack(albedo(surface(pattern, seed=seed))) for seed in (5, 6)))
    for pattern in ("checker", "plain", "rug"):
        assert torch.equal(*(torch.stack(albedo(surface(pattern, seed=seed))) for seed in (5, 6)))
