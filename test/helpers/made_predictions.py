"""A prediction without a model: what :class:`~gen3r_ros.outputs.Outputs` publishes, made up."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from gen3r_core.geometry.sim3 import Sim3
from gen3r_core.reconstruction.keyframes import Keyframe, Verdict
from gen3r_ros.outputs import Revision
from gen3r_ros.placement import Placement


def made_prediction(poses, stamp_ns, number=1, size=64):
    """The arguments of :meth:`Outputs.views`: views of noise, in metres.

    Args:
        poses: ``[F, 4, 4]`` of the cameras, in the fixed frame.
        stamp_ns: of the keyframe that it began at.
        number: of the revision.
        size: pixels of a side.
    """
    views = len(poses)
    placement = Placement(Sim3(1.0, np.eye(3), np.zeros(3)), True, "", 0.0, "TF")
    keyframe = Keyframe(stamp_ns, None, None, None, Verdict.FIRST)
    K = np.array([[size, 0, size / 2], [0, size, size / 2], [0, 0, 1.0]])
    result = SimpleNamespace(
        T_world_cam=np.asarray(poses),
        images=np.random.default_rng(0).integers(0, 255, (views, size, size, 3), dtype=np.uint8),
        depth=np.ones((views, size, size), np.float32),
        valid=np.ones((views, size, size), bool),
        intrinsics=np.repeat(K[None], views, 0),
        observed=np.zeros(views, bool),
    )
    return Revision("scene", number, (keyframe,), result.T_world_cam[:1], placement, None, None, "made", 1.0), result


def along_x(views, start=0.0):
    """Poses ``[views, 4, 4]``, a metre between them."""
    poses = np.repeat(np.eye(4)[None], views, 0)
    poses[:, 0, 3] = start + np.arange(views)
    return poses
