"""Smaller and odder things than furniture: lamps, plants, boxes, pillars, barrels, balls.

Frames and units as in :mod:`gen3r_core.worlds.furniture`.
"""

from __future__ import annotations

from types import MappingProxyType

import numpy as np

from gen3r_core.worlds.furniture import Builder, Lamp, Piece, piece
from gen3r_core.worlds.materials import (
    VIVID,
    Material,
    color_of,
    fabric,
    glowing,
    jittered,
    marble,
    pick,
    plain,
    seed_of,
    striped,
    wood,
)
from gen3r_core.worlds.solids import Solid, box, cylinder, ellipsoid

WARM = (1.0, 0.82, 0.6)


def floor_lamp(rng: np.random.Generator) -> Piece:
    """A standing lamp; its light sits above the shade."""
    height, radius = float(rng.uniform(1.3, 1.7)), float(rng.uniform(0.14, 0.22))
    dark = plain(pick(rng, ("dark", "steel", "brown")), rng, specular=0.15)
    solids = [
        cylinder((0.0, 0.0, 0.015), 0.15, 0.03, dark),
        cylinder((0.0, 0.0, height / 2 - 0.1), 0.018, height - 0.26, dark),
    ]
    shade = glowing((0.8, 0.7, 0.52), 1.1)
    if rng.random() < 0.4:
        solids.append(ellipsoid((0.0, 0.0, height - 0.1), (radius, radius, radius), shade))
    else:
        solids.append(cylinder((0.0, 0.0, height - 0.12), radius, 0.26, shade))
    return piece("floor lamp", "", solids, lamp=Lamp((0.0, 0.0, height + 0.2), WARM))


def plant(rng: np.random.Generator) -> Piece:
    """A plant in a pot."""
    pot = plain(pick(rng, ("terracotta", "white", "dark", "blue", "yellow")), rng)
    leaf, dark = jittered("leaf", rng), jittered("green", rng)
    foliage = Material("noise", leaf, dark, (0.22, 0.22), seed_of(rng))
    pot_height, radius = float(rng.uniform(0.25, 0.4)), float(rng.uniform(0.13, 0.2))
    top = pot_height + float(rng.uniform(0.3, 0.9))
    solids = [
        cylinder((0.0, 0.0, pot_height / 2), radius, pot_height, pot),
        cylinder((0.0, 0.0, (pot_height + top) / 2), 0.025, top - pot_height, plain("brown", rng)),
    ]
    for _ in range(int(rng.integers(2, 4))):
        size = float(rng.uniform(0.14, 0.24))
        x, y, z = rng.uniform(-0.12, 0.12, 3)
        solids.append(ellipsoid((float(x), float(y), top + float(z)), (size, size, size * 1.2), foliage))
    return piece("plant", "green", solids)


def box_pile(rng: np.random.Generator) -> Piece:
    """Cardboard boxes on one another, each turned a little."""
    solids: list[Solid] = []
    z, side = 0.0, float(rng.uniform(0.24, 0.36))
    for _ in range(int(rng.integers(2, 5))):
        height = float(rng.uniform(0.2, 0.36))
        name = pick(rng, ("pine", "oak", "beige", *VIVID))
        color = jittered(name, rng)
        material = (
            Material("plain", color, color) if rng.random() < 0.6 else striped(rng, name, float(rng.uniform(0.1, 0.2)))
        )
        block = box((-side, -side * 0.8, z), (side, side * 0.8, z + height), material)
        solids.append(block.moved(float(rng.uniform(-0.4, 0.4)), (0.0, 0.0, 0.0)))
        z, side = z + height, side * float(rng.uniform(0.8, 0.98))
    return piece("pile of boxes", "", solids)


def crate(rng: np.random.Generator) -> Piece:
    """One large box."""
    finish = wood(rng) if rng.random() < 0.5 else fabric(rng)
    x, y, z = (float(value) for value in rng.uniform((0.2, 0.2, 0.3), (0.45, 0.4, 0.9)))
    return piece("crate", finish.word, [box((-x, -y, 0.0), (x, y, z), finish)])


