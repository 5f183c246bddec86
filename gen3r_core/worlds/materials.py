"""Surfaces of worlds: colours by name, patterns by name, and how they are drawn.

Colours are linear RGB reflectances. Patterns are large compared with a pixel on purpose: a small
video VAE should be able to keep them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gen3r_core.errors import InputError

Color = tuple[float, float, float]

PATTERNS = (
    "plain",
    "checker",
    "planks",
    "bricks",
    "tiles",
    "stripes",
    "noise",
    "marble",
    "panel",
    "rug",
    "poster",
    "window",
    "door",
    "books",
)
"""What :mod:`gen3r_core.worlds.textures` can draw; a pattern's place in this list is its code."""

_SRGB: dict[str, tuple[int, int, int]] = {
    "white": (232, 230, 226),
    "cream": (232, 220, 192),
    "beige": (205, 186, 152),
    "grey": (150, 150, 150),
    "dark": (74, 74, 80),
    "black": (42, 42, 46),
    "red": (182, 52, 46),
    "orange": (214, 122, 48),
    "yellow": (222, 186, 72),
    "green": (78, 138, 78),
    "olive": (126, 130, 70),
    "teal": (54, 134, 134),
    "blue": (56, 96, 168),
    "navy": (44, 58, 104),
    "purple": (122, 80, 144),
    "pink": (214, 142, 152),
    "brown": (128, 88, 58),
    "terracotta": (186, 106, 76),
    "mint": (164, 206, 182),
    "lavender": (182, 174, 212),
    "oak": (186, 142, 92),
    "pine": (212, 174, 124),
    "walnut": (116, 78, 52),
    "ebony": (72, 54, 46),
    "steel": (146, 150, 156),
    "leaf": (66, 118, 52),
}
COLOR_NAMES = tuple(_SRGB)
VIVID = ("red", "orange", "yellow", "green", "olive", "teal", "blue", "navy", "purple", "pink", "brown", "terracotta")
WALL_COLORS = ("white", "white", "cream", "beige", "grey", "mint", "lavender", "yellow", "teal", "terracotta", "pink")
WOODS = ("oak", "pine", "walnut", "ebony")


@dataclass(frozen=True)
class Material:
    """What a surface looks like.

    Attributes:
        pattern: one of :data:`PATTERNS`.
        color: linear RGB reflectance in (0, 1).
        accent: second colour of the pattern.
        scale: metres, size of the pattern's cell along u (level) and v (up, or across).
        seed: of the pattern's random parts, 0 to 2^31 - 1.
        emission: radiance of a surface that shines, in units in which a well-lit white wall has about 1.
        specular: strength of the highlight, 0 to 1.
        word: what a caption calls it, e.g. "wooden"; empty where there is nothing to say.
    """

    pattern: str
    color: Color
    accent: Color
    scale: tuple[float, float] = (1.0, 1.0)
    seed: int = 0
    emission: float = 0.0
    specular: float = 0.0
    word: str = ""

    def __post_init__(self) -> None:
        if self.pattern not in PATTERNS:
            raise InputError(f"no pattern is called {self.pattern!r}; there are {', '.join(PATTERNS)}")
        if min(self.scale) <= 0:
            raise InputError(f"the scale of a pattern is in metres and positive, got {self.scale}")


def color_of(name: str) -> Color:
    """Linear RGB of a named colour.

    Raises:
        InputError: for a name that is not in :data:`COLOR_NAMES`.
    """
    if name not in _SRGB:
        raise InputError(f"no colour is called {name!r}; there are {', '.join(COLOR_NAMES)}")
    red, green, blue = ((value / 255) ** 2.2 for value in _SRGB[name])
    return (red, green, blue)


def jittered(name: str, rng: np.random.Generator, amount: float = 0.12) -> Color:
    """A named colour, each channel and the whole varied by up to ``amount`` of itself."""
    shared = 1 + rng.uniform(-amount, amount)
    red, green, blue = (
        float(np.clip(value * shared * (1 + rng.uniform(-amount, amount) / 2), 0.015, 0.82)) for value in color_of(name)
    )
    return (red, green, blue)


def darker(color: Color, factor: float) -> Color:
    """The colour times a factor."""
    return (color[0] * factor, color[1] * factor, color[2] * factor)


def plain(name: str, rng: np.random.Generator, *, specular: float = 0.0, word: str | None = None) -> Material:
    """A surface of one colour, called by it."""
    color = jittered(name, rng)
    return Material("plain", color, color, specular=specular, word=name if word is None else word)


def glowing(color: Color, emission: float) -> Material:
    """A surface that shines, such as a lamp's shade."""
    return Material("plain", color, color, emission=emission)


def wood(rng: np.random.Generator, *, scale: tuple[float, float] = (1.2, 0.25)) -> Material:
    """Planks of one of the woods."""
    color = jittered(pick(rng, WOODS), rng)
    return Material("planks", color, darker(color, 0.55), scale, seed_of(rng), specular=0.06, word="wooden")


def furniture_finish(rng: np.random.Generator) -> Material:
    """Wood, paint or a two-coloured pattern for things that stand about."""
    kind = rng.random()
    if kind < 0.4:
        return wood(rng)
    if kind < 0.8:
        return plain(pick(rng, ("white", "black", "grey", *VIVID)), rng, specular=0.08)
    return marble(rng) if kind < 0.9 else striped(rng, pick(rng, VIVID), float(rng.uniform(0.15, 0.3)))


def fabric(rng: np.random.Generator) -> Material:
    """Cloth of a vivid colour: plain, striped or checked."""
    name = pick(rng, (*VIVID, "grey", "dark", "cream"))
    kind = rng.random()
    if kind < 0.65:
        return plain(name, rng)
    if kind < 0.85:
        return striped(rng, name, float(rng.uniform(0.12, 0.3)))
    size = float(rng.uniform(0.15, 0.3))
    color = jittered(name, rng)
    return Material("checker", color, darker(color, 0.55), (size, size), seed_of(rng), word=name)


def striped(rng: np.random.Generator, name: str, width: float) -> Material:
    """Stripes of a named colour and a lighter or darker one; ``width`` in metres."""
    color = jittered(name, rng)
    accent = darker(color, 0.5) if sum(color) > 0.6 else jittered(pick(rng, ("white", "cream", "beige")), rng)
    return Material("stripes", color, accent, (width, width), seed_of(rng), word=f"{name} striped")


def marble(rng: np.random.Generator) -> Material:
    """Veined stone, light or dark."""
    light = rng.random() < 0.7
    color = jittered("white" if light else "dark", rng)
    accent = jittered("grey" if light else "beige", rng)
    size = float(rng.uniform(0.7, 1.6))
    return Material("marble", color, accent, (size, size), seed_of(rng), specular=0.15, word="marble")


def pick(rng: np.random.Generator, names: tuple[str, ...]) -> str:
    """One of several names."""
    return names[int(rng.integers(len(names)))]


def seed_of(rng: np.random.Generator) -> int:
    """A pattern's seed."""
    return int(rng.integers(2**31))
