import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen3r_core.errors import InputError
from gen3r_core.worlds.materials import (
    COLOR_NAMES,
    PATTERNS,
    Material,
    color_of,
    fabric,
    furniture_finish,
    jittered,
    striped,
)
from gen3r_core.worlds.solids import Solid, box, cylinder, ellipsoid, tilted, yaw_matrix

MATERIAL = Material("plain", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
sizes = st.floats(0.05, 3)
angles = st.floats(-3, 3)


def test_a_box_between_corners():
    solid = box((1.0, 2.0, 3.0), (2.0, 4.0, 6.0), MATERIAL)
    assert solid.center == (1.5, 3.0, 4.5)
    assert solid.half == (0.5, 1.0, 1.5)
    np.testing.assert_allclose(solid.extents(), [[1, 2, 3], [2, 4, 6]])


def test_yaw_turns_counterclockwise():
    solid = box((1.0, -0.1, 0.0), (2.0, 0.1, 1.0), MATERIAL, anchor=(1.0, 0.0, 0.0)).moved(math.pi / 2, (0.0, 5.0, 0.0))
    np.testing.assert_allclose(solid.center, (0.0, 6.5, 0.5), atol=1e-12)
    np.testing.assert_allclose(solid.anchor, (0.0, 6.0, 0.0), atol=1e-12)
    np.testing.assert_allclose(solid.extents(), [[-0.1, 6, 0], [0.1, 7, 1]], atol=1e-12)


@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_the_extents_of_a_cylinder_are_long_along_its_axis(axis):
    low, high = cylinder((0.0, 0.0, 0.0), 0.2, 2.0, MATERIAL, axis=axis).extents()
    expected = np.full(3, 0.2)
    expected["xyz".index(axis)] = 1.0
    np.testing.assert_allclose(high, expected, atol=1e-12)
    np.testing.assert_allclose(low, -expected, atol=1e-12)


@given(sizes, sizes, sizes, angles, angles, st.sampled_from(["box", "cylinder", "ellipsoid"]))
def test_extents_hold_the_solid_and_are_tight(a, b, c, yaw, pitch, shape):
    half = (a, a, c) if shape == "cylinder" else (a, b, c)
    solid = tilted(Solid(shape, (0.3, -0.2, 0.9), half, MATERIAL, yaw_matrix(yaw)), pitch)
    rng = np.random.default_rng(0)
    if shape == "box":
        local = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=float)
    elif shape == "ellipsoid":
        local = rng.normal(size=(40000, 3))
        local /= np.linalg.norm(local, axis=1, keepdims=True)
    else:
        turn = np.linspace(0, 2 * math.pi, 2000)
        ring = np.stack([np.cos(turn), np.sin(turn)], axis=-1)
        local = np.concatenate([np.c_[ring, np.full(len(ring), z)] for z in (-1.0, 1.0)])
    points = (local * half) @ np.array(solid.rotation).T + solid.center
    low, high = solid.extents()
    assert (points >= low - 1e-9).all()
    assert (points <= high + 1e-9).all()
    np.testing.assert_allclose(points.max(axis=0), high, atol=0.02 * max(half))


@given(angles, angles)
def test_rotations_stay_rotations(yaw, pitch):
    rotation = np.array(
        tilted(box((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), MATERIAL).moved(yaw, (0.0, 0.0, 0.0)), pitch).rotation
    )
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1)


def test_what_is_no_solid():
    with pytest.raises(InputError, match="a solid is a box, cylinder, ellipsoid, got 'cone'"):
        Solid("cone", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), MATERIAL)
    with pytest.raises(InputError, match=r"half sizes of a ellipsoid must be positive, got \(1.0, 0.0, 1.0\)"):
        ellipsoid((0.0, 0.0, 0.0), (1.0, 0.0, 1.0), MATERIAL)
    with pytest.raises(InputError, match="a cylinder is round"):
        Solid("cylinder", (0.0, 0.0, 0.0), (1.0, 0.5, 1.0), MATERIAL)


def test_what_is_no_material():
    with pytest.raises(InputError, match="no pattern is called 'dots'; there are plain, checker"):
        Material("dots", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    with pytest.raises(InputError, match="the scale of a pattern is in metres and positive"):
        Material("plain", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), (1.0, 0.0))
    with pytest.raises(InputError, match="no colour is called 'ultraviolet'"):
        color_of("ultraviolet")


@given(st.integers(0, 10_000), st.sampled_from(COLOR_NAMES))
def test_drawn_materials_are_plausible(seed, name):
    rng = np.random.default_rng(seed)
    assert all(0 < value < 1 for value in jittered(name, rng))
    for material in (fabric(rng), furniture_finish(rng), striped(rng, name, 0.2)):
        assert material.pattern in PATTERNS
        assert all(0 < value <= 0.82 for value in (*material.color, *material.accent))
        assert 0 <= material.seed < 2**31
        assert material.word


def test_named_colours_look_like_their_names():
    assert color_of("red")[0] > 3 * color_of("red")[1]
    assert color_of("blue")[2] > 2 * color_of("blue")[0]
    assert min(color_of("white")) > max(color_of("black"))