def barrel(rng: np.random.Generator) -> Piece:
    """A standing or lying barrel."""
    color = pick(rng, VIVID)
    finish = plain(color, rng, specular=0.15) if rng.random() < 0.6 else striped(rng, color, 0.25)
    radius, height = float(rng.uniform(0.22, 0.32)), float(rng.uniform(0.6, 0.95))
    if rng.random() < 0.7:
        solids = [cylinder((0.0, 0.0, height / 2), radius, height, finish)]
    else:
        solids = [cylinder((0.0, 0.0, radius), radius, height, finish, axis="x")]
    return piece("barrel", color, solids)


def ball(rng: np.random.Generator) -> Piece:
    """A large ball."""
    name, radius = pick(rng, VIVID), float(rng.uniform(0.15, 0.4))
    color, accent = jittered(name, rng), jittered(pick(rng, ("white", "cream", "yellow", "navy")), rng)
    pattern = "stripes" if rng.random() < 0.5 else "plain"
    material = Material(pattern, color, accent, (0.3, 0.2), seed_of(rng), specular=0.25, word=name)
    return piece("ball", name, [ellipsoid((0.0, 0.0, radius), (radius, radius, radius), material)])


def statue(rng: np.random.Generator) -> Piece:
    """A sphere or an egg on a pedestal."""
    stone = marble(rng)
    height, size = float(rng.uniform(0.6, 1.0)), float(rng.uniform(0.15, 0.25))
    tall = size * float(rng.uniform(0.9, 1.7))
    solids = [
        box((-0.2, -0.2, 0.0), (0.2, 0.2, height), stone),
        ellipsoid((0.0, 0.0, height + tall), (size, size, tall), plain(pick(rng, VIVID), rng, specular=0.3)),
    ]
    return piece("statue", stone.word, solids)


def pillar(rng: np.random.Generator, height: float) -> Piece:
    """A round or square pillar up to the ceiling.

    Args:
        rng: draws it.
        height: of the ceiling, metres.
    """
    size = float(rng.uniform(0.14, 0.26))
    finish = marble(rng) if rng.random() < 0.4 else plain(pick(rng, ("white", "cream", "grey", *VIVID)), rng)
    if rng.random() < 0.6:
        solids = [cylinder((0.0, 0.0, height / 2), size, height, finish)]
    else:
        solids = [box((-size, -size, 0.0), (size, size, height), finish)]
    return piece("pillar", finish.word, solids)


def ceiling_lamp(rng: np.random.Generator, height: float) -> tuple[list[Solid], Lamp]:
    """A fixture below the ceiling, in a frame whose origin is on the floor under it; its light is below it.

    Args:
        rng: draws it.
        height: of the ceiling, metres.
    """
    warm = float(rng.uniform(0, 1))
    color = (1.0, 0.97 - 0.1 * warm, 0.92 - 0.3 * warm)
    shade = glowing((0.85, 0.8, 0.7), 1.3)
    kind = rng.random()
    if kind < 0.4:
        solids = [cylinder((0.0, 0.0, height - 0.03), float(rng.uniform(0.18, 0.3)), 0.06, shade)]
        low = height - 0.06
    elif kind < 0.7:
        x, y = float(rng.uniform(0.3, 0.6)), float(rng.uniform(0.1, 0.2))
        solids = [box((-x, -y, height - 0.05), (x, y, height - 0.001), shade)]
        low = height - 0.05
    else:
        radius = float(rng.uniform(0.1, 0.16))
        low = height - 0.2 - 2 * radius
        solids = [
            ellipsoid((0.0, 0.0, low + radius), (radius, radius, radius), shade),
            cylinder((0.0, 0.0, height - 0.1), 0.012, 0.2, plain("dark", rng)),
        ]
    return solids, Lamp((0.0, 0.0, low - 0.2), color)


def sky_color(rng: np.random.Generator) -> tuple[float, float, float]:
    """Colour of the light of a window."""
    blue = float(rng.uniform(0, 1))
    white = color_of("white")
    return (1.0 - 0.15 * blue, white[1] / white[0] * (1.0 - 0.05 * blue), 1.0)


PROPS: MappingProxyType[str, Builder] = MappingProxyType(
    {
        "floor lamp": floor_lamp,
        "plant": plant,
        "box pile": box_pile,
        "crate": crate,
        "barrel": barrel,
        "ball": ball,
        "statue": statue,
    }
)
"""Builders by name; pillars and ceiling lamps need the room's height."""
