"""Where the geometry of generated frames comes from. No torch, so that options can be checked without it."""

from __future__ import annotations

from enum import StrEnum

from gen3r_core.errors import InputError

__all__ = ["GeometrySource", "geometry_source"]


class GeometrySource(StrEnum):
    """The two ways.

    Attributes:
        LATENTS: all of it is decoded from the geometry half of the latents, as published (arXiv 2601.04090).
        FRAMES: VGGT reads depth and points from the frames themselves, which costs one more pass of it. Where a path
            of cameras was asked for, cameras and unit stay those of the latents (see
            :func:`gen3r_core.decoding.fit_to_latents`); where none was, all of it is VGGT's.
    """

    LATENTS = "latents"
    FRAMES = "frames"


def geometry_source(name: str) -> GeometrySource:
    """One of the two by its name.

    Raises:
        InputError: there is none of that name.
    """
    try:
        return GeometrySource(name)
    except ValueError as error:
        words = " or ".join(GeometrySource)
        raise InputError(f"geometry is taken from {words}, got {name!r}") from error
