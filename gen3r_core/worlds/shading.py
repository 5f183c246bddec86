"""From hits to colours: normals, textures, lights with shadows, and the tone curve.

Radiance is ``albedo * (ambient * openness + sum of lights) + highlight``, Lambert and Blinn-Phong.
The picture is ``(1 - exp(-exposure * radiance - emission))^(1 / 2.2)``, which never clips. Nothing here
waits for the device, and all of it can be compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gen3r_core.worlds.intersection import is_blocked, runs_fused, signed_distance
from gen3r_core.worlds.lighting import SOFTENING
from gen3r_core.worlds.packing import PackedWorlds, SolidTensors
from gen3r_core.worlds.textures import Surface, albedo

OPENNESS_REACH = 0.45
"""Metres: how far from a surface others still take ambient light from it."""
_LIFT = 1e-3
"""Metres: shadow rays start this far above the surface."""
_GLOSS = 40.0
_GAMMA = 1 / 2.2

Trace = Callable[[PackedWorlds, Tensor, Tensor, Tensor], Tensor]
"""Colours ``[B, P, 3]`` of worlds, origins ``[B, P, 1, 3]``, directions ``[B, P, S, 3]`` and pixels ``[B, P, 1]``."""


class Hits(NamedTuple):
    """Points on surfaces that are to be coloured.

    Attributes:
        points: ``[B, P, S, 3]`` world, metres.
        normals: ``[B, P, S, 3]`` world, unit length, outward.
        solid: ``[B, P, S]`` int64, index of what was hit.
        surface: texture coordinates and materials.
        glow: ``[B, P, S, 2]`` emission and specular strength.
    """

    points: Tensor
    normals: Tensor
    solid: Tensor
    surface: Surface
    glow: Tensor


def hits_at(packed: PackedWorlds, origins: Tensor, directions: Tensor, distance: Tensor, index: Tensor,
            pixel: Tensor) -> Hits:  # fmt: skip
    """What rays have found.

    Args:
        packed: B worlds of K solids.
        origins: ``[B, P or 1, S or 1, 3]`` world, metres.
        directions: ``[B, P, S, 3]`` world.
        distance: ``[B, P, S]`` in lengths of the direction.
        index: ``[B, P, S]`` int64, solids hit.
        pixel: ``[B, P or 1, S or 1]`` how far a ray stands from its neighbour at distance 1.
    """
    batch, pixels, samples = index.shape
    flat = index.reshape(batch, -1)

    def of_hit(values: Tensor) -> Tensor:
        width = values[0, 0].numel()
        table = values.reshape(batch, values.shape[1], width)
        chosen = table.gather(1, flat[..., None].expand(-1, -1, width))
        return chosen.reshape(batch, pixels, samples, *values.shape[2:])

    points = origins + directions * distance[..., None]
    to_local, half = of_hit(packed.solids.to_local), of_hit(packed.solids.half)
    codes = of_hit(packed.codes)
    local = (to_local * points[..., None, :]).sum(dim=-1) + of_hit(packed.solids.offset)
    shape, face = codes[..., 0], local.abs().argmax(dim=-1)
    canonical = _canonical_normal(local, shape, face)
    normals = _unit((to_local * canonical[..., None]).sum(dim=-2))
    anchored = (to_local * (points - of_hit(packed.anchor))[..., None, :]).sum(dim=-1) * half
    u, v, un, vn = _texture_coordinates(local, anchored, half, shape, face)
    slant = (normals * directions).sum(dim=-1).abs() / directions.norm(dim=-1)
    color, accent, scale = of_hit(packed.color), of_hit(packed.accent), of_hit(packed.scale)
    surface = Surface(
        u=u,
        v=v,
        un=un,
        vn=vn,
        width=distance * pixel / slant.clamp(min=0.25),
        pattern=codes[..., 1],
        seed=codes[..., 2],
        scale_u=scale[..., 0],
        scale_v=scale[..., 1],
        color=(color[..., 0], color[..., 1], color[..., 2]),
        accent=(accent[..., 0], accent[..., 1], accent[..., 2]),
    )
    return Hits(points, normals, index, surface, of_hit(packed.glow))


def shade(
    packed: PackedWorlds,
    hits: Hits,
    origins: Tensor,
    *,
    occluders: Sequence[SolidTensors | None] | None = None,
    neighbours: SolidTensors | None = None,
) -> Tensor:
    """Colours of hits.

    Args:
        packed: the worlds.
        hits: P pixels of S samples. Each sample looks at another point of a light, which
            softens its shadow's edge.
        origins: ``[B, P or 1, S or 1, 3]`` cameras, world metres.
        occluders: for each light, the solids that may be in its way, or None where no hit faces
            the light; None instead of the list takes all.
        neighbours: solids that may be near the hits; None takes all.

    Returns:
        ``[B, P, S, 3]`` in [0, 1), gamma-encoded.
    """
    start = hits.points + hits.normals * _LIFT
    reflectance = torch.stack(albedo(hits.surface), dim=-1)
    open_above = signed_distance(
        packed.solids if neighbours is None else neighbours,
        hits.points + hits.normals * OPENNESS_REACH,
        most=OPENNESS_REACH,
    )
    openness = (open_above / OPENNESS_REACH).clamp(0, 1)
    openness = 0.35 + 0.65 * openness * (2 - openness)
    upward = 0.85 + 0.15 * hits.normals[..., 2]
    irradiance = packed.ambient[:, None, None, :] * (openness * upward)[..., None]
    to_eye = _unit(origins - hits.points)
    # Lights as a dimension of their own, [B, P, S, L, 3]: one pass for all, which also compiles quickly.
    to_light = packed.light_position[:, None, None] - hits.points[..., None, :]
    squared = (to_light * to_light).sum(dim=-1)
    to_light = _unit(to_light)
    normals = hits.normals[..., None, :]
    facing = (normals * to_light).sum(dim=-1).clamp(min=0)
    lit = _lit(packed, start, occluders)
    power = packed.light_power[:, None, None] * (lit / (squared + SOFTENING**2))[..., None]
    irradiance = irradiance + (power * facing[..., None]).sum(dim=-2)
    halfway = _unit(to_light + to_eye[..., None, :])
    shine = (normals * halfway).sum(dim=-1).clamp(min=1e-6) ** _GLOSS
    highlight = (power * (shine * (facing > 0))[..., None]).sum(dim=-2)
    radiance = reflectance * irradiance + hits.glow[..., 1:] * highlight
    exposed = packed.exposure[:, None, None, None] * radiance + hits.glow[..., :1] * reflectance
    return (1 - torch.exp(-exposed)).clamp(min=1e-8) ** _GAMMA


def _lit(packed: PackedWorlds, start: Tensor, occluders: Sequence[SolidTensors | None] | None) -> Tensor:
    """``[B, P, S, L]`` 1 where points ``[B, P, S, 3]`` see a light and 0 where they do not."""
    batch, pixels, samples, _ = start.shape
    lights = packed.light_position.shape[1]
    targets = packed.light_position[:, None, None] + packed.light_radius[:, None, None, :, None] * _ball(
        samples, start
    ).unsqueeze(1)
    if occluders is None and runs_fused(start):  # pragma: gpu-only
        occluders = [packed.solids] * lights  # blocks of rays to one light are narrow
    if occluders is None:
        points = start[..., None, :].expand(batch, pixels, samples, lights, 3).flatten(2, 3)
        blocked = is_blocked(packed.solids, points, targets.flatten(2, 3))
        return 1 - blocked.reshape(batch, pixels, samples, lights).to(start.dtype)
    found = [
        torch.zeros_like(start[..., 0])
        if solids is None
        else 1 - is_blocked(solids, start, targets[..., light, :]).to(start.dtype)
        for light, solids in enumerate(occluders)
    ]
    return torch.stack(found, dim=-1)


def _unit(vectors: Tensor) -> Tensor:
    length: Tensor = vectors.norm(dim=-1, keepdim=True).clamp(min=1e-9)
    return vectors / length


def _canonical_normal(local: Tensor, shape: Tensor, face: Tensor) -> Tensor:
    """``[..., 3]`` gradient of the canonical solid's surface, of any length."""
    axes = torch.arange(3, device=local.device)
    of_box = torch.where(axes == face[..., None], torch.sign(local), torch.zeros_like(local))
    x, y, z = local.unbind(dim=-1)
    on_cap = z.abs() > torch.sqrt(x * x + y * y)
    zero = torch.zeros_like(x)
    of_cap = torch.stack([zero, zero, torch.sign(z)], dim=-1)
    of_side = torch.stack([x, y, zero], dim=-1)
    of_cylinder = torch.where(on_cap[..., None], of_cap, of_side)
    shape = shape[..., None]
    return torch.where(shape == 0, of_box, torch.where(shape == 1, of_cylinder, local))


