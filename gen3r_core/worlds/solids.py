"""What worlds are made of: boxes, cylinders and ellipsoids with a material.

World frame: metres, z up, x and y along the floor (REP-103: x forward, y left). A solid has
its own axes; ``rotation`` holds them as columns, in world coordinates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gen3r_core.errors import InputError
from gen3r_core.worlds.materials import Material

Shape = Literal["box", "cylinder", "ellipsoid"]
SHAPES: tuple[Shape, ...] = ("box", "cylinder", "ellipsoid")
Vector = tuple[float, float, float]
Matrix = tuple[Vector, Vector, Vector]

IDENTITY: Matrix = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


@dataclass(frozen=True)
class Solid:
    """One solid.

    Attributes:
        shape: "box", "cylinder" (round, its axis is the local z) or "ellipsoid".
        center: world, metres.
        half: half sizes along the local axes, metres; of a cylinder: radius, radius, half height.
        material: what its surface looks like.
        rotation: ``R_world_solid``, rows of the 3x3 matrix.
        anchor: world point where the texture's coordinates are zero; None is the centre.
    """

    shape: Shape
    center: Vector
    half: Vector
    material: Material
    rotation: Matrix = IDENTITY
    anchor: Vector | None = None

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise InputError(f"a solid is a {', '.join(SHAPES)}, got {self.shape!r}")
        if not all(math.isfinite(value) and value > 0 for value in self.half):
            raise InputError(f"half sizes of a {self.shape} must be positive, got {self.half}")
        if self.shape == "cylinder" and self.half[0] != self.half[1]:
            raise InputError(f"a cylinder is round: its first two half sizes are its radius, got {self.half}")

    def moved(self, yaw: float, offset: Vector) -> Solid:
        """Turned about the world's z axis by ``yaw`` radians, then shifted by ``offset`` metres."""
        turn = yaw_matrix(yaw)
        center = _apply(turn, self.center)
        anchor = None if self.anchor is None else _shift(_apply(turn, self.anchor), offset)
        return replace(self, center=_shift(center, offset), rotation=_product(turn, self.rotation), anchor=anchor)

    def extents(self) -> NDArray[np.float64]:
        """``[2, 3]`` lower and upper corner of the box along the world's axes that holds it, metres."""
        rotation, half, center = np.array(self.rotation), np.array(self.half), np.array(self.center)
        if self.shape == "box":
            reach = np.abs(rotation) @ half
        elif self.shape == "ellipsoid":
            reach = np.sqrt((rotation**2) @ (half**2))
        else:
            axis = rotation[:, 2]
            reach = half[0] * np.sqrt(np.clip(1 - axis**2, 0, None)) + half[2] * np.abs(axis)
        return np.stack([center - reach, center + reach])


def box(low: Vector, high: Vector, material: Material, *, anchor: Vector | None = None) -> Solid:
    """An upright box between two corners, metres."""
    center, half = _middle(low, high)
    return Solid("box", center, half, material, anchor=anchor)


def cylinder(center: Vector, radius: float, height: float, material: Material, *, axis: str = "z") -> Solid:
    """A cylinder about an axis "x", "y" or "z" through its centre; ``height`` is along the axis, metres."""
    rotation: dict[str, Matrix] = {
        "x": ((0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
        "y": ((0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 0.0, 0.0)),
        "z": IDENTITY,
    }
    return Solid("cylinder", center, (radius, radius, height / 2), material, rotation[axis])


def ellipsoid(center: Vector, half: Vector, material: Material) -> Solid:
    """An upright ellipsoid, metres."""
    return Solid("ellipsoid", center, half, material)


def yaw_matrix(yaw: float) -> Matrix:
    """Rotation about z by ``yaw`` radians, counterclockwise seen from above."""
    cos, sin = math.cos(yaw), math.sin(yaw)
    return ((cos, -sin, 0.0), (sin, cos, 0.0), (0.0, 0.0, 1.0))


def tilted(solid: Solid, pitch: float) -> Solid:
    """The solid turned about its own x axis by ``pitch`` radians, about its centre."""
    cos, sin = math.cos(pitch), math.sin(pitch)
    return replace(solid, rotation=_product(solid.rotation, ((1.0, 0.0, 0.0), (0.0, cos, -sin), (0.0, sin, cos))))


def _middle(low: Vector, high: Vector) -> tuple[Vector, Vector]:
    (x0, y0, z0), (x1, y1, z1) = low, high
    return ((x0 + x1) / 2, (y0 + y1) / 2, (z0 + z1) / 2), ((x1 - x0) / 2, (y1 - y0) / 2, (z1 - z0) / 2)


def _shift(point: Vector, offset: Vector) -> Vector:
    return (point[0] + offset[0], point[1] + offset[1], point[2] + offset[2])


def _apply(matrix: Matrix, point: Vector) -> Vector:
    x, y, z = (row[0] * point[0] + row[1] * point[1] + row[2] * point[2] for row in matrix)
    return (x, y, z)


def _product(a: Matrix, b: Matrix) -> Matrix:
    columns = [_apply(a, (b[0][i], b[1][i], b[2][i])) for i in range(3)]
    first, second, third = ((columns[0][i], columns[1][i], columns[2][i]) for i in range(3))
    return (first, second, third)
