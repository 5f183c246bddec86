"""Built-in camera paths in the scale of the scene that they lead through."""

from __future__ import annotations

from torch import Tensor

from gen3r_core.conditioning import LatentShape
from gen3r_core.decoding import plausible_encoding
from gen3r_core.geometry.cameras import decode_pose_encoding
from gen3r_core.geometry.trajectories import built_in_path
from gen3r_core.models.vggt import VGGT
from gen3r_core.scene import CameraPath

SCENE_SCALE = 0.8
"""Length of the zoom paths in units of the median depth (upstream's choice)."""


def scaled_path(vggt: VGGT, name: str, images: Tensor, shape: LatentShape) -> CameraPath:
    """A built-in path with the first image's intrinsics and the scale of its depth, both from VGGT.

    Args:
        vggt: the network.
        name: of the path.
        images: ``[n, 3, H, W]`` float in [0, 1], of the shape's size.
        shape: frames and size in pixels.

    Returns:
        one camera a frame, model units, on the CPU.
    """
    tokens = vggt.aggregate(images[None])
    encoding = plausible_encoding(vggt.predict_cameras(tokens)[-1])
    _, intrinsics = decode_pose_encoding(encoding, shape.size)
    depth, _ = vggt.predict_depth(tokens, shape.size)
    poses = built_in_path(name, shape.num_frames, float(SCENE_SCALE * depth.median()))
    return CameraPath(poses, intrinsics[0, :1].expand(shape.num_frames, -1, -1).cpu(), shape.size)
