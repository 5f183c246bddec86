"""The camera paths that Gen3R has built in (arXiv 2601.04090, public code).

Each starts at the identity and is relative to the first camera, OpenCV axes (x right, y down,
z forward).

========================  ======================================================================
``zoom_in, zoom_out``     straight along z to plus or minus ``scene_scale``
``arc_left, arc_right``   turning on the spot about y to minus or plus 15 degrees (a pan)
``translate_up, ..down``  turning on the spot about x to plus or minus 15 degrees. In spite of its
                          name this is a pitch and not a translation: so the model was given it
``free``                  stands still; the pipeline then gives the model no camera at all
========================  ======================================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import MappingProxyType

import torch
from torch import Tensor

from gen3r_core.errors import InputError

LAST_ANGLE = math.radians(15)


def _along_z(amount: Tensor, scene_scale: Tensor) -> Tensor:
    poses = _identities(amount)
    poses[:, 2, 3] = amount * scene_scale.to(amount)
    return poses


def _about_y(amount: Tensor, _scene_scale: Tensor) -> Tensor:
    poses, cos, sin = _identities(amount), torch.cos(amount * LAST_ANGLE), torch.sin(amount * LAST_ANGLE)
    poses[:, 0, 0], poses[:, 0, 2] = cos, sin
    poses[:, 2, 0], poses[:, 2, 2] = -sin, cos
    return poses


def _about_x(amount: Tensor, _scene_scale: Tensor) -> Tensor:
    poses, cos, sin = _identities(amount), torch.cos(amount * LAST_ANGLE), torch.sin(amount * LAST_ANGLE)
    poses[:, 1, 1], poses[:, 1, 2] = cos, -sin
    poses[:, 2, 1], poses[:, 2, 2] = sin, cos
    return poses


def _identities(amount: Tensor) -> Tensor:
    return torch.eye(4, dtype=amount.dtype, device=amount.device).repeat(len(amount), 1, 1)


_Motion = Callable[[Tensor, Tensor], Tensor]
_PATHS: MappingProxyType[str, tuple[_Motion, float]] = MappingProxyType(
    {
        "zoom_in": (_along_z, 1.0),
        "zoom_out": (_along_z, -1.0),
        "arc_left": (_about_y, -1.0),
        "arc_right": (_about_y, 1.0),
        "translate_up": (_about_x, 1.0),
        "translate_down": (_about_x, -1.0),
        "free": (_along_z, 0.0),
    }
)

BUILT_IN_PATHS: tuple[str, ...] = tuple(_PATHS)
"""The names that :func:`built_in_path` knows."""


def built_in_path(name: str, num_frames: int, scene_scale: float | Tensor = 1.0) -> Tensor:
    """One of the built-in camera paths, evenly spaced from first to last frame.

    Args:
        name: one of :data:`BUILT_IN_PATHS`.
        num_frames: F, at least 1. One frame alone is the identity.
        scene_scale: how far the zooms go, in scene units; a number, or a tensor of one
            element, whose device the path then has (nothing waits for it, and it is not
            checked). Gen3R uses 0.8 times the median depth of the given images.

    Returns:
        ``[F, 4, 4]`` float32 camera-to-world, the first the identity.

    Raises:
        InputError: for an unknown name, no frames, or a scale that is not finite.
    """
    if name not in _PATHS:
        raise InputError(f"no built-in camera path is called {name!r}; there are {', '.join(BUILT_IN_PATHS)}")
    if num_frames < 1:
        raise InputError(f"a camera path needs at least one frame, got {num_frames}")
    if not isinstance(scene_scale, Tensor):
        if not math.isfinite(scene_scale):
            raise InputError(f"the scene scale of a camera path must be a finite number, got {scene_scale}")
        scene_scale = torch.tensor(scene_scale, dtype=torch.float64)
    motion, last = _PATHS[name]
    amount = torch.linspace(0.0, last, num_frames, dtype=torch.float32, device=scene_scale.device)
    return motion(amount, scene_scale.detach().reshape(()))
