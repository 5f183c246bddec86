"""Procedural textures, evaluated at points of surfaces; the same on every device up to rounding.

All tensors of a call have one shape ``[...]``. Edges are filtered over the width that a ray sees (the
integral of a square wave has a closed form), so that patterns fade to their mean in the distance
instead of flickering. Random parts are hashes of whole numbers; no generator is involved.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from gen3r_core.worlds.materials import PATTERNS

_MASK = 0x7FFFFFFF
_TAU = 2 * math.pi
_CODE = {name: index for index, name in enumerate(PATTERNS)}


class Surface(NamedTuple):
    """Points on surfaces.

    Attributes:
        u: ``[...]`` metres along the surface, level.
        v: ``[...]`` metres along the surface, up or across.
        un: ``[...]`` u from -1 to 1 over the face.
        vn: ``[...]`` v from -1 to 1 over the face.
        width: ``[...]`` metres that the ray sees.
        pattern: ``[...]`` int64, place in :data:`~gen3r_core.worlds.materials.PATTERNS`.
        seed: ``[...]`` int64, 0 to 2^31 - 1.
        scale_u: ``[...]`` metres.
        scale_v: ``[...]`` metres.
        color: three ``[...]``, linear RGB.
        accent: three ``[...]``, linear RGB.
    """

    u: Tensor
    v: Tensor
    un: Tensor
    vn: Tensor
    width: Tensor
    pattern: Tensor
    seed: Tensor
    scale_u: Tensor
    scale_v: Tensor
    color: tuple[Tensor, Tensor, Tensor]
    accent: tuple[Tensor, Tensor, Tensor]


def albedo(surface: Surface) -> tuple[Tensor, Tensor, Tensor]:
    """Linear RGB reflectance, three ``[...]`` tensors.

    A pattern is a weight of the accent colour and a tone that both are multiplied by; posters
    and books also have colours of their own.
    """
    s = surface
    u, v = s.u / s.scale_u, s.v / s.scale_v
    wu = (s.width / s.scale_u).clamp(0.02, 4.0)
    wv = (s.width / s.scale_v).clamp(0.02, 4.0)
    soft = _fbm(u, v, s.seed)
    weight, tone = torch.zeros_like(u), torch.ones_like(u)
    parts = {
        "checker": _checker(u, v, wu, wv),
        "planks": _planks(s, u, v, wu, wv),
        "bricks": _bricks(s, u, v, wu, wv),
        "tiles": _tiles(s, u, v, wu, wv),
        "stripes": _stripes(s, u, v, wu, wv),
        "noise": ((soft * 2.4 - 0.7).clamp(0, 1), tone),
        "marble": _marble(u, v, soft),
        "panel": _panel(s),
        "rug": _rug(s),
        "poster": _poster(s),
        "window": _window(s),
        "door": _door(s),
        "books": _books(s, u, v, wu, wv),
    }
    for name, (part_weight, part_tone) in parts.items():
        here = s.pattern == _CODE[name]
        weight = torch.where(here, part_weight, weight)
        tone = torch.where(here, part_tone, tone)
    own = (s.pattern == _CODE["books"]) | (s.pattern == _CODE["poster"])
    key = torch.where(s.pattern == _CODE["books"], _cell(u), torch.zeros_like(s.seed))
    hue = _hash(key, torch.where(s.pattern == _CODE["books"], _cell(v), 3 + torch.zeros_like(s.seed)), s.seed)
    found = []
    for channel in range(3):
        vivid = 0.3 + 0.24 * torch.cos(_TAU * (hue + channel / 3))
        base = torch.where(own, torch.where(s.pattern == _CODE["books"], vivid, s.color[channel]), s.color[channel])
        mixed = base + (s.accent[channel] - base) * weight
        found.append(mixed * tone)
    return found[0], found[1], found[2]


def _cell(x: Tensor) -> Tensor:
    return torch.floor(x).to(torch.int64)


def _hash(x: Tensor, y: Tensor, seed: Tensor) -> Tensor:
    """Uniform in [0, 1) for each pair of whole numbers, int64 in, dtype float32 out.

    Multiplications stay below 2^62, so that no device's overflow matters.
    """
    h = ((x & 0xFFFFF) * 73856093 + (y & 0xFFFFF) * 19349663 + seed + 0x1E3779B9) & _MASK
    h = (h ^ (h >> 15)) * 0x2C1B3C6D & _MASK
    h = (h ^ (h >> 12)) * 0x297A2D39 & _MASK
    h = h ^ (h >> 15)
    return (h >> 7).to(torch.float32) / (1 << 24)


def _noise(u: Tensor, v: Tensor, seed: Tensor) -> Tensor:
    """Value noise: random values at whole numbers, blended smoothly between them; [0, 1)."""
    i, j = _cell(u), _cell(v)
    x, y = u - torch.floor(u), v - torch.floor(v)
    x, y = x * x * (3 - 2 * x), y * y * (3 - 2 * y)
    low = _hash(i, j, seed) * (1 - x) + _hash(i + 1, j, seed) * x
    high = _hash(i, j + 1, seed) * (1 - x) + _hash(i + 1, j + 1, seed) * x
    return low * (1 - y) + high * y


def _fbm(u: Tensor, v: Tensor, seed: Tensor) -> Tensor:
    """Two octaves of value noise, [0, 1); more would be finer than a small VAE can keep."""
    return (2 * _noise(u, v, seed) + _noise(2 * u + 5.2, 2 * v + 1.3, seed + 17)) / 3


def _wave(x: Tensor, width: Tensor, duty: float) -> Tensor:
    """How much of ``[x - width/2, x + width/2]`` lies where ``frac(x) < duty``."""
    high, low = x + width / 2, x - width / 2
    first, last = torch.floor(low), torch.floor(high)
    covered = (last - first) * duty + (high - last).clamp(max=duty) - (low - first).clamp(max=duty)
    return covered / width


def _checker(u: Tensor, v: Tensor, wu: Tensor, wv: Tensor) -> tuple[Tensor, Tensor]:
    a, b = 2 * _wave(u / 2, wu / 2, 0.5) - 1, 2 * _wave(v / 2, wv / 2, 0.5) - 1
    return 0.5 + 0.5 * a * b, torch.ones_like(u)


def _planks(s: Surface, u: Tensor, v: Tensor, wu: Tensor, wv: Tensor) -> tuple[Tensor, Tensor]:
    row = _cell(v)
    shifted = u + _hash(row, row, s.seed)
    inside = _wave(v, wv, 0.95) * _wave(shifted, wu, 0.985)
    shade = _fade(_hash(_cell(shifted), row, s.seed + 3), wv)
    return (1 - inside) * 0.8, 0.8 + 0.4 * shade


def _bricks(s: Surface, u: Tensor, v: Tensor, wu: Tensor, wv: Tensor) -> tuple[Tensor, Tensor]:
    row = _cell(v)
    shifted = u + 0.5 * (row & 1).to(u.dtype)
    inside = _wave(v, wv, 0.87) * _wave(shifted, wu, 0.94)
    shade = _fade(_hash(_cell(shifted), row, s.seed), wv)
    return 1 - inside, 0.82 + 0.36 * shade * inside + 0.18 * (1 - inside)


def _tiles(s: Surface, u: Tensor, v: Tensor, wu: Tensor, wv: Tensor) -> tuple[Tensor, Tensor]:
    inside = _wave(u, wu, 0.95) * _wave(v, wv, 0.95)
    shade = _fade(_hash(_cell(u), _cell(v), s.seed), wv)
    return 1 - inside, 0.92 + 0.16 * shade


def _stripes(s: Surface, u: Tensor, v: Tensor, wu: Tensor, wv: Tensor) -> tuple[Tensor, Tensor]:
    upright = (s.seed & 3) != 0
    value = torch.where(upright, _wave(u / 2, wu / 2, 0.5), _wave(v / 2, wv / 2, 0.5))
    return value, torch.ones_like(u)


def _marble(u: Tensor, v: Tensor, soft: Tensor) -> tuple[Tensor, Tensor]:
    vein = 1 - torch.sin(_TAU * (0.7 * u + 0.3 * v + 1.4 * soft)).abs()
    return vein * vein * 0.9, torch.ones_like(u)


def _panel(s: Surface) -> tuple[Tensor, Tensor]:
    """The accent up to a height, a lighter line, the colour above it."""
    blur = s.width.clamp(min=0.005)
    below = ((s.scale_v - s.v) / blur + 0.5).clamp(0, 1)
    line = ((0.03 - (s.v - s.scale_v).abs()) / blur + 0.5).clamp(0, 1)
    return below, 1 + 0.25 * line


def _rug(s: Surface) -> tuple[Tensor, Tensor]:
    edge = torch.maximum(s.un.abs(), s.vn.abs())
    border = _step(edge, 0.72) * (1 - _step(edge, 0.88))
    diamond = 1 - _step(s.un.abs() + s.vn.abs(), 0.45)
    inner = 1 - _step(s.un.abs() + s.vn.abs(), 0.22)
    return (border + diamond - inner).clamp(0, 1), torch.ones_like(s.u)


def _poster(s: Surface) -> tuple[Tensor, Tensor]:
    """A disc or a slanting band on a ground, with a dark frame."""
    zero = torch.zeros_like(s.seed)
    a, b, c, d = (_hash(zero + index, zero, s.seed) for index in range(4))
    radius = torch.sqrt((s.un - (a - 0.5)) ** 2 + (s.vn - (b - 0.5)) ** 2)
    disc = 1 - _step(radius, 0.3 + 0.3 * c)
    slope = s.vn - (a - 0.5) * 2 * s.un - (b - 0.5)
    band = 1 - _step(slope.abs(), 0.15 + 0.25 * c)
    picture = torch.where(d < 0.5, disc, band)
    horizon = _step(s.vn, 0.6 * (a - 0.5))
    edge = torch.maximum(s.un.abs(), s.vn.abs())
    frame = _step(edge, 0.92)
    return picture * (1 - frame), (0.7 + 0.45 * horizon) * (1 - 0.8 * frame)


def _window(s: Surface) -> tuple[Tensor, Tensor]:
    """Sky above, ground below, both behind the bars of a frame."""
    ground = 1 - _step(s.vn, -0.25, 0.12)
    bars = torch.maximum(1 - _step(s.un.abs(), 0.045), 1 - _step((s.vn - 0.2).abs(), 0.035))
    bars = torch.maximum(bars, _step(torch.maximum(s.un.abs(), s.vn.abs()), 0.92))
    return ground, (0.85 + 0.15 * s.vn) * (1 - 0.6 * bars)


def _door(s: Surface) -> tuple[Tensor, Tensor]:
    """Two sunken panels and a handle."""
    across = (s.un.abs() - 0.62).abs()
    upper, lower = (s.vn - 0.48).abs() - 0.34, (s.vn + 0.48).abs() - 0.34
    edge = torch.minimum(upper.abs(), lower.abs())
    outline = torch.maximum(
        (1 - _step(across, 0.05)) * (1 - _step(torch.minimum(upper, lower), 0.02)),
        (1 - _step(edge, 0.02)) * (1 - _step(s.un.abs(), 0.64)),
    )
    handle = 1 - _step(torch.sqrt(((s.un - 0.82) * 2) ** 2 + (s.vn * 5) ** 2), 0.2)
    return outline, 1 + 0.5 * handle


def _books(s: Surface, u: Tensor, v: Tensor, wu: Tensor, wv: Tensor) -> tuple[Tensor, Tensor]:
    """Backs of books by colour, a dark gap above them, and the boards between the rows."""
    column, row = _cell(u), _cell(v)
    rise = v - torch.floor(v)
    top = 0.68 + 0.22 * _hash(column, row, s.seed + 7)
    over = ((rise - top) / wv + 0.5).clamp(0, 1)
    board = 1 - _wave(v, wv, 0.92)
    gap = 1 - _wave(u, wu, 0.9)
    tone = (1 - 0.75 * over) * (1 - 0.4 * gap)
    return board, tone * (1 - board) + board


def _fade(value: Tensor, width: Tensor) -> Tensor:
    """A cell's random value, towards its mean where the cell is hardly seen."""
    return 0.5 + (value - 0.5) * (1.5 - width).clamp(0, 1)


def _step(x: Tensor, edge: float | Tensor, soft: float = 0.03) -> Tensor:
    return ((x - edge) / soft + 0.5).clamp(0, 1)