def _texture_coordinates(
    local: Tensor, anchored: Tensor, half: Tensor, shape: Tensor, face: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """U and v in metres, and from -1 to 1; level and upright on faces that stand."""
    x, y, z = local.unbind(dim=-1)
    ax, ay, az = anchored.unbind(dim=-1)
    on_x, on_z = face == 0, face == 2
    flat_u, flat_v = torch.where(on_x, ay, ax), torch.where(on_z, ay, az)
    flat_un, flat_vn = torch.where(on_x, y, x), torch.where(on_z, y, z)
    angle = torch.atan2(y, x)
    radius = half[..., 0]
    on_cap = z.abs() > torch.sqrt(x * x + y * y)
    side = (shape == 1) & ~on_cap
    ball = shape == 2
    rise = torch.asin(z.clamp(-1, 1))
    u = torch.where(side | ball, angle * radius, torch.where(shape == 1, ax, flat_u))
    v = torch.where(ball, rise * half[..., 2], torch.where(side, az, torch.where(shape == 1, ay, flat_v)))
    un = torch.where(side | ball, angle / torch.pi, torch.where(shape == 1, x, flat_un))
    vn = torch.where(shape == 1, torch.where(on_cap, y, z), torch.where(ball, z, flat_vn))
    return u, v, un, vn


def _ball(samples: int, like: Tensor) -> Tensor:
    """``[S, 3]`` points evenly over the unit sphere (a Fibonacci spiral); the centre if S is 1."""
    if samples == 1:
        return torch.zeros((1, 3), dtype=like.dtype, device=like.device)
    index = torch.arange(samples, device=like.device, dtype=like.dtype)
    z = 1 - (2 * index + 1) / samples
    angle = index * 2.399963229728653
    flat = torch.sqrt(1 - z * z)
    return torch.stack([flat * torch.cos(angle), flat * torch.sin(angle), z], dim=-1)
