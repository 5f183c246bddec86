"""Materials of floors, walls and ceilings, and what hangs on walls."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gen3r_core.worlds.materials import (
    VIVID,
    WALL_COLORS,
    WOODS,
    Material,
    color_of,
    darker,
    jittered,
    marble,
    pick,
    plain,
    seed_of,
    striped,
)


@dataclass(frozen=True)
class Interior:
    """Surfaces of one room.

    Attributes:
        floor: of the floor.
        walls: of the four walls in the order of -x, +x, -y, +y.
        ceiling: of the ceiling.
    """

    floor: Material
    walls: tuple[Material, Material, Material, Material]
    ceiling: Material


def draw_interior(rng: np.random.Generator) -> Interior:
    """Surfaces of a room: walls alike, or one of them another."""
    walls = [_wall(rng)] * 4
    if rng.random() < 0.45:
        walls[int(rng.integers(4))] = _accent_wall(rng)
    ceiling = plain(pick(rng, ("white", "white", "white", "cream", "beige", "grey")), rng, word="")
    if rng.random() < 0.15:
        color = jittered(pick(rng, WOODS), rng)
        ceiling = Material("planks", color, darker(color, 0.5), (3.0, 0.4), seed_of(rng), word="")
    return Interior(_floor(rng), (walls[0], walls[1], walls[2], walls[3]), ceiling)


def _floor(rng: np.random.Generator) -> Material:
    kind = rng.random()
    if kind < 0.36:
        color = jittered(pick(rng, WOODS), rng)
        size = (float(rng.uniform(1.0, 2.0)), float(rng.uniform(0.18, 0.4)))
        return Material("planks", color, darker(color, 0.5), size, seed_of(rng), specular=0.08, word="wooden")
    if kind < 0.56:
        color = jittered(pick(rng, ("white", "cream", "beige", "grey", "terracotta", "teal")), rng)
        side = float(rng.uniform(0.4, 0.9))
        return Material("tiles", color, darker(color, 0.5), (side, side), seed_of(rng), specular=0.12, word="tiled")
    if kind < 0.7:
        color = jittered(pick(rng, ("white", "cream", "beige")), rng)
        accent = jittered(pick(rng, ("dark", "red", "green", "blue", "brown", "teal")), rng)
        side = float(rng.uniform(0.4, 0.9))
        return Material("checker", color, accent, (side, side), seed_of(rng), specular=0.1, word="checkered")
    if kind < 0.82:
        color = jittered(pick(rng, VIVID), rng)
        side = float(rng.uniform(0.6, 1.4))
        return Material("noise", color, darker(color, 0.6), (side, side), seed_of(rng), word="carpeted")
    if kind < 0.92:
        color = jittered("grey", rng)
        side = float(rng.uniform(0.8, 2.0))
        return Material("noise", color, darker(color, 0.7), (side, side), seed_of(rng), specular=0.04, word="concrete")
    return marble(rng)


def _wall(rng: np.random.Generator) -> Material:
    kind = rng.random()
    name = pick(rng, WALL_COLORS)
    color = jittered(name, rng)
    if kind < 0.42:
        return Material("plain", color, color, word=name)
    if kind < 0.66:
        accent = jittered(pick(rng, ("white", "brown", "oak", "teal", "navy", "green", "terracotta", "dark")), rng)
        return Material("panel", color, accent, (1.0, float(rng.uniform(0.12, 1.2))), seed_of(rng), word=name)
    if kind < 0.78:
        return striped(rng, name, float(rng.uniform(0.25, 0.6)))
    if kind < 0.9:
        size = float(rng.uniform(0.8, 1.8))
        return Material("noise", color, darker(color, 0.75), (size, size), seed_of(rng), word=f"{name} plaster")
    return _bricks(rng)


def _accent_wall(rng: np.random.Generator) -> Material:
    kind = rng.random()
    if kind < 0.35:
        return _bricks(rng)
    if kind < 0.7:
        return plain(pick(rng, VIVID), rng)
    if kind < 0.85:
        color = jittered(pick(rng, WOODS), rng)
        return Material("planks", color, darker(color, 0.5), (2.0, 0.25), seed_of(rng), word="wooden")
    return striped(rng, pick(rng, VIVID), float(rng.uniform(0.3, 0.6)))


def _bricks(rng: np.random.Generator) -> Material:
    color = jittered(pick(rng, ("terracotta", "red", "brown", "cream", "grey", "white")), rng)
    width = float(rng.uniform(0.35, 0.6))
    accent = jittered(pick(rng, ("grey", "beige", "dark")), rng)
    return Material("bricks", color, accent, (width, width * 0.45), seed_of(rng), word="brick")


def draw_poster(rng: np.random.Generator) -> Material:
    """A picture for a wall; its texture fills the whole face."""
    color = jittered(pick(rng, VIVID), rng)
    accent = jittered(pick(rng, (*VIVID, "white", "cream", "black")), rng)
    return Material("poster", color, accent, seed=seed_of(rng))


def draw_window(rng: np.random.Generator) -> Material:
    """A window: bright sky over something darker, behind a frame."""
    sky = pick(rng, ("blue", "white", "lavender", "white"))
    color = tuple(0.35 + 0.65 * value for value in color_of(sky))
    ground = tuple(0.25 + 0.6 * value for value in color_of(pick(rng, ("green", "olive", "beige", "grey"))))
    return Material(
        "window",
        (color[0], color[1], color[2]),
        (ground[0], ground[1], ground[2]),
        seed=seed_of(rng),
        emission=1.5,
        word="bright",
    )


def draw_door(rng: np.random.Generator) -> Material:
    """A closed door."""
    color = jittered(pick(rng, (*WOODS, "white", "grey", "blue", "green", "red")), rng)
    return Material("door", color, darker(color, 0.6), seed=seed_of(rng), specular=0.05)


def draw_rug(rng: np.random.Generator) -> tuple[str, Material]:
    """A rug and the name of its colour."""
    name = pick(rng, VIVID)
    accent = jittered(pick(rng, ("cream", "white", "beige", "dark", "yellow", "navy")), rng)
    return name, Material("rug", jittered(name, rng), accent, seed=seed_of(rng), word=name)
