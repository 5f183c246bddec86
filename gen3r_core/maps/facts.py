"""What a map's files say of its frames, without their pictures; and one way through lazy frames for all writers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from gen3r_core.errors import InputError
from gen3r_core.geometry.poses import Array, checked_poses

__all__ = ["FrameFacts", "camera_names", "poses_of"]

GENERATED = "_generated"
"""What names of generated views end with."""
_ENDINGS = ("compressed", "image_raw", "image_rect", "image_rect_color", "image_color", "image_mono", "image")


@dataclass(frozen=True, eq=False)
class FrameFacts:
    """A frame without its image.

    Attributes:
        T_world_cam: ``[4, 4]`` float64, OpenCV axes, map units.
        intrinsics: ``[3, 3]`` float64 pixels, (0, 0) is the first pixel's corner.
        size: ``(height, width)``, pixels.
        stamp_ns: as the frame has it.
        camera: name.
        generated: not seen.
        image: file of the image, relative to the folder; None if none was written.
        depth: file of the depth; None if none was written.
    """

    T_world_cam: Array
    intrinsics: Array
    size: tuple[int, int]
    stamp_ns: int | None
    camera: str
    generated: bool
    image: str | None = None
    depth: str | None = None


def poses_of(frames: Sequence[FrameFacts]) -> Array:
    """``[F, 4, 4]`` camera to world.

    Raises:
        InputError: one is not rigid.
    """
    if not frames:
        return np.zeros((0, 4, 4))
    return checked_poses(np.stack([frame.T_world_cam for frame in frames]), "camera pose")


def camera_names(cameras: Iterable[str]) -> dict[str, str]:
    """Names for topics, frames and files of cameras.

    Args:
        cameras: names or topics as frames have them, "" for the only one; again and again is allowed.

    Returns:
        by camera: letters, digits and underscores, not beginning with a digit, not ending as generated views do, each
        another one.
    """
    found: dict[str, str] = {}
    for camera in cameras:
        if camera in found:
            continue
        parts = [part for part in camera.split("/") if part]
        while len(parts) > 1 and parts[-1].lower() in _ENDINGS:
            parts.pop()
        name = re.sub(r"[^A-Za-z0-9]+", "_", "_".join(parts)).strip("_") or "camera"
        name = f"camera_{name}" if name[0].isdigit() else name
        name = f"{name}_camera" if name.endswith(GENERATED) else name
        taken, number, free = set(found.values()), 2, name
        while free in taken:
            free, number = f"{name}_{number}", number + 1
        found[camera] = free
    return found


def check_rigid(frame: FrameFacts, index: int) -> None:
    """Raises InputError, naming the frame, if its pose is not a rigid transform."""
    try:
        checked_poses(frame.T_world_cam[None], "camera pose")
    except InputError as error:
        raise InputError(f"frame {index} of the map: {error}") from error
