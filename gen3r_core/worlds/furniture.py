"""Furniture: compounds of solids that stand on the floor.

A piece is built about its own origin: x and y along the floor, z up, the floor at 0, its front
towards +y and its back, which may touch a wall, at -y. Metres throughout.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from gen3r_core.worlds.materials import (
    VIVID,
    WOODS,
    Color,
    Material,
    fabric,
    furniture_finish,
    jittered,
    marble,
    pick,
    plain,
    seed_of,
    wood,
)
from gen3r_core.worlds.solids import Solid, box, cylinder, ellipsoid, tilted


@dataclass(frozen=True)
class Lamp:
    """A light that a piece brings along: where it is (the piece's frame, metres) and its colour."""

    point: tuple[float, float, float]
    color: Color


@dataclass(frozen=True)
class Piece:
    """A piece of furniture.

    Attributes:
        name: what a caption calls it, e.g. "sofa".
        word: what kind, e.g. "red"; may be empty.
        solids: in the piece's frame.
        half: half sizes ``(x, y)`` of the rectangle on the floor that holds it, about the origin.
        height: metres.
        against_wall: whether its back goes to a wall.
        lamp: the light in it, if any.
    """

    name: str
    word: str
    solids: tuple[Solid, ...]
    half: tuple[float, float]
    height: float
    against_wall: bool = False
    lamp: Lamp | None = None


def piece(name: str, word: str, solids: list[Solid], *, against_wall: bool = False, lamp: Lamp | None = None) -> Piece:
    """A piece whose footprint and height are those of its solids."""
    extents = np.stack([solid.extents() for solid in solids])
    low, high = extents[:, 0].min(axis=0), extents[:, 1].max(axis=0)
    half = np.maximum(-low, high)[:2]
    return Piece(name, word, tuple(solids), (float(half[0]), float(half[1])), float(high[2]), against_wall, lamp)


def _legs(half: tuple[float, float], height: float, rng: np.random.Generator, material: Material) -> list[Solid]:
    thick = float(rng.uniform(0.02, 0.035))
    x, y = half[0] - thick - 0.02, half[1] - thick - 0.02
    return [cylinder((sx * x, sy * y, height / 2), thick, height, material) for sx in (-1.0, 1.0) for sy in (-1.0, 1.0)]


def table(rng: np.random.Generator, *, low: bool = False) -> Piece:
    """A dining table or, lower, a coffee table; square or round."""
    top = wood(rng) if rng.random() < 0.5 else (marble(rng) if rng.random() < 0.3 else furniture_finish(rng))
    height = float(rng.uniform(0.36, 0.48) if low else rng.uniform(0.7, 0.78))
    thick = float(rng.uniform(0.03, 0.06))
    name = "coffee table" if low else "table"
    if rng.random() < 0.35:
        radius = float(rng.uniform(0.35, 0.5) if low else rng.uniform(0.45, 0.7))
        solids = [
            cylinder((0.0, 0.0, height - thick / 2), radius, thick, top),
            cylinder((0.0, 0.0, (height - thick) / 2), 0.06, height - thick, top),
            cylinder((0.0, 0.0, 0.015), radius * 0.55, 0.03, top),
        ]
        name = f"round {name}"
    else:
        x = float(rng.uniform(0.4, 0.6) if low else rng.uniform(0.5, 0.95))
        y = float(rng.uniform(0.25, 0.35) if low else rng.uniform(0.35, 0.48))
        solids = [box((-x, -y, height - thick), (x, y, height), top)]
        solids += _legs((x, y), height - thick, rng, top)
    solids += _on_top(rng, height)
    return piece(name, top.word, solids)


def _on_top(rng: np.random.Generator, height: float) -> list[Solid]:
    """A bowl, a vase or a few books, or nothing."""
    kind = rng.random()
    x, y = (float(value) for value in rng.uniform(-0.2, 0.2, 2))
    if kind < 0.25:
        radius = float(rng.uniform(0.09, 0.15))
        return [ellipsoid((x, y, height + radius * 0.6), (radius, radius, radius * 0.6), plain(pick(rng, VIVID), rng))]
    if kind < 0.5:
        tall = float(rng.uniform(0.18, 0.32))
        return [cylinder((x, y, height + tall / 2), float(rng.uniform(0.04, 0.08)), tall, plain(pick(rng, VIVID), rng))]
    if kind < 0.7:
        book = box((-0.13, -0.09, height), (0.13, 0.09, height + float(rng.uniform(0.04, 0.12))), plain("red", rng))
        return [book.moved(float(rng.uniform(-1, 1)), (x, y, 0.0))]
    return []


def chair(rng: np.random.Generator) -> Piece:
    """A chair with four legs, or one on a column."""
    seat = fabric(rng) if rng.random() < 0.5 else furniture_finish(rng)
    x, y = float(rng.uniform(0.2, 0.25)), float(rng.uniform(0.2, 0.25))
    height, thick = float(rng.uniform(0.42, 0.48)), 0.05
    back = float(rng.uniform(0.78, 1.0))
    solids = [
        box((-x, -y, height - thick), (x, y, height), seat),
        tilted(box((-x, -y - 0.01, height + 0.01), (x, -y + 0.03, back), seat), float(rng.uniform(0.0, 0.12))),
    ]
    if rng.random() < 0.7:
        solids += _legs((x, y), height - thick, rng, furniture_finish(rng))
        return piece("chair", seat.word, solids)
    steel = plain("steel", rng, specular=0.2)
    solids += [
        cylinder((0.0, 0.0, (height - thick) / 2), 0.035, height - thick, steel),
        cylinder((0.0, 0.0, 0.02), x * 0.95, 0.04, steel),
    ]
    return piece("office chair", seat.word, solids)


def stool(rng: np.random.Generator) -> Piece:
    """A round stool."""
    seat = fabric(rng) if rng.random() < 0.5 else wood(rng)
    height, radius = float(rng.uniform(0.42, 0.65)), float(rng.uniform(0.17, 0.23))
    solids = [
        cylinder((0.0, 0.0, height - 0.04), radius, 0.08, seat),
        cylinder((0.0, 0.0, (height - 0.08) / 2), 0.04, height - 0.08, plain("dark", rng)),
        cylinder((0.0, 0.0, 0.015), radius * 0.85, 0.03, plain("dark", rng)),
    ]
    return piece("stool", seat.word, solids)


def sofa(rng: np.random.Generator, *, seats: int | None = None) -> Piece:
    """A sofa of two or three seats, or with one an armchair."""
    cloth = fabric(rng)
    seats = int(rng.integers(2, 4)) if seats is None else seats
    arm, y = float(rng.uniform(0.12, 0.2)), float(rng.uniform(0.4, 0.47))
    x = 0.3 * seats + arm
    seat, back, side = (float(rng.uniform(*span)) for span in ((0.4, 0.46), (0.72, 0.95), (0.54, 0.66)))
    solids = [
        box((-x + arm, -y + 0.18, 0.06), (x - arm, y, seat), cloth),
        box((-x + arm, -y, 0.06), (x - arm, -y + 0.18, back), cloth),
        box((-x, -y + 0.005, 0.0), (-x + arm, y + 0.01, side), cloth),
        box((x - arm, -y + 0.005, 0.0), (x, y + 0.01, side), cloth),
    ]
    if rng.random() < 0.7:
        pillow = fabric(rng)
        place = float(rng.uniform(-1, 1)) * (x - arm - 0.22) if seats > 1 else 0.0
        solids.append(ellipsoid((place, -y + 0.3, seat + 0.17), (0.2, 0.1, 0.17), pillow))
    if rng.random() < 0.3:
        bolster = fabric(rng)
        solids.append(cylinder((0.0, -y + 0.3, seat + 0.09), 0.09, min(0.5, 2 * (x - arm)), bolster, axis="x"))
    return piece("sofa" if seats > 1 else "armchair", cloth.word, solids, against_wall=seats > 1)


def armchair(rng: np.random.Generator) -> Piece:
    """A sofa for one."""
    return sofa(rng, seats=1)


def bed(rng: np.random.Generator) -> Piece:
    """A bed with its head at the wall."""
    frame, cover = wood(rng) if rng.random() < 0.6 else furniture_finish(rng), fabric(rng)
    x, y = float(rng.uniform(0.45, 0.9)), 1.02
    top, head = float(rng.uniform(0.45, 0.58)), float(rng.uniform(0.8, 1.1))
    sheet = plain(pick(rng, ("white", "cream", "lavender", "mint")), rng)
    solids = [
        box((-x, -y + 0.06, 0.0), (x, y, 0.28), frame),
        box((-x, -y, 0.0), (x, -y + 0.06, head), frame),
        box((-x + 0.02, -y + 0.06, 0.28), (x - 0.02, y - 0.6 * 2, top - 0.02), sheet),
        box((-x + 0.02, y - 0.6 * 2, 0.28), (x - 0.02, y - 0.02, top), cover),
    ]
    places = (0.0,) if x < 0.65 else (-x / 2, x / 2)
    solids += [ellipsoid((place, -y + 0.3, top + 0.05), (min(0.32, x * 0.8), 0.18, 0.09), sheet) for place in places]
    return piece("bed", cover.word, solids, against_wall=True)


def shelf(rng: np.random.Generator) -> Piece:
    """A bookshelf: its books are a texture on a block between the boards."""
    frame = furniture_finish(rng)
    x, y, height = (float(rng.uniform(*span)) for span in ((0.4, 0.85), (0.14, 0.2), (1.1, 2.1)))
    rows = max(2, round(height / 0.38))
    colors = jittered(pick(rng, WOODS), rng), jittered("cream", rng)
    books = Material("books", colors[0], colors[1], (0.07, (height - 0.06) / rows), seed_of(rng), word="full")
    solids = [
        box((-x, -y, 0.0), (-x + 0.03, y, height), frame),
        box((x - 0.03, -y, 0.0), (x, y, height), frame),
        box((-x + 0.03, -y, height - 0.03), (x - 0.03, y - 0.005, height), frame),
        box((-x + 0.03, -y, 0.0), (x - 0.03, y - 0.005, 0.03), frame),
        box((-x + 0.03, -y, 0.03), (x - 0.03, y - 0.04, height - 0.03), books, anchor=(-x, 0.0, 0.03)),
    ]
    return piece("bookshelf", frame.word, solids, against_wall=True)


def cabinet(rng: np.random.Generator, *, tall: bool = False) -> Piece:
    """A cabinet with two doors; tall ones are wardrobes."""
    body, front = furniture_finish(rng), furniture_finish(rng)
    x = float(rng.uniform(0.4, 0.75))
    y, height = float(rng.uniform(0.2, 0.3)), float(rng.uniform(1.7, 2.1) if tall else rng.uniform(0.6, 1.1))
    steel = plain("steel", rng, specular=0.25)
    solids = [box((-x, -y, 0.0), (x, y - 0.03, height), body)]
    for side in (-1.0, 1.0):
        inner, outer = side * 0.01, side * (x - 0.02)
        solids.append(box((min(inner, outer), y - 0.03, 0.06), (max(inner, outer), y, height - 0.02), front))
        solids.append(ellipsoid((side * 0.07, y + 0.015, height * 0.55), (0.025, 0.025, 0.025), steel))
    if not tall:
        solids += _on_top(rng, height)
    return piece("wardrobe" if tall else "cabinet", front.word, solids, against_wall=True)


def wardrobe(rng: np.random.Generator) -> Piece:
    """A tall cabinet."""
    return cabinet(rng, tall=True)


def desk(rng: np.random.Generator) -> Piece:
    """A desk with a screen on it."""
    top = wood(rng) if rng.random() < 0.6 else furniture_finish(rng)
    x, y, height = float(rng.uniform(0.55, 0.85)), float(rng.uniform(0.3, 0.4)), float(rng.uniform(0.7, 0.76))
    glow = jittered(pick(rng, ("blue", "teal", "dark", "black")), rng)
    screen = Material("plain", glow, glow, specular=0.25, emission=0.25)
    solids = [
        box((-x, -y, height - 0.04), (x, y, height), top),
        box((-x + 0.02, -y + 0.02, 0.0), (-x + 0.06, y - 0.02, height - 0.04), top),
        box((x - 0.4, -y + 0.02, 0.0), (x - 0.02, y - 0.02, height - 0.04), furniture_finish(rng)),
        box((-0.3, -y + 0.12, height + 0.08), (0.3, -y + 0.15, height + 0.45), screen),
        cylinder((0.0, -y + 0.12, height + 0.05), 0.03, 0.1, plain("black", rng)),
    ]
    return piece("desk", top.word, solids, against_wall=True)


def counter(rng: np.random.Generator) -> Piece:
    """A kitchen counter with a worktop."""
    front, top = furniture_finish(rng), marble(rng)
    x, y = float(rng.uniform(0.7, 1.3)), 0.3
    solids = [
        box((-x, -y, 0.0), (x, y - 0.03, 0.86), front),
        box((-x, -y, 0.86), (x, y, 0.9), top),
        *_on_top(rng, 0.9),
    ]
    return piece("kitchen counter", front.word, solids, against_wall=True)


Builder = Callable[[np.random.Generator], Piece]
FURNITURE: MappingProxyType[str, Builder] = MappingProxyType(
    {
        "table": table,
        "coffee table": lambda rng: table(rng, low=True),
        "chair": chair,
        "stool": stool,
        "sofa": sofa,
        "armchair": armchair,
        "bed": bed,
        "shelf": shelf,
        "cabinet": cabinet,
        "wardrobe": wardrobe,
        "desk": desk,
        "counter": counter,
    }
)
"""Builders by name."""
