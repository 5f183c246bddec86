"""Poses and transforms of messages as matrices."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gen3r_core.geometry.poses import Array, poses_from, quaternion_to_matrix
from gen3r_core.messages.problems import MessageError

_UNIT_TOLERANCE = 0.05


def rigid_matrix(position: Any, q: Any) -> Array:
    """``T_a_b`` ``[4, 4]`` float64 of a position (x, y, z in metres) and a quaternion (x, y, z, w).

    Raises:
        MessageError: "pose": values that are not finite, or a quaternion whose length is not 1 (within 5 %).
    """
    xyz, quaternion = (position.x, position.y, position.z), (q.x, q.y, q.z, q.w)
    if not all(map(math.isfinite, (*xyz, *quaternion))):
        raise MessageError("pose", f"a position {xyz} or quaternion {quaternion} is not finite")
    length = math.hypot(*quaternion)
    if abs(length - 1) > _UNIT_TOLERANCE:
        raise MessageError(
            "pose",
            f"the quaternion (x, y, z, w) = {quaternion} has the length {length:.4g}, not 1; for no rotation w is 1",
        )
    return poses_from(quaternion_to_matrix(np.array(quaternion)), np.array(xyz))
